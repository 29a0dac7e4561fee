/*
 * The map of guest_memfd memory, compared with a plain bitmap
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "system/guest-memfd-map.h"

#define OPERATIONS 300000

typedef struct Case {
    const char *name;
    uint64_t page;
    uint64_t size;
    bool private;
} Case;

static const Case cases[] = {
    { "4k", 4 * KiB, 3 * GiB, false },
    { "4k/odd-size", 4 * KiB, 2 * GiB + 5 * MiB + 12 * KiB, true },
    { "4k/below-huge", 4 * KiB, 36 * KiB, false },
    { "16k", 16 * KiB, 3 * GiB, false },
    { "16k/odd-size", 16 * KiB, 2 * GiB + 69 * MiB + 48 * KiB, true },
    { "16k/below-huge", 16 * KiB, 144 * KiB, false },
    { "64k", 64 * KiB, 48 * GiB, false },
    { "64k/odd-size", 64 * KiB, 33 * GiB + 525 * MiB + 192 * KiB, true },
    { "64k/below-huge", 64 * KiB, 576 * KiB, false },
};

/* Sizes that are counted, as Documentation/arch/arm64/hugetlbpage.rst has them */
static const struct {
    uint64_t page;
    uint64_t huge[GUEST_MEMFD_MAP_SIZES];
} geometries[] = {
    { 4 * KiB, { 1 * GiB, 2 * MiB } },
    { 16 * KiB, { 1 * GiB, 32 * MiB } },
    { 64 * KiB, { 16 * GiB, 512 * MiB } },
};

/* The model: one bit a page, set is private. */
typedef struct Fixture {
    const Case *c;
    const uint64_t *huge;       /* bytes, largest first */
    GuestMemfdMap *map;
    unsigned long *bits;
    uint64_t page;              /* bytes */
    uint64_t pages;
    uint64_t private_pages;
    GRand *rand;
} Fixture;

static Fixture *fixture_new(const Case *c)
{
    Fixture *f = g_new0(Fixture, 1);

    f->c = c;
    f->map = guest_memfd_map_new(c->size, c->page, c->private);
    f->page = c->page;
    for (size_t i = 0; i < ARRAY_SIZE(geometries); i++) {
        f->huge = geometries[i].page == f->page ? geometries[i].huge : f->huge;
    }
    g_assert_nonnull(f->huge);
    g_assert_cmpuint(guest_memfd_map_page_size(f->map), ==, f->page);
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
 * Ranges that meet every case of the map: single pages, some pages, whole
 * pages of each size, ranges that start or end on them, and now and then
 * everything.
 */
static void random_range(Fixture *f, uint64_t *first, uint64_t *nr)
{
    uint64_t unit = f->huge[random_below(f, GUEST_MEMFD_MAP_SIZES)] / f->page;
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

/* As many bytes change as had the other state. */
static void set_both(Fixture *f, uint64_t first, uint64_t nr, bool private)
{
    uint64_t before = f->private_pages, changed;

    changed = guest_memfd_map_set(f->map, first * f->page, nr * f->page,
                                  private);
    model_set(f, first, nr, private);
    g_assert_cmpuint(changed, ==, (private ? f->private_pages - before :
                                   before - f->private_pages) * f->page);
}

static uint64_t model_run(Fixture *f, uint64_t first, uint64_t end,
                          bool *private)
{
    *private = test_bit(first, f->bits);
    return *private ? find_next_zero_bit(f->bits, end, first) :
                      find_next_bit(f->bits, end, first);
}

static void check_run(Fixture *f, uint64_t first, uint64_t nr)
{
    bool want, got;
    uint64_t stop = model_run(f, first, first + nr, &want);
    uint64_t e = guest_memfd_map_run(f->map, first * f->page,
                                     (first + nr) * f->page, &got);

    g_assert_cmpint(got, ==, want);
    g_assert_cmpuint(e, ==, stop * f->page);
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
        g_assert_cmpuint(s, ==, end * f->page);
    } else {
        g_assert_cmpuint(s, ==, first * f->page);
        g_assert_cmpuint(e, ==, model_run(f, first, end, &state) * f->page);
    }
}

static void check_counts(Fixture *f)
{
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES] = { };
    uint64_t middle = QEMU_ALIGN_DOWN(f->c->size / 2, f->huge[0]);

    guest_memfd_map_count(f->map, 0, middle, count);
    guest_memfd_map_count(f->map, middle, f->c->size, count);
    for (unsigned l = 0; l < GUEST_MEMFD_MAP_SIZES; l++) {
        uint64_t unit = f->huge[l] / f->page;
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
    bool private;

    for (uint64_t s = 0; s < f->pages;
         s = model_run(f, s, f->pages, &private)) {
        check_run(f, s, f->pages - s);
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
        set_both(f, first, nr, private);
        g_assert_cmpuint(guest_memfd_map_private_bytes(f->map), ==,
                         f->private_pages * f->page);

        random_range(f, &first, &nr);
        check_run(f, first, nr);
        check_next(f, first, nr, private);
        if (i % 50000 == 0) {
            check_all(f);
        }
    }
    check_all(f);

    set_both(f, 0, f->pages, true);
    check_all(f);
    fixture_free(f);
}

static uint64_t resident_bytes(void)
{
    g_autofree char *statm = NULL;
    unsigned long all, resident;

    g_assert_true(g_file_get_contents("/proc/self/statm", &statm, NULL, NULL));
    g_assert_cmpint(sscanf(statm, "%lu %lu", &all, &resident), ==, 2);
    return resident * qemu_real_host_page_size();
}

/*
 * At 1 TiB of pages of 4 KiB: 1 MiB of memory while it is uniform, 33 MiB of
 * addresses; less if pages are larger.
 */
static void test_memory(const void *opaque)
{
    const uint64_t page = (uintptr_t)opaque;
    const uint64_t table = guest_memfd_table_bytes(page);
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES] = { };
    uint64_t before = resident_bytes(), bytes;
    GuestMemfdMap *map;

#ifdef M_PERTURB
    /* MALLOC_PERTURB_, which meson sets, has calloc() write zeroes. */
    mallopt(M_PERTURB, 0);
#endif
    map = guest_memfd_map_new(1 * TiB, page, true);
    bytes = guest_memfd_map_metadata_bytes(map);
    g_assert_cmpuint(bytes, <=, 33 * MiB / (page / (4 * KiB)) + 4 * KiB);
    for (uint64_t o = 0; o < 1 * TiB; o += 8 * table) {
        guest_memfd_map_set(map, o, table, false);
    }
    guest_memfd_map_set(map, 0, 1 * TiB, true);
    g_assert_cmpuint(resident_bytes(), <=, before + 4 * MiB);

    for (uint64_t o = 0; o < 1 * TiB; o += table) {
        guest_memfd_map_set(map, o, page, false);
    }
    guest_memfd_map_count(map, 0, 1 * TiB, count);
    g_assert_cmpuint(count[0].mixed, ==, TiB / guest_memfd_largest_page(page));
    g_assert_cmpuint(count[1].mixed, ==, TiB / table);
    g_assert_cmpuint(guest_memfd_map_metadata_bytes(map), ==, bytes);
    guest_memfd_map_free(map);
}

/* No computer has the memory for it. */
static G_GNUC_UNUSED void test_too_large(void)
{
    g_assert_null(guest_memfd_map_new(1ULL << 62, 4 * KiB, true));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *path = g_strdup_printf("/guest-memfd-map/random/%s",
                                                cases[i].name);

        g_test_add_data_func(path, &cases[i], test_random);
    }
    for (size_t i = 0; i < ARRAY_SIZE(geometries); i++) {
        uint64_t page = geometries[i].page;
        g_autofree char *path =
            g_strdup_printf("/guest-memfd-map/memory/%" PRIu64 "k", page / KiB);

        g_test_add_data_func(path, (void *)(uintptr_t)page, test_memory);
    }
#ifndef __SANITIZE_ADDRESS__    /* which takes it for a fault of the program */
    g_test_add_func("/guest-memfd-map/too-large", test_too_large);
#endif
    return g_test_run();
}
