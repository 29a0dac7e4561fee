/*
 * The page-size tree of guest_memfd memory, compared with a plain bitmap
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "system/guest-memfd-map.h"

#define OPERATIONS 1000000

typedef struct Case {
    const char *name;
    GuestMemfdMapGeometry geo;
    uint64_t size;
    bool private;
} Case;

static const Case cases[] = {
    { "x86", { 3, { 30, 21, 12 } }, 3 * GiB, false },
    { "x86-odd-size", { 3, { 30, 21, 12 } }, 2 * GiB + 5 * MiB + 12 * KiB,
      true },
    { "x86-below-huge", { 3, { 30, 21, 12 } }, 36 * KiB, false },
    { "arm-64k", { 3, { 34, 29, 16 } }, 17 * GiB + 192 * KiB, true },
    { "two-levels", { 2, { 21, 12 } }, 64 * MiB + 4 * KiB, false },
    { "four-levels", { 4, { 25, 21, 17, 12 } }, 200 * MiB + 20 * KiB, true },
    { "tiny-fanout", { 4, { 15, 14, 13, 12 } }, 1 * MiB + 4 * KiB, false },
};

/* The model: one bit a page, set is private. */
typedef struct Fixture {
    const Case *c;
    GuestMemfdMap *map;
    unsigned long *bits;
    uint64_t page;
    uint64_t pages;
    uint64_t private_pages;
    GRand *rand;
} Fixture;

static Fixture *fixture_new(const Case *c)
{
    Fixture *f = g_new0(Fixture, 1);

    f->c = c;
    f->map = guest_memfd_map_new(c->size, &c->geo, c->private);
    f->page = 1ULL << c->geo.shift[c->geo.levels - 1];
    f->pages = c->size / f->page;
    f->bits = bitmap_new(f->pages);
    if (c->private) {
        bitmap_set(f->bits, 0, f->pages);
        f->private_pages = f->pages;
    }
    f->rand = g_rand_new_with_seed(g_test_rand_int());
    return f;
}

static void fixture_free(Fixture *f)
{
    guest_memfd_map_free(f->map);
    g_rand_free(f->rand);
    g_free(f->bits);
    g_free(f);
}

static uint64_t random_below(Fixture *f, uint64_t limit)
{
    uint64_t r = ((uint64_t)g_rand_int(f->rand) << 32) | g_rand_int(f->rand);

    return r % limit;
}

/*
 * Ranges that meet every case of the tree: single pages, some pages, whole
 * pages of each size, ranges that start or end on them, and now and then
 * everything.
 */
static void random_range(Fixture *f, uint64_t *first, uint64_t *nr)
{
    unsigned level = random_below(f, f->c->geo.levels);
    uint64_t unit = (1ULL << f->c->geo.shift[level]) / f->page;
    uint64_t len;

    switch (random_below(f, 16)) {
    case 0:
        *first = random_below(f, f->pages);
        *nr = 1 + random_below(f, f->pages - *first);
        return;
    case 1 ... 5:
        *first = random_below(f, f->pages);
        *nr = 1;
        return;
    case 6 ... 10:
        *first = random_below(f, f->pages);
        len = 1 + random_below(f, MIN(700, f->pages));
        break;
    default:
        *first = QEMU_ALIGN_DOWN(random_below(f, f->pages), unit);
        len = unit * (1 + random_below(f, 2));
        break;
    }
    *nr = MIN(len, f->pages - *first);
}

static void model_set(Fixture *f, uint64_t first, uint64_t nr, bool private)
{
    f->private_pages -= bitmap_count_one_with_offset(f->bits, first, nr);
    if (private) {
        bitmap_set(f->bits, first, nr);
        f->private_pages += nr;
    } else {
        bitmap_clear(f->bits, first, nr);
    }
}

static uint64_t model_run(Fixture *f, uint64_t first, uint64_t end,
                          bool *private)
{
    *private = test_bit(first, f->bits);
    return *private ? find_next_zero_bit(f->bits, end, first) :
                      find_next_bit(f->bits, end, first);
}

static void check_state(Fixture *f, uint64_t first, uint64_t nr)
{
    bool private;
    uint64_t stop = model_run(f, first, first + nr, &private);
    GuestMemfdMapState want = stop < first + nr ? GUEST_MEMFD_MAP_MIXED :
                              private ? GUEST_MEMFD_MAP_PRIVATE :
                                        GUEST_MEMFD_MAP_SHARED;

    g_assert_cmpint(guest_memfd_map_state(f->map, first * f->page,
                                          nr * f->page), ==, want);
}

static void check_next(Fixture *f, uint64_t first, uint64_t nr, bool private)
{
    uint64_t s = first * f->page;
    uint64_t e = guest_memfd_map_next(f->map, private, &s,
                                      (first + nr) * f->page);
    uint64_t end = first + nr;
    bool state;

    first = private ? find_next_bit(f->bits, end, first) :
                      find_next_zero_bit(f->bits, end, first);
    if (first >= end) {
        g_assert_cmpuint(e, ==, 0);
    } else {
        g_assert_cmpuint(s, ==, first * f->page);
        g_assert_cmpuint(e, ==, model_run(f, first, end, &state) * f->page);
    }
}

static void check_counts(Fixture *f)
{
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_MAX_LEVELS];
    unsigned n = guest_memfd_map_count(f->map, count);

    g_assert_cmpuint(n, ==, f->c->geo.levels - 1);
    for (unsigned l = 0; l < n; l++) {
        uint64_t unit = (1ULL << f->c->geo.shift[l]) / f->page;
        uint64_t shared = 0, private = 0, mixed = 0;

        for (uint64_t i = 0; i + unit <= f->pages; i += unit) {
            uint64_t ones = bitmap_count_one_with_offset(f->bits, i, unit);

            *(!ones ? &shared : ones == unit ? &private : &mixed) += 1;
        }
        g_assert_cmpuint(count[l].size, ==, unit * f->page);
        g_assert_cmpuint(count[l].shared, ==, shared);
        g_assert_cmpuint(count[l].private, ==, private);
        g_assert_cmpuint(count[l].mixed, ==, mixed);
    }
}

static void check_all(Fixture *f)
{
    uint64_t s = 0;

    while (s < f->pages) {
        bool want, got;
        uint64_t stop = model_run(f, s, f->pages, &want);
        uint64_t e = guest_memfd_map_run(f->map, s * f->page, f->c->size, &got);

        g_assert_cmpint(got, ==, want);
        g_assert_cmpuint(e, ==, stop * f->page);
        s = stop;
    }
    check_counts(f);
}

static void test_random(const void *opaque)
{
    Fixture *f = fixture_new(opaque);

    check_all(f);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        bool private = random_below(f, 2);
        uint64_t first, nr;

        random_range(f, &first, &nr);
        if (random_below(f, 2)) {
            g_assert_true(guest_memfd_map_reserve(f->map));
        }
        guest_memfd_map_set(f->map, first * f->page, nr * f->page, private);
        model_set(f, first, nr, private);
        g_assert_cmpuint(guest_memfd_map_private_bytes(f->map), ==,
                         f->private_pages * f->page);

        random_range(f, &first, &nr);
        check_state(f, first, nr);
        check_next(f, first, nr, private);
        if (i % 50000 == 0) {
            check_all(f);
        }
    }
    check_all(f);

    /* What is uniform again takes no more than at the start. */
    guest_memfd_map_set(f->map, 0, f->c->size, true);
    model_set(f, 0, f->pages, true);
    check_all(f);
    fixture_free(f);
}

/* A change of one page keeps to the reserve, in the middle and at the ends. */
static void test_reserve(void)
{
    const GuestMemfdMapGeometry geo = { 3, { 30, 21, 12 } };
    GuestMemfdMap *map = guest_memfd_map_new(8 * GiB, &geo, false);
    uint64_t bytes;

    g_assert_true(guest_memfd_map_reserve(map));
    bytes = guest_memfd_map_metadata_bytes(map);
    guest_memfd_map_set(map, 4 * KiB, 8 * GiB - 8 * KiB, true);
    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), ==, bytes);
    guest_memfd_map_set(map, 0, 8 * GiB, false);
    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), ==, bytes);
    guest_memfd_map_free(map);
}

/* The bounds of the design, at 1 TiB: 1 MiB uniform, 48 MiB at worst. */
static void test_memory(void)
{
    const GuestMemfdMapGeometry geo = { 3, { 30, 21, 12 } };
    GuestMemfdMap *map = guest_memfd_map_new(1 * TiB, &geo, true);
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_MAX_LEVELS];

    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), <=, 1 * MiB);
    for (uint64_t o = 0; o < 1 * TiB; o += 2 * MiB) {
        guest_memfd_map_set(map, o, 4 * KiB, false);
    }
    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), <=, 48 * MiB);
    g_assert_cmpuint(guest_memfd_map_count(map, count), ==, 2);
    g_assert_cmpuint(count[0].mixed, ==, 1024);
    g_assert_cmpuint(count[1].mixed, ==, 512 * 1024);

    for (uint64_t o = 0; o < 1 * TiB; o += 2 * MiB) {
        guest_memfd_map_set(map, o, 4 * KiB, true);
    }
    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), <=, 1 * MiB);
    guest_memfd_map_free(map);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *path = g_strdup_printf("/guest-memfd-map/random/%s",
                                                cases[i].name);

        g_test_add_data_func(path, &cases[i], test_random);
    }
    g_test_add_func("/guest-memfd-map/reserve", test_reserve);
    g_test_add_func("/guest-memfd-map/memory", test_memory);
    return g_test_run();
}
