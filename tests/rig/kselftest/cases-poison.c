/*
 * A page that is broken
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <unistd.h>

#include "gmem-test.h"

#define DEBUGFS "/sys/kernel/debug/hwpoison/"
#define PAGES   128     /* that have contents */
#define BROKEN  40

static void tell(const char *file, uint64_t frame)
{
    char text[32];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)frame);
    /* An errno says that the page is still in its file, where it has to be. */
    (void)write_text(file, text);
}

/*
 * It breaks in a private huge page, whose vmemmap may be folded: it is not there
 * any more, all others are, and the huge page is not merged as long as it is broken.
 */
void case_broken(void)
{
    struct counters base = counters(), whole;
    struct memory m;
    uint64_t value, frame;

    if (access(DEBUGFS "corrupt-pfn", W_OK)) {
        skip("the kernel cannot break pages (CONFIG_HWPOISON_INJECT)");
    }
    m = new_allocated();
    frame = m.frame[0] + BROKEN;
    whole = counters();
    NEED(!convert(&m, 0, PAGES, false, NULL));
    for (uint64_t i = 0; i < PAGES; i++) {
        NEED(stamp_page(&m, i));
    }
    NEED(!convert(&m, 0, PAGES, true, NULL));
    CHECK(become(whole), "the huge page is whole");

    tell(DEBUGFS "corrupt-pfn", frame);
    if (folds()) {
        CHECK(counters().vmemmap > whole.vmemmap, "the huge page is in pieces");
    }
    NEED(!convert(&m, 0, PAGES, false, NULL));
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK(i == BROKEN ? !peek(&m, i, 0, &value) : right(&m, i),
              "page %lu", i);
    }
    NEED(!convert(&m, 0, PAGES, true, NULL));
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK(i == BROKEN || right(&m, i), "page %lu, private", i);
    }
    NEED(!convert(&m, first_of(1), huge_pages(), false, NULL));
    NEED(!convert(&m, first_of(1), huge_pages(), true, NULL));
    CHECK(folios_right(&m, 1), "another huge page");

    drop_memory(&m);
    if (has_pool()) {
        CHECK(counters().free < base.free, "it has not returned to its pool");
    }
    tell(DEBUGFS "unpoison-pfn", frame);
}
