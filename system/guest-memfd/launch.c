/*
 * guest_memfd blocks: the launch of a confidential machine
 *
 * Before such a machine runs, QEMU writes its firmware, and the kernel copies
 * that into private memory and measures it (KVM_TDX_INIT_MEM_REGION,
 * KVM_SEV_SNP_LAUNCH_UPDATE).  With two copies QEMU writes to the shared one.
 * A kernel that converts in place has one copy, which QEMU cannot reach once it
 * is private.  So its files begin shared, while the map says private from the
 * start, and no device gets to see any of it.  What is measured becomes private
 * before, all the rest in the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

static bool launched;
static GPtrArray *copies;

bool guest_memfd_before_launch(void)
{
    return !qatomic_read(&launched) && current_machine &&
           machine_require_guest_memfd(current_machine);
}

bool guest_memfd_starts_shared(const GuestMemfdOps *ops)
{
    assert(bql_locked());
    return ops->conversion == GUEST_MEMFD_CONVERSION_IN_PLACE &&
           guest_memfd_before_launch();
}

static bool is_guest_memory(const uint8_t *addr)
{
    for (GuestMemfd *gm = guest_memfd_next(NULL); gm;
         gm = guest_memfd_next(gm)) {
        const uint8_t *host = gm->rb->host;

        if (addr >= host && addr < host + gm->size) {
            return true;
        }
    }
    return false;
}

/* The kernel wants a whole number of pages, and may write to them. */
static void *copy_source(const void *source, uint64_t size)
{
    void *copy = qemu_memalign(qemu_real_host_page_size(), size);

    memcpy(copy, source, size);
    if (!copies) {
        copies = g_ptr_array_new_with_free_func(qemu_vfree);
    }
    g_ptr_array_add(copies, copy);
    return copy;
}

/* Make all of @p private that is not. */
static int launch_piece(const GuestMemfdPiece *p, Error **errp)
{
    GuestMemfdStop stop;
    int ret;

    if (!p->gm->launching) {
        return guest_memfd_convert_block(p->gm, p->start, p->end - p->start,
                                         true, errp);
    }
    convert_lock(p->gm);
    ret = guest_memfd_drive(p->gm, p->start, p->end, true, true, &stop);
    convert_unlock(p->gm);
    if (ret) {
        error_setg_errno(errp, -ret, "cannot make '%s' offset 0x%" PRIx64
                         " size 0x%" PRIx64 " private for the launch",
                         p->gm->id, p->start, p->end - p->start);
    }
    return ret;
}

int guest_memfd_launch(hwaddr gpa, uint64_t size, void **source, Error **errp)
{
    GuestMemfdRequest req;
    int ret;

    assert(bql_locked() && !launched);
    ret = guest_memfd_request_find(&req, gpa, size, true);
    if (ret) {
        error_setg(errp, "guest physical address 0x%" HWADDR_PRIx " size 0x%"
                   PRIx64 " is not all memory that can be private", gpa, size);
    } else if (source && is_guest_memory(*source)) {
        *source = copy_source(*source, size);
    }
    for (unsigned i = 0; !ret && i < req.nr; i++) {
        ret = launch_piece(&req.piece[i], errp);
    }
    guest_memfd_request_end(&req);
    return ret;
}

/* All that the map calls private. */
static int launch_rest(GuestMemfd *gm)
{
    uint64_t s = 0, e;
    GuestMemfdStop stop;
    int ret = 0;

    convert_lock(gm);
    for (; !ret && (e = guest_memfd_map_next(map_of(gm), true, &s, gm->size));
         s = e) {
        ret = guest_memfd_drive(gm, s, e, true, true, &stop);
    }
    convert_unlock(gm);
    trace_guest_memfd_launch(gm->id, ret);
    return ret;
}

bool guest_memfd_fill_after_launch(GuestMemfd *gm, GuestMemfdFill *fill,
                                   void *opaque)
{
    assert(bql_locked());
    if (!gm->launching) {
        return false;
    }
    gm->fill = fill;
    gm->fill_opaque = opaque;
    return true;
}

bool guest_memfd_finish_launch(Error **errp)
{
    assert(bql_locked());
    for (GuestMemfd *gm = guest_memfd_next(NULL); gm;
         gm = guest_memfd_next(gm)) {
        int ret = gm->launching ? launch_rest(gm) : 0;

        if (ret) {
            error_setg_errno(errp, -ret, "cannot make the memory of '%s' "
                             "private for the launch", gm->id);
            return false;
        }
        if (gm->launching && gm->fill && !gm->fill(gm->fill_opaque, errp)) {
            return false;
        }
        qatomic_set(&gm->launching, false);
    }
    g_clear_pointer(&copies, g_ptr_array_unref);
    qatomic_set(&launched, true);
    return true;
}
