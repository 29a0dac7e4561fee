/*
 * What control groups are charged for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gmem-test.h"

#define ROOT    "/sys/fs/cgroup"
#define GROUP   ROOT "/gmem"
#define LIMIT   10      /* seconds: against a group that never goes */
#define SLACK   (1l << 20)

static void enter(const char *group)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/cgroup.procs", group);
    NEED(write_text(path, "0"), "%s", path);
}

static void enter_new_group(const char *controller)
{
    NEED(!mount("cgroup2", ROOT, "cgroup2", 0, NULL) || errno == EBUSY);
    NEED(write_text(ROOT "/cgroup.subtree_control", controller), "%s",
         controller);
    NEED(!mkdir(GROUP, 0755));
    enter(GROUP);
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

static void delete_group(void)
{
    NEED(!rmdir(GROUP));
    CHECK(all_gone(), "its references");
}

/* Memory of the buddy allocator is charged, however it is split and merged. */
void case_memcg(void)
{
    struct memory m;
    long bytes;

    if (has_pool()) {
        skip("pages of a pool are charged when it is HugeTLB's memory that is");
    }
    enter_new_group("+memory");
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
    delete_group();
}

static long pages_of_pool(const char *counter)
{
    char path[96];
    long bytes;

    snprintf(path, sizeof(path), GROUP "/hugetlb.%s.%s",
             provider->order > PMD_ORDER ? "1GB" : "2MB", counter);
    bytes = read_number(path);
    NEED(bytes >= 0, "%s", path);
    return bytes / (long)(PAGE << provider->order);
}

/* Pages of a pool are charged twice: as reserved, and as in use. */
void case_hugetlb_cgroup(void)
{
    const uint64_t size = PAGE << provider->order;
    char limit[32];
    int fd;

    if (!has_pool()) {
        skip("the buddy allocator does not have a pool");
    }
    enter_new_group("+hugetlb");
    snprintf(limit, sizeof(limit), "%lu", 2 * size);
    NEED(write_text(provider->order > PMD_ORDER ?
                    GROUP "/hugetlb.1GB.rsvd.max" :
                    GROUP "/hugetlb.2MB.rsvd.max", limit));

    fd = create(vm, provider->flag | FLAG_MMAP, 3 * size, provider->order);
    CHECK(fd < 0 && errno == ENOMEM, "a limit of two");
    CHECK(pages_of_pool("rsvd.current") == 0);

    fd = create(vm, provider->flag | FLAG_MMAP, 2 * size, provider->order);
    NEED(fd >= 0);
    CHECK(pages_of_pool("rsvd.current") == 2 && pages_of_pool("current") == 0);
    NEED(!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size));
    CHECK(pages_of_pool("rsvd.current") == 2 && pages_of_pool("current") == 1);
    NEED(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size));
    CHECK(pages_of_pool("rsvd.current") == 2 && pages_of_pool("current") == 0);
    NEED(!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size));
    close(fd);
    CHECK(pages_of_pool("rsvd.current") == 0 && pages_of_pool("current") == 0);
    enter(ROOT);
    delete_group();
}
