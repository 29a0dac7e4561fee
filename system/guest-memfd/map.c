/*
 * Which pages of a guest_memfd block are private: the page-size tree
 *
 * A node of level n has one child per page of size n.  The node of level 0
 * covers the map, and every other one a single page of the size above.  A child
 * is shared, private or mixed, and has a node of its own if it is mixed; in the
 * last level none is.  A node whose children have become equal is freed, and
 * its page is a bit of the node above: a child with a node is always mixed.
 * Nothing here locks; see the header.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "system/guest-memfd-map.h"

/* A change cuts at most the page at each of its two ends, on every level. */
#define MAX_SPLITS 2

/*
 * Nodes that are kept for later.  Twice as many as a change needs, so that a
 * page that goes to and fro does not need malloc().
 */
#define MAX_SPARE (2 * MAX_SPLITS)

/*
 * @bits: a bitmap of the children that are wholly private; but in the last level
 *        one of those that are mixed, and pointers to the nodes of these
 */
typedef struct MapNode {
    uint32_t nr_private;
    uint32_t nr_mixed;
    unsigned long bits[];
} MapNode;

struct GuestMemfdMap {
    uint64_t size;
    uint64_t private_bytes;
    uint64_t node_bytes;
    GuestMemfdMapGeometry geo;
    uint64_t page_mask;                             /* of offsets in a page */
    uint64_t node_mask[GUEST_MEMFD_MAP_MAX_LEVELS]; /* of offsets in a node */
    unsigned longs[GUEST_MEMFD_MAP_MAX_LEVELS];     /* of a bitmap */
    MapNode *top;
    MapNode *spare[GUEST_MEMFD_MAP_MAX_LEVELS][MAX_SPARE];
    unsigned nr_spare[GUEST_MEMFD_MAP_MAX_LEVELS];
};

static uint64_t level_size(const GuestMemfdMap *map, unsigned level)
{
    return 1ULL << map->geo.shift[level];
}

static bool level_is_last(const GuestMemfdMap *map, unsigned level)
{
    return level == map->geo.levels - 1;
}

/* Which child of its node of @level has the page at @offset. */
static uint64_t child_index(const GuestMemfdMap *map, unsigned level,
                            uint64_t offset)
{
    return (offset & map->node_mask[level]) >> map->geo.shift[level];
}

/* Where the child of @level starts that has the page at @offset. */
static uint64_t child_start(const GuestMemfdMap *map, unsigned level,
                            uint64_t offset)
{
    return offset & -level_size(map, level);
}

/* The end of the child of @level that starts at @start: the last may be cut. */
static uint64_t child_end(const GuestMemfdMap *map, unsigned level,
                          uint64_t start)
{
    return MIN(start + level_size(map, level), map->size);
}

/* Children of the node of @level that starts at @base, or so many till @end. */
static uint64_t nr_children(const GuestMemfdMap *map, unsigned level,
                            uint64_t base, uint64_t end)
{
    uint64_t node_end = level ? child_end(map, level - 1, base) : map->size;

    return (MIN(node_end, end) - base + level_size(map, level) - 1) >>
           map->geo.shift[level];
}

/* The most children that a node of @level can have. */
static uint64_t fanout(const GuestMemfdMap *map, unsigned level)
{
    return level ? 1ULL << (map->geo.shift[level - 1] - map->geo.shift[level]) :
                   nr_children(map, 0, 0, map->size);
}

static unsigned long *mixed_bits(const GuestMemfdMap *map, unsigned level,
                                 const MapNode *node)
{
    return (unsigned long *)node->bits + map->longs[level];
}

static MapNode **child_of(const GuestMemfdMap *map, unsigned level,
                          const MapNode *node, uint64_t i)
{
    return (MapNode **)(mixed_bits(map, level, node) + map->longs[level]) + i;
}

static size_t node_bytes(const GuestMemfdMap *map, unsigned level)
{
    size_t bitmap = map->longs[level] * sizeof(unsigned long);

    return sizeof(MapNode) + bitmap +
           (level_is_last(map, level) ? 0 :
            bitmap + fanout(map, level) * sizeof(MapNode *));
}

/* Returns: a node of @level whose content is undefined, or NULL. */
static MapNode *node_alloc(GuestMemfdMap *map, unsigned level)
{
    MapNode *node = g_try_malloc(node_bytes(map, level));

    if (node) {
        map->node_bytes += node_bytes(map, level);
    }
    return node;
}

/* A node of @level at @base, all of whose children are private or shared. */
static MapNode *node_new(GuestMemfdMap *map, unsigned level, uint64_t base,
                         bool private)
{
    uint64_t nr = nr_children(map, level, base, map->size);
    size_t bytes = map->longs[level] * sizeof(unsigned long);
    MapNode *node;

    if (map->nr_spare[level]) {
        node = map->spare[level][--map->nr_spare[level]];
    } else {
        node = node_alloc(map, level);
        if (!node) {
            g_error("%s: no memory for %zu bytes", __func__,
                    node_bytes(map, level));
        }
    }
    node->nr_private = private ? nr : 0;
    node->nr_mixed = 0;
    memset(node->bits, private ? 0xff : 0, bytes);
    if (!level_is_last(map, level)) {
        memset(mixed_bits(map, level, node), 0, bytes);
    }
    return node;
}

static void node_free(GuestMemfdMap *map, unsigned level, MapNode *node)
{
    if (map->nr_spare[level] < MAX_SPARE) {
        map->spare[level][map->nr_spare[level]++] = node;
    } else {
        g_free(node);
        map->node_bytes -= node_bytes(map, level);
    }
}

static bool is_private(const MapNode *node, uint64_t i)
{
    return test_bit(i, node->bits);
}

static bool is_mixed(const GuestMemfdMap *map, unsigned level,
                     const MapNode *node, uint64_t i)
{
    return node->nr_mixed && test_bit(i, mixed_bits(map, level, node));
}

/* Bytes of @nr children, of which the last may be cut. */
static uint64_t children_bytes(const GuestMemfdMap *map, unsigned level,
                               uint64_t base, uint64_t first, uint64_t nr)
{
    uint64_t start = base + (first << map->geo.shift[level]);

    return MIN(start + (nr << map->geo.shift[level]), map->size) - start;
}

/* Bytes of those of @nr children that are wholly private, @ones of them. */
static uint64_t private_bytes(const GuestMemfdMap *map, unsigned level,
                              const MapNode *node, uint64_t base,
                              uint64_t first, uint64_t nr, uint64_t ones)
{
    uint64_t end = base + ((first + nr) << map->geo.shift[level]);
    uint64_t bytes = ones << map->geo.shift[level];

    if (end > map->size && is_private(node, first + nr - 1)) {
        bytes -= end - map->size;
    }
    return bytes;
}

/* Free what is below a node; returns the private bytes that there were. */
static uint64_t drop_mixed(GuestMemfdMap *map, unsigned level, MapNode *node,
                           uint64_t base, uint64_t first, uint64_t nr)
{
    unsigned long *mixed = mixed_bits(map, level, node);
    uint64_t end = first + nr, bytes = 0;

    if (!node->nr_mixed) {
        return 0;
    }
    for (uint64_t i = find_next_bit(mixed, end, first); i < end;
         i = find_next_bit(mixed, end, i + 1)) {
        uint64_t start = base + (i << map->geo.shift[level]);
        uint64_t n = nr_children(map, level + 1, start, map->size);
        MapNode *child = *child_of(map, level, node, i);

        bytes += drop_mixed(map, level + 1, child, start, 0, n) +
                 private_bytes(map, level + 1, child, start, 0, n,
                               child->nr_private);
        node_free(map, level + 1, child);
        clear_bit(i, mixed);
        node->nr_mixed--;
    }
    return bytes;
}

/* Whole children become equal. */
static void set_children(GuestMemfdMap *map, unsigned level, MapNode *node,
                         uint64_t base, uint64_t first, uint64_t nr,
                         bool private)
{
    uint64_t ones;

    /* Most conversions are of a single small page. */
    if (nr == 1 && level_is_last(map, level)) {
        if (is_private(node, first) != private) {
            change_bit(first, node->bits);
            node->nr_private += private ? 1 : -1;
            map->private_bytes += private ? level_size(map, level) :
                                            -level_size(map, level);
        }
        return;
    }
    ones = bitmap_count_one_with_offset(node->bits, first, nr);
    map->private_bytes -= drop_mixed(map, level, node, base, first, nr) +
                          private_bytes(map, level, node, base, first, nr,
                                        ones);
    node->nr_private -= ones;
    if (private) {
        map->private_bytes += children_bytes(map, level, base, first, nr);
        node->nr_private += nr;
        bitmap_set(node->bits, first, nr);
    } else {
        bitmap_clear(node->bits, first, nr);
    }
}

/* Child @i, at @base, whose pages are equal, gets a node. */
static void split_child(GuestMemfdMap *map, unsigned level, MapNode *node,
                        uint64_t i, uint64_t base)
{
    bool private = is_private(node, i);

    *child_of(map, level, node, i) = node_new(map, level + 1, base, private);
    set_bit(i, mixed_bits(map, level, node));
    node->nr_mixed++;
    if (private) {
        clear_bit(i, node->bits);
        node->nr_private--;
    }
}

/* If the pages of child @i, at @base, have become equal, its node goes. */
static bool fold_child(GuestMemfdMap *map, unsigned level, MapNode *node,
                       uint64_t i, uint64_t base)
{
    MapNode *child = *child_of(map, level, node, i);

    if (child->nr_mixed ||
        (child->nr_private &&
         child->nr_private != nr_children(map, level + 1, base, map->size))) {
        return false;
    }
    if (child->nr_private) {
        set_bit(i, node->bits);
        node->nr_private++;
    }
    clear_bit(i, mixed_bits(map, level, node));
    node->nr_mixed--;
    node_free(map, level + 1, child);
    return true;
}

/* Is the child of @level that has the page at @start all in [@start, @end)? */
static bool child_is_whole(const GuestMemfdMap *map, unsigned level,
                           uint64_t start, uint64_t end)
{
    uint64_t size = level_size(map, level);

    return !(start & (size - 1)) && (end - start >= size || end == map->size);
}

/*
 * Set as much of [@start, @end) as the whole children of one node are, or as is
 * in that state already; returns where that ends.
 */
static uint64_t set_some(GuestMemfdMap *map, uint64_t start, uint64_t end,
                         bool private)
{
    MapNode *node[GUEST_MEMFD_MAP_MAX_LEVELS] QEMU_UNINITIALIZED;
    uint64_t i, stop, base, nr = 1;
    unsigned level;

    node[0] = map->top;
    for (level = 0; ; level++) {
        i = child_index(map, level, start);
        if (child_is_whole(map, level, start, end)) {
            break;
        }
        if (!is_mixed(map, level, node[level], i)) {
            if (is_private(node[level], i) == private) {
                stop = child_start(map, level, start) + level_size(map, level);
                return MIN(stop, end);
            }
            split_child(map, level, node[level], i,
                        child_start(map, level, start));
        }
        node[level + 1] = *child_of(map, level, node[level], i);
    }
    base = start - (i << map->geo.shift[level]);
    stop = child_end(map, level, start);

    /* All children until @end, but for one of which a part is beyond. */
    if (stop < end) {
        nr = nr_children(map, level, base, end);
        stop = child_end(map, level,
                         base + ((nr - 1) << map->geo.shift[level]));
        if (stop > end) {
            stop -= level_size(map, level);
            nr--;
        }
        nr -= i;
    }
    set_children(map, level, node[level], base, i, nr, private);

    while (level--) {
        if (!fold_child(map, level, node[level],
                        child_index(map, level, start),
                        child_start(map, level, start))) {
            break;
        }
    }
    return stop;
}

static void assert_range(const GuestMemfdMap *map, uint64_t start,
                         uint64_t end)
{
    assert(end <= map->size);
    assert(!((start | end) & map->page_mask));
}

GuestMemfdMap *guest_memfd_map_new(uint64_t size,
                                   const GuestMemfdMapGeometry *geometry,
                                   bool private)
{
    GuestMemfdMap *map = g_new0(GuestMemfdMap, 1);

    assert(geometry->levels >= 2 &&
           geometry->levels <= GUEST_MEMFD_MAP_MAX_LEVELS);
    for (unsigned l = 1; l < geometry->levels; l++) {
        assert(geometry->shift[l] < geometry->shift[l - 1]);
    }
    map->size = size;
    map->geo = *geometry;
    map->page_mask = level_size(map, geometry->levels - 1) - 1;
    assert_range(map, 0, size);
    for (unsigned l = 0; l < geometry->levels; l++) {
        map->node_mask[l] = l ? level_size(map, l - 1) - 1 : UINT64_MAX;
        map->longs[l] = BITS_TO_LONGS(fanout(map, l));
    }
    map->top = node_new(map, 0, 0, private);
    map->private_bytes = private ? size : 0;
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
    g_free(map->top);
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

/* Pages around @offset known to be equal: their end, and their state. */
static uint64_t uniform_end(const GuestMemfdMap *map, uint64_t offset,
                            uint64_t end, bool *private)
{
    const MapNode *node = map->top;
    unsigned level = 0;
    uint64_t base, i, nr, stop;

    while (is_mixed(map, level, node, i = child_index(map, level, offset))) {
        node = *child_of(map, level++, node, i);
    }
    *private = is_private(node, i);
    base = child_start(map, level, offset);
    if (end - base <= level_size(map, level)) {
        return end;
    }
    base -= i << map->geo.shift[level];
    nr = nr_children(map, level, base, end);
    stop = *private ? find_next_zero_bit(node->bits, nr, i + 1) :
                      find_next_bit(node->bits, nr, i + 1);
    if (node->nr_mixed) {
        stop = find_next_bit(mixed_bits(map, level, node), stop, i + 1);
    }
    return MIN(base + (stop << map->geo.shift[level]), end);
}

uint64_t guest_memfd_map_next(const GuestMemfdMap *map, bool private,
                              uint64_t *start, uint64_t end)
{
    uint64_t stop = *start;
    bool found = false;

    assert_range(map, stop, end);
    while (stop < end) {
        bool state;
        uint64_t next = uniform_end(map, stop, end, &state);

        if (state == private) {
            found = true;
        } else if (found) {
            break;
        } else {
            *start = next;
        }
        stop = next;
    }
    return found ? stop : 0;
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

bool guest_memfd_map_is_reserved(const GuestMemfdMap *map)
{
    for (unsigned l = 1; l < map->geo.levels; l++) {
        if (map->nr_spare[l] < MAX_SPLITS) {
            return false;
        }
    }
    return true;
}

bool guest_memfd_map_reserve(GuestMemfdMap *map)
{
    for (unsigned l = 1; l < map->geo.levels; l++) {
        while (map->nr_spare[l] < MAX_SPLITS) {
            MapNode *node = node_alloc(map, l);

            if (!node) {
                return false;
            }
            map->spare[l][map->nr_spare[l]++] = node;
        }
    }
    return true;
}

uint64_t guest_memfd_map_set(GuestMemfdMap *map, uint64_t offset,
                             uint64_t size, bool private)
{
    uint64_t before = map->private_bytes, end = offset + size;

    assert_range(map, offset, end);
    assert(offset < end);
    do {
        offset = set_some(map, offset, end, private);
    } while (offset < end);
    return private ? map->private_bytes - before : before - map->private_bytes;
}

uint64_t guest_memfd_map_private_bytes(const GuestMemfdMap *map)
{
    return map->private_bytes;
}

/* Count a page of @level whose pages are equal, on its level and those below. */
static void count_uniform(const GuestMemfdMap *map, unsigned level,
                          uint64_t bytes, bool private,
                          GuestMemfdMapCount *count)
{
    for (; level < map->geo.levels - 1; level++) {
        uint64_t *nr = private ? &count[level].private : &count[level].shared;

        *nr += bytes >> map->geo.shift[level];
    }
}

static void count_children(const GuestMemfdMap *map, unsigned level,
                           const MapNode *node, uint64_t base,
                           GuestMemfdMapCount *count)
{
    uint64_t nr = nr_children(map, level, base, map->size);
    uint64_t whole = children_bytes(map, level, base, 0, nr) >>
                     map->geo.shift[level];

    if (level == map->geo.levels - 2) {
        bool cut = whole < nr;

        count[level].private += node->nr_private -
                                (cut && is_private(node, whole));
        count[level].mixed += node->nr_mixed -
                              (cut && is_mixed(map, level, node, whole));
        count[level].shared += nr - node->nr_private - node->nr_mixed -
                               (cut && !is_private(node, whole) &&
                                !is_mixed(map, level, node, whole));
        return;
    }
    for (uint64_t i = 0; i < nr; i++) {
        if (is_mixed(map, level, node, i)) {
            count[level].mixed += i < whole;
            count_children(map, level + 1, *child_of(map, level, node, i),
                           base + (i << map->geo.shift[level]), count);
        } else {
            count_uniform(map, level,
                          children_bytes(map, level, base, i, 1),
                          is_private(node, i), count);
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
    count_children(map, 0, map->top, 0, count);
    return levels;
}

uint64_t guest_memfd_map_metadata_bytes(const GuestMemfdMap *map)
{
    return sizeof(*map) + map->node_bytes;
}
