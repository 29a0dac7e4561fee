/*
 * guest_memfd blocks: what the kernel pays for huge pages that are split
 *
 * The kernel describes each page by 64 bytes, so that a page of them, in its
 * vmemmap, describes 256 KiB if a page has 4 KiB.  Of a folio that has several
 * such pages it keeps the first one only (HVO).  So a page of the vmemmap is there
 * if a folio begins in what it describes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vmemmap.h"

/* By one page of the vmemmap; less than what a page table maps */
static uint64_t described(const GuestMemfdMap *map)
{
    uint64_t page_size = guest_memfd_map_page_size(map);

    return page_size / 64 * page_size;
}

/* What a folio with shared parts is split into, as far as it makes a difference */
static uint64_t part_size(const GuestMemfdMap *map, uint64_t size,
                          GuestMemfdRestructure how)
{
    uint64_t table = guest_memfd_table_bytes(guest_memfd_map_page_size(map));

    switch (how) {
    case GUEST_MEMFD_RESTRUCTURE_STAGED:
        return size > table ? table : described(map);
    case GUEST_MEMFD_RESTRUCTURE_LOG:
        return size / 2;
    default:
        return described(map);
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
    uint64_t part = part_size(map, size, how), end = start + size, sum = 0;
    uint64_t least = described(map);

    if (size <= least || !has(map, false, start, end)) {
        return 1;
    }
    if (part <= least || !has(map, true, start, end)) {
        return size / least;
    }
    for (; start < end; start += part) {
        sum += pages_of(map, start, part, how);
    }
    return sum;
}

uint64_t guest_memfd_vmemmap_bytes(const GuestMemfdMap *map, uint64_t start,
                                   uint64_t size, GuestMemfdRestructure how)
{
    return (pages_of(map, start, size, how) - 1) *
           guest_memfd_map_page_size(map);
}
