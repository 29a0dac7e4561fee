/*
 * Several CPUs: numbers for C and for assembly
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_GUEST_SMP_H
#define TESTS_GUEST_SMP_H

#define MAX_CPUS        8
#define STACK_SIZE      16384

/* Below 1 MiB, and neither of the firmware's nor of the loader's */
#define TRAMPOLINE      0x8000

#endif
