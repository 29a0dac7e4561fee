/*
 * guest_memfd blocks: requests to convert memory
 *
 * Turns guest physical addresses, or a part of a block, into the pieces of a
 * transaction (system/guest-memfd/convert.c).  What a guest or a client sends
 * may be anything: all of it is checked here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "system/address-spaces.h"
#include "internal.h"
#include "trace.h"

static void add_piece(GuestMemfdRequest *req, GuestMemfd *gm, uint64_t start,
                      uint64_t end)
{
    if (req->nr == req->room) {
        GuestMemfdPiece *more = g_new(GuestMemfdPiece, 2 * req->room);

        memcpy(more, req->piece, req->nr * sizeof(*more));
        if (req->piece != req->few) {
            g_free(req->piece);
        }
        req->piece = more;
        req->room *= 2;
    }
    req->piece[req->nr++] = (GuestMemfdPiece) {
        .gm = gm,
        .start = start,
        .end = end,
    };
}

/* Can the memory at @s be converted as @req says?  Adds a piece if it can. */
static int add_section(GuestMemfdRequest *req, const MemoryRegionSection *s)
{
    GuestMemfd *gm = guest_memfd_from_mr(s->mr);
    uint64_t start = s->offset_within_region;
    uint64_t end = start + int128_get64(s->size);

    if (gm && QEMU_IS_ALIGNED(start | end, qemu_real_host_page_size())) {
        object_ref(OBJECT(gm));
        add_piece(req, gm, start, end);
        return 0;
    }
    if (!gm && !req->to_private && !memory_region_is_ram(s->mr) &&
        !memory_region_is_romd(s->mr)) {
        return 0;
    }
    return -EINVAL;
}

int guest_memfd_request_find(GuestMemfdRequest *req, hwaddr gpa, uint64_t size,
                             bool to_private)
{
    hwaddr last = gpa + size - 1;

    req->to_private = to_private;
    req->plug_done = NULL;
    req->nr = 0;
    req->room = GUEST_MEMFD_FEW_PIECES;
    req->piece = req->few;
    if (!size || last < gpa ||
        !QEMU_IS_ALIGNED(gpa | size, qemu_real_host_page_size())) {
        return -EINVAL;
    }
    /*
     * A FlatView has references of its own until the grace period ends, so that
     * the last one to a region never goes here, where the BQL may not be held.
     */
    RCU_READ_LOCK_GUARD();
    for (;;) {
        MemoryRegionSection s = memory_region_find(get_system_memory(), gpa,
                                                   last - gpa + 1);
        hwaddr stop;
        int ret;

        if (!s.mr) {
            return to_private ? -EINVAL : 0;
        }
        stop = s.offset_within_address_space + int128_get64(s.size) - 1;
        ret = s.offset_within_address_space > gpa && to_private ?
              -EINVAL : add_section(req, &s);
        memory_region_unref(s.mr);
        if (ret || stop >= last) {
            return ret;
        }
        gpa = stop + 1;
    }
}

void guest_memfd_request_end(GuestMemfdRequest *req)
{
    for (unsigned i = 0; i < req->nr; i++) {
        object_unref(OBJECT(req->piece[i].gm));
    }
    if (req->piece != req->few) {
        g_free(req->piece);
    }
}

int guest_memfd_convert(hwaddr gpa, uint64_t size, bool to_private)
{
    GuestMemfdRequest req QEMU_UNINITIALIZED;
    int ret = guest_memfd_request_find(&req, gpa, size, to_private);

    /* Not what QEMU does by itself, as a reset: that is never refused. */
    if (!ret && to_private && guest_memfd_many_stand_ins()) {
        qapi_event_send_guest_memfd_conversion_failed(
            req.piece->gm->id, req.piece->start,
            req.piece->end - req.piece->start, true, "devices of QEMU still "
            "use too many private pages: reset them, or share the pages");
        ret = -ENOSPC;
    } else if (!ret) {
        ret = guest_memfd_transact(&req, NULL);
    }
    guest_memfd_request_end(&req);
    trace_guest_memfd_request(gpa, size, to_private, ret);
    return ret;
}

bool guest_memfd_is_converted(hwaddr gpa, uint64_t size, bool private)
{
    GuestMemfdRequest req QEMU_UNINITIALIZED;
    bool is = !guest_memfd_request_find(&req, gpa, size, private) && req.nr;

    for (unsigned i = 0; is && i < req.nr; i++) {
        uint64_t start = req.piece[i].start;

        is = !guest_memfd_next_run(req.piece[i].gm, !private, &start,
                                   req.piece[i].end);
    }
    guest_memfd_request_end(&req);
    return is;
}

int guest_memfd_transact_piece(GuestMemfd *gm, uint64_t offset, uint64_t size,
                               bool to_private, GuestMemfdPlugDone *plug_done,
                               Error **errp)
{
    GuestMemfdRequest req QEMU_UNINITIALIZED;

    req.to_private = to_private;
    req.plug_done = plug_done;
    req.nr = 1;
    req.piece = req.few;
    req.few[0].gm = gm;
    req.few[0].start = offset;
    req.few[0].end = offset + size;
    return guest_memfd_transact(&req, errp);
}

int guest_memfd_convert_block(GuestMemfd *gm, uint64_t offset, uint64_t size,
                              bool to_private, Error **errp)
{
    uint64_t page = qemu_real_host_page_size();

    if (!QEMU_IS_ALIGNED(offset | size, page)) {
        error_setg(errp, "offset 0x%" PRIx64 " and size 0x%" PRIx64 " must be "
                   "multiples of the host's page size, 0x%" PRIx64, offset,
                   size, page);
        return -EINVAL;
    }
    if (!size) {
        error_setg(errp, "size must not be 0");
        return -EINVAL;
    }
    if (offset >= gm->size || size > gm->size - offset) {
        error_setg(errp, "offset 0x%" PRIx64 " size 0x%" PRIx64 " is not "
                   "inside '%s', which has 0x%" PRIx64 " bytes", offset, size,
                   gm->id, gm->size);
        return -EINVAL;
    }
    return guest_memfd_transact_piece(gm, offset, size, to_private, NULL, errp);
}
