/*
 * Which pages of a guest_memfd block are private: the page-size tree
 *
 * A tree with the page-size levels of the host, largest first (x86: 1 GiB,
 * 2 MiB, 4 KiB).  An entry of a level is all shared, all private, or mixed;
 * only mixed entries have children, and the children of the last but one
 * level are one bitmap.  Every operation costs what it touches: none looks
 * beyond the range it was given, whatever the size of the map.
 *
 * All offsets and sizes are in bytes and multiples of the smallest page size.
 * The map has no lock of its own: callers serialise (system/guest-memfd/internal.h
 * has the locks of a block).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_MAP_H
#define SYSTEM_GUEST_MEMFD_MAP_H

#define GUEST_MEMFD_MAP_MAX_LEVELS 4

typedef struct GuestMemfdMap GuestMemfdMap;

typedef enum GuestMemfdMapState {
    GUEST_MEMFD_MAP_SHARED,
    GUEST_MEMFD_MAP_PRIVATE,
    GUEST_MEMFD_MAP_MIXED,
} GuestMemfdMapState;

/**
 * struct GuestMemfdMapGeometry - the page sizes of a map
 *
 * @levels: number of page sizes, 2 to GUEST_MEMFD_MAP_MAX_LEVELS
 * @shift: log2 of each page size in bytes, strictly decreasing
 */
typedef struct GuestMemfdMapGeometry {
    unsigned levels;
    unsigned shift[GUEST_MEMFD_MAP_MAX_LEVELS];
} GuestMemfdMapGeometry;

/**
 * struct GuestMemfdMapCount - the pages of one size, by state
 *
 * Only pages that lie wholly inside the map are counted: the rest of a size
 * that is no multiple of @size is no huge page.
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
 * @size: bytes covered; not 0, a multiple of the smallest page size
 * @geometry: the page sizes
 * @private: the state of every page
 */
GuestMemfdMap *guest_memfd_map_new(uint64_t size,
                                   const GuestMemfdMapGeometry *geometry,
                                   bool private);

/** guest_memfd_map_free - free @map; NULL is allowed */
void guest_memfd_map_free(GuestMemfdMap *map);

/** guest_memfd_map_size - bytes covered by @map */
uint64_t guest_memfd_map_size(const GuestMemfdMap *map);

/** guest_memfd_map_page_size - the smallest page size of @map, in bytes */
uint64_t guest_memfd_map_page_size(const GuestMemfdMap *map);

/**
 * guest_memfd_map_state - the state of a range
 *
 * @offset, @size: the range; @size is not 0
 *
 * Returns: mixed as soon as two pages of the range differ.
 */
GuestMemfdMapState guest_memfd_map_state(const GuestMemfdMap *map,
                                         uint64_t offset, uint64_t size);

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
 * @start: in: first byte to look at; out: start of the run
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

/** guest_memfd_map_is_reserved - is guest_memfd_map_reserve() done already? */
bool guest_memfd_map_is_reserved(const GuestMemfdMap *map);

/**
 * guest_memfd_map_reserve - allocate what the next guest_memfd_map_set() needs
 *
 * A change splits at most two entries a level.  After a successful reserve one
 * guest_memfd_map_set(), of any range, cannot run out of memory: a transaction
 * reserves before it asks anybody, and commits without a way to fail.
 *
 * Returns: false if there is no memory; @map is unchanged then.
 */
bool guest_memfd_map_reserve(GuestMemfdMap *map);

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
 * guest_memfd_map_count - count the pages of each size but the smallest
 *
 * @count: out: room for @map's number of levels - 1; largest size first
 *
 * Returns: the number of elements written.  Costs one step per page of the
 * largest size (and, with more than three levels, per mixed page of the sizes
 * between), never one per small page.
 */
unsigned guest_memfd_map_count(const GuestMemfdMap *map,
                               GuestMemfdMapCount *count);

/** guest_memfd_map_metadata_bytes - memory that @map takes, in bytes */
uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map);

#endif
