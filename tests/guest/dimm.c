/*
 * dimm=MIB: all CPUs convert a DIMM that comes and goes
 *
 * The DIMM is at 4 GiB, where this guest cannot look at it.  A byte on COM1 says
 * that it is there: from then on each request has to be granted.  The next byte
 * has the first CPU eject it: from then on it is a hole, and no part of it can
 * become private.  The guest says when each CPU has seen that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define DIMM_BASE               (1ull << 32)
#define MAX_PAGES               HUGE_PAGE_PAGES
#define ENOUGH                  32      /* requests of a CPU, to have seen it */
#define EINVAL                  22

/* docs/specs/acpi_mem_hotplug.rst of QEMU */
#define PORT_MEMORY_SLOT        0xa00
#define PORT_MEMORY_CONTROL     0xa14
#define MEMORY_EJECT            0x08

typedef enum DimmState {
    UNKNOWN,
    THERE,
    GONE,
} DimmState;

static DimmState dimm_state;

static DimmState get_state(void)
{
    return __atomic_load_n(&dimm_state, __ATOMIC_ACQUIRE);
}

static void set_state(DimmState state)
{
    uint32_t i;

    for (i = 0; i < opt.cpus; i++) {
        __atomic_store_n(&cpu_of(i)->seen, 0, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&dimm_state, state, __ATOMIC_RELEASE);
}

static bool all_have_seen(void)
{
    uint32_t i;

    for (i = 0; i < opt.cpus; i++) {
        if (__atomic_load_n(&cpu_of(i)->seen, __ATOMIC_RELAXED) < ENOUGH) {
            return false;
        }
    }
    return true;
}

static void request(void)
{
    uint32_t total = opt.dimm * (MIB / PAGE_SIZE);
    uint32_t pages = 1 + rng_below(MAX_PAGES);
    uint64_t first = rng_below(total - pages + 1);
    bool shared = rng() & 1;
    DimmState before = get_state();
    int32_t status = convert_try(DIMM_BASE + first * PAGE_SIZE,
                                 (uint64_t)pages * PAGE_SIZE, shared);

    if (status && status != -EINVAL) {
        fail("a request had status %d", status);
    }
    count_add(status ? &count.refused : &count.conversions, 1);
    /* It may have changed meanwhile; a hole is shared already */
    if (get_state() != before || before == UNKNOWN ||
        (before == GONE && shared)) {
        return;
    }
    if ((before == GONE) != (status == -EINVAL)) {
        fail("the DIMM is %s, and a request to %s had status %d",
             before == GONE ? "gone" : "there", shared ? "shared" : "private",
             status);
    }
    count_add(&this_cpu()->seen, 1);
}

/* The host goes on when it is told, so that the state must be @next by then */
static void wait_for(DimmState state, DimmState next, const char *name)
{
    set_state(state);
    while (!all_have_seen()) {
        request();
    }
    if (next != state) {
        set_state(next);
    }
    print("dimm %s conversions=%u refused=%u\n", name, count.conversions,
          count.refused);
}

/* The first CPU changes the state, all others find out what it is */
static void convert_dimm(void)
{
    if (cpu_number()) {
        for (;;) {
            request();
        }
    }
    for (;;) {
        while (!host_has_sent()) {
            request();
        }
        if (get_state() == UNKNOWN) {
            wait_for(THERE, THERE, "there");
            continue;
        }
        set_state(UNKNOWN);
        outl(PORT_MEMORY_SLOT, 0);
        outb(PORT_MEMORY_CONTROL, MEMORY_EJECT);
        wait_for(GONE, UNKNOWN, "gone");
    }
}

void run_dimm(void)
{
    if (opt.dimm * MIB < MAX_PAGES * PAGE_SIZE || opt.dimm > 1024) {
        fail("dimm (%u) must be 2 to 1024", opt.dimm);
    }
    smp_run(convert_dimm);
}
