/*
 * Where huge pages are from, and where they go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gmem-test.h"

/*
 * The counters, less @base, are so; of the vmemmap what the model says.  The file has
 * what is not @free any more.
 */
static bool differ_by(struct counters base, const struct memory *m, long free,
                      long reserved)
{
    struct counters wanted = {
        .free = base.free + (has_pool() ? free : 0),
        .reserved = base.reserved + (has_pool() ? reserved : 0),
        .vmemmap = base.vmemmap + model_vmemmap(m),
    };
    struct counters now;
    struct stat st;

    if (has_pool()) {
        NEED(!fstat(m->fd, &st));
        if (!CHECK(st.st_blocks * 512 / PAGE == first_of(-free),
                   "%ld bytes are allocated", (long)st.st_blocks * 512)) {
            return false;
        }
    }
    if (become(wanted)) {
        return true;
    }
    now = counters();
    note("free %ld, reserved %ld, vmemmap %ld; wanted: %ld, %ld, %ld", now.free,
         now.reserved, now.vmemmap, wanted.free, wanted.reserved,
         wanted.vmemmap);
    return false;
}

void case_counters(void)
{
    struct counters base = counters();
    struct memory m = new_memory(0);
    long all = provider->huge;
    uint64_t value;

    CHECK(differ_by(base, &m, 0, all), "created");
    CHECK(!peek(&m, 0, 0, &value), "a private page allocates nothing");
    CHECK(differ_by(base, &m, 0, all), "touched, private");
    NEED(!allocate(&m, 0, huge_pages()));
    CHECK(differ_by(base, &m, -1, all - 1), "one allocated");
    NEED(!convert(&m, first_of(1) + 5, 1, false, NULL));
    CHECK(differ_by(base, &m, -1, all - 1), "a page shared that is not there");
    NEED(stamp_page(&m, first_of(1) + 5));
    CHECK(differ_by(base, &m, -2, all - 2), "and touched");
    NEED(!convert(&m, 3, 1, false, NULL));
    CHECK(differ_by(base, &m, -2, all - 2), "split");
    NEED(!convert(&m, 0, first_of(2), false, NULL));
    CHECK(differ_by(base, &m, -2, all - 2), "all shared");
    NEED(!convert(&m, 0, first_of(2), true, NULL));
    CHECK(differ_by(base, &m, -2, all - 2), "merged");
    NEED(!convert(&m, 7, 1, false, NULL));
    NEED(!punch(&m, 0, huge_pages()));
    note_punched(&m, 0, huge_pages());
    CHECK(differ_by(base, &m, -1, all - 1), "punched");
    CHECK(right(&m, 7) && differ_by(base, &m, -2, all - 2), "and touched");
    drop_memory(&m);
    CHECK(become(base), "closed");
}

/* A file is closed while its huge pages are in pieces. */
void case_close_broken(void)
{
    struct counters base = counters();
    struct memory m = new_allocated();

    for (unsigned huge = 0; huge < provider->huge; huge++) {
        NEED(!convert(&m, first_of(huge) + huge, huge + 1, false, NULL));
    }
    NEED(!convert(&m, first_of(1), huge_pages(), false, NULL));
    drop_memory(&m);
    CHECK(become(base));
}

/* A page that is held returns when it is released, with its huge page. */
void case_close_pinned(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(holders); i++) {
        struct counters base = counters();
        struct memory m = new_memory(0);
        uint64_t last = first_of(1) - 1;

        NEED(!allocate(&m, 0, huge_pages()));
        NEED(!convert(&m, last, 2, false, NULL));
        NEED(stamp_page(&m, last) && stamp_page(&m, last + 1));
        NEED(holders[i].hold(m.map + last * PAGE), "%s", holders[i].name);
        drop_memory(&m);
        if (has_pool()) {
            struct counters now;

            /* The other one is there, and nothing is reserved any more. */
            base.free--;
            now = counters();
            CHECK(now.free == base.free && now.reserved == base.reserved,
                  "%s: free %ld, wanted %ld; reserved %ld, wanted %ld",
                  holders[i].name, now.free, base.free, now.reserved,
                  base.reserved);
            base.free++;
        }
        holders[i].release();
        CHECK(become(base), "%s", holders[i].name);
    }
}

void case_punch_pinned(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(holders); i++) {
        struct counters base = counters();
        struct memory m = new_memory(0);
        int ret;

        NEED(!allocate(&m, 0, m.pages));
        NEED(!convert(&m, 2, 3, false, NULL));
        NEED(stamp_page(&m, 2) && stamp_page(&m, 3) && stamp_page(&m, 4));
        NEED(holders[i].hold(m.map + 3 * PAGE), "%s", holders[i].name);
        ret = punch(&m, 0, huge_pages());
        if (has_pool()) {
            CHECK(ret == EAGAIN, "%s: %s", holders[i].name, strerror(ret));
            CHECK(right(&m, 2) && right(&m, 3) && right(&m, 4),
                  "nothing is lost");
            CHECK(!punch(&m, first_of(1), huge_pages()), "the next huge page");
            holders[i].release();
            NEED(!punch(&m, 0, huge_pages()), "%s", holders[i].name);
        } else {
            CHECK(!ret, "%s: %s", holders[i].name, strerror(ret));
            holders[i].release();
        }
        note_punched(&m, 0, huge_pages());
        CHECK(right(&m, 2) && right(&m, 3) && right(&m, 4), "zero");
        drop_memory(&m);
        CHECK(become(base));
    }
}

/* Attributes survive, contents do not. */
void case_punch(void)
{
    struct memory m = new_allocated();

    NEED(!convert(&m, 4, huge_pages(), false, NULL));
    for (uint64_t i = 4; i < 12; i++) {
        NEED(stamp_page(&m, i) && stamp_page(&m, first_of(1) - 4 + i % 8));
    }
    NEED(!convert(&m, 6, 2, true, NULL));
    NEED(!punch(&m, 0, huge_pages()));
    note_punched(&m, 0, huge_pages());
    CHECK(some_right(&m, 200));
    NEED(!convert(&m, 0, 12, false, NULL));
    for (uint64_t i = 0; i < 12; i++) {
        CHECK(right(&m, i) && right(&m, first_of(1) - 4 + i % 8));
    }
    learn_frames(&m);
    CHECK(folios_right(&m, 0) && folios_right(&m, 1));
    drop_memory(&m);
}

/* A hole of small pages has no effect on those beside it. */
void case_punch_part(void)
{
    struct memory m;

    if (has_pool()) {
        skip("a pool's huge page is punched as a whole");
    }
    m = new_allocated();
    NEED(!convert(&m, 0, 16, false, NULL));
    for (uint64_t i = 0; i < 16; i++) {
        NEED(stamp_page(&m, i));
    }
    NEED(!convert(&m, 0, 16, true, NULL));
    NEED(folios_right(&m, 0));
    NEED(!punch(&m, 5, 1), "of a huge page that is whole");
    m.stamp[5] = 0;
    NEED(!convert(&m, 0, 16, false, NULL));
    for (uint64_t i = 0; i < 16; i++) {
        CHECK(right(&m, i));
    }
    NEED(!punch(&m, 8, 2), "of one that is broken");
    m.stamp[8] = m.stamp[9] = 0;
    for (uint64_t i = 0; i < 16; i++) {
        CHECK(right(&m, i));
    }
    /* What came back is other memory: it may not be a huge page again. */
    NEED(!convert(&m, 0, huge_pages(), true, NULL));
    NEED(!convert(&m, 0, 16, false, NULL));
    for (uint64_t i = 0; i < 16; i++) {
        CHECK(right(&m, i));
    }
    drop_memory(&m);
}
