/*
 * Which pages of a guest_memfd block are private
 *
 * Two arrays, allocated with the map: of what each page table maps, how many pages
 * are private, and a bitmap of the pages, which counts only where a number says
 * that some of them are private.  So a change allocates nothing and cannot fail;
 * equal pages of a page table (2 MiB, if a page has 4 KiB) are one step; and of the
 * bitmap, 32 MiB for each TiB of pages of 4 KiB, only what was mixed at some time
 * has ever been touched.
 *
 * All offsets and sizes are in bytes and multiples of the page size.  The map has
 * no lock of its own: callers serialise (system/guest-memfd/internal.h has the
 * locks of a block).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_MAP_H
#define SYSTEM_GUEST_MEMFD_MAP_H

#include "qemu/units.h"

typedef struct GuestMemfdMap GuestMemfdMap;

/**
 * guest_memfd_table_bytes - what a page table maps, and so a transparent huge page
 *
 * @page_size: of the host, in bytes
 *
 * A page table is a page of entries of 8 bytes: 2 MiB if a page has 4 KiB, 32 MiB
 * for 16 KiB, and 512 MiB for 64 KiB.
 */
static inline uint64_t guest_memfd_table_bytes(uint64_t page_size)
{
    return page_size / 8 * page_size;
}

/**
 * guest_memfd_largest_page - the largest huge page of the host's kernel
 *
 * @page_size: of the host, in bytes
 *
 * 1 GiB; 16 GiB for pages of 64 KiB, where the kernel has 32 entries of 512 MiB in
 * a row as one (Linux arch/arm64/mm/hugetlbpage.c).
 */
static inline uint64_t guest_memfd_largest_page(uint64_t page_size)
{
    return MAX(1 * GiB, 32 * guest_memfd_table_bytes(page_size));
}

/* The sizes whose pages are counted: the two above. */
#define GUEST_MEMFD_MAP_SIZES 2

/**
 * struct GuestMemfdMapCount - the pages of one size, by state
 *
 * Only pages that lie wholly inside the map are counted: the rest of a size
 * that is not a multiple of @size is not a huge page.
 */
typedef struct GuestMemfdMapCount {
    uint64_t size;
    uint64_t shared;
    uint64_t private;
    uint64_t mixed;
} GuestMemfdMapCount;

/**
 * guest_memfd_map_new - create a map of uniform state
 *
 * @size: bytes covered; not 0, a multiple of @page_size
 * @page_size: of the host, in bytes; at most 256 KiB
 * @private: the state of every page
 *
 * Returns: the map; NULL when QEMU has not enough memory.
 */
GuestMemfdMap *guest_memfd_map_new(uint64_t size, uint64_t page_size,
                                   bool private);

/** guest_memfd_map_free - free @map; NULL is allowed */
void guest_memfd_map_free(GuestMemfdMap *map);

/**
 * guest_memfd_map_run - the run of equal pages that starts at @offset
 *
 * @offset: first byte
 * @end: where to stop, exclusive; larger than @offset
 * @private: out: the state of the run
 *
 * Returns: the end of the run, exclusive, at most @end.
 */
uint64_t guest_memfd_map_run(const GuestMemfdMap *map, uint64_t offset,
                             uint64_t end, bool *private);

/**
 * guest_memfd_map_next - the next run of pages in a given state
 *
 * @private: the state looked for
 * @start: in: first byte to look at; out: start of the run, or @end
 * @end: where to stop, exclusive
 *
 * Returns: the end of the run, exclusive, at most @end; 0 if there is none.
 *
 * The idiom for all runs of a range:
 *
 *     for (s = offset; (e = guest_memfd_map_next(map, p, &s, end)); s = e)
 */
uint64_t guest_memfd_map_next(const GuestMemfdMap *map, bool private,
                              uint64_t *start, uint64_t end);

/**
 * guest_memfd_map_set - give every page of a range the same state
 *
 * @offset, @size: the range
 * @private: the new state
 *
 * Returns: how many bytes were in the other state.
 */
uint64_t guest_memfd_map_set(GuestMemfdMap *map, uint64_t offset,
                             uint64_t size, bool private);

/** guest_memfd_map_page_size - bytes of a page of @map */
uint64_t guest_memfd_map_page_size(const GuestMemfdMap *map);

/** guest_memfd_map_private_bytes - bytes that are private */
uint64_t guest_memfd_map_private_bytes(const GuestMemfdMap *map);

/**
 * guest_memfd_map_count - count the huge pages of a range
 *
 * @offset: a multiple of guest_memfd_largest_page()
 * @end: the same, or the end of the map
 * @count: in and out: what is counted is added; largest size first
 */
void guest_memfd_map_count(const GuestMemfdMap *map, uint64_t offset,
                           uint64_t end,
                           GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES]);

/** guest_memfd_map_metadata_bytes - the size of @map itself, in bytes */
uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map);

#endif
