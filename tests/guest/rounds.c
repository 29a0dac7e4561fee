/*
 * rounds=N: the bounce area is converted again and again, for a host that
 * measures
 *
 * A round makes all of it private, then shared, in requests of chunk=KIB; or,
 * with mix=N, makes N requests anywhere.  With piece=KIB it takes that much out
 * of each chunk after the last round, then gives it back.  With share=MIB only so
 * much becomes shared again, in pieces of scatter=KIB anywhere or else at the start
 * of the area, then come the requests of mix=N, each for one page.
 * With touch=1 each page is written to after each step, so that the host has
 * memory for it; with keep=1 each page still has to be what was written before.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define MAX_MIX_ORDER 10

static uint32_t written;        /* to the first word of each page */

#define KIB_PAGES(kib) ((kib) * 1024 / PAGE_SIZE)

/* Pieces that do not overlap */
static void share_scattered(void)
{
    uint32_t pages = KIB_PAGES(opt.scatter);
    uint32_t left = opt.share * 1024 / opt.scatter;
    uint32_t page;

    while (left) {
        page = rng_below(model_pages() / pages) * pages;
        if (!model_shared(page)) {
            convert(page, pages, true);
            left--;
        }
    }
}

static void convert_all(bool shared)
{
    uint32_t chunk = KIB_PAGES(opt.chunk);
    uint32_t end = model_pages();
    uint32_t page;

    if (shared && opt.share) {
        end = MIN(end, opt.share * (MIB / PAGE_SIZE));
    }
    for (page = 0; page < end; page += chunk) {
        convert(page, chunk, shared);
    }
}

/* One piece of each chunk, where it leaves something on both sides */
static void convert_pieces(bool shared)
{
    uint32_t chunk = KIB_PAGES(opt.chunk);
    uint32_t page;

    for (page = 0; page < model_pages(); page += chunk) {
        convert(page + chunk / 3, KIB_PAGES(opt.piece), shared);
    }
}

/*
 * Each order of magnitude half as often as the one before it: it is the number
 * of requests that finds errors, and that of pages that takes time.
 */
static void mix_range(uint32_t *first, uint32_t *pages)
{
    uint32_t order = __builtin_ctz(rng() | 1u << MAX_MIX_ORDER);

    if (opt.share) {
        order = 0;
    }
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

static void do_step(const char *to)
{
    if (!strcmp(to, "any")) {
        convert_mix();
    } else if (!strcmp(to, "out") || !strcmp(to, "back")) {
        convert_pieces(to[0] == 'b');
    } else if (opt.scatter && to[0] == 's') {
        share_scattered();
    } else {
        convert_all(to[0] == 's');
    }
}

static void step(uint32_t round, const char *to)
{
    print("begin round=%u to=%s\n", round, to);
    do_step(to);
    print("end round=%u to=%s conversions=%u shared-pages=%u\n", round, to,
          count.conversions, model_shared_pages());
    if (opt.touch) {
        touch_all(round << 24);
    }
    if (opt.pause) {
        wait_for_host();
    }
}

void run_rounds(void)
{
    uint32_t round;

    if (!convert_possible() || !opt.chunk ||
        opt.area * 1024 % opt.chunk || opt.chunk % (PAGE_SIZE / 1024) ||
        opt.piece > opt.chunk / 3 || opt.piece % (PAGE_SIZE / 1024)) {
        fail("rounds=%u needs a way to convert, chunk=KIB (%u) that divides "
             "the bounce area, and piece=KIB (%u) that fits into that", opt.rounds,
             opt.chunk, opt.piece);
    }
    if (opt.scatter && (opt.scatter % (PAGE_SIZE / 1024) ||
                        opt.share > opt.area / 2)) {
        fail("scatter=%u must be pages, and share=%u at most half of the bounce "
             "area", opt.scatter, opt.share);
    }
    if (opt.keep) {
        opt.keep = false;
        touch_all(1);
        opt.keep = true;
    }
    convert(0, model_pages(), false);
    for (round = 1; round <= opt.rounds; round++) {
        if (!opt.mix || opt.share) {
            step(round, "private");
            step(round, "shared");
        }
        if (opt.piece && round == opt.rounds) {
            step(round, "out");
            step(round, "back");
        }
        if (opt.mix) {
            step(round, "any");
        }
    }
}
