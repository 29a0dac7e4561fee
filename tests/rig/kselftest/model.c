/*
 * Which folios there should be, and how much vmemmap they take
 *
 * The kernel looks from a page upwards for the largest folio that fits.  This
 * divides from the huge page downwards: the two have no fault in common.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdlib.h>
#include <string.h>

#include "gmem-test.h"

/* Of 64 bytes each, in a page of the vmemmap */
#define STRUCTS         64

/* The order of the parts that a block with a shared page is divided into */
static unsigned part_of(unsigned order)
{
    switch (scheme) {
    case FLAT:
        return 0;
    case STAGED:
        return order > PMD_ORDER ? PMD_ORDER : 0;
    default:
        return order - 1;
    }
}

static void divide(const uint8_t *shared, unsigned order, uint8_t *orders)
{
    uint64_t pages = 1ull << order;
    unsigned part;

    if (!order || !memchr(shared, 1, pages)) {
        memset(orders, order, pages);
        return;
    }
    part = part_of(order);
    for (uint64_t i = 0; i < pages; i += 1ull << part) {
        divide(shared + i, part, orders + i);
    }
}

void model_orders(const struct memory *m, unsigned huge, uint8_t *orders)
{
    divide(m->shared + first_of(huge), provider->order, orders);
}

/*
 * A page of the vmemmap is needed if a folio begins in it: each folio that has
 * more than one page of the vmemmap keeps the first of them.
 */
long model_vmemmap(const struct memory *m)
{
    uint8_t *orders = malloc(huge_pages());
    long needed = 0;

    for (unsigned huge = 0; folds() && huge < provider->huge; huge++) {
        if (!m->there[huge]) {
            continue;
        }
        model_orders(m, huge, orders);
        needed--;
        for (uint64_t i = 0; i < huge_pages(); i += STRUCTS) {
            needed += !(i & ((1ull << orders[i]) - 1));
        }
    }
    free(orders);
    return needed;
}
