/*
 * Which pages of a guest_memfd block are private
 *
 * Two arrays, allocated with the map: of each 2 MiB, how many pages are private,
 * and a bitmap of the pages, which counts only where a number says that some of
 * them are private.  So a change allocates nothing and cannot fail; 2 MiB of
 * equal pages are one step; and of the bitmap, 32 MiB for each TiB, only what
 * was mixed at some time has ever been touched.
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

/* The sizes whose pages are counted: 1 GiB and 2 MiB. */
#define GUEST_MEMFD_MAP_SIZES 2
#define GUEST_MEMFD_MAP_LARGEST (1 * GiB)

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
 * @page_size: bytes; a power of two, at most 2 MiB
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

/** guest_memfd_map_private_bytes - bytes that are private */
uint64_t guest_memfd_map_private_bytes(const GuestMemfdMap *map);

/**
 * guest_memfd_map_count - count the huge pages of a range
 *
 * @offset: a multiple of GUEST_MEMFD_MAP_LARGEST
 * @end: the same, or the end of the map
 * @count: in and out: what is counted is added; largest size first
 */
void guest_memfd_map_count(const GuestMemfdMap *map, uint64_t offset,
                           uint64_t end,
                           GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES]);

/** guest_memfd_map_metadata_bytes - the size of @map itself, in bytes */
uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map);

#endif
