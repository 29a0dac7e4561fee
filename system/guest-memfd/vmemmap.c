/*
 * guest_memfd blocks: what the kernel pays for huge pages that are split
 *
 * The kernel describes each page of 4 KiB by 64 bytes, so that a page of them,
 * in its vmemmap, describes 256 KiB.  Of a folio that has several such pages it
 * keeps the first one only (HVO).  So a page of the vmemmap is there if a folio
 * begins in what it describes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vmemmap.h"

#define DESCRIBED (256 * KiB)

/* What a folio with shared parts is split into, as far as it makes a difference */
static uint64_t part_size(uint64_t size, GuestMemfdRestructure how)
{
    switch (how) {
    case GUEST_MEMFD_RESTRUCTURE_STAGED:
        return size > 2 * MiB ? 2 * MiB : DESCRIBED;
    case GUEST_MEMFD_RESTRUCTURE_LOG:
        return size / 2;
    default:
        return DESCRIBED;
    }
}

static bool has(const GuestMemfdMap *map, bool private, uint64_t start,
                uint64_t end)
{
    return guest_memfd_map_next(map, private, &start, end);
}

static uint64_t pages_of(const GuestMemfdMap *map, uint64_t start,
                         uint64_t size, GuestMemfdRestructure how)
{
    uint64_t part = part_size(size, how), end = start + size, sum = 0;

    if (size <= DESCRIBED || !has(map, false, start, end)) {
        return 1;
    }
    if (part <= DESCRIBED || !has(map, true, start, end)) {
        return size / DESCRIBED;
    }
    for (; start < end; start += part) {
        sum += pages_of(map, start, part, how);
    }
    return sum;
}

uint64_t guest_memfd_vmemmap_bytes(const GuestMemfdMap *map, uint64_t start,
                                   uint64_t size, GuestMemfdRestructure how)
{
    return (pages_of(map, start, size, how) - 1) * 4 * KiB;
}
