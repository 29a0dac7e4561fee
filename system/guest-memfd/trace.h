/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "trace/trace-system_guest_memfd.h"
