/*
 * What split huge pages cost, against a model that places each folio
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "system/guest-memfd/vmemmap.h"

#define PAGE (4 * KiB)
#define MAX_ORDER 18

static const GuestMemfdRestructure ways[] = {
    GUEST_MEMFD_RESTRUCTURE_FLAT,
    GUEST_MEMFD_RESTRUCTURE_STAGED,
    GUEST_MEMFD_RESTRUCTURE_LOG,
};

/* The orders that a folio can have, largest first */
static bool possible(unsigned order, unsigned huge, GuestMemfdRestructure how)
{
    switch (how) {
    case GUEST_MEMFD_RESTRUCTURE_FLAT:
        return order == huge || !order;
    case GUEST_MEMFD_RESTRUCTURE_STAGED:
        return order == huge || order == 9 || !order;
    default:
        return true;
    }
}

/* A folio begins at each page that none before it has. */
static uint64_t model(const unsigned long *private, unsigned huge,
                      GuestMemfdRestructure how)
{
    const unsigned long pages = 1UL << huge;
    g_autofree unsigned long *described = bitmap_new(pages / 64);

    for (unsigned long page = 0; page < pages;) {
        unsigned order = huge;

        while (order && (page % (1UL << order) || !possible(order, huge, how) ||
                         find_next_zero_bit(private, page + (1UL << order),
                                            page) < page + (1UL << order))) {
            order--;
        }
        set_bit(page / 64, described);
        page += 1UL << order;
    }
    return (bitmap_count_one(described, pages / 64) - 1) * PAGE;
}

/* All huge pages of a map but the second one are whole. */
static void check(const GuestMemfdMap *map, const unsigned long *bits,
                  unsigned huge)
{
    uint64_t size = PAGE << huge;

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, size, size, ways[i]),
                         ==, model(bits, huge, ways[i]));
        g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, 0, size, ways[i]), ==,
                         0);
    }
}

static void test_random(const void *opaque)
{
    unsigned huge = (uintptr_t)opaque;
    const uint64_t pages = 1ULL << huge;
    g_autofree unsigned long *bits = bitmap_new(pages);
    GuestMemfdMap *map = guest_memfd_map_new(2 * pages * PAGE, PAGE, true);

    bitmap_set(bits, 0, pages);
    for (int i = 0; i < 200; i++) {
        uint64_t page = g_test_rand_int_range(0, pages);
        uint64_t nr = MIN(pages - page,
                          1ULL << g_test_rand_int_range(0, huge + 1));

        guest_memfd_map_set(map, (pages + page) * PAGE, nr * PAGE, i % 3);
        if (i % 3) {
            bitmap_set(bits, page, nr);
        } else {
            bitmap_clear(bits, page, nr);
        }
        if (huge < MAX_ORDER || i % 10 == 0) {
            check(map, bits, huge);
        }
    }
    guest_memfd_map_free(map);
}

/* Pages of the vmemmap, as they were measured on a kernel */
static void test_measured(void)
{
    const struct {
        uint64_t size, shared, pages[ARRAY_SIZE(ways)];
    } rows[] = {
        { 2 * MiB, 0, { 0, 0, 0 } },
        { 2 * MiB, PAGE, { 7, 7, 3 } },
        { 2 * MiB, 2 * MiB, { 7, 7, 7 } },
        { 1 * GiB, 0, { 0, 0, 0 } },
        { 1 * GiB, PAGE, { 4095, 518, 12 } },
        { 1 * GiB, 1 * GiB, { 4095, 4095, 4095 } },
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        GuestMemfdMap *map = guest_memfd_map_new(rows[i].size, PAGE, true);

        guest_memfd_map_set(map, 0, rows[i].shared, false);
        for (size_t j = 0; j < ARRAY_SIZE(ways); j++) {
            g_assert_cmpuint(guest_memfd_vmemmap_bytes(map, 0, rows[i].size,
                                                       ways[j]), ==,
                             rows[i].pages[j] * PAGE);
        }
        guest_memfd_map_free(map);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-vmemmap/measured", test_measured);
    g_test_add_data_func("/guest-memfd-vmemmap/random/2M", (void *)9,
                         test_random);
    g_test_add_data_func("/guest-memfd-vmemmap/random/1G",
                         (void *)MAX_ORDER, test_random);
    return g_test_run();
}
