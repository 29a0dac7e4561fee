/*
 * What the guest believes about each page of the window: a plain bitmap
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

static uint8_t shared_map[DMA_LIMIT_MIB * (MIB / PAGE_SIZE) / 8];
static uint32_t pages_total;
static uint32_t pages_shared;

void model_init(uint32_t pages, bool shared)
{
    pages_total = pages;
    pages_shared = 0;
    memset(shared_map, 0, sizeof(shared_map));
    model_set(0, pages, shared);
}

bool model_shared(uint32_t page)
{
    return shared_map[page / 8] & (1 << (page % 8));
}

void model_set(uint32_t first, uint32_t pages, bool shared)
{
    uint32_t i;

    for (i = first; i < first + pages; i++) {
        if (model_shared(i) != shared) {
            shared_map[i / 8] ^= 1 << (i % 8);
            pages_shared += shared ? 1 : -1;
        }
    }
}

uint32_t model_pages(void)
{
    return pages_total;
}

uint32_t model_shared_pages(void)
{
    return pages_shared;
}
