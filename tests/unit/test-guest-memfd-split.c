/*
 * Which pieces of memory are mapped for DMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "hw/vfio/guest-memfd-dma.h"

#define PAGE (4 * KiB)

/* Pages of 1, 4 and 16: small enough to try everything. */
#define SMALL { .levels = 3, .shift = { 16, 14, 12 } }
#define X86 { .levels = 3, .shift = { 30, 21, 12 } }

static const GuestMemfdDmaSplit policies[] = {
    GUEST_MEMFD_DMA_SPLIT_LOG,
    GUEST_MEMFD_DMA_SPLIT_STAGED,
    GUEST_MEMFD_DMA_SPLIT_FLAT,
    GUEST_MEMFD_DMA_SPLIT_PAGE,
};

static bool is_host_page(const VFIOGuestMemfdPlan *plan, uint64_t size)
{
    for (unsigned l = 0; l < plan->host.levels; l++) {
        if (size == 1ULL << plan->host.shift[l]) {
            return true;
        }
    }
    return false;
}

/* What a policy says of each piece by itself. */
static bool may_be_piece(const VFIOGuestMemfdPlan *plan, uint64_t start,
                         uint64_t end, uint64_t border)
{
    uint64_t size = end - start;
    uint64_t flat = QEMU_ALIGN_DOWN(border, plan->huge);
    uint64_t flat_end = ROUND_UP(border, plan->huge);

    switch (plan->split) {
    case GUEST_MEMFD_DMA_SPLIT_LOG:
        return is_power_of_2(size) && QEMU_IS_ALIGNED(start, size);
    case GUEST_MEMFD_DMA_SPLIT_STAGED:
        return is_host_page(plan, size) && QEMU_IS_ALIGNED(start, size);
    case GUEST_MEMFD_DMA_SPLIT_FLAT:
        return size == PAGE || end <= flat || start >= flat_end;
    default:
        return size == PAGE;
    }
}

/* Pieces cover [@start, @end) in order, each as the policy says. */
static unsigned check_pieces(const VFIOGuestMemfdPlan *plan, uint64_t start,
                             uint64_t end, uint64_t border)
{
    uint64_t first = start;
    unsigned n = 0;

    while (start < end) {
        uint64_t stop = vfio_guest_memfd_piece(plan, start, end, border);

        g_assert_cmpuint(stop, >, start);
        g_assert_cmpuint(stop, <=, end);
        g_assert_true(may_be_piece(plan, start, stop, border));
        start = stop;
        n++;
    }
    g_assert_cmpuint(vfio_guest_memfd_pieces(plan, first, end, border, n), ==,
                     n);
    if (n) {
        g_assert_cmpuint(vfio_guest_memfd_pieces(plan, first, end, border,
                                                 n - 1), ==, n);
    }
    return n;
}

/* The fewest pieces with which that can be done, by trying all of them. */
static unsigned fewest_pieces(const VFIOGuestMemfdPlan *plan, uint64_t start,
                              uint64_t end, uint64_t border)
{
    unsigned pages = (end - start) / PAGE;
    g_autofree unsigned *best = g_new0(unsigned, pages + 1);

    for (unsigned to = 1; to <= pages; to++) {
        best[to] = UINT_MAX;
        for (unsigned from = 0; from < to; from++) {
            if (best[from] + 1 < best[to] &&
                may_be_piece(plan, start + from * PAGE, start + to * PAGE,
                             border)) {
                best[to] = best[from] + 1;
            }
        }
    }
    return best[pages];
}

/* Every hole in every small extent, in memory of every page size. */
static void test_small(void)
{
    const uint64_t n = 34;

    for (size_t p = 0; p < ARRAY_SIZE(policies); p++) {
        for (unsigned l = 0; l < 3; l++) {
            VFIOGuestMemfdPlan plan = { policies[p], SMALL };

            plan.huge = 1ULL << plan.host.shift[l];
            for (uint64_t s = 0; s < n * PAGE; s += PAGE) {
                for (uint64_t e = s + PAGE; e <= n * PAGE; e += PAGE) {
                    g_assert_cmpuint(check_pieces(&plan, s, e, e), ==,
                                     fewest_pieces(&plan, s, e, e));
                    g_assert_cmpuint(check_pieces(&plan, s, e, s), ==,
                                     fewest_pieces(&plan, s, e, s));
                }
            }
        }
    }
}

static unsigned check_hole(const VFIOGuestMemfdPlan *plan, uint64_t start,
                           uint64_t hole, uint64_t hole_size, uint64_t end)
{
    return check_pieces(plan, start, hole, hole) +
           check_pieces(plan, hole + hole_size, end, hole + hole_size);
}

/* What a page costs that is taken out of the middle of 1 GiB. */
static void test_one_page(void)
{
    const struct {
        GuestMemfdDmaSplit split;
        uint64_t huge;
        unsigned pieces;
    } rows[] = {
        { GUEST_MEMFD_DMA_SPLIT_LOG, 1 * GiB, 18 },
        { GUEST_MEMFD_DMA_SPLIT_LOG, 2 * MiB, 18 },
        { GUEST_MEMFD_DMA_SPLIT_LOG, PAGE, 18 },
        { GUEST_MEMFD_DMA_SPLIT_STAGED, 1 * GiB, 511 + 511 },
        { GUEST_MEMFD_DMA_SPLIT_STAGED, 2 * MiB, 511 + 511 },
        { GUEST_MEMFD_DMA_SPLIT_FLAT, 1 * GiB, 262143 },
        { GUEST_MEMFD_DMA_SPLIT_FLAT, 2 * MiB, 2 + 511 },
        { GUEST_MEMFD_DMA_SPLIT_FLAT, PAGE, 2 },
    };
    const uint64_t base = 4 * GiB;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        VFIOGuestMemfdPlan plan = { rows[i].split, X86, rows[i].huge };

        g_assert_cmpuint(check_hole(&plan, base, base + 0x12345000, PAGE,
                                    base + 1 * GiB), ==, rows[i].pieces);
    }
}

/* One page out of any naturally aligned extent leaves log2(n) pieces. */
static void test_log(void)
{
    const uint64_t extents[] = { 64 * KiB, 2 * MiB, 64 * MiB, 1 * GiB };
    VFIOGuestMemfdPlan plan = { GUEST_MEMFD_DMA_SPLIT_LOG, X86, PAGE };

    for (size_t i = 0; i < ARRAY_SIZE(extents); i++) {
        uint64_t size = extents[i], base = 4 * GiB;
        uint64_t step = MAX(PAGE, size / 4096);

        for (uint64_t o = 0; o < size; o += step) {
            g_assert_cmpuint(check_hole(&plan, base, base + o, PAGE,
                                        base + size), ==, ctz64(size / PAGE));
        }
    }
}

/* Any hole in any extent: log leaves at most 2 * log2(n) pieces a side. */
static void test_random(void)
{
    for (int i = 0; i < 100000; i++) {
        VFIOGuestMemfdPlan plan = { policies[i % 3], X86 };
        uint64_t n = g_test_rand_int_range(2, 262144);
        uint64_t base = (uint64_t)g_test_rand_int_range(0, 1 << 20) * PAGE;
        uint64_t first = g_test_rand_int_range(0, n);
        uint64_t nr = g_test_rand_int_range(1, n - first + 1);
        unsigned pieces;

        plan.huge = i % 2 ? PAGE : 2 * MiB;
        pieces = check_hole(&plan, base, base + first * PAGE, nr * PAGE,
                            base + n * PAGE);
        if (plan.split == GUEST_MEMFD_DMA_SPLIT_LOG) {
            g_assert_cmpuint(pieces, <=, 4 * (64 - clz64(n)));
        }
    }
}

/* Where mappings are scarce, what is left on each side is one. */
static void test_coarse(void)
{
    for (size_t p = 0; p < ARRAY_SIZE(policies); p++) {
        VFIOGuestMemfdPlan plan = { policies[p], X86, 2 * MiB, true };

        g_assert_cmphex(vfio_guest_memfd_piece(&plan, PAGE, 3 * PAGE, PAGE), ==,
                        3 * PAGE);
        g_assert_cmphex(vfio_guest_memfd_piece(&plan, PAGE, 1 * GiB, 1 * GiB),
                        ==, 1 * GiB);
        g_assert_cmpuint(vfio_guest_memfd_pieces(&plan, PAGE, 1 * GiB, PAGE, 9),
                         ==, 1);
        g_assert_cmpuint(vfio_guest_memfd_pieces(&plan, PAGE, PAGE, PAGE, 9),
                         ==, 0);
    }
}

static void check_extents(const VFIOGuestMemfdPlan *plan, uint64_t start,
                          uint64_t end)
{
    uint64_t wanted = vfio_guest_memfd_extents(plan, start, end), n = 0;

    for (; start != end; n++) {
        start = vfio_guest_memfd_extent(plan, start, end);
    }
    g_assert_cmpuint(n, ==, wanted);
}

/* Extents end at 1 GiB, also at the end of the address space. */
static void test_extent(void)
{
    VFIOGuestMemfdPlan plan = { GUEST_MEMFD_DMA_SPLIT_LOG, X86, PAGE };
    uint64_t last = -(uint64_t)PAGE;

    g_assert_cmphex(vfio_guest_memfd_extent(&plan, 0, PAGE), ==, PAGE);
    g_assert_cmphex(vfio_guest_memfd_extent(&plan, PAGE, 8 * GiB), ==, 1 * GiB);
    g_assert_cmphex(vfio_guest_memfd_extent(&plan, 3 * GiB, 8 * GiB), ==,
                    4 * GiB);
    g_assert_cmphex(vfio_guest_memfd_extent(&plan, last - PAGE, last), ==,
                    last);
    check_extents(&plan, 0, 2 * PAGE);
    check_extents(&plan, PAGE, 8 * GiB);
    check_extents(&plan, 1 * GiB - PAGE, 2 * GiB + PAGE);
    check_extents(&plan, last - 3 * GiB, 0);
    plan.split = GUEST_MEMFD_DMA_SPLIT_PAGE;
    check_extents(&plan, PAGE, 2 * MiB + PAGE);
    check_extents(&plan, last - PAGE, 0);
    g_assert_cmphex(vfio_guest_memfd_extent(&plan, PAGE, 8 * GiB), ==,
                    2 * PAGE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-split/small", test_small);
    g_test_add_func("/guest-memfd-split/one-page", test_one_page);
    g_test_add_func("/guest-memfd-split/log", test_log);
    g_test_add_func("/guest-memfd-split/random", test_random);
    g_test_add_func("/guest-memfd-split/coarse", test_coarse);
    g_test_add_func("/guest-memfd-split/extent", test_extent);
    return g_test_run();
}
