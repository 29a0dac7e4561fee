/*
 * Conversions: contents, folios, and who is in the way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "gmem-test.h"

static const struct {
    const char *what;
    uint64_t start, pages, step;        /* in small pages; step 0: once */
} layouts[] = {
    { "the first page", 0, 1, 0 },
    { "the second page", 1, 1, 0 },
    { "the last page of what a vmemmap page is about", 63, 1, 0 },
    { "a page", 64, 1, 0 },
    { "the last page of 2 MiB", 511, 1, 0 },
    { "unaligned pages", 5, 72, 0 },
    { "every 64th page", 3, 1, 64 },
    { "every second page of 64", 0, 1, 2 },
};

static void share_layout(struct memory *m, unsigned i)
{
    uint64_t step = layouts[i].step;
    uint64_t end = step == 2 ? 64 : huge_pages();

    /* A 1 GiB page in steps of a 512th: 512 pages in the same parts as 8 */
    if (step == 64) {
        step = huge_pages() / 8;
    }
    for (uint64_t page = layouts[i].start; page < end; page += step) {
        NEED(!convert(m, page, layouts[i].pages, false, NULL));
        if (!step) {
            break;
        }
    }
}

static bool vmemmap_right(struct counters whole, const struct memory *m)
{
    struct counters wanted = whole;

    wanted.vmemmap += model_vmemmap(m);
    return CHECK(become(wanted), "vmemmap: %ld pages more, wanted %ld",
                 counters().vmemmap - whole.vmemmap, model_vmemmap(m));
}

/* Folios and vmemmap, after each conversion of a huge page and back */
void case_layouts(void)
{
    struct memory m = new_allocated();
    struct counters whole = counters();
    uint64_t half = huge_pages() / 2;

    CHECK(all_folios_right(&m), "whole");
    for (unsigned i = 0; i < ARRAY_SIZE(layouts); i++) {
        share_layout(&m, i);
        CHECK(folios_right(&m, 0), "%s", layouts[i].what);
        vmemmap_right(whole, &m);
        NEED(!convert(&m, 0, huge_pages(), true, NULL), "%s", layouts[i].what);
        CHECK(folios_right(&m, 0), "%s, private again", layouts[i].what);
        vmemmap_right(whole, &m);
    }
    /* Pieces that join: the first half in two, all of it, and back */
    NEED(!convert(&m, 0, half / 2, false, NULL));
    CHECK(folios_right(&m, 0));
    NEED(!convert(&m, half / 2, half / 2, false, NULL));
    CHECK(folios_right(&m, 0));
    vmemmap_right(whole, &m);
    NEED(!convert(&m, half, half, false, NULL));
    CHECK(folios_right(&m, 0));
    vmemmap_right(whole, &m);
    NEED(!convert(&m, 1, huge_pages() - 1, true, NULL));
    CHECK(folios_right(&m, 0), "all but the first page is private");
    vmemmap_right(whole, &m);
    NEED(!convert(&m, 0, 1, true, NULL));
    CHECK(all_folios_right(&m));
    /* Across huge pages */
    NEED(!convert(&m, half + 3, huge_pages(), false, NULL));
    CHECK(all_folios_right(&m));
    vmemmap_right(whole, &m);
    NEED(!convert(&m, half + 3, huge_pages(), true, NULL));
    CHECK(all_folios_right(&m));
    vmemmap_right(whole, &m);
    drop_memory(&m);
}

/* Pages with contents: all, or those at the ends of huge pages of 1 GiB */
static bool has_contents(const struct memory *m, uint64_t page)
{
    uint64_t offset = page & (huge_pages() - 1);

    return page < m->pages &&
        (offset < 600 || offset >= huge_pages() - 600 || page % 4099 == 0);
}

static void convert_contents(struct memory *m, bool private)
{
    uint64_t end;

    for (uint64_t page = 0; page < m->pages; page = end + 1) {
        end = page;
        while (has_contents(m, end)) {
            end++;
        }
        if (end > page) {
            NEED(!convert(m, page, end - page, private, NULL));
        }
    }
}

/* What is in each page stays there, whatever folio it is in. */
void case_convert_data(void)
{
    struct memory m = new_memory(0);

    NEED(!allocate(&m, 0, m.pages));
    convert_contents(&m, false);
    for (uint64_t i = 0; i < m.pages; i++) {
        NEED(!has_contents(&m, i) || stamp_page(&m, i));
    }
    convert_contents(&m, true);
    CHECK(some_right(&m, 100), "SIGBUS on private pages");
    for (unsigned i = 0; i < 64; i++) {
        uint64_t page = any(m.pages);

        NEED(!convert(&m, page, 1, false, NULL));
        CHECK(right(&m, page));
        CHECK(some_right(&m, 10));
        if (i & 1) {
            NEED(stamp_page(&m, page));
        }
        NEED(!convert(&m, page, 1, true, NULL));
        CHECK(right(&m, page), "SIGBUS");
    }
    convert_contents(&m, false);
    for (uint64_t i = 0; i < m.pages; i++) {
        CHECK(!has_contents(&m, i) || right(&m, i));
    }
    CHECK(some_right(&m, 1000));
    drop_memory(&m);
}

/* Attributes are there before memory is. */
void case_convert_unallocated(void)
{
    struct memory m = new_memory(0);

    NEED(!convert(&m, 1, 3, false, NULL));
    NEED(!convert(&m, 2, 1, true, NULL));
    for (uint64_t i = 0; i < 6; i++) {
        CHECK(right(&m, i));
    }
    learn_frames(&m);
    CHECK(all_folios_right(&m));
    NEED(stamp_page(&m, 3) && !convert(&m, 0, huge_pages(), true, NULL));
    CHECK(folios_right(&m, 0));
    NEED(!convert(&m, 3, 1, false, NULL));
    CHECK(right(&m, 3) && folios_right(&m, 0));
    drop_memory(&m);
}

static void busy(const struct holder *later, const struct holder *first)
{
    struct memory m = new_allocated();
    uint64_t start = first_of(1), error;
    int ret;

    NEED(!convert(&m, 4, 4, false, NULL));
    NEED(!convert(&m, start, 8, false, NULL));
    for (uint64_t i = 0; i < 4; i++) {
        NEED(stamp_page(&m, 4 + i) && stamp_page(&m, start + 2 * i));
    }
    NEED(later->hold(m.map + (start + 5) * PAGE), "%s", later->name);
    NEED(first->hold(m.map + (start + 3) * PAGE), "%s", first->name);

    ret = convert(&m, 0, first_of(2), true, &error);
    CHECK(ret == EAGAIN && error == start + 3,
          "%s: %s, page 0x%lx, wanted 0x%lx", first->name, strerror(ret),
          error, start + 3);
    CHECK(!m.shared[4] && m.shared[start]);
    CHECK(right(&m, 4), "the huge page before it is converted");
    CHECK(folios_right(&m, 0) && folios_right(&m, 1));
    for (uint64_t i = 0; i < 9; i++) {
        CHECK(right(&m, start + i), "nothing of this one is");
    }
    CHECK(!convert(&m, start, 3, true, NULL), "its first pages");
    ret = convert(&m, start, 4, true, &error);
    CHECK(ret == EAGAIN && error == start + 3, "%s: %s, page 0x%lx",
          first->name, strerror(ret), error);
    CHECK(!convert(&m, start + 4, 1, true, NULL), "between the two");
    ret = convert(&m, start + 4, 4, true, &error);
    CHECK(ret == EAGAIN && error == start + 5, "%s: %s, page 0x%lx",
          later->name, strerror(ret), error);
    CHECK(folios_right(&m, 1));
    CHECK(!convert(&m, start, 32, false, NULL), "held pages may be shared");
    CHECK(folios_right(&m, 1));
    first->release();
    later->release();
    CHECK(!convert(&m, 0, m.pages, true, &error), "released, page 0x%lx",
          error);
    CHECK(all_folios_right(&m));
    NEED(!convert(&m, start, 8, false, NULL));
    for (uint64_t i = 0; i < 9; i++) {
        CHECK(right(&m, start + i));
    }
    drop_memory(&m);
}

void case_busy(void)
{
    busy(&holders[0], &holders[1]);
    busy(&holders[1], &holders[2]);
    busy(&holders[2], &holders[0]);
}

/* mlock() keeps pages of a mapping, not those that are private. */
void case_mlock(void)
{
    struct memory m = new_allocated();

    for (unsigned i = 0; i < 3; i++) {
        NEED(!convert(&m, 8, 16, false, NULL));
        for (uint64_t page = 8; page < 24; page++) {
            NEED(stamp_page(&m, page));
        }
        CHECK(!mlock(m.map + 8 * PAGE, 16 * PAGE));
        CHECK(!convert(&m, 30, 2, false, NULL), "beside locked pages");
        CHECK(folios_right(&m, 0));
        CHECK(!convert(&m, 8, 4, true, NULL), "locked pages");
        CHECK(folios_right(&m, 0));
        CHECK(!convert(&m, 0, huge_pages(), true, NULL), "all of them");
        CHECK(folios_right(&m, 0));
        if (i & 1) {
            munlock(m.map + 8 * PAGE, 16 * PAGE);
        }
        NEED(!convert(&m, 8, 16, false, NULL));
        for (uint64_t page = 8; page < 24; page++) {
            CHECK(right(&m, page));
        }
    }
    drop_memory(&m);
}
