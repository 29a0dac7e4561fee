/*
 * DMA mappings of guest_memfd memory: extents
 *
 * A container maps the shared part of a section as extents, one for each range
 * that was populated, since a guest makes memory private in the pieces in which it
 * shared it: unmapping whole extents is exact, and no IOMMU can unmap a part
 * of a mapping (type1: EINVAL, iommufd: ENOENT).  Where a part is all that goes,
 * the extent is unmapped and the rest mapped again in naturally aligned powers of
 * two, so that the IOMMU can use its large entries, and of n pages log2(n) pieces
 * remain; or cut, by an iommufd that was told before that it has to.
 *
 * The extents of a section are what the container holds, no more and no less:
 * one is added after its map succeeded and removed after its unmap did.  They
 * belong to the lock of the block (system/guest-memfd/block.c), under which all
 * callbacks run; to the BQL with another RamDiscardManager (virtio-mem), of which
 * each piece of its granularity is an extent.  How many mappings a container may
 * have is for all: each is reserved before it is made, and released after it is gone.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "system/dma.h"
#include "guest-memfd-internal.h"
#include "trace.h"

/*
 * Large initial ranges are cut so that a split never costs more than this, unless
 * mappings are lacking.
 */
#define MAX_EXTENT (1 * GiB)

/* Offsets in the memory region, inclusive */
typedef IntervalTreeNode Extent;

/* Nobody wants pieces of one size. */
static bool may_be_joined(const VFIORamDiscard *v)
{
    return !v->granularity &&
           v->bcontainer->dma_split != GUEST_MEMFD_DMA_SPLIT_PAGE;
}

static uint64_t extent_max(const VFIORamDiscard *v)
{
    return v->granularity ?:
           v->bcontainer->dma_split == GUEST_MEMFD_DMA_SPLIT_PAGE ?
           qemu_real_host_page_size() : MAX_EXTENT;
}

/* From the last boundary at which all extents are cut to an offset. */
static uint64_t since_cut(const VFIORamDiscard *v, uint64_t offset)
{
    return (offset + (v->granularity ? 0 : v->to_iova)) % extent_max(v);
}

static uint64_t extent_end(const Extent *e)
{
    return e->last + 1;
}

static Extent *extent_first(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    return start < end ? interval_tree_iter_first(&v->extents, start, end - 1) :
           NULL;
}

/* None is partly beyond @end. */
#define for_each_extent(e, v, start, end) \
    for (Extent *e = extent_first(v, start, end); e; \
         e = extent_first(v, extent_end(e), end))

/* Where the next extent of a tree begins or ends, after @start; at most @end. */
static uint64_t next_border(IntervalTreeRoot *extents, uint64_t start,
                            uint64_t end)
{
    Extent *e = interval_tree_iter_first(extents, start, end - 1);

    return !e ? end : e->start > start ? e->start : MIN(end, extent_end(e));
}

/* Not the edges of the section: no request ended there. */
static uint64_t gone_border(VFIORamDiscard *gone, uint64_t start, uint64_t end)
{
    do {
        start = next_border(&gone->gone, start, end);
    } while (start < end &&
             (start == gone->gone_start || start == gone->gone_end));
    return start;
}

/*
 * The end of the first extent of a range that is to be mapped.  What was shared
 * by one request, and is mapped again because its section has changed or another
 * device arrives, stays an extent of its own: its guest unshares it like that.
 */
static uint64_t extent_stop(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    VFIORamDiscard *gone;

    if (v->pieces == VFIO_RAM_DISCARD_FEW && may_be_joined(v)) {
        return end;
    }
    end = start + MIN(end - start, extent_max(v) - since_cut(v, start));
    if (v->pieces == VFIO_RAM_DISCARD_ALIGNED) {
        return start + 1 + dma_aligned_pow2_mask(start + v->to_iova,
                                                 end - 1 + v->to_iova, 64);
    }
    if (v->arriving && v->pieces == VFIO_RAM_DISCARD_POPULATED &&
        may_be_joined(v)) {
        QLIST_FOREACH(gone, &v->bcontainer->ram_discard_gone, next) {
            if (gone->mr == v->mr) {
                end = gone_border(gone, start, end);
            }
        }
        end = guest_memfd_next_border(v->gm, start, end);
    }
    return end;
}

uint64_t vfio_ram_discard_extents(VFIORamDiscard *v, uint64_t start,
                                  uint64_t end)
{
    uint64_t n = 0;

    for (; start < end; start = extent_stop(v, start, end)) {
        n++;
    }
    return n;
}

/* Have at least @n reserved. */
static bool reserve_at_least(VFIORamDiscard *v, uint64_t n, uint64_t *reserved)
{
    uint64_t more = n - MIN(n, *reserved);

    if (!vfio_ram_discard_reserve(v, more)) {
        return false;
    }
    *reserved += more;
    return true;
}

void vfio_ram_discard_settled(VFIORamDiscard *v)
{
    vfio_ram_discard_release(v, v->kept);
    v->kept = 0;
}

/* Could what is mapped on both sides of @offset, an end of an extent, be one? */
static bool is_joint(VFIORamDiscard *v, uint64_t offset)
{
    return may_be_joined(v) && offset && extent_first(v, offset - 1, offset) &&
           extent_first(v, offset, offset + 1);
}

static void add_extent(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *e = g_new0(Extent, 1);

    e->start = start;
    e->last = end - 1;
    interval_tree_insert(e, &v->extents);
    v->nr_joints += is_joint(v, start) + is_joint(v, end);
    qatomic_set(&v->nr_extents, v->nr_extents + 1);
    qatomic_set(&v->mapped_bytes, v->mapped_bytes + end - start);
}

static void remove_extent(VFIORamDiscard *v, Extent *e)
{
    uint64_t size = extent_end(e) - e->start;

    v->nr_joints -= is_joint(v, e->start) + is_joint(v, extent_end(e));
    qatomic_set(&v->nr_extents, v->nr_extents - 1);
    qatomic_set(&v->mapped_bytes, v->mapped_bytes - size);
    interval_tree_remove(e, &v->extents);
    if (v->leaving) {
        interval_tree_insert(e, &v->gone);
    } else {
        g_free(e);
    }
}

void vfio_ram_discard_changed(VFIORamDiscard *v, uint64_t start, uint64_t size,
                              bool mapped)
{
    if (mapped) {
        add_extent(v, start, start + size);
    } else {
        remove_extent(v, extent_first(v, start, start + size));
    }
}

static int add_unmaps(VFIORamDiscard *v, uint64_t start, uint64_t end,
                      uint64_t *reserved)
{
    int ret;

    for_each_extent(e, v, start, end) {
        ret = vfio_ram_discard_add(v, e->start, extent_end(e), false, reserved);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int add_maps(VFIORamDiscard *v, uint64_t start, uint64_t end,
                    uint64_t *reserved)
{
    int ret = 0;

    for (uint64_t stop; !ret && start < end; start = stop) {
        stop = extent_stop(v, start, end);
        ret = vfio_ram_discard_add(v, start, stop, true, reserved);
    }
    return ret;
}

/* What is mapped between two borders of extents, and not to be mapped any more. */
typedef struct Change {
    uint64_t start, end;
    uint64_t hole, hole_end;    /* inside; empty, and at the end, if all stays */
} Change;

static Change change_of(const Extent *e, uint64_t start, uint64_t end)
{
    return (Change) {
        .start = e->start,
        .end = extent_end(e),
        .hole = MAX(start, e->start),
        .hole_end = MIN(end, extent_end(e)),
    };
}

/*
 * Map anew what a change leaves.  What cannot be mapped is stale.
 *
 * @pieces: in which
 * @reserved: mappings that may be used; more are reserved, and what is left stays so
 *
 * Returns: -ENOSPC also if there is no room; then nothing has happened.
 */
static int replace(VFIORamDiscard *v, const Change *c,
                   VFIORamDiscardPieces pieces, uint64_t *reserved)
{
    uint64_t needs;
    int ret = -ENOSPC;

    v->pieces = pieces;
    needs = vfio_ram_discard_extents(v, c->start, c->hole) +
            vfio_ram_discard_extents(v, c->hole_end, c->end);
    for_each_extent(e, v, c->start, c->end) {
        needs -= !!needs;       /* it gives its own */
    }
    if (reserve_at_least(v, needs, reserved)) {
        ret = add_unmaps(v, c->start, c->end, reserved) ?:
              add_maps(v, c->start, c->hole, reserved) ?:
              add_maps(v, c->hole_end, c->end, reserved) ?:
              vfio_ram_discard_run(v, reserved);
        if (ret) {
            guest_memfd_listener_stale(v->gm, &v->listener, c->start, c->end);
        }
    }
    v->pieces = VFIO_RAM_DISCARD_POPULATED;
    return ret;
}

/* One extent of those of a range, which touch. */
static int join(VFIORamDiscard *v, uint64_t start, uint64_t end,
                uint64_t *reserved)
{
    const Change c = { start, end, end, end };
    int ret = replace(v, &c, VFIO_RAM_DISCARD_FEW, reserved);

    trace_vfio_guest_memfd_join(v->bcontainer, start + v->to_iova, end - start,
                                ret);
    return ret;
}

/*
 * Join extents, for a mapping and some more, so that a guest that lives at the
 * limit does not pay for it with each request.  A device that works there can
 * lose a transfer; the request would be refused else.
 *
 * Returns: the mappings that are free, and stay reserved.
 */
static uint64_t make_room(VFIORamDiscard *v)
{
    uint64_t enough = 1 + vfio_ram_discard_limit(v) / 16, freed = 0, end;

    for (Extent *e = extent_first(v, 0, UINT64_MAX);
         e && v->nr_joints && freed < enough;
         e = extent_first(v, end, UINT64_MAX)) {
        uint64_t start = e->start;

        for (end = extent_end(e); is_joint(v, end); end = extent_end(e)) {
            e = extent_first(v, end, end + 1);
        }
        if (start != e->start && join(v, start, end, &freed)) {
            break;
        }
    }
    return freed;
}

static void count_split(VFIORamDiscard *v, const Change *c)
{
    v->splits++;
    trace_vfio_guest_memfd_split(v->bcontainer, c->start + v->to_iova,
                                 c->end - c->start, c->hole + v->to_iova,
                                 c->hole_end - c->hole);
}

/*
 * Replace @e by what it has outside of [@start, @end), in one round trip.  Where
 * the container has no room for that, or less than it said, each side is one piece.
 */
static int split_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                        uint64_t end)
{
    const Change c = change_of(e, start, end);
    uint64_t reserved = 0;
    int ret = replace(v, &c, VFIO_RAM_DISCARD_ALIGNED, &reserved);

    if (ret == -ENOSPC) {
        ret = replace(v, &c, VFIO_RAM_DISCARD_FEW, &reserved);
    }
    if (!extent_first(v, c.hole, c.hole_end)) {
        count_split(v, &c);
    }
    vfio_ram_discard_release(v, reserved);
    return ret;
}

static void report_unreachable(const VFIORamDiscard *v)
{
    error_report_once("a device has no DMA mapping left, and cannot reach all "
                      "of '%s' that is shared", v->name);
}

/*
 * The container has no mapping left for a split: this maps the larger part of the
 * rest, and not the other one.  Giving memory back works all the same.
 */
static int break_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                        uint64_t end)
{
    Change c = change_of(e, start, end);
    uint64_t reserved = 0;
    int ret;

    if (c.hole - c.start > c.end - c.hole_end) {
        c.hole_end = c.end;
    } else {
        c.hole = c.start;
    }
    ret = replace(v, &c, VFIO_RAM_DISCARD_FEW, &reserved);
    vfio_ram_discard_release(v, reserved);
    if (extent_first(v, c.hole, c.hole_end)) {
        return ret;
    }
    count_split(v, &c);
    report_unreachable(v);
    guest_memfd_listener_stale(v->gm, &v->listener, c.start, c.end);
    return 0;
}

/* Take [@start, @end) out of @e; what is left is mapped all the time. */
static int cut_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                      uint64_t end)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    const Change c = change_of(e, start, end);
    bool hole = c.start < c.hole && c.hole_end < c.end;
    int ret;

    if (!vfio_ram_discard_reserve(v, hole)) {
        return -ENOSPC;
    }
    v->unmap_calls++;
    ret = vioc->dma_cut(v->bcontainer, c.hole + v->to_iova,
                        c.hole_end - c.hole);
    trace_vfio_guest_memfd_unmap(v->bcontainer, c.hole + v->to_iova,
                                 c.hole_end - c.hole, ret);
    if (ret) {
        vfio_ram_discard_release(v, hole);
        return ret;
    }
    count_split(v, &c);
    remove_extent(v, e);
    if (c.start < c.hole) {
        add_extent(v, c.start, c.hole);
    }
    if (c.hole_end < c.end) {
        add_extent(v, c.hole_end, c.end);
    }
    return 0;
}

/* An extent of which a range has only a part. */
static Extent *extent_across(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *e = extent_first(v, start, start + 1);

    if (e && e->start < start) {
        return e;
    }
    e = extent_first(v, end - 1, end);
    return e && extent_end(e) > end ? e : NULL;
}

int vfio_ram_discard_discard(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *e;
    int ret;

    while ((e = extent_across(v, start, end))) {
        if (v->bcontainer->dma_split == GUEST_MEMFD_DMA_SPLIT_CUT) {
            ret = cut_extent(v, e, start, end);
        } else {
            ret = split_extent(v, e, start, end);
        }
        if (ret == -ENOSPC) {
            uint64_t freed = make_room(v);

            vfio_ram_discard_release(v, freed);
            e = freed ? NULL : extent_across(v, start, end);
            if (e) {
                ret = break_extent(v, e, start, end);
            } else if (!freed) {
                report_unreachable(v);  /* it had less room than it told */
            }
        }
        if (ret && ret != -ENOSPC) {
            return ret;
        }
    }
    ret = add_unmaps(v, start, end, &v->kept) ?:
          vfio_ram_discard_run(v, &v->kept);
    if (v->granularity) {
        vfio_ram_discard_settled(v);    /* virtio-mem never says when */
    }
    return ret;
}

/*
 * What is to be mapped of a range: what the map of @gm calls shared; all of it if
 * @gm is NULL.
 */
static uint64_t next_part(GuestMemfd *gm, uint64_t *start, uint64_t end)
{
    return gm ? guest_memfd_next_shared(gm, start, end) :
           *start < end ? end : 0;
}

/* A part of that, not mapped, up to the border of an extent or of the part */
static uint64_t next_gap(VFIORamDiscard *v, GuestMemfd *gm, uint64_t *start,
                         uint64_t end)
{
    uint64_t stop;

    while ((stop = next_part(gm, start, end))) {
        Extent *e = extent_first(v, *start, stop);

        if (!e || e->start > *start) {
            return e ? e->start : stop;
        }
        *start = extent_end(e);
    }
    return 0;
}

/*
 * All gaps together, so that they cost as few round trips as can be.  Each gets no
 * more mappings than were kept when it was unmapped, or it takes those of another
 * one that is mapped again.
 */
static int map_gaps(VFIORamDiscard *v, GuestMemfd *gm, uint64_t start,
                    uint64_t end)
{
    uint64_t needs = 0, s, stop;
    int ret = -ENOSPC;

    v->pieces = v->kept ? VFIO_RAM_DISCARD_FEW : VFIO_RAM_DISCARD_POPULATED;
    for (s = start; (stop = next_gap(v, gm, &s, end)); s = stop) {
        needs += vfio_ram_discard_extents(v, s, stop);
    }
    if (reserve_at_least(v, needs, &v->kept)) {
        ret = 0;
        for (s = start; !ret && (stop = next_gap(v, gm, &s, end)); s = stop) {
            ret = add_maps(v, s, stop, &v->kept);
        }
        ret = ret ?: vfio_ram_discard_run(v, &v->kept);
    }
    v->pieces = VFIO_RAM_DISCARD_POPULATED;
    return ret;
}

/* All of a range, and what is mapped beside it, in as few extents as can be. */
static int map_whole(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *left = start ? extent_first(v, start - 1, start) : NULL;
    Extent *right = extent_first(v, end, end + 1);

    if (left && (extent_end(left) > start || may_be_joined(v))) {
        start = left->start;
    }
    if (right && (right->start < end || may_be_joined(v))) {
        end = extent_end(right);
    }
    return join(v, start, end, &v->kept);
}

/* What is reserved beyond @before has not been needed. */
static void keep_only(VFIORamDiscard *v, uint64_t before)
{
    if (v->kept > before) {
        vfio_ram_discard_release(v, v->kept - before);
        v->kept = before;
    }
}

int vfio_ram_discard_populate(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    uint64_t before = v->kept, freed;
    int ret = map_gaps(v, NULL, start, end);

    if (ret == -ENOSPC && !v->granularity) {
        freed = make_room(v);
        v->kept += freed;
        if (freed) {
            ret = map_gaps(v, NULL, start, end);
        }
        if (ret == -ENOSPC) {
            ret = map_whole(v, start, end);
        }
    }
    keep_only(v, before);
    return ret;
}

int vfio_ram_discard_populate_shared(VFIORamDiscard *v, uint64_t start,
                                     uint64_t end)
{
    uint64_t before = v->kept, stop;
    int ret = map_gaps(v, v->gm, start, end);

    keep_only(v, before);
    if (ret != -ENOSPC) {
        return ret;
    }
    /* Each part by itself finds the room that it needs. */
    for (; (stop = next_part(v->gm, &start, end)); start = stop) {
        ret = vfio_ram_discard_populate(v, start, stop);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

uint64_t vfio_ram_discard_next_mapped(VFIORamDiscard *v, uint64_t *start)
{
    Extent *e = extent_first(v, *start, UINT64_MAX);

    if (!e) {
        return 0;
    }
    *start = MAX(*start, e->start);
    return extent_end(e);
}

void vfio_ram_discard_commit(VFIOContainer *bcontainer)
{
    VFIORamDiscard *gone;
    Extent *e;

    while ((gone = QLIST_FIRST(&bcontainer->ram_discard_gone))) {
        QLIST_REMOVE(gone, next);
        while ((e = interval_tree_iter_first(&gone->gone, 0, UINT64_MAX))) {
            interval_tree_remove(e, &gone->gone);
            g_free(e);
        }
        g_free(gone);
    }
}

void vfio_ram_discard_forget(VFIORamDiscard *v)
{
    Extent *e;

    while ((e = extent_first(v, 0, UINT64_MAX))) {
        remove_extent(v, e);
        vfio_ram_discard_release(v, 1);
    }
    vfio_ram_discard_settled(v);
}
