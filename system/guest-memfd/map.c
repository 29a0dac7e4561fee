/*
 * Which pages of a guest_memfd block are private: the page-size tree
 *
 * Level 0 is an array with one entry per page of the largest size.  An entry
 * is the state of all its pages, or a pointer to a node with one child per
 * page of the next size.  The nodes of the last level hold bits in place of
 * entries.  A node never stays when its children have become equal, so an
 * entry with a node is always mixed.  Nothing here locks; see the header.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "system/guest-memfd-map.h"

/* A change cuts at most the entry at each of its two ends, on every level. */
#define MAX_SPLITS 2

typedef uintptr_t MapEntry;
#define ENTRY_SHARED  ((MapEntry)0)
#define ENTRY_PRIVATE ((MapEntry)1)

typedef struct MapNode {
    uint32_t nr_private;        /* children that are wholly private */
    uint32_t nr_mixed;          /* children that have a node themselves */
    unsigned long child[];      /* MapEntry each; in the last level, bits */
} MapNode;

struct GuestMemfdMap {
    uint64_t size;
    uint64_t private_bytes;
    uint64_t node_bytes;
    GuestMemfdMapGeometry geo;
    MapNode *spare[GUEST_MEMFD_MAP_MAX_LEVELS][MAX_SPLITS];
    unsigned nr_spare[GUEST_MEMFD_MAP_MAX_LEVELS];
    MapEntry top[];
};

QEMU_BUILD_BUG_ON(sizeof(MapEntry) != sizeof(unsigned long));

static uint64_t level_size(const GuestMemfdMap *map, unsigned level)
{
    return 1ULL << map->geo.shift[level];
}

static bool level_is_last(const GuestMemfdMap *map, unsigned level)
{
    return level == map->geo.levels - 1;
}

/* The number of children of a node of @level that starts at @base. */
static uint32_t node_children(const GuestMemfdMap *map, unsigned level,
                              uint64_t base)
{
    uint64_t len = MIN(level_size(map, level - 1), map->size - base);

    return DIV_ROUND_UP(len, level_size(map, level));
}

static bool entry_is_mixed(MapEntry entry)
{
    return entry > ENTRY_PRIVATE;
}

static MapNode *entry_node(MapEntry entry)
{
    return (MapNode *)entry;
}

/* Bytes of the map inside the page of @level that starts at @base. */
static uint64_t entry_bytes(const GuestMemfdMap *map, unsigned level,
                            uint64_t base)
{
    return MIN(level_size(map, level), map->size - base);
}

static size_t node_bytes(const GuestMemfdMap *map, unsigned level)
{
    uint64_t fanout = level_size(map, level - 1) / level_size(map, level);

    return sizeof(MapNode) + (level_is_last(map, level) ?
                              BITS_TO_LONGS(fanout) * sizeof(unsigned long) :
                              fanout * sizeof(MapEntry));
}

static MapNode *node_new(GuestMemfdMap *map, unsigned level, uint64_t base,
                         bool private)
{
    uint32_t nr = node_children(map, level, base);
    MapNode *node;

    if (map->nr_spare[level]) {
        node = map->spare[level][--map->nr_spare[level]];
    } else {
        node = g_malloc(node_bytes(map, level));
        map->node_bytes += node_bytes(map, level);
    }

    node->nr_private = private ? nr : 0;
    node->nr_mixed = 0;
    if (level_is_last(map, level)) {
        bitmap_zero(node->child, nr);
        if (private) {
            bitmap_set(node->child, 0, nr);
        }
    } else {
        for (uint32_t i = 0; i < nr; i++) {
            node->child[i] = private ? ENTRY_PRIVATE : ENTRY_SHARED;
        }
    }
    return node;
}

static void node_free(GuestMemfdMap *map, unsigned level, MapNode *node)
{
    if (map->nr_spare[level] < MAX_SPLITS) {
        map->spare[level][map->nr_spare[level]++] = node;
    } else {
        g_free(node);
        map->node_bytes -= node_bytes(map, level);
    }
}

/* Drop everything below @entry, of @level; returns its private bytes. */
static uint64_t entry_clear(GuestMemfdMap *map, unsigned level, MapEntry entry,
                            uint64_t base)
{
    uint64_t bytes = 0;
    MapNode *node;

    if (!entry_is_mixed(entry)) {
        return entry == ENTRY_PRIVATE ? entry_bytes(map, level, base) : 0;
    }

    node = entry_node(entry);
    level++;
    if (level_is_last(map, level)) {
        bytes = node->nr_private * level_size(map, level);
    } else {
        uint32_t nr = node_children(map, level, base);

        for (uint32_t i = 0; i < nr; i++) {
            bytes += entry_clear(map, level, node->child[i],
                                 base + i * level_size(map, level));
        }
    }
    node_free(map, level, node);
    return bytes;
}

static void set_bits(GuestMemfdMap *map, MapNode *node, unsigned level,
                     uint64_t first, uint64_t nr, bool private)
{
    uint64_t before = bitmap_count_one_with_offset(node->child, first, nr);
    uint64_t after = private ? nr : 0;

    if (private) {
        bitmap_set(node->child, first, nr);
    } else {
        bitmap_clear(node->child, first, nr);
    }
    node->nr_private += after - before;
    map->private_bytes += (after - before) * level_size(map, level);
}

/*
 * Set [@start, @end), which lies in the page of @level at @base, and fold the
 * entry when that makes its pages equal.
 */
static void entry_set(GuestMemfdMap *map, unsigned level, MapEntry *entry,
                      uint64_t base, uint64_t start, uint64_t end,
                      bool private)
{
    const MapEntry want = private ? ENTRY_PRIVATE : ENTRY_SHARED;
    uint64_t bytes = entry_bytes(map, level, base);
    uint64_t child_size;
    uint32_t nr;
    MapNode *node;

    if (*entry == want) {
        return;
    }

    if (end - start == bytes) {
        map->private_bytes -= entry_clear(map, level, *entry, base);
        map->private_bytes += private ? bytes : 0;
        *entry = want;
        return;
    }

    level++;
    if (!entry_is_mixed(*entry)) {
        *entry = (MapEntry)node_new(map, level, base, !private);
    }
    node = entry_node(*entry);
    child_size = level_size(map, level);

    if (level_is_last(map, level)) {
        set_bits(map, node, level, (start - base) / child_size,
                 (end - start) / child_size, private);
    } else {
        for (uint64_t s = start, e; s < end; s = e) {
            uint64_t child_base = QEMU_ALIGN_DOWN(s, child_size);
            MapEntry *child = &node->child[(child_base - base) / child_size];
            MapEntry old = *child;

            e = MIN(end, child_base + child_size);
            entry_set(map, level, child, child_base, s, e, private);
            node->nr_private += (*child == ENTRY_PRIVATE) -
                                (old == ENTRY_PRIVATE);
            node->nr_mixed += entry_is_mixed(*child) - entry_is_mixed(old);
        }
    }

    nr = node_children(map, level, base);
    if (!node->nr_mixed && (!node->nr_private || node->nr_private == nr)) {
        *entry = node->nr_private ? ENTRY_PRIVATE : ENTRY_SHARED;
        node_free(map, level, node);
    }
}

/* The pages around @offset known to be equal: their end, and their state. */
static uint64_t uniform_end(const GuestMemfdMap *map, uint64_t offset,
                            bool *private)
{
    uint64_t base = QEMU_ALIGN_DOWN(offset, level_size(map, 0));
    MapEntry entry = map->top[base / level_size(map, 0)];
    unsigned level = 0;

    while (entry_is_mixed(entry)) {
        const MapNode *node = entry_node(entry);
        uint64_t i;

        level++;
        i = (offset - base) / level_size(map, level);
        if (level_is_last(map, level)) {
            uint32_t nr = node_children(map, level, base);
            unsigned long stop;

            *private = test_bit(i, node->child);
            stop = *private ? find_next_zero_bit(node->child, nr, i) :
                              find_next_bit(node->child, nr, i);
            return base + stop * level_size(map, level);
        }
        base += i * level_size(map, level);
        entry = node->child[i];
    }

    *private = entry == ENTRY_PRIVATE;
    return base + entry_bytes(map, level, base);
}

static void assert_range(const GuestMemfdMap *map, uint64_t start,
                         uint64_t end)
{
    uint64_t mask = level_size(map, map->geo.levels - 1) - 1;

    assert(start < end && end <= map->size);
    assert(!((start | end) & mask));
}

GuestMemfdMap *guest_memfd_map_new(uint64_t size,
                                   const GuestMemfdMapGeometry *geometry,
                                   bool private)
{
    uint64_t nr_top = DIV_ROUND_UP(size, 1ULL << geometry->shift[0]);
    GuestMemfdMap *map;

    assert(geometry->levels >= 2 &&
           geometry->levels <= GUEST_MEMFD_MAP_MAX_LEVELS);
    for (unsigned l = 1; l < geometry->levels; l++) {
        assert(geometry->shift[l] < geometry->shift[l - 1]);
    }

    map = g_malloc0(sizeof(*map) + nr_top * sizeof(MapEntry));
    map->size = size;
    map->geo = *geometry;
    assert_range(map, 0, size);
    guest_memfd_map_set(map, 0, size, private);
    return map;
}

void guest_memfd_map_free(GuestMemfdMap *map)
{
    if (!map) {
        return;
    }
    guest_memfd_map_set(map, 0, map->size, false);
    for (unsigned l = 0; l < map->geo.levels; l++) {
        while (map->nr_spare[l]) {
            g_free(map->spare[l][--map->nr_spare[l]]);
        }
    }
    g_free(map);
}

uint64_t guest_memfd_map_size(const GuestMemfdMap *map)
{
    return map->size;
}

uint64_t guest_memfd_map_page_size(const GuestMemfdMap *map)
{
    return level_size(map, map->geo.levels - 1);
}

uint64_t guest_memfd_map_run(const GuestMemfdMap *map, uint64_t offset,
                             uint64_t end, bool *private)
{
    uint64_t stop;
    bool state;

    assert_range(map, offset, end);

    stop = uniform_end(map, offset, private);
    while (stop < end) {
        uint64_t next = uniform_end(map, stop, &state);

        if (state != *private) {
            break;
        }
        stop = next;
    }
    return MIN(stop, end);
}

GuestMemfdMapState guest_memfd_map_state(const GuestMemfdMap *map,
                                         uint64_t offset, uint64_t size)
{
    bool private;

    if (guest_memfd_map_run(map, offset, offset + size, &private) !=
        offset + size) {
        return GUEST_MEMFD_MAP_MIXED;
    }
    return private ? GUEST_MEMFD_MAP_PRIVATE : GUEST_MEMFD_MAP_SHARED;
}

uint64_t guest_memfd_map_next(const GuestMemfdMap *map, bool private,
                              uint64_t *start, uint64_t end)
{
    while (*start < end) {
        bool state;
        uint64_t stop = guest_memfd_map_run(map, *start, end, &state);

        if (state == private) {
            return stop;
        }
        *start = stop;
    }
    return 0;
}

bool guest_memfd_map_reserve(GuestMemfdMap *map)
{
    for (unsigned l = 1; l < map->geo.levels; l++) {
        while (map->nr_spare[l] < MAX_SPLITS) {
            MapNode *node = g_try_malloc(node_bytes(map, l));

            if (!node) {
                return false;
            }
            map->node_bytes += node_bytes(map, l);
            map->spare[l][map->nr_spare[l]++] = node;
        }
    }
    return true;
}

void guest_memfd_map_set(GuestMemfdMap *map, uint64_t offset, uint64_t size,
                         bool private)
{
    uint64_t end = offset + size;

    assert_range(map, offset, end);

    for (uint64_t s = offset, e; s < end; s = e) {
        uint64_t base = QEMU_ALIGN_DOWN(s, level_size(map, 0));

        e = MIN(end, base + level_size(map, 0));
        entry_set(map, 0, &map->top[base / level_size(map, 0)], base, s, e,
                  private);
    }
}

uint64_t guest_memfd_map_private_bytes(const GuestMemfdMap *map)
{
    return map->private_bytes;
}

/* Count an entry of @level of equal pages, on its level and those below. */
static void count_uniform(const GuestMemfdMap *map, unsigned level,
                          uint64_t bytes, bool private,
                          GuestMemfdMapCount *count)
{
    for (; level < map->geo.levels - 1; level++) {
        uint64_t *nr = private ? &count[level].private : &count[level].shared;

        *nr += bytes / level_size(map, level);
    }
}

/* Count the children of a node of the last level that is counted at all. */
static void count_node(const GuestMemfdMap *map, unsigned level,
                       const MapNode *node, uint64_t base,
                       GuestMemfdMapCount *count)
{
    uint32_t nr = node_children(map, level, base);
    uint64_t last = base + (nr - 1ULL) * level_size(map, level);

    count->private += node->nr_private;
    count->mixed += node->nr_mixed;
    count->shared += nr - node->nr_private - node->nr_mixed;

    if (entry_bytes(map, level, last) < level_size(map, level)) {
        MapEntry entry = node->child[nr - 1];

        *(entry_is_mixed(entry) ? &count->mixed :
          entry == ENTRY_PRIVATE ? &count->private : &count->shared) -= 1;
    }
}

static void count_entries(const GuestMemfdMap *map, unsigned level,
                          const MapEntry *entry, uint64_t nr, uint64_t base,
                          GuestMemfdMapCount *count)
{
    const unsigned last_counted = map->geo.levels - 2;

    for (uint64_t i = 0; i < nr; i++, base += level_size(map, level)) {
        uint64_t bytes = entry_bytes(map, level, base);
        const MapNode *node = entry_node(entry[i]);

        if (!entry_is_mixed(entry[i])) {
            count_uniform(map, level, bytes, entry[i] == ENTRY_PRIVATE, count);
            continue;
        }
        if (bytes == level_size(map, level)) {
            count[level].mixed++;
        }
        if (level + 1 == last_counted) {
            count_node(map, last_counted, node, base, &count[last_counted]);
        } else if (level + 1 < last_counted) {
            count_entries(map, level + 1, node->child,
                          node_children(map, level + 1, base), base, count);
        }
    }
}

unsigned guest_memfd_map_count(const GuestMemfdMap *map,
                               GuestMemfdMapCount *count)
{
    unsigned levels = map->geo.levels - 1;

    for (unsigned l = 0; l < levels; l++) {
        count[l] = (GuestMemfdMapCount) { .size = level_size(map, l) };
    }
    count_entries(map, 0, map->top, DIV_ROUND_UP(map->size, level_size(map, 0)),
                  0, count);
    return levels;
}

uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map)
{
    return sizeof(*map) + map->node_bytes +
           DIV_ROUND_UP(map->size, level_size(map, 0)) * sizeof(MapEntry);
}
