/*
 * Cost of the map of guest_memfd memory
 *
 * Only the map, with the look-ups that a transaction makes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "system/guest-memfd-map.h"
#include "guest-memfd-bench.h"

static void *map_create(uint64_t size)
{
    return guest_memfd_map_new(size, 4 * KiB, true);
}

static void map_destroy(void *opaque)
{
    guest_memfd_map_free(opaque);
}

/* What a transaction asks of the map: the runs that change, then the change. */
static void map_convert(void *opaque, uint64_t offset, uint64_t size,
                        bool to_private)
{
    GuestMemfdMap *map = opaque;
    uint64_t end = offset + size, s = offset, e;

    while (s < end &&
           (e = guest_memfd_map_next(map, !to_private, &s, end))) {
        s = e;
    }
    guest_memfd_map_set(map, offset, size, to_private);
}

static bool map_is_private(void *opaque, uint64_t offset)
{
    bool private;

    guest_memfd_map_run(opaque, offset, offset + 4 * KiB, &private);
    return private;
}

static uint64_t map_bytes(void *opaque)
{
    return guest_memfd_map_metadata_bytes(opaque);
}

static const BenchTarget targets[] = {
    {
        .group = "map",
        .side = "ours",
        .create = map_create,
        .destroy = map_destroy,
        .convert = map_convert,
        .is_private = map_is_private,
        .bytes = map_bytes,
    },
    { }
};

int main(int argc, char **argv)
{
    return bench_main(argc, argv, targets);
}
