/*
 * guest_memfd blocks: memory that virtio-mem plugs and unplugs
 *
 * To unplug is a conversion to private, to plug is one to the initial state of the
 * block: as a whole or not at all, with all listeners in line.  The record of
 * what is plugged changes with them, so that a request of the guest to convert
 * memory that goes, or comes, is before or after that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "system/guest-memfd-plug.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

static void set_unplugged(GuestMemfd *gm, uint64_t start, uint64_t end,
                          bool unplugged)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    trace_guest_memfd_plug(gm->id, start, end - start, !unplugged);
    state_lock(gm);
    guest_memfd_map_set(gm->unplugged, start, end - start, unplugged);
    state_unlock(gm);
}

static void plugged(GuestMemfd *gm, uint64_t start, uint64_t end)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    set_unplugged(gm, start, end, false);
}

static void unplugged(GuestMemfd *gm, uint64_t start, uint64_t end)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    set_unplugged(gm, start, end, true);
    if (gm->ops->conversion == GUEST_MEMFD_CONVERSION_TWO_COPY) {
        ram_block_discard_guest_memfd_range(gm->rb, start, end - start);
    }
    ram_block_discard_range(gm->rb, start, end - start);
}

static int request(GuestMemfd *gm, uint64_t offset, uint64_t size,
                   bool to_private, GuestMemfdPlugDone *done, Error **errp)
{
    assert(bql_locked() && size);
    return guest_memfd_transact_piece(gm, offset, size, to_private, done, errp);
}

int guest_memfd_plug(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    return request(gm, offset, size, gm->init_private, plugged, NULL);
}

int guest_memfd_unplug(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    return request(gm, offset, size, true, unplugged, NULL);
}

static void set_record(GuestMemfd *gm, GuestMemfdMap *map)
{
    convert_lock(gm);
    state_lock(gm);
    guest_memfd_map_free(gm->unplugged);
    gm->unplugged = map;
    state_unlock(gm);
    convert_unlock(gm);
}

bool guest_memfd_plug_start(GuestMemfd *gm, Error **errp)
{
    GuestMemfdMap *map = guest_memfd_map_new(gm->size,
                                             qemu_real_host_page_size(), false);

    if (!map) {
        error_setg(errp, "'%s': QEMU has no memory to remember what is plugged "
                   "of 0x%" PRIx64 " bytes", gm->id, gm->size);
        return false;
    }
    set_record(gm, map);
    if (request(gm, 0, gm->size, true, unplugged, errp)) {
        set_record(gm, NULL);
        return false;
    }
    return true;
}

void guest_memfd_plug_end(GuestMemfd *gm)
{
    Error *local_err = NULL;

    /* What the guest had is not shown to whoever gets the memory next. */
    if (request(gm, 0, gm->size, true, unplugged, &local_err) ||
        request(gm, 0, gm->size, gm->init_private, plugged, &local_err)) {
        warn_report_err(local_err);
    }
    set_record(gm, NULL);
}

/* Both locks guard the record: one of them is held. */
uint64_t TSA_NO_TSA guest_memfd_plugged_run(GuestMemfd *gm, uint64_t *start,
                                            uint64_t end)
{
    if (!gm->unplugged) {
        return *start < end ? end : 0;
    }
    return guest_memfd_map_next(gm->unplugged, false, start, end);
}
