/*
 * guest_memfd blocks: looking at them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "internal.h"

/*
 * What a kernel that converts in place pays for a huge page that has shared
 * parts: it is split to 4 KiB pages, whose struct pages (64 bytes each) the
 * HugeTLB vmemmap optimisation had freed but for one page.
 */
static uint64_t split_cost(uint64_t page_size)
{
    return page_size > 4 * KiB ? page_size / (4 * KiB) * 64 - 4 * KiB : 0;
}

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

    /* Conversions wait for as much as a GiB takes. */
    for (uint64_t s = 0, e; s < gm->size; s = e) {
        e = MIN(gm->size, s + GUEST_MEMFD_MAP_LARGEST);
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
        if (h->size == gm->page_size) {
            info->vmemmap_bytes = split_cost(gm->page_size) *
                                  (h->shared + h->mixed);
        }
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

GuestMemfdInfo *guest_memfd_query(GuestMemfd *gm)
{
    GuestMemfdInfo *info = g_new0(GuestMemfdInfo, 1);

    assert(bql_locked());
    query_listeners(gm, info);
    info->id = g_strdup(gm->id);
    info->size = gm->size;
    info->page_size = gm->page_size;
    info->driver = gm->ops->driver;
    info->conversion = gm->ops->conversion;
    info->init = gm->init_private ? GUEST_MEMFD_INIT_PRIVATE :
                                    GUEST_MEMFD_INIT_SHARED;
    state_lock(gm);
    info->private_bytes = guest_memfd_map_private_bytes(gm->map);
    info->shared_bytes = info->size - info->private_bytes;
    info->to_private = direction_info(&gm->stats[true]);
    info->to_shared = direction_info(&gm->stats[false]);
    info->metadata_bytes = guest_memfd_map_metadata_bytes(gm->map);
    state_unlock(gm);
    query_huge_pages(gm, info);
    return info;
}

GuestMemfdRunList *guest_memfd_query_map(GuestMemfd *gm, uint64_t offset,
                                         uint32_t limit, uint64_t *next)
{
    GuestMemfdRunList *list = NULL, **tail = &list;

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
    *next = offset;
    return list;
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
