/*
 * DMA mappings of guest_memfd memory
 *
 * A container maps the shared part of each section of such memory as extents,
 * one for each range that was populated, since a guest gives memory back in
 * the pieces in which it asked for it: unmapping whole extents is exact, and
 * no IOMMU can unmap a part of a mapping (type1: EINVAL, iommufd: ENOENT).
 * Where a part is all that goes, the extent is unmapped and the rest mapped
 * again in pieces (hw/vfio/guest-memfd-plan.c), or cut, by an iommufd that was
 * told before that it has to.
 *
 * The extents of a section are what the container holds, no more and no less:
 * one is added after its map succeeded and removed after its unmap did.  They
 * belong to the lock of the block (system/guest-memfd.c), under which all
 * callbacks run; the list of sections is written under the BQL and read under
 * RCU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include CONFIG_DEVICES /* CONFIG_IOMMUFD */
#include <sys/resource.h>
#include "qemu/error-report.h"
#include "qemu/interval-tree.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/rcu_queue.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "hw/vfio/guest-memfd-dma.h"
#include "system/guest-memfd.h"
#include "trace.h"

/* The largest errno (Linux include/linux/err.h). */
#define MAX_ERRNO 4095

/*
 * Mappings of a limited container that conversions leave to sections that come
 * later: at most this many, or an eighth.
 */
#define MAPPINGS_FOR_OTHERS 512

typedef struct Extent {
    IntervalTreeNode node;      /* offsets in the memory region, inclusive */
} Extent;

typedef struct VFIOGuestMemfd {
    struct rcu_head rcu;
    GuestMemfdListener listener;
    VFIOContainer *bcontainer;
    GuestMemfd *gm;
    MemoryRegion *mr;
    uint64_t to_iova;           /* add to an offset in @mr, modulo 2^64 */
    hwaddr iova;
    VFIOGuestMemfdPlan plan;
    bool readonly;
    bool arriving;              /* being registered: the reserve is for it */
    bool cannot_cut;            /* the container, but it should */
    IntervalTreeRoot extents;
    unsigned nr_extents;        /* read by others: atomic */
    size_t mapped_bytes;        /* likewise */
    uint64_t map_calls;
    uint64_t unmap_calls;
    uint64_t splits;
    QLIST_ENTRY(VFIOGuestMemfd) next;
} VFIOGuestMemfd;

static QLIST_HEAD(, VFIOGuestMemfd) sections =
    QLIST_HEAD_INITIALIZER(sections);

static uint64_t extent_start(const Extent *e)
{
    return e->node.start;
}

static uint64_t extent_end(const Extent *e)
{
    return e->node.last + 1;
}

static Extent *extent_first(VFIOGuestMemfd *v, uint64_t start, uint64_t end)
{
    IntervalTreeNode *node = interval_tree_iter_first(&v->extents, start,
                                                      end - 1);

    return node ? container_of(node, Extent, node) : NULL;
}

/* vfio-user and type1 limit their mappings; 0 is no limit. */
static bool budget_left(VFIOGuestMemfd *v)
{
    uint64_t limit = v->bcontainer->dma_max_mappings;
    uint64_t used = v->arriving ? 0 : MIN(MAPPINGS_FOR_OTHERS, limit / 8);
    VFIOGuestMemfd *other;

    if (!limit) {
        return true;
    }
    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(other, &sections, next) {
        if (other->bcontainer == v->bcontainer) {
            used += qatomic_read(&other->nr_extents);
        }
    }
    return used < limit;
}

static bool remote_peer(VFIOGuestMemfd *v)
{
    return object_dynamic_cast(OBJECT(v->bcontainer), TYPE_VFIO_IOMMU_USER);
}

/*
 * What to do about ENOMEM, beyond what the errno says.  It is how kernels
 * answer when RLIMIT_MEMLOCK is too low, but also when there is no memory; so
 * the limit is only named if this memory exceeds it by itself.
 *
 * @more: bytes that were to be mapped besides those that are
 */
static char *memlock_advice(VFIOGuestMemfd *v, int ret, uint64_t more)
{
    struct rlimit limit;
    VFIOGuestMemfd *other;

    WITH_RCU_READ_LOCK_GUARD() {
        QLIST_FOREACH_RCU(other, &sections, next) {
            more += qatomic_read(&other->mapped_bytes);
        }
    }
    if (ret != -ENOMEM || remote_peer(v) ||
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
static void report_memlock_once(VFIOGuestMemfd *v, int ret, uint64_t size)
{
    static bool reported;
    g_autofree char *advice = memlock_advice(v, ret, size);

    if (*advice && !qatomic_xchg(&reported, true)) {
        warn_report("cannot map a part of '%s' for DMA: %s%s",
                    guest_memfd_id(v->gm), strerror(-ret), advice);
    }
}

static int container_unmap(VFIOGuestMemfd *v, hwaddr iova, uint64_t size)
{
#ifdef CONFIG_IOMMUFD
    if (object_dynamic_cast(OBJECT(v->bcontainer), TYPE_VFIO_IOMMU_IOMMUFD)) {
        return vfio_guest_memfd_iommufd_unmap(v->bcontainer, iova, size);
    }
#endif
    return vfio_container_dma_unmap(v->bcontainer, iova, size, NULL, false);
}

/*
 * The calls to the container.  An answer counts, so nothing is sent ahead in a
 * memory transaction.  What a remote peer says may be any number.
 */
static int container_call(VFIOGuestMemfd *v, uint64_t start, uint64_t end,
                          bool map)
{
    void *vaddr = memory_region_get_ram_ptr(v->mr) + start;
    bool bql = bql_locked();
    int ret;

    if (bql) {
        v->bcontainer->dma_sync = true;
    }
    if (map) {
        ret = vfio_container_dma_map(v->bcontainer, start + v->to_iova,
                                     end - start, vaddr, v->readonly, v->mr);
    } else {
        ret = container_unmap(v, start + v->to_iova, end - start);
    }
    if (bql) {
        v->bcontainer->dma_sync = false;
    }
    return ret > 0 || ret < -MAX_ERRNO ? -EIO : ret;
}

/*
 * A remote peer that has not answered in time may still do what it was asked,
 * after us.  It works in order, so the opposite, sent behind it, settles that;
 * where nothing happened it changes nothing.
 */
static int container_request(VFIOGuestMemfd *v, uint64_t start, uint64_t end,
                             bool map)
{
    int ret = container_call(v, start, end, map);

    if (ret && remote_peer(v)) {
        container_call(v, start, end, !map);
    }
    if (ret && map && !v->arriving) {
        report_memlock_once(v, ret, end - start);
    }
    return ret;
}

static void add_extent(VFIOGuestMemfd *v, uint64_t start, uint64_t end)
{
    Extent *e = g_new0(Extent, 1);

    e->node.start = start;
    e->node.last = end - 1;
    interval_tree_insert(&e->node, &v->extents);
    qatomic_set(&v->nr_extents, v->nr_extents + 1);
    qatomic_set(&v->mapped_bytes, v->mapped_bytes + end - start);
}

static void remove_extent(VFIOGuestMemfd *v, Extent *e)
{
    qatomic_set(&v->nr_extents, v->nr_extents - 1);
    qatomic_set(&v->mapped_bytes,
                v->mapped_bytes - (extent_end(e) - extent_start(e)));
    interval_tree_remove(&e->node, &v->extents);
    g_free(e);
}

static int map_extent(VFIOGuestMemfd *v, uint64_t start, uint64_t end)
{
    int ret;

    if (!budget_left(v)) {
        ret = -ENOSPC;
    } else {
        v->map_calls++;
        ret = container_request(v, start, end, true);
    }
    trace_vfio_guest_memfd_map(v->bcontainer, start + v->to_iova, end - start,
                               ret);
    if (!ret) {
        add_extent(v, start, end);
    }
    return ret;
}

static int unmap_extent(VFIOGuestMemfd *v, Extent *e)
{
    uint64_t start = extent_start(e), size = extent_end(e) - start;
    int ret;

    v->unmap_calls++;
    ret = container_request(v, start, start + size, false);
    trace_vfio_guest_memfd_unmap(v->bcontainer, start + v->to_iova, size, ret);
    if (!ret) {
        remove_extent(v, e);
    }
    return ret;
}

static int unmap_extents(VFIOGuestMemfd *v, uint64_t start, uint64_t end)
{
    Extent *e;

    while ((e = extent_first(v, start, end))) {
        int ret = unmap_extent(v, e);

        if (ret) {
            return ret;
        }
    }
    return 0;
}

/* The rest of an extent, which was dropped beyond @border. */
static int map_pieces(VFIOGuestMemfd *v, uint64_t start, uint64_t end,
                      uint64_t border)
{
    while (start < end) {
        uint64_t stop = vfio_guest_memfd_piece(&v->plan, start + v->to_iova,
                                               end + v->to_iova,
                                               border + v->to_iova) -
                        v->to_iova;
        int ret = map_extent(v, start, stop);

        if (ret) {
            return ret;
        }
        start = stop;
    }
    return 0;
}

/* Replace @e by what it has outside of [@start, @end). */
static int split_extent(VFIOGuestMemfd *v, Extent *e, uint64_t start,
                        uint64_t end)
{
    uint64_t old_start = extent_start(e), old_end = extent_end(e);
    int ret;

    ret = unmap_extent(v, e);
    if (ret) {
        return ret;
    }
    v->splits++;
    trace_vfio_guest_memfd_split(v->bcontainer, old_start + v->to_iova,
                                 old_end - old_start, start + v->to_iova,
                                 end - start);

    ret = old_start < start ? map_pieces(v, old_start, start, start) : 0;
    if (!ret) {
        ret = end < old_end ? map_pieces(v, end, old_end, end) : 0;
    }
    if (!ret) {
        return 0;
    }

    /* Back to one extent, which needs fewer mappings than any split. */
    if (unmap_extents(v, old_start, old_end) ||
        map_extent(v, old_start, old_end)) {
        guest_memfd_listener_stale(&v->listener, old_start, old_end);
    }
    return ret;
}

static int container_cut(VFIOGuestMemfd *v, hwaddr iova, uint64_t size)
{
#ifdef CONFIG_IOMMUFD
    return vfio_guest_memfd_iommufd_cut(v->bcontainer, iova, size);
#else
    g_assert_not_reached();
#endif
}

/* Take [@start, @end) out of @e; what is left is mapped all the time. */
static int cut_extent(VFIOGuestMemfd *v, Extent *e, uint64_t start,
                      uint64_t end)
{
    uint64_t old_start = extent_start(e), old_end = extent_end(e);
    int ret;

    start = MAX(start, old_start);
    end = MIN(end, old_end);
    v->unmap_calls++;
    ret = container_cut(v, start + v->to_iova, end - start);
    trace_vfio_guest_memfd_unmap(v->bcontainer, start + v->to_iova,
                                 end - start, ret);
    if (ret) {
        return ret;
    }
    v->splits++;
    trace_vfio_guest_memfd_split(v->bcontainer, old_start + v->to_iova,
                                 old_end - old_start, start + v->to_iova,
                                 end - start);
    remove_extent(v, e);
    if (old_start < start) {
        add_extent(v, old_start, start);
    }
    if (end < old_end) {
        add_extent(v, end, old_end);
    }
    return 0;
}

static void section_range(const MemoryRegionSection *section, uint64_t *start,
                          uint64_t *end)
{
    *start = section->offset_within_region;
    *end = *start + int128_get64(section->size);
}

static int dma_discard(GuestMemfdListener *l,
                       const MemoryRegionSection *section)
{
    VFIOGuestMemfd *v = container_of(l, VFIOGuestMemfd, listener);
    uint64_t start, end;
    Extent *e;

    section_range(section, &start, &end);
    while ((e = extent_first(v, start, end))) {
        int ret;

        if (extent_start(e) >= start && extent_end(e) <= end) {
            ret = unmap_extent(v, e);
        } else if (v->plan.split == GUEST_MEMFD_DMA_SPLIT_CUT) {
            ret = cut_extent(v, e, start, end);
        } else {
            ret = split_extent(v, e, start, end);
        }
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int dma_populate(GuestMemfdListener *l,
                        const MemoryRegionSection *section)
{
    VFIOGuestMemfd *v = container_of(l, VFIOGuestMemfd, listener);
    uint64_t start, end;

    if (v->cannot_cut) {
        return -EOPNOTSUPP;
    }
    section_range(section, &start, &end);
    while (start < end) {
        Extent *e = extent_first(v, start, end);
        uint64_t stop = e ? extent_start(e) : end;
        int ret;

        if (stop <= start) {
            start = extent_end(e);
            continue;
        }
        stop = vfio_guest_memfd_extent(&v->plan, start + v->to_iova,
                                       stop + v->to_iova) - v->to_iova;
        ret = map_extent(v, start, stop);
        if (ret) {
            return ret;
        }
        start = stop;
    }
    return 0;
}

static uint64_t dma_next_mapped(GuestMemfdListener *l, uint64_t *start)
{
    VFIOGuestMemfd *v = container_of(l, VFIOGuestMemfd, listener);
    Extent *e = extent_first(v, *start, UINT64_MAX);

    if (!e) {
        return 0;
    }
    *start = MAX(*start, extent_start(e));
    return extent_end(e);
}

static void dma_query(GuestMemfdListener *l, GuestMemfdListenerInfo *info)
{
    VFIOGuestMemfd *v = container_of(l, VFIOGuestMemfd, listener);

    info->name = g_strdup_printf("%s@0x%" HWADDR_PRIx,
                                 object_get_typename(OBJECT(v->bcontainer)),
                                 v->iova);
    info->extents = v->nr_extents;
    info->mapped_bytes = v->mapped_bytes;
    info->map_calls = v->map_calls;
    info->unmap_calls = v->unmap_calls;
    info->splits = v->splits;
}

static const GuestMemfdListenerOps dma_listener_ops = {
    .populate = dma_populate,
    .discard = dma_discard,
    .next_mapped = dma_next_mapped,
    .query = dma_query,
};

/* The container could not let go of these, and nobody can ask it any more. */
static void forget_extents(VFIOGuestMemfd *v)
{
    Extent *e;

    while ((e = extent_first(v, 0, UINT64_MAX))) {
        interval_tree_remove(&e->node, &v->extents);
        g_free(e);
    }
}

static VFIOGuestMemfdPlan make_plan(GuestMemfd *gm, MemoryRegion *mr)
{
    GuestMemfdDmaSplit split = guest_memfd_dma_split(gm);

    return (VFIOGuestMemfdPlan) {
        .split = split == GUEST_MEMFD_DMA_SPLIT_AUTO ?
                 GUEST_MEMFD_DMA_SPLIT_LOG : split,
        .host = guest_memfd_host_geometry(),
        .huge = qemu_ram_pagesize(mr->ram_block),
    };
}

static int add_shared(uint64_t offset, uint64_t size, bool private,
                      void *opaque)
{
    uint64_t *shared = opaque;

    *shared += private ? 0 : size;
    return 0;
}

static void set_region_error(Error **errp, VFIOGuestMemfd *v,
                             const MemoryRegionSection *section, int ret)
{
    g_autofree char *advice = NULL;
    uint64_t start, end, shared = 0;

    section_range(section, &start, &end);
    guest_memfd_foreach_run(v->gm, start, end - start, add_shared, &shared);
    advice = memlock_advice(v, ret, shared);
    error_setg(errp, "cannot map the shared part of '%s' at 0x%" HWADDR_PRIx
               " for DMA: %s%s", guest_memfd_id(v->gm), v->iova,
               strerror(-ret), advice);
}

bool vfio_guest_memfd_region_add(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section, Error **errp)
{
    VFIOGuestMemfd *v = g_new0(VFIOGuestMemfd, 1);
    bool running = bcontainer->initialized;
    Error *local_err = NULL;
    int ret;

    v->listener.ops = &dma_listener_ops;
    v->bcontainer = bcontainer;
    v->gm = guest_memfd_from_mr(section->mr);
    v->mr = section->mr;
    v->iova = section->offset_within_address_space;
    v->to_iova = v->iova - section->offset_within_region;
    v->readonly = section->readonly;
    v->plan = make_plan(v->gm, v->mr);
    v->cannot_cut = v->plan.split == GUEST_MEMFD_DMA_SPLIT_CUT &&
                    !bcontainer->dma_cut;
    if (v->cannot_cut) {
        error_setg(&local_err, "x-dma-split=cut of '%s' needs iommufd, and "
                   "memory that is there before the first device; use "
                   "x-dma-split=log", guest_memfd_id(v->gm));
        if (!running) {
            error_propagate(errp, local_err);
            g_free(v);
            return false;
        }
        error_report_err(local_err);
        local_err = NULL;
    }

    QLIST_INSERT_HEAD_RCU(&sections, v, next);
    v->arriving = true;
    ret = guest_memfd_register_listener(v->gm, &v->listener, section, running);
    v->arriving = false;
    if (!ret) {
        return true;
    }

    set_region_error(&local_err, v, section, ret);
    if (running) {
        error_report_err(local_err);
        return true;
    }
    error_propagate(errp, local_err);
    forget_extents(v);
    QLIST_REMOVE_RCU(v, next);
    g_free_rcu(v, rcu);
    return false;
}

static VFIOGuestMemfd *find_section(VFIOContainer *bcontainer,
                                    const MemoryRegionSection *section)
{
    VFIOGuestMemfd *v;

    QLIST_FOREACH(v, &sections, next) {
        if (v->bcontainer == bcontainer && v->mr == section->mr &&
            v->iova == section->offset_within_address_space) {
            return v;
        }
    }
    return NULL;
}

void vfio_guest_memfd_region_del(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section)
{
    VFIOGuestMemfd *v = find_section(bcontainer, section);
    int ret;

    if (!v) {
        return;
    }
    ret = guest_memfd_unregister_listener(v->gm, &v->listener);
    if (ret) {
        error_report("%s: cannot unmap all of '%s' at 0x%" HWADDR_PRIx
                     " from DMA: %s", __func__, guest_memfd_id(v->gm), v->iova,
                     strerror(-ret));
    }
    forget_extents(v);
    QLIST_REMOVE_RCU(v, next);
    g_free_rcu(v, rcu);
}

bool vfio_guest_memfd_may_translate(MemoryRegion *mr)
{
    if (guest_memfd_from_mr(mr)) {
        error_report_once("'%s' is guest_memfd memory, which cannot be mapped "
                          "for DMA through a virtual IOMMU",
                          memory_region_name(mr));
        return false;
    }
    return true;
}

static int sync_dirty_section(MemoryRegionSection *section, void *opaque)
{
    hwaddr translated = memory_region_get_ram_addr(section->mr) +
                        section->offset_within_region;
    hwaddr iova = section->offset_within_address_space;
    Error *local_err = NULL;
    int ret;

    ret = vfio_container_query_dirty_bitmap(opaque, iova,
                                            int128_get64(section->size),
                                            translated, &local_err);
    if (ret) {
        error_report_err(local_err);
    }
    return ret;
}

int vfio_guest_memfd_sync_dirty(VFIOContainer *bcontainer,
                                MemoryRegionSection *section, Error **errp)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(section->mr);
    int ret = ram_discard_manager_replay_populated(rdm, section,
                                                   sync_dirty_section,
                                                   bcontainer);

    if (ret) {
        error_setg_errno(errp, -ret, "cannot fetch the dirty pages of '%s'",
                         memory_region_name(section->mr));
    }
    return ret;
}
