/*
 * What a control group is charged for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gmem-test.h"

#define ROOT    "/cgroup"
#define GROUP   ROOT "/gmem"
#define LIMIT   10      /* seconds: against a group that never goes */
#define SLACK   (1l << 20)

static void enter(const char *group)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/cgroup.procs", group);
    NEED(write_text(path, "0"), "%s", path);
}

/* Bytes, and what the kernel has taken for a while or for itself */
static bool charged(long bytes)
{
    long value = read_number(GROUP "/memory.current");

    return CHECK(value >= bytes && value < bytes + SLACK, "%ld, %ld wanted",
                 value, bytes);
}

/* A group goes when nothing refers to it any more. */
static bool all_gone(void)
{
    time_t end = time(NULL) + LIMIT;
    long dying = -1;

    do {
        FILE *f = fopen(ROOT "/cgroup.stat", "r");
        char line[128];

        NEED(f);
        while (fgets(line, sizeof(line), f)) {
            sscanf(line, "nr_dying_descendants %ld", &dying);
        }
        fclose(f);
        sched_yield();
    } while (dying && time(NULL) < end);
    return !dying;
}

/* Memory of the buddy allocator is charged, however it is split and merged. */
void case_memcg(void)
{
    struct memory m;
    long bytes;

    if (has_pool()) {
        skip("pages of a pool are charged when it is HugeTLB's memory that is");
    }
    mkdir(ROOT, 0755);
    NEED(!mount("cgroup2", ROOT, "cgroup2", 0, NULL) || errno == EBUSY);
    NEED(write_text(ROOT "/cgroup.subtree_control", "+memory"));
    NEED(!mkdir(GROUP, 0755));
    enter(GROUP);
    m = new_allocated();
    bytes = m.pages * PAGE;
    charged(bytes);
    for (unsigned i = 0; i < provider->huge; i++) {
        uint64_t page = first_of(i) + any(huge_pages());

        NEED(!convert(&m, page, 1, false, NULL));
        charged(bytes);
        NEED(!convert(&m, page, 1, true, NULL));
        charged(bytes);
    }
    NEED(!convert(&m, 0, m.pages, false, NULL));
    charged(bytes);
    NEED(!punch(&m, 0, huge_pages() / 2));
    charged(bytes - huge_pages() / 2 * PAGE);
    NEED(!punch(&m, huge_pages() / 2, huge_pages() / 2));
    bytes -= huge_pages() * PAGE;
    NEED(!convert(&m, 0, m.pages, true, NULL));
    charged(bytes);
    drop_memory(&m);
    enter(ROOT);
    charged(0);
    NEED(!rmdir(GROUP));
    CHECK(all_gone(), "its references");
}
