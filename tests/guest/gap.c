/*
 * gap=N: a page is under DMA while its neighbours convert N times
 *
 * All of a huge page is shared by one request, so that a device has it mapped
 * in one piece; then pages of it become private and shared again, but for one,
 * to or from which the device transfers meanwhile.  Then all is made one piece
 * again, for the next transfer.  One that went wrong is counted: it fell into
 * the gap in which that page was not mapped.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PAGE            (HUGE_PAGE_PAGES / 2)
#define TRANSFER_WORDS  16

static uint32_t transfers, lost;
static uint32_t value = 0x10000;        /* what the device has, or gets */

/* edu_start() and edu_busy() keep the compiler from caching these */
static uint32_t *words(void)
{
    return (uint32_t *)(uintptr_t)page_address(PAGE);
}

static void fill(uint32_t first)
{
    uint32_t i;

    for (i = 0; i < TRANSFER_WORDS; i++) {
        words()[i] = first ? first + i : 0;
    }
}

static bool has(uint32_t first)
{
    uint32_t i;

    for (i = 0; i < TRANSFER_WORDS; i++) {
        if (words()[i] != first + i) {
            return false;
        }
    }
    return true;
}

/*
 * Each other transfer brings back what the one before it took away; if that
 * failed, the device still has what it took earlier.
 */
static void next_transfer(void)
{
    static bool to_ram;

    transfers++;
    if (to_ram && !has(value)) {
        lost++;
    }
    to_ram = !to_ram;
    convert(0, HUGE_PAGE_PAGES, false);
    convert(0, HUGE_PAGE_PAGES, true);
    if (to_ram) {
        fill(0);
    } else {
        value += TRANSFER_WORDS;
        fill(value);
    }
    edu_start(page_address(PAGE), TRANSFER_WORDS * 4, to_ram);
}

void run_gap(void)
{
    uint32_t i;

    if (!convert_possible() || model_pages() < HUGE_PAGE_PAGES) {
        fail("gap=%u needs a way to convert, and a huge page", opt.gap);
    }
    convert(0, model_pages(), false);
    convert(0, HUGE_PAGE_PAGES, true);
    /* so that the first transfer is one from RAM */
    fill(value);
    edu_start(page_address(PAGE), TRANSFER_WORDS * 4, false);
    while (edu_busy()) {
        asm volatile("pause");
    }
    for (i = 0; i < opt.gap; i++) {
        uint32_t page = rng_below(HUGE_PAGE_PAGES - 1);

        page += page >= PAGE;
        convert(page, 1, !model_shared(page));
        if (!edu_busy()) {
            next_transfer();
        }
    }
    while (edu_busy()) {
        asm volatile("pause");
    }
    print("summary conversions=%u transfers=%u lost=%u\n", opt.gap, transfers,
          lost);
    if (opt.pause) {
        wait_for_host();
    }
}
