/*
 * Cost of the page-size tree of guest_memfd memory
 *
 * Prints, per size of the map: nanoseconds for one random change of 4 KiB (set
 * and set back, with the reserve that a transaction takes), the same with the
 * look-ups of a transaction, memory when uniform and at worst.  The design
 * allows 1000 ns and 1 MiB, 48 MiB per TiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/guest-memfd-map.h"

#define PAGE (4 * KiB)
#define CHANGES 1000000
#define REPEATS 5

static const GuestMemfdMapGeometry geo = { 3, { 30, 21, 12 } };

static int compare(gconstpointer a, gconstpointer b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static uint64_t random_page(GRand *rand, uint64_t size)
{
    uint64_t r = ((uint64_t)g_rand_int(rand) << 32) | g_rand_int(rand);

    return r % (size / PAGE) * PAGE;
}

/* ns per change; @lookups adds what a transaction asks. */
static double changes(GuestMemfdMap *map, uint64_t *offsets, bool lookups)
{
    int64_t start = get_clock();

    for (int i = 0; i < CHANGES; i++) {
        bool private = i & 1;
        uint64_t s = offsets[i / 2];

        if (lookups) {
            guest_memfd_map_next(map, !private, &s, s + PAGE);
            guest_memfd_map_reserve(map);
        }
        guest_memfd_map_set(map, offsets[i / 2], PAGE, private);
    }
    return (double)(get_clock() - start) / CHANGES;
}

/* The median of some runs. */
static double median(GuestMemfdMap *map, uint64_t *offsets, bool lookups)
{
    double ns[REPEATS];

    for (int i = 0; i < REPEATS; i++) {
        ns[i] = changes(map, offsets, lookups);
    }
    qsort(ns, REPEATS, sizeof(ns[0]), compare);
    return ns[REPEATS / 2];
}

static void bench(uint64_t size)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree uint64_t *offsets = g_new(uint64_t, CHANGES / 2);
    GuestMemfdMap *map = guest_memfd_map_new(size, &geo, true);
    uint64_t uniform = guest_memfd_map_metadata_bytes(map);
    double sparse, sparse_lookups, dense, dense_lookups;

    for (int i = 0; i < CHANGES / 2; i++) {
        offsets[i] = random_page(rand, size);
    }
    sparse = median(map, offsets, false);
    sparse_lookups = median(map, offsets, true);

    /* Every 2 MiB page mixed: the largest and coldest tree. */
    for (uint64_t o = 0; o < size; o += 2 * MiB) {
        guest_memfd_map_set(map, o, PAGE, false);
    }
    dense = median(map, offsets, false);
    dense_lookups = median(map, offsets, true);

    printf("%8" PRIu64 " GiB  %7.0f  %7.0f  %7.0f  %7.0f  %10.1f  %10.1f\n",
           size / GiB, sparse, sparse_lookups, dense, dense_lookups,
           uniform / 1024.0, guest_memfd_map_metadata_bytes(map) / 1024.0);
    guest_memfd_map_free(map);
}

int main(void)
{
    printf("one random 4 KiB change, ns: in a uniform map, with look-ups, in a "
           "fully mixed map, with look-ups;\nmemory in KiB: uniform, fully "
           "mixed\n");
    for (uint64_t size = 1 * GiB; size <= 4 * TiB; size *= 16) {
        bench(size);
    }
    bench(1 * TiB);
    return 0;
}
