/*
 * What the vCPUs of a QEMU spend on conversions: calls-preload.c counts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VM_CALLS_H
#define TESTS_VM_CALLS_H

#include <stdint.h>
#include <time.h>

#define CALLS_FILE  "/tmp/calls"
#define MAX_EXITS   65536

/* Kinds of calls of the kernel */
enum {
    CALL_MAP,           /* for DMA */
    CALL_UNMAP,
    CALL_ATTRIBUTES,    /* KVM_SET_MEMORY_ATTRIBUTES, and of a file */
    CALL_MEMORY,        /* fallocate(), madvise(), mmap(), munmap() */
    CALL_PREFAULT,      /* KVM_PRE_FAULT_MEMORY */
    CALL_FUTEX,         /* of QEMU's own locks and events */
    CALL_OTHER,
    CALL_KINDS,
};

/* Times are ticks of the TSC, which counts from 0 in all CPUs of L1 */
typedef struct Calls {
    uint64_t count[CALL_KINDS];
    uint64_t ticks[CALL_KINDS];
    uint64_t exits;                 /* of a vCPU that converted something */
    uint64_t exit_ticks;            /* until the vCPU ran again */
    uint64_t first_tick, first_ns;  /* when QEMU began */
    uint32_t each[MAX_EXITS];       /* ticks of the first exits */
} Calls;

static inline uint64_t ticks_now(void)
{
    return __builtin_ia32_rdtsc();
}

static inline uint64_t ns_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

#endif
