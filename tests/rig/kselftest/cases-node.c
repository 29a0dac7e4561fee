/*
 * Pools that change, and nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/mempolicy.h>

#include "gmem-test.h"

#define NODE    1       /* for which the kernel may need numa=fake=2 */

static void pool_path(char *path, size_t size, int node, const char *name)
{
    char of[64] = "/sys/kernel/mm";

    if (node >= 0) {
        snprintf(of, sizeof(of), "/sys/devices/system/node/node%d", node);
    }
    snprintf(path, size, "%s/hugepages/hugepages-%llukB/%s", of,
             (PAGE << provider->order) / 1024, name);
}

static long node_counter(int node, const char *name)
{
    char path[128];

    pool_path(path, sizeof(path), node, name);
    return read_number(path);
}

static void resize(int node, long pages)
{
    char path[128], text[32];

    pool_path(path, sizeof(path), node, "nr_hugepages");
    snprintf(text, sizeof(text), "%ld", pages);
    NEED(write_text(path, text), "%s", path);
}

static void need_resizable(void)
{
    if (!has_pool()) {
        skip("the buddy allocator does not have a pool");
    }
    if (provider->order > 9) {
        skip("a pool of such pages may not get its pages back");
    }
}

/* Pages that are in use or reserved stay, until they are not any more. */
void case_pool_shrinks(void)
{
    struct memory m;
    long nr;

    need_resizable();
    nr = pool_counter("nr_hugepages");
    m = new_memory(0);
    NEED(!allocate(&m, 0, first_of(2)));
    NEED(!convert(&m, 3, 2, false, NULL));
    NEED(stamp_page(&m, 3) && stamp_page(&m, 4));
    resize(-1, 0);
    CHECK(pool_counter("nr_hugepages") == (long)provider->huge &&
          pool_counter("free_hugepages") == (long)provider->huge - 2,
          "%ld pages, %ld are free", pool_counter("nr_hugepages"),
          pool_counter("free_hugepages"));
    NEED(!convert(&m, 0, huge_pages(), true, NULL));
    NEED(!convert(&m, 4, first_of(1), false, NULL));
    CHECK(right(&m, 3) && right(&m, 4));
    CHECK(!allocate(&m, first_of(2), huge_pages()), "what is reserved");
    drop_memory(&m);
    CHECK(pool_counter("nr_hugepages") == 0, "%ld pages are left",
          pool_counter("nr_hugepages"));
    CHECK(create(vm, provider->flag, PAGE << provider->order,
                 provider->order) < 0 && errno == ENOMEM);
    resize(-1, nr);
    CHECK(pool_counter("nr_hugepages") == nr);
}

static bool bind_to(struct memory *m, int node)
{
    unsigned long nodes = 1ul << node;

    return !syscall(SYS_mbind, m->map, m->pages * PAGE, MPOL_BIND, &nodes,
                    sizeof(nodes) * 8, 0);
}

/* The node that a shared page is on */
static int node_of(struct memory *m, uint64_t page)
{
    void *pages = m->map + page * PAGE;
    int node = -1;

    NEED(!syscall(SYS_move_pages, 0, 1, &pages, NULL, &node, 0));
    return node;
}

/* Pages are from the node that mbind() says. */
void case_node(void)
{
    struct memory m;

    if (access("/sys/devices/system/node/node1", F_OK)) {
        skip("there is one node only");
    }
    m = new_memory(0);
    if (has_pool() && node_counter(NODE, "free_hugepages") < 2) {
        skip("node %d has not enough huge pages", NODE);
    }
    NEED(bind_to(&m, NODE));
    NEED(!allocate(&m, 0, huge_pages()));
    NEED(!convert(&m, first_of(1) - 1, 2, false, NULL));
    NEED(stamp_page(&m, first_of(1) - 1) && stamp_page(&m, first_of(1)));
    CHECK(node_of(&m, first_of(1) - 1) == NODE, "by fallocate()");
    CHECK(node_of(&m, first_of(1)) == NODE, "by a page fault");
    drop_memory(&m);
}

/* The pool of a node is empty: no other one is asked. */
void case_node_empty(void)
{
    struct counters base;
    struct memory m;
    uint64_t value;
    long nr;

    need_resizable();
    if (access("/sys/devices/system/node/node1", F_OK)) {
        skip("there is one node only");
    }
    nr = node_counter(NODE, "nr_hugepages");
    resize(NODE, 0);
    m = new_memory(0);
    base = counters();
    NEED(bind_to(&m, NODE));
    CHECK(allocate(&m, 0, huge_pages()) == ENOSPC, "%s", strerror(errno));
    NEED(!convert(&m, 5, 1, false, NULL));
    CHECK(!peek(&m, 5, 0, &value), "SIGBUS");
    CHECK(become(base), "nothing was taken");
    resize(NODE, nr);
    CHECK(!allocate(&m, 0, huge_pages()), "with pages");
    CHECK(right(&m, 5));
    drop_memory(&m);
}
