/*
 * guest_memfd blocks: listeners, and how they are brought in line with the map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "internal.h"
#include "trace.h"

GuestMemfdLockToken guest_memfd_convert_lock;
GuestMemfdLockToken guest_memfd_state_lock;

typedef int (*Notify)(RamDiscardListener *rdl, MemoryRegionSection *section);

static int notify(GuestMemfdFollower *f, uint64_t start, uint64_t end,
                  Notify what)
{
    RamDiscardListener *rdl = f->rdl;
    MemoryRegionSection s = *rdl->section;
    uint64_t from = MAX(start, s.offset_within_region);
    uint64_t to = MIN(end, s.offset_within_region + int128_get64(s.size));
    int ret;

    if (from >= to) {
        return 0;
    }
    s.offset_within_address_space += from - s.offset_within_region;
    s.offset_within_region = from;
    s.size = int128_make64(to - from);
    ret = what(rdl, &s);
    trace_guest_memfd_notify(rdl, what == rdl->notify_discard ? "discard" :
                                                                "populate",
                             s.offset_within_region, int128_get64(s.size),
                             ret);
    return ret;
}

static void add_stale(GuestMemfd *gm, GuestMemfdFollower *f, uint64_t start,
                      uint64_t end)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    gm->stale = true;
    trace_guest_memfd_stale(f->rdl, start, end - start);
    if (f->stale_start == f->stale_end) {
        f->stale_start = start;
        f->stale_end = end;
    } else {
        f->stale_start = MIN(f->stale_start, start);
        f->stale_end = MAX(f->stale_end, end);
    }
}

static int map_shared(GuestMemfd *gm, GuestMemfdFollower *f, uint64_t start,
                      uint64_t end)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t stop;
    int ret = 0;

    if (start <= f->stale_start && f->stale_end <= end) {
        f->stale_start = f->stale_end = 0;
    }
    if (f->rdl->notify_populate_parts) {
        ret = notify(f, start, end, f->rdl->notify_populate_parts);
    } else {
        while (!ret && (stop = guest_memfd_next_shared(gm, &start, end))) {
            ret = notify(f, start, stop, f->rdl->notify_populate);
            start = ret ? start : stop;
        }
    }
    if (ret) {
        add_stale(gm, f, start, end);
    }
    return ret;
}

static int sync_range(GuestMemfd *gm, GuestMemfdFollower *f, uint64_t start,
                      uint64_t end, GuestMemfdWant want)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    return want == GUEST_MEMFD_WANT_SHARED ? map_shared(gm, f, start, end) :
           notify(f, start, end, want == GUEST_MEMFD_WANT_ALL ?
                                 f->rdl->notify_populate :
                                 f->rdl->notify_discard);
}

int guest_memfd_sync_all(GuestMemfd *gm, uint64_t start, uint64_t end,
                         GuestMemfdWant want)
{
    int ret = 0;

    for (guint i = 0; i < gm->followers->len; i++) {
        int r = sync_range(gm, g_ptr_array_index(gm->followers, i), start,
                           end, want);

        ret = ret ?: r;
        if (ret && want != GUEST_MEMFD_WANT_SHARED) {
            break;
        }
    }
    return ret;
}

void guest_memfd_settled(GuestMemfd *gm)
{
    for (guint i = 0; i < gm->followers->len; i++) {
        GuestMemfdFollower *f = g_ptr_array_index(gm->followers, i);

        if (f->rdl->settled) {
            f->rdl->settled(f->rdl);
        }
    }
}

int guest_memfd_mend(GuestMemfd *gm)
{
    int ret = 0;

    if (!gm->stale) {
        return 0;
    }
    gm->stale = false;          /* until one of them is again */
    for (guint i = 0; i < gm->followers->len; i++) {
        GuestMemfdFollower *f = g_ptr_array_index(gm->followers, i);

        if (f->stale_start < f->stale_end) {
            int r = sync_range(gm, f, f->stale_start, f->stale_end,
                               GUEST_MEMFD_WANT_SHARED);

            ret = ret ?: r;
        }
    }
    return ret;
}

static GuestMemfdFollower *find_follower(GuestMemfd *gm,
                                         RamDiscardListener *rdl)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    for (guint i = 0; i < gm->followers->len; i++) {
        GuestMemfdFollower *f = g_ptr_array_index(gm->followers, i);

        if (f->rdl == rdl) {
            return f;
        }
    }
    g_assert_not_reached();
}

void TSA_NO_TSA guest_memfd_listener_stale(GuestMemfd *gm,
                                           RamDiscardListener *rdl,
                                           uint64_t start, uint64_t end)
{
    add_stale(gm, find_follower(gm, rdl), start, end);
}

/* The lock of the block is held, also in the next one. */
uint64_t TSA_NO_TSA guest_memfd_next_shared(GuestMemfd *gm, uint64_t *start,
                                            uint64_t end)
{
    return guest_memfd_map_next(map_of(gm), false, start, end);
}

uint64_t TSA_NO_TSA guest_memfd_next_border(GuestMemfd *gm, uint64_t start,
                                            uint64_t end)
{
    for (guint i = 0; i < gm->followers->len; i++) {
        GuestMemfdFollower *f = g_ptr_array_index(gm->followers, i);
        uint64_t from = start, to = 0;

        if (f->rdl->next_mapped) {
            to = f->rdl->next_mapped(f->rdl, &from);
        }
        if (to) {
            end = MIN(end, from > start ? from : to);
        }
    }
    return end;
}

/* Pages cut by the edge of a section cannot be mapped, so no listener maps them. */
static MemoryRegionSection whole_pages(const MemoryRegionSection *section)
{
    uint64_t page = qemu_real_host_page_size();
    MemoryRegionSection whole = *section;
    uint64_t start = section->offset_within_region;
    uint64_t end = start + int128_get64(section->size);

    whole.offset_within_region = ROUND_UP(start, page);
    whole.offset_within_address_space += whole.offset_within_region - start;
    start = whole.offset_within_region;
    whole.size = int128_make64(MAX(start, QEMU_ALIGN_DOWN(end, page)) - start);
    /*
     * A copy would hold the whole FlatView, and with it every region in it: a
     * device that listens would keep itself alive through its own BARs.
     */
    whole.fv = NULL;
    return whole;
}

static int sync_section(GuestMemfd *gm, GuestMemfdFollower *f,
                        GuestMemfdWant want)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t start = f->rdl->section->offset_within_region;

    return sync_range(gm, f, start,
                      start + int128_get64(f->rdl->section->size), want);
}

static int rdm_register_listener(RamDiscardManager *rdm,
                                 RamDiscardListener *rdl,
                                 MemoryRegionSection *section)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    MemoryRegionSection whole = whole_pages(section);
    GuestMemfdFollower *f = g_new0(GuestMemfdFollower, 1);
    int ret;

    assert(bql_locked() && section->mr == gm->mr);
    f->rdl = rdl;
    rdl->section = memory_region_section_new_copy(&whole);

    convert_lock(gm);
    g_ptr_array_add(gm->followers, f);
    ret = sync_section(gm, f, GUEST_MEMFD_WANT_SHARED);
    convert_unlock(gm);
    return ret;
}

static void rdm_unregister_listener(RamDiscardManager *rdm,
                                    RamDiscardListener *rdl)
{
    GuestMemfd *gm = GUEST_MEMFD(rdm);
    GuestMemfdFollower *f;

    assert(bql_locked());
    convert_lock(gm);
    f = find_follower(gm, rdl);
    sync_section(gm, f, GUEST_MEMFD_WANT_NOTHING);
    g_ptr_array_remove(gm->followers, f);
    convert_unlock(gm);

    memory_region_section_free_copy(rdl->section);
    rdl->section = NULL;
}

void guest_memfd_rdm_listeners(RamDiscardManagerClass *rdmc)
{
    rdmc->register_listener = rdm_register_listener;
    rdmc->unregister_listener = rdm_unregister_listener;
}
