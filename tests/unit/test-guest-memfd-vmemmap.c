/*
 * What split huge pages cost, against a model that places each folio
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "system/guest-memfd/vmemmap.h"

#define MAX_ORDER 18

static const GuestMemfdRestructure ways[] = {
    GUEST_MEMFD_RESTRUCTURE_FLAT,
    GUEST_MEMFD_RESTRUCTURE_STAGED,
    GUEST_MEMFD_RESTRUCTURE_LOG,
};

/* Huge pages of a host with pages of so many bytes */
typedef struct Geometry {
    const char *name;
    uint64_t page;
    unsigned described;         /* pages, by one page of the vmemmap */
    unsigned table;             /* order of what a page table maps */
    unsigned huge;              /* order */
} Geometry;

static const Geometry geometries[] = {
    { "4k/2M", 4 * KiB, 64, 9, 9 },
    { "4k/1G", 4 * KiB, 64, 9, MAX_ORDER },
    { "16k/32M", 16 * KiB, 256, 11, 11 },
    { "16k/1G", 16 * KiB, 256, 11, 16 },
    { "64k/512M", 64 * KiB, 1024, 13, 13 },
    { "64k/16G", 64 * KiB, 1024, 13, MAX_ORDER },
};

/* The orders that a folio can have, largest first */
static bool possible(const Geometry *g, unsigned order,
                     GuestMemfdRestructure how)
{
    const unsigned huge = g->huge;

    switch (how) {
    case GUEST_MEMFD_RESTRUCTURE_FLAT:
        return order == huge || !order;
    case GUEST_MEMFD_RESTRUCTURE_STAGED:
        return order == huge || order == g->table || !order;
    default:
        return true;
    }
}

/* A folio begins at each page that none before it has. */
static uint64_t model(const Geometry *g, const unsigned long *private,
                      GuestMemfdRestructure how)
{
    const unsigned long pages = 1UL << g->huge;
    g_autofree unsigned long *described = bitmap_new(pages / g->described);

    for (unsigned long page = 0; page < pages;) {
        unsigned order = g->huge;

        while (order && (page % (1UL << order) || !possible(g, order, how) ||
                         find_next_zero_bit(private, page + (1UL << order),
                                            page) < page + (1UL << order))) {
            order--;
        }
        set_bit(page / g->described, described);
        page += 1UL << order;
    }
    return (bitmap_count_one(described, pages / g->described) - 1) * g->page;
}

/* All huge pages of a map but the second one are whole. */
static void check(const Geometry *g, const GuestMemfdMap *map,
                  const unsigned long *bits)
{
    uint64_t size = g->page << g->huge;

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, size, size, ways[i]),
                         ==, model(g, bits, ways[i]));
        g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, 0, size, ways[i]), ==,
                         0);
    }
}

static void test_random(const void *opaque)
{
    const Geometry *g = opaque;
    const uint64_t pages = 1ULL << g->huge;
    g_autofree unsigned long *bits = bitmap_new(pages);
    GuestMemfdMap *map = guest_memfd_map_new(2 * pages * g->page, g->page, true);

    bitmap_set(bits, 0, pages);
    for (int i = 0; i < 200; i++) {
        uint64_t page = g_test_rand_int_range(0, pages);
        uint64_t nr = MIN(pages - page,
                          1ULL << g_test_rand_int_range(0, g->huge + 1));

        guest_memfd_map_set(map, (pages + page) * g->page, nr * g->page, i % 3);
        if (i % 3) {
            bitmap_set(bits, page, nr);
        } else {
            bitmap_clear(bits, page, nr);
        }
        if (g->huge == g->table || i % 10 == 0) {
            check(g, map, bits);
        }
    }
    guest_memfd_map_free(map);
}

/* Pages of the vmemmap, as they were measured on a kernel */
static void test_measured(void)
{
    const uint64_t page = 4 * KiB;
    const struct {
        uint64_t size, shared, pages[ARRAY_SIZE(ways)];
    } rows[] = {
        { 2 * MiB, 0, { 0, 0, 0 } },
        { 2 * MiB, page, { 7, 7, 3 } },
        { 2 * MiB, 2 * MiB, { 7, 7, 7 } },
        { 1 * GiB, 0, { 0, 0, 0 } },
        { 1 * GiB, page, { 4095, 518, 12 } },
        { 1 * GiB, 1 * GiB, { 4095, 4095, 4095 } },
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        GuestMemfdMap *map = guest_memfd_map_new(rows[i].size, page, true);

        guest_memfd_map_set(map, 0, rows[i].shared, false);
        for (size_t j = 0; j < ARRAY_SIZE(ways); j++) {
            g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, 0, rows[i].size,
                                                       ways[j]), ==,
                             rows[i].pages[j] * page);
        }
        guest_memfd_map_free(map);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-vmemmap/measured", test_measured);
    for (size_t i = 0; i < ARRAY_SIZE(geometries); i++) {
        g_autofree char *path =
            g_strdup_printf("/guest-memfd-vmemmap/random/%s",
                            geometries[i].name);

        g_test_add_data_func(path, &geometries[i], test_random);
    }
    return g_test_run();
}
