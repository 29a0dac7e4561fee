/*
 * guest_memfd blocks: the RamDiscardManager, listeners and queries
 *
 * Order of locks: BQL, then accel_ioctl_begin(), then GuestMemfd.lock (several
 * of them by address), then whatever listeners and drivers take.  So:
 *  - whoever holds the lock of a block never takes the BQL.  Drivers and
 *    listeners are called with the lock held, on vCPU threads without the BQL;
 *  - hotplug and the monitor hold the BQL when they take the lock of a block;
 *  - a conversion enters accel_ioctl_begin() before it locks: otherwise the
 *    main thread, with ioctls inhibited, could wait for a block whose owner
 *    waits for its ioctl.
 * Blocks come and go under the BQL.  What a block shows to others changes only
 * under its lock, in guest-memfd-convert.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "migration/blocker.h"
#include "system/confidential-guest-support.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(GuestMemfd, guest_memfd, GUEST_MEMFD,
                                          OBJECT,
                                          { TYPE_RAM_DISCARD_MANAGER }, { })

static QTAILQ_HEAD(, GuestMemfd) blocks = QTAILQ_HEAD_INITIALIZER(blocks);

/* The huge page sizes of an x86 host, above its smallest page. */
GuestMemfdMapGeometry guest_memfd_host_geometry(void)
{
    return (GuestMemfdMapGeometry) {
        .levels = 3,
        .shift = { 30, 21, ctz64(qemu_real_host_page_size()) },
    };
}

/*
 * A RamDiscardListener of QEMU's, behind our interface.  It cannot refuse a
 * discard, and a populate that fails has undone itself: it must not hear of the
 * discard of that range which follows.
 */
typedef struct ForeignListener {
    GuestMemfdListener parent;
    RamDiscardListener *rdl;
    uint64_t refused;           /* start of the range, UINT64_MAX if none */
} ForeignListener;

static int foreign_populate(GuestMemfdListener *l,
                            const MemoryRegionSection *section)
{
    ForeignListener *foreign = container_of(l, ForeignListener, parent);
    MemoryRegionSection tmp = *section;
    int ret = foreign->rdl->notify_populate(foreign->rdl, &tmp);

    foreign->refused = ret ? section->offset_within_region : UINT64_MAX;
    return ret;
}

static int foreign_discard(GuestMemfdListener *l,
                           const MemoryRegionSection *section)
{
    ForeignListener *foreign = container_of(l, ForeignListener, parent);
    MemoryRegionSection tmp = *section;

    if (foreign->refused == section->offset_within_region) {
        foreign->refused = UINT64_MAX;
    } else {
        foreign->rdl->notify_discard(foreign->rdl, &tmp);
    }
    return 0;
}

static void foreign_query(GuestMemfdListener *l, GuestMemfdListenerInfo *info)
{
    info->name = g_strdup("ram-discard-listener");
}

static const GuestMemfdListenerOps foreign_ops = {
    .populate = foreign_populate,
    .discard = foreign_discard,
    .query = foreign_query,
};

int guest_memfd_listener_notify(GuestMemfdListener *l, uint64_t start,
                                uint64_t end, bool populate)
{
    MemoryRegionSection s = *l->section;
    int ret;

    if (!memory_region_section_intersect_range(&s, start, end - start)) {
        return 0;
    }
    ret = populate ? l->ops->populate(l, &s) : l->ops->discard(l, &s);
    trace_guest_memfd_notify(l, populate ? "populate" : "discard",
                             s.offset_within_region, int128_get64(s.size),
                             ret);
    return ret;
}

void guest_memfd_listener_stale(GuestMemfdListener *l, uint64_t start,
                                uint64_t end)
{
    trace_guest_memfd_stale(l, start, end - start);
    if (l->resync_start == l->resync_end) {
        l->resync_start = start;
        l->resync_end = end;
    } else {
        l->resync_start = MIN(l->resync_start, start);
        l->resync_end = MAX(l->resync_end, end);
    }
}

int guest_memfd_listener_discard_runs(GuestMemfd *gm, GuestMemfdListener *l,
                                      uint64_t start, uint64_t end)
{
    uint64_t stop;
    int ret = 0;

    for (; (stop = guest_memfd_map_next(gm->map, false, &start, end));
         start = stop) {
        int r = guest_memfd_listener_notify(l, start, stop, false);

        ret = ret ?: r;
        if (r == -EREMOTEIO) {
            break;
        }
    }
    return ret;
}

int guest_memfd_listener_populate_runs(GuestMemfd *gm, GuestMemfdListener *l,
                                       uint64_t start, uint64_t end)
{
    uint64_t first = start, stop;

    for (; (stop = guest_memfd_map_next(gm->map, false, &start, end));
         start = stop) {
        int ret = guest_memfd_listener_notify(l, start, stop, true);

        if (ret) {
            guest_memfd_listener_discard_runs(gm, l, first, stop);
            return ret;
        }
    }
    return 0;
}

static void section_range(const MemoryRegionSection *section, uint64_t *start,
                          uint64_t *end)
{
    *start = section->offset_within_region;
    *end = *start + int128_get64(section->size);
}

/* Pages cut by the edge of a section cannot be mapped, so nobody maps them. */
static MemoryRegionSection whole_pages(const MemoryRegionSection *section)
{
    uint64_t page = qemu_real_host_page_size();
    MemoryRegionSection whole = *section;
    uint64_t start, end;

    section_range(section, &start, &end);
    whole.offset_within_region = ROUND_UP(start, page);
    whole.offset_within_address_space += whole.offset_within_region - start;
    start = whole.offset_within_region;
    end = MAX(start, QEMU_ALIGN_DOWN(end, page));
    whole.size = int128_make64(end - start);
    /*
     * A copy would hold the whole FlatView, and with it every region in it: a
     * device that listens would keep itself alive through its own BARs.
     */
    whole.fv = NULL;
    return whole;
}

int guest_memfd_register_listener(GuestMemfd *gm, GuestMemfdListener *l,
                                  const MemoryRegionSection *section,
                                  bool keep)
{
    MemoryRegionSection whole = whole_pages(section);
    uint64_t start, end;
    int ret;

    assert(section->mr == gm->mr);
    /* Where a mapping may be kept, it goes even so: I1 asks for more. */
    if (guest_memfd_io_policy(gm->platform, gm->ops->conversion,
                              l->confidential_io) ==
        GUEST_MEMFD_IO_MUST_KEEP) {
        return -EOPNOTSUPP;
    }
    section_range(&whole, &start, &end);

    QEMU_LOCK_GUARD(&gm->lock);
    l->section = memory_region_section_new_copy(&whole);
    ret = l->lazy ? 0 :
          guest_memfd_listener_populate_runs(gm, l, start, end);
    if (ret && !keep) {
        memory_region_section_free_copy(l->section);
        l->section = NULL;
        return ret;
    }
    if (ret) {
        guest_memfd_listener_stale(l, start, end);
    }
    g_ptr_array_add(gm->listeners, l);
    return ret;
}

int guest_memfd_unregister_listener(GuestMemfd *gm, GuestMemfdListener *l)
{
    uint64_t start, end;
    int ret;

    QEMU_LOCK_GUARD(&gm->lock);
    g_ptr_array_remove(gm->listeners, l);
    section_range(l->section, &start, &end);
    ret = l->lazy ? 0 :
          guest_memfd_listener_discard_runs(gm, l, start, end);
    memory_region_section_free_copy(l->section);
    l->section = NULL;
    return ret;
}

void guest_memfd_lock(GuestMemfd *gm)
{
    qemu_mutex_lock(&gm->lock);
}

void guest_memfd_unlock(GuestMemfd *gm)
{
    qemu_mutex_unlock(&gm->lock);
}

uint64_t guest_memfd_next_shared(GuestMemfd *gm, uint64_t *start, uint64_t end)
{
    return guest_memfd_map_next(gm->map, false, start, end);
}

static uint64_t rdm_get_min_granularity(const RamDiscardManager *rdm,
                                        const MemoryRegion *mr)
{
    return qemu_real_host_page_size();
}

static bool rdm_is_populated(const RamDiscardManager *rdm,
                             const MemoryRegionSection *section)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    uint64_t page = qemu_real_host_page_size();
    uint64_t start, end;

    section_range(section, &start, &end);
    start = QEMU_ALIGN_DOWN(start, page);
    end = ROUND_UP(end, page);
    if (start == end) {
        return true;
    }

    QEMU_LOCK_GUARD(&gm->lock);
    return guest_memfd_map_state(gm->map, start, end - start) ==
           GUEST_MEMFD_MAP_SHARED;
}

static int replay(const RamDiscardManager *rdm, MemoryRegionSection *section,
                  bool private, ReplayRamDiscardState fn, void *opaque)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    uint64_t page = qemu_real_host_page_size();
    uint64_t start, end, stop;

    section_range(section, &start, &end);
    start = QEMU_ALIGN_DOWN(start, page);
    end = ROUND_UP(end, page);

    QEMU_LOCK_GUARD(&gm->lock);
    for (; (stop = guest_memfd_map_next(gm->map, private, &start, end));
         start = stop) {
        MemoryRegionSection tmp = *section;
        int ret;

        if (!memory_region_section_intersect_range(&tmp, start, stop - start)) {
            continue;
        }
        ret = fn(&tmp, opaque);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int rdm_replay_populated(const RamDiscardManager *rdm,
                                MemoryRegionSection *section,
                                ReplayRamDiscardState fn, void *opaque)
{
    return replay(rdm, section, false, fn, opaque);
}

static int rdm_replay_discarded(const RamDiscardManager *rdm,
                                MemoryRegionSection *section,
                                ReplayRamDiscardState fn, void *opaque)
{
    return replay(rdm, section, true, fn, opaque);
}

static void rdm_register_listener(RamDiscardManager *rdm,
                                  RamDiscardListener *rdl,
                                  MemoryRegionSection *section)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    ForeignListener *foreign = g_new0(ForeignListener, 1);
    int ret;

    foreign->parent.ops = &foreign_ops;
    foreign->rdl = rdl;
    foreign->refused = UINT64_MAX;
    rdl->section = memory_region_section_new_copy(section);

    ret = guest_memfd_register_listener(gm, &foreign->parent, section, false);
    if (ret) {
        /* The interface cannot fail, and this can happen at run time. */
        error_report("%s: a listener cannot follow the shared memory: %s",
                     gm->id, strerror(-ret));
        g_free(foreign);
    }
}

static ForeignListener *find_foreign(GuestMemfd *gm, RamDiscardListener *rdl)
{
    QEMU_LOCK_GUARD(&gm->lock);
    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];
        ForeignListener *foreign = container_of(l, ForeignListener, parent);

        if (l->ops == &foreign_ops && foreign->rdl == rdl) {
            return foreign;
        }
    }
    return NULL;
}

static void rdm_unregister_listener(RamDiscardManager *rdm,
                                    RamDiscardListener *rdl)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    ForeignListener *foreign = find_foreign(gm, rdl);

    if (foreign) {
        guest_memfd_unregister_listener(gm, &foreign->parent);
        g_free(foreign);
    }
    memory_region_section_free_copy(rdl->section);
    rdl->section = NULL;
}

static void guest_memfd_init(Object *obj)
{
    GuestMemfd *gm = GUEST_MEMFD(obj);

    qemu_mutex_init(&gm->lock);
    gm->listeners = g_ptr_array_new();
}

static void guest_memfd_finalize(Object *obj)
{
    GuestMemfd *gm = GUEST_MEMFD(obj);

    assert(!gm->listeners->len);
    g_ptr_array_free(gm->listeners, true);
    guest_memfd_map_free(gm->map);
    qemu_mutex_destroy(&gm->lock);
    g_free(gm->id);
}

static void guest_memfd_class_init(ObjectClass *klass, const void *data)
{
    RamDiscardManagerClass *rdmc = RAM_DISCARD_MANAGER_CLASS(klass);

    rdmc->get_min_granularity = rdm_get_min_granularity;
    rdmc->register_listener = rdm_register_listener;
    rdmc->unregister_listener = rdm_unregister_listener;
    rdmc->is_populated = rdm_is_populated;
    rdmc->replay_populated = rdm_replay_populated;
    rdmc->replay_discarded = rdm_replay_discarded;
}

static bool block_others(GuestMemfd *gm, Error **errp)
{
    int ret = ram_block_coordinated_discard_require(true);

    if (ret) {
        error_setg_errno(errp, -ret, "'%s' cannot convert memory, because a "
                         "device that needs all of it mapped has blocked "
                         "discarding of RAM", gm->id);
        return false;
    }
    error_setg(&gm->migration_blocker,
               "Memory '%s' is guest_memfd memory, whose private pages cannot "
               "be migrated", gm->id);
    if (migrate_add_blocker(&gm->migration_blocker, errp)) {
        ram_block_coordinated_discard_require(false);
        return false;
    }
    return true;
}

static void unblock_others(GuestMemfd *gm)
{
    migrate_del_blocker(&gm->migration_blocker);
    ram_block_coordinated_discard_require(false);
}

static GuestMemfdPlatform machine_platform(void)
{
    ConfidentialGuestSupport *cgs = current_machine ? current_machine->cgs :
                                                      NULL;

    return guest_memfd_platform(cgs ? object_get_typename(OBJECT(cgs)) : NULL);
}

GuestMemfd *guest_memfd_new(RAMBlock *rb, const char *id,
                            const GuestMemfdOps *ops, bool private,
                            Error **errp)
{
    GuestMemfdMapGeometry geometry = guest_memfd_host_geometry();
    GuestMemfd *gm = GUEST_MEMFD(object_new(TYPE_GUEST_MEMFD));

    assert(bql_locked());
    gm->id = g_strdup(id);
    gm->rb = rb;
    gm->mr = rb->mr;
    gm->ops = ops;
    gm->init_private = private;
    gm->platform = machine_platform();
    gm->page_size = qemu_ram_pagesize(rb);
    gm->map = guest_memfd_map_new(qemu_ram_get_max_length(rb), &geometry,
                                  private);

    if (!block_others(gm, errp)) {
        object_unref(OBJECT(gm));
        return NULL;
    }
    if (guest_memfd_unmaps_private(gm) && !guest_memfd_watch(gm)) {
        error_setg(errp, "'%s': there are too many blocks of memory that is "
                   "converted in place; use fewer, larger ones", id);
        unblock_others(gm);
        object_unref(OBJECT(gm));
        return NULL;
    }
    if (memory_region_set_ram_discard_manager(rb->mr,
                                              RAM_DISCARD_MANAGER(gm))) {
        error_setg(errp, "'%s' has a RamDiscardManager already (virtio-mem "
                   "cannot be used with guest_memfd memory)", id);
        unblock_others(gm);
        object_unref(OBJECT(gm));
        return NULL;
    }
    gm->launching = private && guest_memfd_starts_shared(ops);
    rb->gmem = gm;
    QTAILQ_INSERT_TAIL(&blocks, gm, next);
    trace_guest_memfd_new(gm->id, guest_memfd_size(gm),
                          GuestMemfdDriver_str(ops->driver),
                          GuestMemfdConversion_str(ops->conversion), private);
    return gm;
}

void guest_memfd_free(GuestMemfd *gm)
{
    if (!gm) {
        return;
    }
    assert(bql_locked());
    trace_guest_memfd_free(gm->id);
    if (guest_memfd_unmaps_private(gm)) {
        guest_memfd_unwatch(gm);
    }
    QTAILQ_REMOVE(&blocks, gm, next);
    unblock_others(gm);
    object_unref(OBJECT(gm));
}

GuestMemfd *guest_memfd_from_mr(const MemoryRegion *mr)
{
    return mr->ram_block ? mr->ram_block->gmem : NULL;
}

GuestMemfd *guest_memfd_find(const char *id)
{
    GuestMemfd *gm;

    QTAILQ_FOREACH(gm, &blocks, next) {
        if (!strcmp(gm->id, id)) {
            return gm;
        }
    }
    return NULL;
}

GuestMemfd *guest_memfd_next(GuestMemfd *gm)
{
    return gm ? QTAILQ_NEXT(gm, next) : QTAILQ_FIRST(&blocks);
}

const char *guest_memfd_id(const GuestMemfd *gm)
{
    return gm->id;
}

MemoryRegion *guest_memfd_mr(const GuestMemfd *gm)
{
    return gm->mr;
}

uint64_t guest_memfd_size(const GuestMemfd *gm)
{
    return guest_memfd_map_size(gm->map);
}

void guest_memfd_set_dma_split(GuestMemfd *gm, GuestMemfdDmaSplit split)
{
    assert(!gm->listeners->len);
    gm->dma_split = split;
}

GuestMemfdDmaSplit guest_memfd_dma_split(const GuestMemfd *gm)
{
    return gm->dma_split;
}

int guest_memfd_foreach_run(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            int (*fn)(uint64_t offset, uint64_t size,
                                      bool private, void *opaque),
                            void *opaque)
{
    uint64_t end = offset + size;

    QEMU_LOCK_GUARD(&gm->lock);
    while (offset < end) {
        bool private;
        uint64_t stop = guest_memfd_map_run(gm->map, offset, end, &private);
        int ret = fn(offset, stop - offset, private, opaque);

        if (ret) {
            return ret;
        }
        offset = stop;
    }
    return 0;
}

bool guest_memfd_all_private(const GuestMemfd *gm, uint64_t offset,
                             uint64_t size)
{
    return guest_memfd_map_state(gm->map, offset, size) ==
           GUEST_MEMFD_MAP_PRIVATE;
}

bool guest_memfd_map_by_address(const RAMBlock *rb)
{
    return rb->gmem && guest_memfd_is_mapped(rb->gmem->ops);
}
