/*
 * guest_memfd blocks: looking at them
 *
 * What the monitor shows, and the comparison of what is kept twice.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
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

    info->requests = stats->requests;
    info->bytes = stats->bytes;
    info->failures = stats->failures;
    info->retries = stats->retries;
    info->rollbacks = stats->rollbacks;
    return info;
}

static void query_huge_pages(GuestMemfd *gm, GuestMemfdInfo *info)
{
    GuestMemfdMapCount count[GUEST_MEMFD_MAP_MAX_LEVELS];
    unsigned n = guest_memfd_map_count(gm->map, count);
    GuestMemfdHugePageInfoList **tail = &info->huge_pages;

    for (unsigned i = 0; i < n; i++) {
        GuestMemfdHugePageInfo *h = g_new0(GuestMemfdHugePageInfo, 1);

        h->size = count[i].size;
        h->shared = count[i].shared;
        h->q_private = count[i].private;
        h->mixed = count[i].mixed;
        QAPI_LIST_APPEND(tail, h);
        if (count[i].size == gm->page_size) {
            info->vmemmap_bytes = split_cost(gm->page_size) *
                                  (h->shared + h->mixed);
        }
    }
}

GuestMemfdInfo *guest_memfd_query(GuestMemfd *gm)
{
    GuestMemfdInfo *info = g_new0(GuestMemfdInfo, 1);
    GuestMemfdListenerInfoList **tail = &info->listeners;

    QEMU_LOCK_GUARD(&gm->lock);
    info->id = g_strdup(gm->id);
    info->size = guest_memfd_size(gm);
    info->page_size = gm->page_size;
    info->driver = gm->ops->driver;
    info->conversion = gm->ops->conversion;
    info->init = gm->init_private ? GUEST_MEMFD_INIT_PRIVATE :
                                    GUEST_MEMFD_INIT_SHARED;
    info->private_bytes = guest_memfd_map_private_bytes(gm->map);
    info->shared_bytes = info->size - info->private_bytes;
    info->to_private = direction_info(&gm->to_private);
    info->to_shared = direction_info(&gm->to_shared);
    info->metadata_bytes = guest_memfd_map_metadata_bytes(gm->map);
    query_huge_pages(gm, info);

    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];
        GuestMemfdListenerInfo *li = g_new0(GuestMemfdListenerInfo, 1);

        if (l->ops->query) {
            l->ops->query(l, li);
        }
        li->name = li->name ?: g_strdup("unnamed");
        QAPI_LIST_APPEND(tail, li);
    }
    return info;
}

GuestMemfdRunList *guest_memfd_query_map(GuestMemfd *gm, uint64_t offset,
                                         uint32_t limit, uint64_t *next)
{
    GuestMemfdRunList *list = NULL, **tail = &list;
    uint64_t end = guest_memfd_size(gm);

    QEMU_LOCK_GUARD(&gm->lock);
    for (; offset < end && limit; limit--) {
        GuestMemfdRun *run = g_new0(GuestMemfdRun, 1);

        run->offset = offset;
        offset = guest_memfd_map_run(gm->map, offset, end, &run->q_private);
        run->size = offset - run->offset;
        QAPI_LIST_APPEND(tail, run);
    }
    *next = offset;
    return list;
}

bool guest_memfd_may_dump(Error **errp)
{
    for (GuestMemfd *gm = guest_memfd_next(NULL); gm;
         gm = guest_memfd_next(gm)) {
        uint64_t private;

        WITH_QEMU_LOCK_GUARD(&gm->lock) {
            private = guest_memfd_map_private_bytes(gm->map);
        }
        if (private) {
            error_setg(errp, "memory cannot be dumped: 0x%" PRIx64 " bytes of "
                       "'%s' are private to the guest, and would be missing; "
                       "dump from inside the guest (kdump), or convert them "
                       "to shared first", private, gm->id);
            return false;
        }
    }
    return true;
}

/*
 * In [*@offset, @end), find where @l's state changes next and whether *@offset
 * is mapped.
 */
static uint64_t mapped_run(GuestMemfdListener *l, uint64_t offset,
                           uint64_t end, bool *mapped)
{
    uint64_t start = offset;
    uint64_t stop = l->ops->next_mapped(l, &start);

    if (!stop || start >= end) {
        *mapped = false;
        return end;
    }
    *mapped = start <= offset;
    return MIN(*mapped ? stop : start, end);
}

static bool verify_listener(GuestMemfd *gm, GuestMemfdListener *l,
                            Error **errp)
{
    uint64_t s = l->section->offset_within_region;
    uint64_t end = s + int128_get64(l->section->size);

    while (s < end) {
        bool private, mapped;
        uint64_t e1 = guest_memfd_map_run(gm->map, s, end, &private);
        uint64_t e2 = mapped_run(l, s, end, &mapped);

        if (private == mapped) {
            error_setg(errp, "%s: offset 0x%" PRIx64 " is %s, but %s", gm->id,
                       s, private ? "private" : "shared",
                       mapped ? "mapped for DMA" : "not mapped for DMA");
            return false;
        }
        s = MIN(e1, e2);
    }
    return true;
}

bool guest_memfd_verify(GuestMemfd *gm, Error **errp)
{
    QEMU_LOCK_GUARD(&gm->lock);
    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        if (l->ops->next_mapped && !verify_listener(gm, l, errp)) {
            return false;
        }
    }
    return true;
}
