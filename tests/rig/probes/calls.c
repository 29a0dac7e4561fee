/*
 * Show what calls-preload.c has counted, and begin anew
 *
 * A line "NAME COUNT NANOSECONDS" for each kind of call, one for exits, and
 * "exit 1 NANOSECONDS" for the one in the middle.  Nothing may convert meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "calls.h"

static const char *const names[CALL_KINDS] = {
    [CALL_MAP] = "map",
    [CALL_UNMAP] = "unmap",
    [CALL_ATTRIBUTES] = "attributes",
    [CALL_MEMORY] = "memory",
    [CALL_PREFAULT] = "prefault",
    [CALL_FUTEX] = "futex",
    [CALL_OTHER] = "other",
};

static double ns_per_tick;

static void show(const char *name, uint64_t count, uint64_t ticks)
{
    printf("%s %lu %.0f\n", name, count, ticks * ns_per_tick);
}

static int compare(const void *a, const void *b)
{
    uint32_t one = *(const uint32_t *)a, two = *(const uint32_t *)b;

    return (one > two) - (one < two);
}

int main(void)
{
    int kind, fd = open(CALLS_FILE, O_RDWR);
    size_t kept;
    Calls *calls;

    calls = mmap(NULL, sizeof(*calls), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    if (calls == MAP_FAILED) {
        err(1, "%s", CALLS_FILE);
    }
    ns_per_tick = (double)(ns_now() - calls->first_ns) /
                  (ticks_now() - calls->first_tick);
    for (kind = 0; kind < CALL_KINDS; kind++) {
        show(names[kind], calls->count[kind], calls->ticks[kind]);
    }
    show("exits", calls->exits, calls->exit_ticks);
    kept = calls->exits < MAX_EXITS ? calls->exits : MAX_EXITS;
    qsort(calls->each, kept, sizeof(calls->each[0]), compare);
    show("exit", 1, kept ? calls->each[kept / 2] : 0);

    memset(calls, 0, offsetof(Calls, first_tick));
    return 0;
}
