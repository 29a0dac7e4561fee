/*
 * rounds=N: the window is converted again and again, for a host that measures
 *
 * A round makes all of it private, then shared, in requests of chunk=KIB; or,
 * with mix=N, makes N requests anywhere.  With touch=1 each page is written to
 * after it, so that the host has memory for it; with keep=1 each page still has
 * to be what was written before.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define MAX_MIX_ORDER 10

static uint32_t written;        /* to the first word of each page */

static void convert_all(bool shared)
{
    uint32_t chunk = opt.chunk * 1024 / PAGE_SIZE;
    uint32_t page;

    for (page = 0; page < model_pages(); page += chunk) {
        convert(page, chunk, shared);
    }
}

/*
 * Each order of magnitude half as often as the one before it: it is the number
 * of requests that finds errors, and that of pages that takes time.
 */
static void mix_range(uint32_t *first, uint32_t *pages)
{
    uint32_t order = __builtin_ctz(rng() | 1u << MAX_MIX_ORDER);

    *pages = 1 + rng_below(1u << order);
    if (order == MAX_MIX_ORDER) {
        *pages = HUGE_PAGE_PAGES;
        *first = rng_below(model_pages() / *pages) * *pages;
    } else {
        *first = rng_below(model_pages() - *pages + 1);
    }
}

static void convert_mix(void)
{
    uint32_t i, first, pages;

    for (i = 0; i < opt.mix; i++) {
        mix_range(&first, &pages);
        convert(first, pages, rng() & 1);
    }
}

static void touch_all(uint32_t value)
{
    uint32_t page;

    for (page = 0; page < model_pages(); page++) {
        /* memory that the host takes away and gives back */
        volatile uint32_t *p = (uint32_t *)(uintptr_t)page_address(page);

        if (opt.keep && *p != written + page) {
            fail("page %u (%s) has 0x%x, not 0x%x", page,
                 model_shared(page) ? "shared" : "private", *p,
                 written + page);
        }
        *p = value + page;
    }
    written = value;
}

static void step(uint32_t round, const char *to)
{
    print("begin round=%u to=%s\n", round, to);
    if (opt.mix) {
        convert_mix();
    } else {
        convert_all(to[0] == 's');
    }
    print("end round=%u to=%s conversions=%u shared-pages=%u\n", round, to,
          count.conversions, model_shared_pages());
    if (opt.touch) {
        touch_all(round << 24);
    }
    if (opt.hold) {
        wait_for_host();
    }
}

void run_rounds(void)
{
    uint32_t round;

    if (!convert_possible() || !opt.chunk ||
        opt.window * 1024 % opt.chunk || opt.chunk % (PAGE_SIZE / 1024)) {
        fail("rounds=%u needs a way to convert, and chunk=KIB (%u) that "
             "divides the window", opt.rounds, opt.chunk);
    }
    if (opt.keep) {
        opt.keep = false;
        touch_all(1);
        opt.keep = true;
    }
    convert(0, model_pages(), false);
    for (round = 1; round <= opt.rounds; round++) {
        if (opt.mix) {
            step(round, "any");
        } else {
            step(round, "private");
            step(round, "shared");
        }
    }
}
