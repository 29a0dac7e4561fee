/*
 * Memory that is converted beside a vfio-user server that misbehaves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_TRIAL_H
#define GUEST_MEMFD_TRIAL_H

#include "guest-memfd-pair.h"

/* Where memory is converted, and where a DIMM comes */
#define BASE (16 * MiB)
#define DIMM_GPA 0x100000000

typedef enum Outcome {
    FINE,               /* what is wrong does no harm */
    REFUSED,            /* an error, for this once */
    LOST,               /* it is lost, until the device is replaced */
} Outcome;

typedef struct Case {
    const char *name;
    Misbehaviour what;
    uint32_t arg;
    Outcome outcome;
    bool silent;        /* QEMU waits until its time-out has passed */
} Case;

typedef struct Trial {
    Pair p;
    const Case *c;
    unsigned lost;      /* events about the bad device */
} Trial;

/** trial_init - to be called once, before the first test */
void trial_init(void);

/**
 * trial_start - start the VM with both devices
 *
 * @args: more arguments of QEMU, or NULL
 *
 * Returns: false, with the test skipped, if there is no server
 */
bool trial_start(Trial *t, const char *args);

/** trial_start_quiet - the same; what QEMU writes is counted, see pair_log() */
bool trial_start_quiet(Trial *t, const char *args);

void trial_stop(Trial *t);

/** trial_stop_quiet - QEMU must have written a few lines and no more */
void trial_stop_quiet(Trial *t);

/** trial_arm - misbehave as the case says; see bad_server_arm() */
void trial_arm(Trial *t, unsigned command, unsigned skip, unsigned count);

/** trial_convert - x-guest-memfd-convert of m0; did it work? */
bool trial_convert(Trial *t, uint64_t offset, uint64_t size, bool private);

/**
 * trial_convert_beside - the same while the bad device misbehaves: it works
 * unless that refuses, since a server that is lost is in nobody's way
 */
void trial_convert_beside(Trial *t, uint64_t offset, uint64_t size,
                          bool private);

/** trial_make_runs - share every second page of the 64 KiB from BASE on */
void trial_make_runs(Trial *t);

/** trial_unplug_bad - the bad device goes; there were no events about it */
void trial_unplug_bad(Trial *t);

/** trial_replace_bad - it goes and comes again, and is good */
void trial_replace_bad(Trial *t);

/** trial_plug_dimm - another block, m1, comes to DIMM_GPA */
void trial_plug_dimm(Trial *t);
void trial_unplug_dimm(Trial *t);

/** trial_settled - all is well: conversions work, the mappings are exact */
void trial_settled(Trial *t);

/** trial_recover - what has to be true after each misbehaviour, which is over */
void trial_recover(Trial *t);

#endif
