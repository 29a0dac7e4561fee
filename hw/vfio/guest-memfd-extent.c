/*
 * DMA mappings of guest_memfd memory: extents
 *
 * A container maps the shared part of a section as extents, one for each range
 * that was populated, since a guest gives memory back in the pieces in which it
 * asked for it: unmapping whole extents is exact, and no IOMMU can unmap a part
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
#include <sys/resource.h>
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "system/dma.h"
#include "guest-memfd-internal.h"
#include "trace.h"

/* The largest errno (Linux include/linux/err.h). */
#define MAX_ERRNO 4095

/*
 * Mappings of a limited container that conversions leave to sections that come
 * later: at most this many, or an eighth.
 */
#define MAPPINGS_FOR_OTHERS 512

/*
 * Of a container without a limit of its own.  A mapping costs the kernel memory
 * (iommufd: 448 bytes), and a guest can ask for one of each page.
 */
#define MAX_MAPPINGS (1u << 20)

/* Large initial ranges are cut so that a split never costs more than this. */
#define MAX_EXTENT (1 * GiB)

typedef struct Extent {
    IntervalTreeNode node;      /* offsets in the memory region, inclusive */
} Extent;

/* Bytes that all containers have mapped; atomic. */
static size_t all_mapped;

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

static uint64_t extent_start(const Extent *e)
{
    return e->node.start;
}

static uint64_t extent_end(const Extent *e)
{
    return e->node.last + 1;
}

static Extent *extent_first(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    IntervalTreeNode *node = interval_tree_iter_first(&v->extents, start,
                                                      end - 1);

    return node ? container_of(node, Extent, node) : NULL;
}

/* Where the next extent of a tree begins or ends, after @start; at most @end. */
static uint64_t next_border(IntervalTreeRoot *extents, uint64_t start,
                            uint64_t end)
{
    IntervalTreeNode *node = interval_tree_iter_first(extents, start, end - 1);

    return !node ? end : node->start > start ? node->start :
           MIN(end, node->last + 1);
}

/* Not the edges of the section: nobody asked for these. */
static uint64_t gone_border(VFIORamDiscardGone *gone, uint64_t start,
                            uint64_t end)
{
    do {
        start = next_border(&gone->extents, start, end);
    } while (start < end && (start == gone->start || start == gone->end));
    return start;
}

/*
 * The end of the first extent of a range that becomes shared.  What was asked for
 * by one request, and is mapped again because its section has changed or another
 * device arrives, stays an extent of its own: its guest gives it back like that.
 */
static uint64_t extent_stop(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    VFIORamDiscardGone *gone;

    end = start + MIN(end - start, extent_max(v) - since_cut(v, start));
    if (v->arriving && !v->coarse && !v->granularity &&
        v->bcontainer->dma_split != GUEST_MEMFD_DMA_SPLIT_PAGE) {
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

uint64_t vfio_ram_discard_limit(const VFIORamDiscard *v)
{
    return v->bcontainer->dma_max_mappings ?:
           v->granularity ? UINT_MAX : MAX_MAPPINGS;
}

/*
 * So many more mappings are about to be made.  Conversions leave some to sections
 * that come later; these do not, nor does virtio-mem, which may take back an unplug.
 */
static bool reserve(VFIORamDiscard *v, uint64_t n)
{
    VFIOContainer *bcontainer = v->bcontainer;
    uint64_t limit = vfio_ram_discard_limit(v);
    uint64_t kept = v->arriving || v->granularity ? 0 :
                    MIN(MAPPINGS_FOR_OTHERS, limit / 8);
    unsigned used = qatomic_read(&bcontainer->dma_extents), seen;

    for (;; used = seen) {
        if (n > limit || used + n + kept > limit) {
            return !n;
        }
        seen = qatomic_cmpxchg(&bcontainer->dma_extents, used, used + n);
        if (seen == used) {
            return true;
        }
    }
}

static void release(VFIORamDiscard *v, uint64_t n)
{
    qatomic_sub(&v->bcontainer->dma_extents, n);
}

/* Reserve for a range that may be mapped again. */
static bool reserve_again(VFIORamDiscard *v, uint64_t n)
{
    uint64_t again = MIN(n, v->given_back);

    if (!reserve(v, n - again)) {
        return false;
    }
    v->given_back -= again;
    return true;
}

void vfio_ram_discard_settled(VFIORamDiscard *v)
{
    release(v, v->given_back);
    v->given_back = 0;
}

/*
 * ENOMEM is how kernels answer when RLIMIT_MEMLOCK is too low, but also when
 * there is no memory; so the limit is only named if this memory exceeds it by
 * itself.  A peer that can be lost has limits of its own.
 */
char *vfio_ram_discard_advice(VFIORamDiscard *v, int ret, uint64_t more)
{
    struct rlimit limit;

    more += qatomic_read(&all_mapped);
    if (ret != -ENOMEM || VFIO_IOMMU_GET_CLASS(v->bcontainer)->lost ||
        getrlimit(RLIMIT_MEMLOCK, &limit) || more <= limit.rlim_cur) {
        return g_strdup("");
    }
    return g_strdup_printf(" (RLIMIT_MEMLOCK is %" PRIu64 " KiB, this memory "
                           "needs %" PRIu64 " KiB: without CAP_IPC_LOCK, raise "
                           "the limit above the size of the guest's memory, "
                           "with ulimit -l, LimitMEMLOCK= of systemd, or "
                           "<memtune><hard_limit> of libvirt)",
                           (uint64_t)limit.rlim_cur / KiB, more / KiB);
}

/* A guest can cause it as often as it likes, and needs no more than once. */
static void report_memlock_once(VFIORamDiscard *v, int ret, uint64_t size)
{
    static bool reported;
    g_autofree char *advice = vfio_ram_discard_advice(v, ret, size);

    if (*advice && !qatomic_xchg(&reported, true)) {
        warn_report("cannot map a part of '%s' for DMA: %s%s",
                    v->name, strerror(-ret), advice);
    }
}

/*
 * Could what is mapped on both sides of @offset, an end of an extent, be one?  Not
 * at the boundaries at which all extents are cut.
 */
static bool is_joint(VFIORamDiscard *v, uint64_t offset)
{
    return offset && extent_first(v, offset - 1, offset) &&
           extent_first(v, offset, offset + 1) &&
           since_cut(v, offset);
}

static void add_extent(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *e = g_new0(Extent, 1);

    e->node.start = start;
    e->node.last = end - 1;
    interval_tree_insert(&e->node, &v->extents);
    v->nr_joints += is_joint(v, start) + is_joint(v, end);
    qatomic_set(&v->nr_extents, v->nr_extents + 1);
    qatomic_set(&v->mapped_bytes, v->mapped_bytes + end - start);
    qatomic_add(&all_mapped, end - start);
}

static void remove_extent(VFIORamDiscard *v, Extent *e)
{
    uint64_t size = extent_end(e) - extent_start(e);

    v->nr_joints -= is_joint(v, extent_start(e)) + is_joint(v, extent_end(e));
    qatomic_set(&v->nr_extents, v->nr_extents - 1);
    qatomic_set(&v->mapped_bytes, v->mapped_bytes - size);
    qatomic_sub(&all_mapped, size);
    interval_tree_remove(&e->node, &v->extents);
    g_free(e);
}

/* One more request for the container; there is room for it. */
static void batch_add(VFIORamDiscard *v, uint64_t start, uint64_t end, bool map)
{
    VFIODmaRequest *r = &v->batch[v->nr_batch++];

    assert(v->nr_batch <= ARRAY_SIZE(v->batch));
    r->map = map;
    r->readonly = v->readonly;
    r->iova = start + v->to_iova;
    r->size = end - start;
    r->vaddr = memory_region_get_ram_ptr(v->mr) + start;
    r->mr = v->mr;
}

static bool batch_is_full(const VFIORamDiscard *v)
{
    return v->nr_batch == ARRAY_SIZE(v->batch);
}

static int container_call(VFIOContainer *bcontainer, const VFIODmaRequest *r)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(bcontainer);

    return r->map ? vfio_container_dma_map(bcontainer, r->iova, r->size,
                                           r->vaddr, r->readonly, r->mr) :
           vioc->dma_unmap_exact ? vioc->dma_unmap_exact(bcontainer, r->iova,
                                                         r->size) :
           vfio_container_dma_unmap(bcontainer, r->iova, r->size, NULL, false);
}

/* All at once where that saves round trips; else one by one, up to an error. */
static void container_batch(VFIORamDiscard *v)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    unsigned n = 0;
    int ret = 0;

    if (vioc->dma_batch) {
        vioc->dma_batch(v->bcontainer, v->batch, v->nr_batch);
        return;
    }
    for (; n < v->nr_batch && !ret; n++) {
        ret = container_call(v->bcontainer, &v->batch[n]);
        v->batch[n].ret = ret;
    }
    v->nr_batch = n;
}

/* An extent for each map that succeeded, none where an unmap did. */
static void apply(VFIORamDiscard *v, const VFIODmaRequest *r,
                  uint64_t *reserved)
{
    uint64_t start = r->iova - v->to_iova;

    if (r->map) {
        add_extent(v, start, start + r->size);
        --*reserved;
    } else {
        remove_extent(v, extent_first(v, start, start + r->size));
        ++*reserved;
    }
}

/*
 * Ask the container for all that was added.  A peer that is lost has nothing
 * mapped, so it never stands in the way.
 *
 * @reserved: mappings; one less for each that was made, one more for each that
 *            was removed
 *
 * Returns: the first error.  What succeeded has been done all the same.
 */
static int batch_run(VFIORamDiscard *v, uint64_t *reserved)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    int first = 0;
    bool lost;

    container_batch(v);
    lost = vioc->lost && vioc->lost(v->bcontainer);
    for (unsigned i = 0; i < v->nr_batch; i++) {
        VFIODmaRequest *r = &v->batch[i];
        /* What a remote peer says may be any number. */
        int ret = lost ? 0 : r->ret > 0 || r->ret < -MAX_ERRNO ? -EIO : r->ret;

        if (r->map) {
            v->map_calls++;
            trace_vfio_guest_memfd_map(v->bcontainer, r->iova, r->size, ret);
        } else {
            v->unmap_calls++;
            trace_vfio_guest_memfd_unmap(v->bcontainer, r->iova, r->size, ret);
        }
        if (!ret) {
            apply(v, r, reserved);
        } else if (!first) {
            first = ret;
            if (r->map && !v->arriving) {
                report_memlock_once(v, ret, r->size);
            }
        }
    }
    v->nr_batch = 0;
    return first;
}

static int map_extent(VFIORamDiscard *v, uint64_t start, uint64_t end,
                      uint64_t *reserved)
{
    batch_add(v, start, end, true);
    return batch_run(v, reserved);
}

static int unmap_extent(VFIORamDiscard *v, Extent *e, uint64_t *reserved)
{
    batch_add(v, extent_start(e), extent_end(e), false);
    return batch_run(v, reserved);
}

/* All in a range; none of them is partly outside. */
static int unmap_extents(VFIORamDiscard *v, uint64_t start, uint64_t end,
                         uint64_t *reserved)
{
    Extent *e = extent_first(v, start, end);
    int ret = 0;

    while (!ret && e) {
        batch_add(v, extent_start(e), extent_end(e), false);
        start = extent_end(e);
        e = start < end ? extent_first(v, start, end) : NULL;
        if (!e || batch_is_full(v)) {
            ret = batch_run(v, reserved);
        }
    }
    return ret;
}

/* A range of which nothing is mapped. */
static int map_range(VFIORamDiscard *v, uint64_t start, uint64_t end,
                     uint64_t *reserved)
{
    int ret = 0;

    while (!ret && start < end) {
        uint64_t stop = extent_stop(v, start, end);

        batch_add(v, start, stop, true);
        start = stop;
        if (start == end || batch_is_full(v)) {
            ret = batch_run(v, reserved);
        }
    }
    return ret;
}

/* The same where some is mapped; it begins and ends where extents do. */
static int map_again(VFIORamDiscard *v, uint64_t start, uint64_t end,
                     uint64_t *reserved)
{
    int ret = unmap_extents(v, start, end, reserved) ?:
              map_range(v, start, end, reserved);

    trace_vfio_guest_memfd_join(v->bcontainer, start + v->to_iova, end - start,
                                ret);
    if (ret) {
        guest_memfd_listener_stale(v->gm, &v->listener, start, end);
    }
    return ret;
}

/*
 * Join extents, for so many mappings and some more, so that a guest that lives
 * at the limit does not pay for it with each request.  A device that works there
 * can lose a transfer; the request would be refused else.
 *
 * Returns: the mappings that are free, and stay reserved.
 */
static uint64_t make_room(VFIORamDiscard *v, uint64_t n)
{
    uint64_t freed = 0, end;

    n += vfio_ram_discard_limit(v) / 16;
    for (Extent *e = extent_first(v, 0, UINT64_MAX);
         e && v->nr_joints && freed < n; e = extent_first(v, end, UINT64_MAX)) {
        uint64_t start = extent_start(e);

        for (end = extent_end(e); is_joint(v, end); end = extent_end(e)) {
            e = extent_first(v, end, end + 1);
        }
        if (start != extent_start(e) && map_again(v, start, end, &freed)) {
            break;
        }
    }
    return freed;
}

/*
 * Replacing an extent: what goes, and what stays on each side.  There is always
 * something that goes, and something that stays.
 */
typedef struct Split {
    bool coarse;                /* the rest on each side is one piece */
    uint64_t old_start, old_end;
    uint64_t start, end;        /* to be dropped, inside */
} Split;

static Split split_of(Extent *e, uint64_t start, uint64_t end)
{
    return (Split) {
        .old_start = extent_start(e),
        .old_end = extent_end(e),
        .start = MAX(start, extent_start(e)),
        .end = MIN(end, extent_end(e)),
    };
}

static void count_split(VFIORamDiscard *v, const Split *s)
{
    v->splits++;
    trace_vfio_guest_memfd_split(v->bcontainer, s->old_start + v->to_iova,
                                 s->old_end - s->old_start,
                                 s->start + v->to_iova, s->end - s->start);
}

/* How much of the rest on one side, from @iova to @end, is a mapping. */
static uint64_t piece_size(const Split *s, uint64_t iova, uint64_t end)
{
    return s->coarse ? end - iova : dma_aligned_pow2_mask(iova, end - 1, 64) + 1;
}

static uint64_t count_pieces(const Split *s, uint64_t iova, uint64_t end)
{
    uint64_t n = 0;

    while (iova != end) {
        iova += piece_size(s, iova, end);
        n++;
    }
    return n;
}

/* The mappings that a split needs. */
static uint64_t split_needs(VFIORamDiscard *v, const Split *s)
{
    return count_pieces(s, s->old_start + v->to_iova, s->start + v->to_iova) +
           count_pieces(s, s->end + v->to_iova, s->old_end + v->to_iova);
}

/* The rest of an extent, on one side of what goes. */
static void add_pieces(VFIORamDiscard *v, const Split *s, uint64_t start,
                       uint64_t end)
{
    while (start < end) {
        uint64_t stop = start + piece_size(s, start + v->to_iova,
                                           end + v->to_iova);

        batch_add(v, start, stop, true);
        start = stop;
    }
}

/* They fit a batch: on each side there are two of each size at most. */
static void add_rest(VFIORamDiscard *v, const Split *s)
{
    add_pieces(v, s, s->old_start, s->start);
    add_pieces(v, s, s->end, s->old_end);
}

/*
 * Reserve what a split adds, or what a coarse one does.  Returns: the mappings
 * that it needs, 0 if there is no room.
 */
static uint64_t reserve_split(VFIORamDiscard *v, Split *s)
{
    uint64_t needs = split_needs(v, s);

    if (!reserve(v, needs - 1)) {
        s->coarse = true;
        needs = split_needs(v, s);
        if (!reserve(v, needs - 1)) {
            return 0;
        }
    }
    return needs;
}

/*
 * Replace @e by what it has outside of [@start, @end).  Where the container has
 * no room even for the largest pieces, nothing happens.
 */
static int split_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                        uint64_t end)
{
    Split s = split_of(e, start, end);
    uint64_t reserved = reserve_split(v, &s);
    int ret;

    if (!reserved) {
        return -ENOSPC;
    }
    reserved--;
    batch_add(v, s.old_start, s.old_end, false);
    add_rest(v, &s);
    ret = batch_run(v, &reserved);
    if (ret && extent_first(v, s.start, s.end)) {
        release(v, reserved);
        return ret;
    }
    count_split(v, &s);

    if (ret == -ENOSPC && !s.coarse &&
        !unmap_extents(v, s.old_start, s.old_end, &reserved)) {
        /* The container itself has less room than it said. */
        s.coarse = true;
        add_rest(v, &s);
        ret = batch_run(v, &reserved);
    }
    /* Back to one extent, which needs fewer mappings than any split. */
    if (ret &&
        (unmap_extents(v, s.old_start, s.old_end, &reserved) ||
         map_extent(v, s.old_start, s.old_end, &reserved))) {
        guest_memfd_listener_stale(v->gm, &v->listener, s.old_start,
                                   s.old_end);
    }
    release(v, reserved);
    return ret;
}

/*
 * The container has no mapping left for a split: this maps the larger part of the
 * rest, and not the other one.  Giving memory back works all the same.
 */
static int break_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                        uint64_t end)
{
    Split s = split_of(e, start, end);
    bool left = s.start - s.old_start > s.old_end - s.end;
    uint64_t reserved = 0;
    int ret = unmap_extent(v, e, &reserved);

    if (ret) {
        return ret;
    }
    count_split(v, &s);
    error_report_once("a device has no DMA mapping left, and cannot reach all "
                      "of '%s' that is shared", v->name);
    if (left) {
        map_extent(v, s.old_start, s.start, &reserved);
    } else {
        map_extent(v, s.end, s.old_end, &reserved);
    }
    release(v, reserved);
    guest_memfd_listener_stale(v->gm, &v->listener, s.old_start, s.old_end);
    return 0;
}

/* Take [@start, @end) out of @e; what is left is mapped all the time. */
static int cut_extent(VFIORamDiscard *v, Extent *e, uint64_t start,
                      uint64_t end)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    Split s = split_of(e, start, end);
    bool hole = s.old_start < s.start && s.end < s.old_end;
    int ret;

    if (!reserve(v, hole)) {
        return -ENOSPC;
    }
    v->unmap_calls++;
    ret = vioc->dma_cut(v->bcontainer, s.start + v->to_iova, s.end - s.start);
    trace_vfio_guest_memfd_unmap(v->bcontainer, s.start + v->to_iova,
                                 s.end - s.start, ret);
    if (ret) {
        release(v, hole);
        return ret;
    }
    count_split(v, &s);
    remove_extent(v, e);
    if (s.old_start < s.start) {
        add_extent(v, s.old_start, s.start);
    }
    if (s.end < s.old_end) {
        add_extent(v, s.end, s.old_end);
    }
    return 0;
}

/* An extent of which a range has only a part. */
static Extent *extent_across(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    Extent *e = extent_first(v, start, start + 1);

    if (e && extent_start(e) < start) {
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
            uint64_t freed = make_room(v, 1);

            release(v, freed);
            if (!freed) {
                e = extent_across(v, start, end);
                ret = e ? break_extent(v, e, start, end) : 0;
            }
        }
        if (ret && ret != -ENOSPC) {
            return ret;
        }
    }
    ret = unmap_extents(v, start, end, &v->given_back);
    if (v->granularity) {
        vfio_ram_discard_settled(v);    /* nobody else says when */
    }
    return ret;
}

/* The gaps in a range. */
static int map_gaps(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    int ret = 0;

    while (!ret && start < end) {
        Extent *e = extent_first(v, start, end);
        uint64_t stop = e ? MAX(start, extent_start(e)) : end;
        uint64_t next = e ? extent_end(e) : end;
        uint64_t reserved;

        if (stop > start) {
            reserved = vfio_ram_discard_extents(v, start, stop);
            if (!reserve_again(v, reserved)) {
                return -ENOSPC;
            }
            ret = map_range(v, start, stop, &reserved);
            release(v, reserved);
        }
        start = next;
    }
    return ret;
}

/* All of a range, and what is mapped beside it, in as few extents as can be. */
static int map_whole(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    uint64_t needs, reserved;
    Extent *left = start ? extent_first(v, start - 1, start) : NULL;
    Extent *right = extent_first(v, end, end + 1);
    int ret;

    if (left && (extent_end(left) > start || since_cut(v, start))) {
        start = extent_start(left);
    }
    if (right && (extent_start(right) < end || since_cut(v, end))) {
        end = extent_end(right);
    }
    v->coarse = true;
    needs = vfio_ram_discard_extents(v, start, end);
    for (Extent *e = extent_first(v, start, end); e && needs;
         e = extent_first(v, extent_end(e), end)) {
        needs--;
        if (extent_end(e) >= end) {
            break;
        }
    }
    reserved = needs;
    ret = -ENOSPC;
    if (reserve_again(v, reserved)) {
        ret = map_again(v, start, end, &reserved);
        release(v, reserved);
    }
    v->coarse = false;
    return ret;
}

int vfio_ram_discard_populate(VFIORamDiscard *v, uint64_t start, uint64_t end)
{
    uint64_t before = v->given_back, freed;
    int ret = map_gaps(v, start, end);

    if (v->granularity || ret != -ENOSPC) {
        return ret;
    }
    freed = make_room(v, 1);
    if (freed) {
        v->given_back += freed;
        ret = map_gaps(v, start, end);
    }
    if (ret == -ENOSPC) {
        ret = map_whole(v, start, end);
    }
    /* What joining has freed for this, and this has not needed */
    if (v->given_back > before) {
        release(v, v->given_back - before);
        v->given_back = before;
    }
    return ret;
}

uint64_t vfio_ram_discard_next_mapped(VFIORamDiscard *v, uint64_t *start)
{
    Extent *e = extent_first(v, *start, UINT64_MAX);

    if (!e) {
        return 0;
    }
    *start = MAX(*start, extent_start(e));
    return extent_end(e);
}

void vfio_ram_discard_remember(VFIORamDiscard *v)
{
    VFIORamDiscardGone *gone = g_new0(VFIORamDiscardGone, 1);
    IntervalTreeNode *node = interval_tree_iter_first(&v->extents, 0,
                                                      UINT64_MAX);

    gone->mr = v->mr;
    gone->start = v->listener.section->offset_within_region;
    gone->end = gone->start + int128_get64(v->listener.section->size);
    for (; node; node = interval_tree_iter_next(node, 0, UINT64_MAX)) {
        Extent *e = g_new0(Extent, 1);

        e->node.start = node->start;
        e->node.last = node->last;
        interval_tree_insert(&e->node, &gone->extents);
    }
    QLIST_INSERT_HEAD(&v->bcontainer->ram_discard_gone, gone, next);
}

void vfio_ram_discard_commit(VFIOContainer *bcontainer)
{
    VFIORamDiscardGone *gone;
    IntervalTreeNode *node;

    while ((gone = QLIST_FIRST(&bcontainer->ram_discard_gone))) {
        QLIST_REMOVE(gone, next);
        while ((node = interval_tree_iter_first(&gone->extents, 0,
                                                UINT64_MAX))) {
            interval_tree_remove(node, &gone->extents);
            g_free(container_of(node, Extent, node));
        }
        g_free(gone);
    }
}

void vfio_ram_discard_forget(VFIORamDiscard *v)
{
    Extent *e;

    while ((e = extent_first(v, 0, UINT64_MAX))) {
        remove_extent(v, e);
        release(v, 1);
    }
    vfio_ram_discard_settled(v);
}

void vfio_ram_discard_query(VFIORamDiscard *v, GuestMemfdListenerInfo *info)
{
    info->extents = qatomic_read(&v->nr_extents);
    info->mapped_bytes = qatomic_read(&v->mapped_bytes);
    info->map_calls = v->map_calls;
    info->unmap_calls = v->unmap_calls;
    info->splits = v->splits;
}
