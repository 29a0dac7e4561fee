/*
 * What the guest believes about each page of the bounce area: a plain bitmap
 *
 * A CPU has a slice of the bounce area, and knows of no other page.  As long as
 * one CPU works the slice is the bounce area.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

/*
 * By so many pages slices are off a huge page's border, so that neighbours
 * share a huge page.  A byte of the map belongs to one slice.
 */
#define OFF_BORDER      200u

static uint8_t shared_map[AREA_LIMIT_MIB * (MIB / PAGE_SIZE) / 8];

void model_init(uint32_t pages, bool shared)
{
    Cpu *cpu = this_cpu();

    cpu->first = 0;
    cpu->pages = pages;
    cpu->shared_pages = 0;
    memset(shared_map, 0, sizeof(shared_map));
    model_set(0, pages, shared);
}

void model_split(void)
{
    uint32_t total = model_pages();
    uint32_t size = total / opt.cpus & ~7u;
    uint32_t i, first = 0, end;

    if (model_shared_pages()) {
        fail("cpus=%u: shared memory cannot be split", opt.cpus);
    }
    for (i = 0; i < opt.cpus; i++, first = end) {
        end = i == opt.cpus - 1 ? total : (i + 1) * size + OFF_BORDER;
        cpu_of(i)->first = first;
        cpu_of(i)->pages = end - first;
    }
}

void model_join(void)
{
    Cpu *cpu = this_cpu();
    uint32_t i;

    for (i = 1; i < opt.cpus; i++) {
        cpu->pages += cpu_of(i)->pages;
        cpu->shared_pages += cpu_of(i)->shared_pages;
    }
}

bool model_shared(uint32_t page)
{
    page += this_cpu()->first;
    return shared_map[page / 8] & (1 << (page % 8));
}

void model_set(uint32_t first, uint32_t pages, bool shared)
{
    Cpu *cpu = this_cpu();
    uint32_t i;

    for (i = first; i < first + pages; i++) {
        if (model_shared(i) != shared) {
            shared_map[(cpu->first + i) / 8] ^= 1 << ((cpu->first + i) % 8);
            cpu->shared_pages += shared ? 1 : -1;
        }
    }
}

uint32_t model_pages(void)
{
    return this_cpu()->pages;
}

uint32_t model_shared_pages(void)
{
    return this_cpu()->shared_pages;
}

uint32_t model_head(void)
{
    return -this_cpu()->first % HUGE_PAGE_PAGES;
}

uint32_t page_address(uint32_t page)
{
    return opt.base * MIB + (this_cpu()->first + page) * PAGE_SIZE;
}
