/*
 * guest_memfd blocks: QMP
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-guest-memfd.h"
#include "system/hostmem.h"
#include "system/ramblock.h"
#include "system/runstate.h"
#include "internal.h"
#include "vmemmap.h"

#define DEFAULT_RUNS 1024
#define MAX_RUNS 4096

static GuestMemfdDirectionInfo *direction_info(const GuestMemfdStats *stats)
{
    GuestMemfdDirectionInfo *info = g_new0(GuestMemfdDirectionInfo, 1);

    info->requests = stat64_get(&stats->requests);
    info->bytes = stat64_get(&stats->bytes);
    info->failures = stat64_get(&stats->failures);
    info->retries = stat64_get(&stats->retries);
    info->rollbacks = stat64_get(&stats->rollbacks);
    return info;
}

static void query_huge_pages(GuestMemfd *gm, GuestMemfdInfo *info)
    TSA_EXCLUDES(guest_memfd_state_lock)
{
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_SIZES] = { };
    GuestMemfdHugePageInfoList **tail = &info->huge_pages;
    uint64_t largest = guest_memfd_largest_page(qemu_real_host_page_size());

    /* Conversions wait for as much as one of the largest pages takes. */
    for (uint64_t s = 0, e; s < gm->size; s = e) {
        e = MIN(gm->size, s + largest);
        state_lock(gm);
        guest_memfd_map_count(gm->map, s, e, count);
        state_unlock(gm);
    }
    for (unsigned i = 0; i < GUEST_MEMFD_MAP_SIZES; i++) {
        GuestMemfdHugePageInfo *h = g_new0(GuestMemfdHugePageInfo, 1);

        h->size = count[i].size;
        h->shared = count[i].shared;
        h->q_private = count[i].private;
        h->mixed = count[i].mixed;
        QAPI_LIST_APPEND(tail, h);
    }
}

/* The BQL keeps the RAMBlock.  A kernel that does not count says 0. */
static bool all_is_allocated(GuestMemfd *gm)
{
    struct stat st;

    return !fstat(gm->rb->guest_memfd, &st) &&
           (uint64_t)st.st_blocks * 512 >= gm->size;
}

/* Huge pages that the vmemmap describes by one page cost nothing. */
static void query_vmemmap(GuestMemfd *gm, GuestMemfdInfo *info)
    TSA_EXCLUDES(guest_memfd_state_lock)
{
    uint64_t largest = guest_memfd_largest_page(qemu_real_host_page_size());
    uint64_t page = gm->page_size;

    info->has_restructure = gm->restructure < GUEST_MEMFD_RESTRUCTURE__MAX;
    info->restructure = gm->restructure;
    info->has_vmemmap_bytes = info->has_restructure && all_is_allocated(gm) &&
                              page > qemu_real_host_page_size();
    for (uint64_t s = 0; info->has_vmemmap_bytes && s < gm->size;) {
        uint64_t e = MIN(gm->size, QEMU_ALIGN_DOWN(s, largest) + largest);
        uint64_t stop;

        state_lock(gm);
        stop = guest_memfd_map_next(gm->map, false, &s, e);
        if (stop) {
            uint64_t first = QEMU_ALIGN_DOWN(s, page);
            /* Those of which all is shared cost the same. */
            uint64_t nr = first < s ? 1 : MAX((stop - s) / page, 1);

            info->vmemmap_bytes += nr * guest_memfd_vmemmap_bytes(
                gm->map, first, page, info->restructure);
            s = first + nr * page;
        }
        state_unlock(gm);
    }
}

/* Who follows the block changes under the BQL, which is held here. */
static void TSA_NO_TSA query_listeners(GuestMemfd *gm, GuestMemfdInfo *info)
{
    GuestMemfdListenerInfoList **tail = &info->listeners;

    for (guint i = 0; i < gm->followers->len; i++) {
        GuestMemfdFollower *f = g_ptr_array_index(gm->followers, i);
        GuestMemfdListenerInfo *li = g_new0(GuestMemfdListenerInfo, 1);

        if (f->rdl->query) {
            f->rdl->query(f->rdl, li);
        }
        li->name = li->name ?: g_strdup("unnamed");
        QAPI_LIST_APPEND(tail, li);
    }
}

static GuestMemfdInfo *query_block(GuestMemfd *gm)
{
    GuestMemfdInfo *info = g_new0(GuestMemfdInfo, 1);

    query_listeners(gm, info);
    info->id = g_strdup(gm->id);
    info->size = gm->size;
    info->page_size = gm->page_size;
    info->provider = gm->provider;
    info->driver = gm->ops->driver;
    info->conversion = gm->ops->conversion;
    info->init = gm->init_private ? GUEST_MEMFD_INIT_PRIVATE :
                                    GUEST_MEMFD_INIT_SHARED;
    info->mapped = memory_region_is_mapped(gm->mr);
    state_lock(gm);
    info->private_bytes = guest_memfd_map_private_bytes(gm->map);
    info->shared_bytes = info->size - info->private_bytes;
    info->to_private = direction_info(&gm->stats[true]);
    info->to_shared = direction_info(&gm->stats[false]);
    info->metadata_bytes = guest_memfd_map_metadata_bytes(gm->map);
    state_unlock(gm);
    query_huge_pages(gm, info);
    query_vmemmap(gm, info);
    return info;
}

static GuestMemfdMapInfo *query_map(GuestMemfd *gm, uint64_t offset,
                                    uint32_t limit)
{
    GuestMemfdMapInfo *info = g_new0(GuestMemfdMapInfo, 1);
    GuestMemfdRunList **tail = &info->runs;

    state_lock(gm);
    for (; offset < gm->size && limit; limit--) {
        GuestMemfdRun *run = g_new0(GuestMemfdRun, 1);

        run->offset = offset;
        offset = guest_memfd_map_run(gm->map, offset, gm->size,
                                     &run->q_private);
        run->size = offset - run->offset;
        QAPI_LIST_APPEND(tail, run);
    }
    state_unlock(gm);
    info->id = g_strdup(gm->id);
    info->has_next_offset = offset < gm->size;
    info->next_offset = offset;
    return info;
}

static GuestMemfd *find_block(const char *id, Error **errp)
{
    GuestMemfd *gm = NULL, *found = NULL;
    Object *obj;

    /* A deleted object can be gone before the last reference to its memory. */
    while ((gm = guest_memfd_next(gm))) {
        found = strcmp(gm->id, id) ? found : gm;
    }
    if (found) {
        return found;
    }
    obj = object_resolve_path_component(object_get_objects_root(), id);
    if (obj && object_dynamic_cast(obj, TYPE_MEMORY_BACKEND)) {
        error_setg(errp, "'%s' is ordinary memory (%s%s), none of which can be "
                   "converted; query-guest-memfd lists what can", id,
                   object_get_typename(obj),
                   object_property_find(obj, "conversion") ?
                   ",conversion=none" : "");
    } else {
        error_setg(errp, "'%s' is not a block of guest_memfd memory; "
                   "query-guest-memfd lists those there are", id);
    }
    return NULL;
}

GuestMemfdInfoList *qmp_query_guest_memfd(Error **errp)
{
    GuestMemfdInfoList *list = NULL, **tail = &list;
    GuestMemfd *gm = NULL;

    assert(bql_locked());
    while ((gm = guest_memfd_next(gm))) {
        QAPI_LIST_APPEND(tail, query_block(gm));
    }
    return list;
}

GuestMemfdMapInfo *qmp_query_guest_memfd_map(const char *id, bool has_offset,
                                             uint64_t offset, bool has_limit,
                                             uint32_t limit, Error **errp)
{
    GuestMemfd *gm = find_block(id, errp);

    if (!gm) {
        return NULL;
    }
    limit = has_limit ? limit : DEFAULT_RUNS;
    if (!QEMU_IS_ALIGNED(offset, qemu_real_host_page_size()) ||
        offset >= gm->size) {
        error_setg(errp, "offset 0x%" PRIx64 " must be a multiple of 0x%"
                   PRIxPTR " below the size of '%s', 0x%" PRIx64, offset,
                   qemu_real_host_page_size(), id, gm->size);
        return NULL;
    }
    if (!limit || limit > MAX_RUNS) {
        error_setg(errp, "limit %" PRIu32 " must be between 1 and %d", limit,
                   MAX_RUNS);
        return NULL;
    }
    return query_map(gm, offset, limit);
}

void qmp_x_guest_memfd_convert(const char *id, uint64_t offset, uint64_t size,
                               bool private, Error **errp)
{
    GuestMemfd *gm = find_block(id, errp);

    if (!gm) {
        return;
    }
    /* The guest does not convert memory: a dump has stopped it. */
    if (private && qemu_system_dump_in_progress()) {
        error_setg(errp, "'%s' cannot become private while memory is dumped; "
                   "wait for the event DUMP_COMPLETED", id);
        return;
    }
    guest_memfd_convert_block(gm, offset, size, private, errp);
}
