/*
 * guest_memfd blocks: their life, and their RamDiscardManager
 *
 * Blocks come and go under the BQL.  What a block shows to others changes only
 * in convert.c (the map) and sync.c (listeners).  The order of locks is in
 * internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "migration/blocker.h"
#include "system/ramblock.h"
#include "system/runstate.h"
#include "internal.h"
#include "trace.h"

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(GuestMemfd, guest_memfd, GUEST_MEMFD,
                                          OBJECT,
                                          { TYPE_RAM_DISCARD_MANAGER }, { })

static QTAILQ_HEAD(, GuestMemfd) blocks = QTAILQ_HEAD_INITIALIZER(blocks);

uint64_t guest_memfd_next_run(GuestMemfd *gm, bool private, uint64_t *start,
                              uint64_t end)
{
    uint64_t stop;

    state_lock(gm);
    stop = guest_memfd_map_next(gm->map, private, start, end);
    state_unlock(gm);
    return stop;
}

uint64_t guest_memfd_run_at(GuestMemfd *gm, uint64_t offset, uint64_t end,
                            bool *private)
{
    uint64_t stop;

    state_lock(gm);
    stop = guest_memfd_map_run(gm->map, offset, end, private);
    state_unlock(gm);
    return stop;
}

bool guest_memfd_all_private(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    uint64_t end = offset + size;

    return !guest_memfd_next_run(gm, false, &offset, end);
}

/* The pages of @section, whole, and no more than the block has. */
static void section_pages(GuestMemfd *gm, const MemoryRegionSection *section,
                          uint64_t *start, uint64_t *end)
{
    uint64_t page = qemu_real_host_page_size();

    *start = section->offset_within_region;
    *end = MIN(ROUND_UP(*start + int128_get64(section->size), page), gm->size);
    *start = QEMU_ALIGN_DOWN(*start, page);
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
    uint64_t start, end;

    section_pages(gm, section, &start, &end);
    return !guest_memfd_next_run(gm, true, &start, end);
}

/* Pages may be converted between the calls of @fn. */
static int replay(const RamDiscardManager *rdm, MemoryRegionSection *section,
                  bool private, ReplayRamDiscardState fn, void *opaque)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    uint64_t start, end, stop;

    section_pages(gm, section, &start, &end);
    for (; (stop = guest_memfd_next_run(gm, private, &start, end));
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

static void TSA_NO_TSA guest_memfd_init(Object *obj)
{
    GuestMemfd *gm = GUEST_MEMFD(obj);

    qemu_mutex_init(&gm->convert_mutex);
    qemu_mutex_init(&gm->state_mutex);
    gm->followers = g_ptr_array_new_with_free_func(g_free);
}

static void TSA_NO_TSA guest_memfd_finalize(Object *obj)
{
    GuestMemfd *gm = GUEST_MEMFD(obj);

    assert(!gm->followers->len);
    g_ptr_array_free(gm->followers, true);
    guest_memfd_map_free(gm->map);
    guest_memfd_map_free(gm->unplugged);
    qemu_mutex_destroy(&gm->convert_mutex);
    qemu_mutex_destroy(&gm->state_mutex);
    g_free(gm->id);
}

static void guest_memfd_class_init(ObjectClass *klass, const void *data)
{
    RamDiscardManagerClass *rdmc = RAM_DISCARD_MANAGER_CLASS(klass);

    rdmc->get_min_granularity = rdm_get_min_granularity;
    guest_memfd_rdm_listeners(rdmc);
    rdmc->is_populated = rdm_is_populated;
    rdmc->replay_populated = rdm_replay_populated;
    rdmc->replay_discarded = rdm_replay_discarded;
}

static bool block_others(GuestMemfd *gm, Error **errp)
{
    int ret;

    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "'%s' is memory that can become private, and cannot be "
                   "the destination of a migration, which carries no private "
                   "pages; leave out -incoming", gm->id);
        return false;
    }
    ret = ram_block_coordinated_discard_require(true);
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

bool guest_memfd_may_load(Error **errp)
{
    GuestMemfd *gm = guest_memfd_next(NULL);

    if (gm) {
        error_setg(errp, "no snapshot can be loaded: '%s' is memory that can "
                   "become private, and a snapshot carries no private pages",
                   gm->id);
    }
    return !gm;
}

TSA_NO_TSA
GuestMemfd *guest_memfd_new(RAMBlock *rb, const char *id,
                            const GuestMemfdOps *ops, bool private,
                            Error **errp)
{
    static uint64_t next_number;
    GuestMemfd *gm = GUEST_MEMFD(object_new(TYPE_GUEST_MEMFD));

    assert(bql_locked());
    gm->number = next_number++;
    gm->id = g_strdup(id);
    gm->rb = rb;
    gm->mr = rb->mr;
    gm->ops = ops;
    gm->init_private = private;
    gm->page_size = qemu_ram_pagesize(rb);
    gm->provider = gm->page_size > qemu_real_host_page_size() ?
                   GUEST_MEMFD_PROVIDER_HUGETLB : GUEST_MEMFD_PROVIDER_PAGES;
    gm->restructure = GUEST_MEMFD_RESTRUCTURE__MAX;
    gm->size = qemu_ram_get_max_length(rb);
    gm->map = guest_memfd_map_new(gm->size, qemu_real_host_page_size(),
                                  private);
    if (!gm->map) {
        error_setg(errp, "'%s': QEMU has no memory to remember the state of "
                   "0x%" PRIx64 " bytes", id, gm->size);
        goto unref;
    }
    if (!block_others(gm, errp)) {
        goto unref;
    }
    if (!guest_memfd_watch(gm)) {
        error_setg(errp, "'%s': there are too many blocks of memory that is "
                   "converted in place; use fewer, larger ones", id);
        goto unblock;
    }
    if (memory_region_set_ram_discard_manager(rb->mr,
                                              RAM_DISCARD_MANAGER(gm))) {
        error_setg(errp, "'%s' has a RamDiscardManager already", id);
        goto unblock;
    }
    gm->launching = private && guest_memfd_starts_shared(ops);
    rb->gmem = gm;
    QTAILQ_INSERT_TAIL(&blocks, gm, next);
    trace_guest_memfd_new(gm->id, gm->size,
                          GuestMemfdDriver_str(ops->driver),
                          GuestMemfdConversion_str(ops->conversion), private);
    return gm;

unblock:
    unblock_others(gm);
unref:
    object_unref(OBJECT(gm));
    return NULL;
}

void guest_memfd_free(GuestMemfd *gm)
{
    if (!gm) {
        return;
    }
    assert(bql_locked());
    trace_guest_memfd_free(gm->id);
    /* A vCPU may convert it, or have found it and wait. */
    convert_lock(gm);
    guest_memfd_unwatch(gm);
    gm->rb = NULL;
    convert_unlock(gm);
    QTAILQ_REMOVE(&blocks, gm, next);
    unblock_others(gm);
    object_unref(OBJECT(gm));
}

uint64_t guest_memfd_thp_size(void)
{
    return guest_memfd_table_bytes(qemu_real_host_page_size());
}

void guest_memfd_set_provider(GuestMemfd *gm, GuestMemfdProvider provider)
{
    gm->provider = provider;
}

void guest_memfd_set_restructure(GuestMemfd *gm, GuestMemfdRestructure how)
{
    gm->restructure = how;
}

uint64_t guest_memfd_huge_page_size(const GuestMemfd *gm)
{
    return gm->provider == GUEST_MEMFD_PROVIDER_THP ? guest_memfd_thp_size() :
                                                      gm->page_size;
}

GuestMemfd *guest_memfd_from_mr(const MemoryRegion *mr)
{
    return mr->ram_block ? mr->ram_block->gmem : NULL;
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

int guest_memfd_foreach_run(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            int (*fn)(uint64_t offset, uint64_t size,
                                      bool private, void *opaque),
                            void *opaque)
{
    uint64_t end = offset + size;
    int ret = 0;

    convert_lock(gm);
    while (!ret && offset < end) {
        bool private;
        uint64_t stop = guest_memfd_run_at(gm, offset, end, &private);

        ret = fn(offset, stop - offset, private, opaque);
        offset = stop;
    }
    convert_unlock(gm);
    return ret;
}
