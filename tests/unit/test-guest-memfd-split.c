/*
 * Which pieces a split of a DMA mapping leaves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "hw/vfio/guest-memfd-dma.h"

#define PAGE (4 * KiB)

/* Pieces cover the range in order, are powers of two, and naturally aligned. */
static unsigned check_pieces(uint64_t start, uint64_t end)
{
    unsigned n = 0;

    while (start < end) {
        uint64_t stop = vfio_guest_memfd_piece(start, end);
        uint64_t size = stop - start;

        g_assert_cmpuint(stop, >, start);
        g_assert_cmpuint(stop, <=, end);
        g_assert_true(is_power_of_2(size));
        g_assert_true(QEMU_IS_ALIGNED(start, size));
        /* The largest that fits. */
        g_assert_true(start + 2 * size > end ||
                      !QEMU_IS_ALIGNED(start, 2 * size));
        start = stop;
        n++;
    }
    return n;
}

/* Every part of every small extent. */
static void test_small(void)
{
    for (uint64_t s = 0; s < 40; s++) {
        for (uint64_t e = s + 1; e <= 40; e++) {
            check_pieces(s * PAGE, e * PAGE);
        }
    }
}

/* One page out of a naturally aligned extent leaves log2(n) pieces. */
static void test_one_page(void)
{
    const uint64_t extents[] = { 64 * KiB, 2 * MiB, 64 * MiB, 1 * GiB };

    for (size_t i = 0; i < ARRAY_SIZE(extents); i++) {
        uint64_t size = extents[i], base = 4 * GiB;
        uint64_t step = MAX(PAGE, size / 4096);

        for (uint64_t o = 0; o < size; o += step) {
            unsigned n = check_pieces(base, base + o) +
                         check_pieces(base + o + PAGE, base + size);

            g_assert_cmpuint(n, ==, ctz64(size / PAGE));
        }
    }
}

/* Any hole in any extent: at most 2 * log2(n) pieces. */
static void test_random(void)
{
    for (int i = 0; i < 200000; i++) {
        uint64_t n = g_test_rand_int_range(2, 262144);
        uint64_t base = (uint64_t)g_test_rand_int_range(0, 1 << 20) * PAGE;
        uint64_t first = g_test_rand_int_range(0, n);
        uint64_t nr = g_test_rand_int_range(1, n - first + 1);
        unsigned left = check_pieces(base, base + first * PAGE);
        unsigned right = check_pieces(base + (first + nr) * PAGE,
                                      base + n * PAGE);

        g_assert_cmpuint(left, <=, 2 * (64 - clz64(n)));
        g_assert_cmpuint(right, <=, 2 * (64 - clz64(n)));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-split/small", test_small);
    g_test_add_func("/guest-memfd-split/one-page", test_one_page);
    g_test_add_func("/guest-memfd-split/random", test_random);
    return g_test_run();
}
