/*
 * A clock of QEMU's that the test moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_CLOCK_H
#define GUEST_MEMFD_CLOCK_H

/* The environment variable that says where the GmClock is */
#define GM_CLOCK_FILE "GM_CLOCK_FILE"

/* A time-out that passes when the clock runs, and not before */
#define GM_CLOCK_TIMEOUT_MS 86400000

typedef struct GmClock {
    bool runs;
} GmClock;

/**
 * gm_clock_init - a clock for all processes that this one starts from now on
 *
 * Their threads that wait for GM_CLOCK_TIMEOUT_MS do so until somebody wakes
 * them or the clock runs.  All the rest takes the time that it takes.  Call it
 * once, before the test has threads.
 */
GmClock *gm_clock_init(void);

/**
 * gm_clock_run - do GM_CLOCK_TIMEOUT_MS pass at once?  Any thread can call it.
 */
void gm_clock_run(GmClock *clock, bool runs);

#endif
