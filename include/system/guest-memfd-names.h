/*
 * guest_memfd memory: the names that other versions of QEMU give to things
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_NAMES_H
#define SYSTEM_GUEST_MEMFD_NAMES_H

#include "qobject/qdict.h"

/**
 * guest_memfd_check_names - does an -object say what has another name here?
 *
 * @object: what the user wrote, with "qom-type", not checked yet
 * @errp: names the option or the type, and what to use instead
 *
 * What it does not know is for the schema to refuse.
 *
 * Returns: false if it does.
 */
bool guest_memfd_check_names(const QDict *object, Error **errp);

#endif
