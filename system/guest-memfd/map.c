/*
 * Which pages of a guest_memfd block are private
 *
 * A chunk is what a page table maps, or what the map has of the last one.
 * @nr_private says whether its pages are all shared or all private; if it says
 * neither the bitmap is valid there.  The last chunk, when a part of it is beyond
 * the end, is never all private.  Nothing here locks; see the header.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "system/guest-memfd-map.h"

struct GuestMemfdMap {
    uint64_t size;
    uint64_t private_pages;
    uint64_t page_mask;         /* of an offset in a page */
    unsigned page_shift;
    unsigned chunk_shift;       /* log2 of the pages of a chunk */
    uint64_t chunk_pages;
    uint64_t nr_chunks;
    uint16_t *nr_private;       /* of each chunk */
    unsigned long *private;     /* a bit a page */
};

static uint64_t chunk_first(const GuestMemfdMap *map, uint64_t chunk)
{
    return chunk << map->chunk_shift;
}

static inline bool is_private(const GuestMemfdMap *map, uint64_t page)
{
    uint64_t nr = map->nr_private[page >> map->chunk_shift];

    return nr == map->chunk_pages || (nr && test_bit(page, map->private));
}

/* The first page of [@page, @end) in a given state; @end if there is none. */
static uint64_t find(const GuestMemfdMap *map, bool private, uint64_t page,
                     uint64_t end)
{
    const uint64_t none = private ? 0 : map->chunk_pages;
    const uint64_t all = map->chunk_pages - none;

    while (page < end) {
        uint64_t chunk = page >> map->chunk_shift;
        uint64_t nr = map->nr_private[chunk];
        uint64_t stop = chunk_first(map, chunk + 1);

        if (nr == all) {
            break;
        }
        if (nr != none) {
            stop = MIN(stop, end);
            page = private ? find_next_bit(map->private, stop, page) :
                             find_next_zero_bit(map->private, stop, page);
            if (page < stop) {
                break;
            }
        }
        page = stop;
    }
    return MIN(page, end);
}

static void assert_range(const GuestMemfdMap *map, uint64_t start,
                         uint64_t end)
{
    assert(end <= map->size && !((start | end) & map->page_mask));
}

GuestMemfdMap *guest_memfd_map_new(uint64_t size, uint64_t page_size,
                                   bool private)
{
    GuestMemfdMap *map = g_new0(GuestMemfdMap, 1);

    assert(size && QEMU_IS_ALIGNED(size, page_size));
    map->size = size;
    map->page_mask = page_size - 1;
    map->page_shift = ctz64(page_size);
    map->chunk_pages = guest_memfd_table_bytes(page_size) / page_size;
    assert(map->chunk_pages <= UINT16_MAX);
    map->chunk_shift = ctz64(map->chunk_pages);
    map->nr_chunks = DIV_ROUND_UP(size, guest_memfd_table_bytes(page_size));
    map->nr_private = g_try_new0(uint16_t, map->nr_chunks);
    map->private = bitmap_try_new(chunk_first(map, map->nr_chunks));
    if (!map->nr_private || !map->private) {
        guest_memfd_map_free(map);
        return NULL;
    }
    if (private) {
        guest_memfd_map_set(map, 0, size, true);
    }
    return map;
}

void guest_memfd_map_free(GuestMemfdMap *map)
{
    if (map) {
        g_free(map->nr_private);
        g_free(map->private);
        g_free(map);
    }
}

uint64_t guest_memfd_map_next(const GuestMemfdMap *map, bool private,
                              uint64_t *start, uint64_t end)
{
    uint64_t last = end >> map->page_shift, page;

    assert_range(map, *start, end);
    if (end - *start == map->page_mask + 1) {   /* most conversions */
        if (is_private(map, last - 1) == private) {
            return end;
        }
        *start = end;
        return 0;
    }
    page = find(map, private, *start >> map->page_shift, last);
    *start = page << map->page_shift;
    return page < last ?
           find(map, !private, page, last) << map->page_shift : 0;
}

uint64_t guest_memfd_map_run(const GuestMemfdMap *map, uint64_t offset,
                             uint64_t end, bool *private)
{
    uint64_t shared = offset;
    uint64_t stop = guest_memfd_map_next(map, false, &shared, end);

    assert(offset < end);
    *private = shared > offset;
    return *private ? shared : stop;
}

/* Some pages of a chunk are about to differ: its bitmap becomes valid. */
static void make_mixed(GuestMemfdMap *map, uint64_t chunk)
{
    uint64_t first = chunk_first(map, chunk);

    if (!map->nr_private[chunk]) {
        bitmap_clear(map->private, first, map->chunk_pages);
    } else if (map->nr_private[chunk] == map->chunk_pages) {
        bitmap_set(map->private, first, map->chunk_pages);
    }
}

/* Returns: how many pages of the chunk are private then. */
static uint64_t set_part(GuestMemfdMap *map, uint64_t chunk, uint64_t page,
                         uint64_t nr, bool private)
{
    uint64_t others;

    make_mixed(map, chunk);
    others = map->nr_private[chunk] -
             bitmap_count_one_with_offset(map->private, page, nr);
    if (private) {
        bitmap_set(map->private, page, nr);
        return others + nr;
    }
    bitmap_clear(map->private, page, nr);
    return others;
}

static void set_range(GuestMemfdMap *map, uint64_t page, uint64_t end,
                      bool private)
{
    for (uint64_t stop; page < end; page = stop) {
        uint64_t chunk = page >> map->chunk_shift;
        uint16_t *nr_private = &map->nr_private[chunk];

        stop = MIN(chunk_first(map, chunk + 1), end);
        map->private_pages -= *nr_private;
        *nr_private = stop - page < map->chunk_pages ?
                      set_part(map, chunk, page, stop - page, private) :
                      private ? map->chunk_pages : 0;
        map->private_pages += *nr_private;
    }
}

static void set_page(GuestMemfdMap *map, uint64_t page, bool private)
{
    uint64_t chunk = page >> map->chunk_shift;

    if (is_private(map, page) != private) {
        make_mixed(map, chunk);
        change_bit(page, map->private);
        map->nr_private[chunk] += private ? 1 : -1;
        map->private_pages += private ? 1 : -1;
    }
}

uint64_t guest_memfd_map_set(GuestMemfdMap *map, uint64_t offset,
                             uint64_t size, bool private)
{
    uint64_t page = offset >> map->page_shift;
    uint64_t before = map->private_pages;

    assert_range(map, offset, offset + size);
    if (size == map->page_mask + 1) {   /* most conversions */
        set_page(map, page, private);
    } else {
        set_range(map, page, (offset + size) >> map->page_shift, private);
    }
    return (private ? map->private_pages - before :
                      before - map->private_pages) << map->page_shift;
}

uint64_t guest_memfd_map_page_size(const GuestMemfdMap *map)
{
    return map->page_mask + 1;
}

uint64_t guest_memfd_map_private_bytes(const GuestMemfdMap *map)
{
    return map->private_pages << map->page_shift;
}

static void count_one(GuestMemfdMapCount *count, uint64_t nr_private,
                      uint64_t nr)
{
    if (!nr_private) {
        count->shared++;
    } else if (nr_private == nr) {
        count->private++;
    } else {
        count->mixed++;
    }
}

void guest_memfd_map_count(const GuestMemfdMap *map, uint64_t offset,
                           uint64_t end,
                           GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES])
{
    const uint64_t page_size = guest_memfd_map_page_size(map);
    const uint64_t largest = guest_memfd_largest_page(page_size);
    const uint64_t size = guest_memfd_table_bytes(page_size);
    const uint64_t nr = largest / size;
    uint64_t chunk = offset / size, sum = 0;

    assert(!(offset % largest));
    count[0].size = largest;
    count[1].size = size;
    for (; chunk < end / size; chunk++) {
        count_one(&count[1], map->nr_private[chunk], map->chunk_pages);
        sum += map->nr_private[chunk];
        if (chunk % nr == nr - 1) {
            count_one(&count[0], sum, nr * map->chunk_pages);
            sum = 0;
        }
    }
}

uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map)
{
    return sizeof(*map) + map->nr_chunks * sizeof(*map->nr_private) +
           BITS_TO_LONGS(chunk_first(map, map->nr_chunks)) * sizeof(long);
}
