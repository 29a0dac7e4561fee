/*
 * Extents of a container: what a guest converts, at any limit
 *
 * Requests come to the container (guest-memfd-fake-container.c) one by one, or many
 * in a round trip.  The model is a bit a page: shared or not.  Pages have 4, 16 and
 * 64 KiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "guest-memfd-fake-container.h"

static unsigned long shared[BITS_TO_LONGS(PAGES)];

static unsigned runs(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        n += test_bit(i, shared) && (!i || !test_bit(i - 1, shared));
    }
    return n;
}

static unsigned joints(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        unsigned end = fake.end_of[i] / PAGE;

        n += end && end < PAGES && fake.end_of[end];
    }
    return fake.bcontainer->dma_split == GUEST_MEMFD_DMA_SPLIT_PAGE ? 0 : n;
}

/* Mapped is what is shared, but for what the code has said to be stale. */
static void check(void)
{
    g_assert_cmpuint(fake.bcontainer->dma_extents, ==, fake.nr);
    g_assert_cmpuint(fake.v.nr_extents, ==, fake.nr);
    g_assert_cmpuint(fake.v.nr_joints, ==, joints());
    for (unsigned i = 0, end = 0; i < PAGES; i++) {
        end = fake.end_of[i] ? fake.end_of[i] / PAGE : end;
        if (i < end) {
            g_assert_true(test_bit(i, shared));
        } else if (test_bit(i, shared)) {
            g_assert_true(i * PAGE >= fake.stale && i * PAGE < fake.stale_end);
        }
    }
}

/* The size of pages is only a factor: most rounds have the usual one. */
static int rounds(int n)
{
    return fake_page_size == 4 * KiB ? n : n / 10;
}

static void setup(unsigned limit, GuestMemfdDmaSplit split)
{
    bitmap_zero(shared, PAGES);
    fake_container_start(limit, split);
    fake.shared = shared;
}

/* What is stale is mapped again; whether all of it could. */
static bool mend(void)
{
    uint64_t start = fake.stale, end = fake.stale_end;

    fake.stale = fake.stale_end = 0;
    if (!vfio_ram_discard_populate_shared(&fake.v, start, end)) {
        return true;
    }
    guest_memfd_listener_stale(NULL, NULL, start, end);
    return false;
}

/* A request to private is refused, and taken back; nothing stays stale. */
static void refuse(unsigned first, unsigned nr)
{
    unsigned limit = fake.limit, e = first + nr, others, room;

    g_assert_cmpint(vfio_ram_discard_discard(&fake.v, first * PAGE, e * PAGE), ==,
                    0);
    g_assert_cmpuint(find_next_bit(shared, e, first), <, e);

    /* Meanwhile another section of the container takes all that it can. */
    room = fake.bcontainer->dma_max_mappings;
    room -= MIN(512, room / 8);
    others = room - MIN(room, fake.bcontainer->dma_extents);
    fake.bcontainer->dma_extents += others;
    fake.limit -= others;

    g_assert_cmpint(vfio_ram_discard_populate_shared(&fake.v, first * PAGE,
                                                     e * PAGE), ==, 0);
    mend();
    vfio_ram_discard_settled(&fake.v);
    fake.bcontainer->dma_extents -= others;
    fake.limit = limit;
    g_assert_cmpuint(fake.stale_end, ==, 0);
    check();
}

/* As a conversion does it; returns whether it was granted. */
static bool convert(unsigned first, unsigned nr, bool to_shared)
{
    uint64_t start = first * PAGE, end = (first + nr) * PAGE;
    int ret;

    fake.touched = fake.touched_end = 0;
    if (!to_shared) {
        ret = vfio_ram_discard_discard(&fake.v, start, end);
        g_assert_cmpint(ret, ==, 0);
        vfio_ram_discard_settled(&fake.v);
        bitmap_clear(shared, first, nr);
        check();
        return true;
    }
    if (!mend()) {              /* or nothing becomes shared */
        vfio_ram_discard_settled(&fake.v);
        check();
        return false;
    }
    ret = vfio_ram_discard_populate(&fake.v, start, end);
    if (!ret) {
        bitmap_set(shared, first, nr);
    } else {
        g_assert_cmpint(ret, ==, -ENOSPC);
        for (unsigned i = first; i < first + nr; i++) {
            if (!test_bit(i, shared)) {
                g_assert_cmpint(vfio_ram_discard_discard(&fake.v, i * PAGE,
                                                         (i + 1) * PAGE),
                                ==, 0);
            }
        }
        vfio_ram_discard_settled(&fake.v);
    }
    check();
    return !ret;
}

/* Whoever gives back just what it took unmaps nothing else. */
static void test_exact(void)
{
    struct { unsigned first, nr; } taken[PAGES];
    unsigned n = 0;

    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    fake.limit = PAGES;
    for (int i = 0; i < rounds(20000); i++) {
        if (n && g_test_rand_bit()) {
            unsigned k = g_test_rand_int_range(0, n);

            convert(taken[k].first, taken[k].nr, false);
            g_assert_cmpuint(fake.touched, ==, taken[k].first * PAGE);
            g_assert_cmpuint(fake.touched_end, ==,
                             (taken[k].first + taken[k].nr) * PAGE);
            taken[k] = taken[--n];
        } else {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(1, MIN(20, PAGES - first) + 1);

            if (find_next_bit(shared, first + nr, first) < first + nr) {
                continue;
            }
            g_assert_true(convert(first, nr, true));
            taken[n].first = first;
            taken[n++].nr = nr;
        }
    }
    g_assert_cmpuint(fake.stale_end, ==, 0);
    fake_container_stop();
}

/*
 * At any limit: giving back always works; sharing does where what is shared then
 * fits, and nothing stays stale.
 */
static void test_limits(void)
{
    for (unsigned limit = 16; limit <= 128; limit += 7) {
        unsigned room = limit - MIN(512, limit / 8), refused = 0;

        setup(limit, GUEST_MEMFD_DMA_SPLIT_AUTO);
        for (int i = 0; i < rounds(20000); i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(0, 4) ? 1 :
                          g_test_rand_int_range(1, PAGES - first + 1);
            bool to_shared = g_test_rand_bit();

            if (!convert(first, nr, to_shared)) {
                unsigned long before[BITS_TO_LONGS(PAGES)];
                unsigned runs_before = runs();

                refused++;
                bitmap_copy(before, shared, PAGES);
                bitmap_set(shared, first, nr);
                g_assert_cmpuint(MAX(runs(), runs_before), >, room);
                bitmap_copy(shared, before, PAGES);
            }
        }
        g_test_message("limit %u: %u refused", limit, refused);
        fake_container_stop();
    }
}

/*
 * The container has told no limit, or not its own: giving back always works, and what
 * is refused has changed nothing.
 */
static void test_untold_limit(void)
{
    for (unsigned limit = 1; limit <= 64; limit += 1 + limit / 4) {
        unsigned refused = 0;

        setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
        fake.limit = limit;
        for (int i = 0; i < 2000; i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(1, MIN(40, PAGES - first) + 1);

            refused += !convert(first, nr, g_test_rand_bit());
        }
        g_test_message("limit %u: %u refused", limit, refused);
        g_assert_true(convert(0, PAGES, false));
        g_assert_true(convert(0, PAGES, true));
        g_assert_cmpuint(fake.nr, <=, MIN(limit, 2));
        fake_container_stop();
    }
}

/*
 * At any limit, also where a section that came late has taken what conversions
 * leave: a request to private that is refused changes nothing.
 */
static void test_refused(void)
{
    for (unsigned limit = 1; limit <= 128; limit += 1 + limit / 8) {
        unsigned refused = 0;

        setup(limit, GUEST_MEMFD_DMA_SPLIT_AUTO);
        for (int i = 0; i < rounds(5000); i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(0, 4) ? 1 :
                          g_test_rand_int_range(1, PAGES - first + 1);

            fake.v.arriving = g_test_rand_bit();
            convert(first, nr, g_test_rand_int_range(0, 3));
            fake.v.arriving = false;
            first = g_test_rand_int_range(0, PAGES);
            nr = g_test_rand_int_range(1, PAGES - first + 1);
            /* Not all runs fit the limit, if one was given back in part. */
            if (mend() &&
                find_next_bit(shared, first + nr, first) < first + nr) {
                refused++;
                refuse(first, nr);
            }
        }
        g_test_message("limit %u: %u refused", limit, refused);
        fake_container_stop();
    }
}

/* A split that has no room for its pieces has two, and nothing is lost. */
static void test_coarse(void)
{
    uint64_t start = 1;
    unsigned others;

    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(0, 128, true));
    for (unsigned i = 0; i < 12; i++) {
        g_assert_true(convert(300 + 2 * i, 1, true));
    }
    convert(5, 1, false);
    g_assert_cmpuint(fake.nr, ==, 14);
    g_assert_cmpuint(fake.stale_end, ==, 0);
    g_assert_false(convert(400, 1, true));

    g_assert_cmpuint(vfio_ram_discard_next_mapped(&fake.v, &start), ==, 5 * PAGE);
    g_assert_cmpuint(start, ==, 1);
    start = 5 * PAGE;
    g_assert_cmpuint(vfio_ram_discard_next_mapped(&fake.v, &start), ==,
                     128 * PAGE);
    g_assert_cmpuint(start, ==, 6 * PAGE);

    /* A container without a limit has 2^20, of which 512 are for others. */
    fake.bcontainer->dma_max_mappings = 0;
    others = (1 << 20) - 512 - fake.nr - 1;
    fake.bcontainer->dma_extents += others;
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 400 * PAGE, 401 * PAGE),
                    ==, 0);
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 402 * PAGE, 403 * PAGE),
                    ==, -ENOSPC);
    fake.bcontainer->dma_extents -= others;
    fake_container_stop();
}

/*
 * Calls fail, from one on: then what is shared and not mapped is in what was
 * asked for, or stale.
 */
static void test_failures(void)
{
    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    for (int i = 0; i < rounds(20000); i++) {
        unsigned first = g_test_rand_int_range(0, PAGES);
        unsigned nr = g_test_rand_int_range(1, MIN(40, PAGES - first) + 1);
        bool to_shared = g_test_rand_bit();
        int ret;

        fake.fail = g_test_rand_int_range(1, 8);
        ret = to_shared ? vfio_ram_discard_populate(&fake.v, first * PAGE,
                                                    (first + nr) * PAGE) :
              vfio_ram_discard_discard(&fake.v, first * PAGE, (first + nr) * PAGE);
        fake.fail = 0;
        if (!ret && to_shared) {
            bitmap_set(shared, first, nr);
        } else if (!ret) {
            bitmap_clear(shared, first, nr);
        } else {
            guest_memfd_listener_stale(NULL, NULL, first * PAGE,
                                       (first + nr) * PAGE);
            /* A part that could become shared is private again. */
            for (unsigned n = first; n < first + nr; n++) {
                if (!test_bit(n, shared)) {
                    vfio_ram_discard_discard(&fake.v, n * PAGE, (n + 1) * PAGE);
                }
            }
        }
        if (ret || !to_shared) {            /* as a transaction does */
            vfio_ram_discard_settled(&fake.v);
        }
        check();
        convert(0, 1, true);                /* mends */
        convert(0, 1, false);
    }
    fake_container_stop();
}

/* No room is made for an unmap, which needs none, whatever a server says. */
static void test_refused_unmap(void)
{
    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(0, 16, true));
    fake.unmap_error = -ENOSPC;
    fake.fail = 1;
    g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 4 * PAGE, 5 * PAGE), ==,
                    -EIO);
    g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 0, PAGES * PAGE), ==, -EIO);
    g_assert_cmpuint(fake.refusals, ==, 2);
    fake.fail = 0;
    vfio_ram_discard_settled(&fake.v);
    check();
    fake_container_stop();
}

/* One buffer, of which single pages go and come back. */
static void test_toggle(void)
{
    setup(64, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(256, 256, true));
    for (int i = 0; i < rounds(5000); i++) {
        unsigned page = g_test_rand_int_range(256, 512);

        convert(page, 1, false);
        g_assert_true(convert(page, 1, true));
    }
    g_assert_cmpuint(fake.stale_end, ==, 0);
    fake_container_stop();
}

/* With page, each is a mapping, and none is ever joined or split. */
static void test_page(void)
{
    setup(300, GUEST_MEMFD_DMA_SPLIT_PAGE);
    for (int i = 0; i < rounds(5000); i++) {
        unsigned first = g_test_rand_int_range(0, PAGES);
        unsigned nr = g_test_rand_int_range(1, PAGES - first + 1);

        convert(first, nr, g_test_rand_bit());
        g_assert_cmpuint(fake.nr, ==, bitmap_count_one(shared, PAGES));
        g_assert_cmpuint(fake.stale_end, ==, 0);
        g_assert_cmpuint(fake.v.splits, ==, 0);
    }
    fake_container_stop();
}

/* Blocks of virtio-mem, each a mapping, wherever they are in the address space. */
#define GRANULARITY 128
#define BLOCKS (PAGES / GRANULARITY)

static void check_blocks(unsigned first, unsigned nr)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t start = i * GRANULARITY * PAGE;

        g_assert_cmphex(fake.end_of[i * GRANULARITY], ==,
                        i >= first && i < first + nr ?
                        start + GRANULARITY * PAGE : 0);
    }
    g_assert_cmpuint(fake.nr, ==, nr);
    g_assert_cmpuint(fake.bcontainer->dma_extents, ==, nr);
    g_assert_cmpuint(fake.v.nr_extents, ==, nr);
    g_assert_cmpuint(fake.v.nr_joints, ==, 0);
    g_assert_cmpuint(fake.v.splits, ==, 0);
    g_assert_cmpuint(fake.stale_end, ==, 0);
}

static void test_granularity(void)
{
    const uint64_t block = GRANULARITY * PAGE;
    uint64_t moved = IOVA + 3 * PAGE;

    for (int split = 0; split < GUEST_MEMFD_DMA_SPLIT__MAX; split++) {
        setup(0, split);
        fake.limit = PAGES;
        fake.v.granularity = block;
        fake.v.to_iova = fake.iova = moved;
        fake.v.arriving = true;    /* no block is asked for boundaries */
        for (unsigned refused = 1; refused <= 2; refused++) {
            /* What is there stays. */
            g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 0, block), ==, 0);
            g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 0, 3 * block), ==,
                            0);
            check_blocks(0, 3);

            /* A discard that is refused is undone by populating again. */
            fake.fail = refused;
            g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 0, PAGES * PAGE), ==,
                            -EIO);
            fake.fail = 0;
            g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 0, 3 * block), ==,
                            0);
            check_blocks(0, 3);

            /* In other ranges than it came */
            g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 0, 2 * block), ==,
                            0);
            check_blocks(2, 1);
            g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 0, PAGES * PAGE), ==,
                            0);
            check_blocks(0, 0);
        }
        fake_container_stop();
    }
}

/* What does not fit is refused as a whole, at once; nothing is joined for it. */
static void test_granularity_limit(void)
{
    const uint64_t block = GRANULARITY * PAGE;

    setup(2, GUEST_MEMFD_DMA_SPLIT_AUTO);
    fake.v.granularity = block;
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 0, block), ==, 0);
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, block, 3 * block), ==,
                    -ENOSPC);
    check_blocks(0, 1);
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, block, 2 * block), ==, 0);
    check_blocks(0, 2);

    /* The container has no limit: then there is none. */
    fake.bcontainer->dma_max_mappings = 0;
    fake.bcontainer->dma_extents += 1 << 20;
    fake.limit = 3;
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 2 * block, 3 * block), ==,
                    0);
    g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 2 * block, 3 * block), ==,
                    0);
    fake.bcontainer->dma_extents -= 1 << 20;
    fake.limit = 2;

    /* It has less room than it said. */
    g_assert_cmpint(vfio_ram_discard_populate(&fake.v, 2 * block, 3 * block), ==,
                    -ENOSPC);
    check_blocks(0, 2);
    fake_container_stop();
}

/* Requests of a batch share a round trip. */
static void test_round_trips(void)
{
    fake_container_batch(true);            /* also where others go one by one */
    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    fake.limit = PAGES;
    for (unsigned i = 0; i < PAGES; i++) {
        g_assert_true(convert(i, 1, true));
    }
    fake.batches = 0;
    convert(0, PAGES, false);
    g_assert_cmpuint(fake.batches, <=, PAGES / 64);

    g_assert_true(convert(1, 253, true));
    fake.batches = 0;
    convert(100, 1, false);
    g_assert_cmpuint(fake.batches, ==, 1);
    g_assert_cmpuint(fake.nr, ==, 8 + 10);
    fake_container_stop();

    /* A device comes when each other page is shared, and then the rest is. */
    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    fake.limit = PAGES;
    for (unsigned i = 0; i < PAGES; i += 2) {
        set_bit(i, shared);
    }
    g_assert_cmpint(vfio_ram_discard_populate_shared(&fake.v, 0, PAGES * PAGE),
                    ==, 0);
    check();
    g_assert_cmpuint(fake.batches, <=, PAGES / 2 / 64);
    fake.batches = 0;
    g_assert_true(convert(0, PAGES, true));
    g_assert_cmpuint(fake.batches, <=, PAGES / 2 / 64);
    fake_container_stop();
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    { "exact", test_exact },
    { "limits", test_limits },
    { "untold-limit", test_untold_limit },
    { "refused", test_refused },
    { "coarse", test_coarse },
    { "failures", test_failures },
    { "refused-unmap", test_refused_unmap },
    { "toggle", test_toggle },
    { "page", test_page },
    { "granularity", test_granularity },
    { "granularity-limit", test_granularity_limit },
    { "round-trips", test_round_trips },
};

/* One of the tests, on a host with such pages */
typedef struct Case {
    unsigned test;
    uint64_t page_size;
} Case;

static void run_case(const Case *c, bool batch)
{
    fake_container_batch(batch);
    fake_page_size = c->page_size;
    tests[c->test].run();
    fake_page_size = 4 * KiB;
}

static void test_one_by_one(const void *opaque)
{
    run_case(opaque, false);
}

static void test_batch(const void *opaque)
{
    run_case(opaque, true);
}

static void add_cases(uint64_t host_page)
{
    const uint64_t kib = host_page / KiB;

    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *one = g_strdup_printf("/guest-memfd-extent/%" PRIu64
                                               "k/%s", kib, tests[i].name);
        g_autofree char *many = g_strdup_printf("/guest-memfd-extent/%" PRIu64
                                                "k/batch/%s", kib,
                                                tests[i].name);
        const Case c = { i, host_page };

        g_test_add_data_func_full(one, g_memdup2(&c, sizeof(c)),
                                  test_one_by_one, g_free);
        g_test_add_data_func_full(many, g_memdup2(&c, sizeof(c)), test_batch,
                                  g_free);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_container_register();

    add_cases(4 * KiB);
    add_cases(16 * KiB);
    add_cases(64 * KiB);
    return g_test_run();
}
