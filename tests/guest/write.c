/*
 * write=1: the guest writes all over its bounce area until it gets a byte
 *
 * What it wrote last to each page is in its own memory, too.  Each page is
 * compared before it is written to, and all of them at the end: for a host that
 * takes this memory somewhere else meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define MAX_AREA_MIB    64
#define MAX_PAGES       (MAX_AREA_MIB * (MIB / PAGE_SIZE))
/* A KVM that has to emulate this code does some thousand writes a second */
#define PRINT_MASK      0xffu
#define WORDS           (PAGE_SIZE / sizeof(uint32_t))

static uint32_t written[MAX_PAGES];     /* the tag of each page */

/* A word of a page, somewhere else in each of them. */
static uint32_t *word(uint32_t page, uint32_t n)
{
    uint32_t address = page_address(page);
    uint32_t at = (address / PAGE_SIZE * 7 + n * (WORDS / 4)) % WORDS;

    return (uint32_t *)(uintptr_t)address + at;
}

void write_check(uint32_t page)
{
    uint32_t n, tag = written[this_cpu()->first + page];

    for (n = 0; n < 4; n++) {
        if (*word(page, n) != tag + n) {
            fail("0x%x (%s) has 0x%x, not 0x%x", page_address(page),
                 model_shared(page) ? "shared" : "private", *word(page, n),
                 tag + n);
        }
    }
}

void write_page(uint32_t page)
{
    uint32_t n, tag = rng();

    for (n = 0; n < 4; n++) {
        *word(page, n) = tag + n;
    }
    written[this_cpu()->first + page] = tag;
}

void write_all(void)
{
    uint32_t page;

    if (opt.area > MAX_AREA_MIB) {
        fail("the bounce area has %u MiB, more than %u", opt.area,
             MAX_AREA_MIB);
    }
    for (page = 0; page < model_pages(); page++) {
        write_page(page);
    }
}

void write_check_all(void)
{
    uint32_t page;

    for (page = 0; page < model_pages(); page++) {
        write_check(page);
    }
}

void run_write(void)
{
    uint32_t pages = model_pages();
    uint32_t page, writes = 0;

    write_all();
    print("progress writes=0\n");
    while (!host_has_sent()) {
        do {
            page = rng_below(pages);
            write_check(page);
            write_page(page);
            writes++;
        } while (writes & PRINT_MASK);
        print("progress writes=%u\n", writes);
    }
    write_check_all();
    print("summary writes=%u pages=%u\n", writes, pages);
}
