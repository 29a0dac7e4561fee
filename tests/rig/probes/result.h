/*
 * What a test program of the rig says of each check
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VM_RESULT_H
#define TESTS_VM_RESULT_H

#include <stdbool.h>

extern bool failed;     /* any of them */

/* The line of one check */
void __attribute__((format(printf, 2, 3)))
result(bool ok, const char *fmt, ...);

#endif
