/*
 * guest_memfd blocks: the conversion transaction
 *
 * A request is a list of pieces, each a range of one block (request.c).  All of
 * it happens under the convert_lock of all blocks concerned:
 *
 *   to private:  listeners unmap, the driver converts, the map changes
 *   to shared:   the driver converts, listeners map, the map changes
 *
 * so no page is ever private and reachable by DMA (I1).  The map is the last to
 * change (I2), and while it has not it tells which pages a rollback has to
 * convert back.  Every failure is rolled back in one way: the driver goes back as
 * far as it can, the map is set to what is true, and every listener is synced to
 * it (I3).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "system/accel-blocker.h"
#include "system/kvm.h"
#include "internal.h"
#include "trace.h"

/* A page that is in use is usually released within microseconds. */
#define MAX_RETRIES 10
#define FIRST_BACKOFF_US 10

/* A server that has not answered is disconnected: the next call succeeds. */
#define RESET_TRIES 3

static const char DRIVER_REFUSED[] = "the driver refused";
static const char LISTENER_REFUSED[] = "a DMA listener refused";

typedef GuestMemfdPiece Piece;

#define for_each_piece(p, req) \
    for (Piece *p = (req)->piece, *p ## _end = p + (req)->nr; \
         p < p ## _end; p++)

typedef struct Transaction {
    GuestMemfdRequest *req;
    /* How far the driver has come: */
    const Piece *at;            /* all pieces before this one */
    GuestMemfdStop stop;        /* and in this one */
    /* On failure: */
    const Piece *refused;
    const char *refused_by;
} Transaction;

/*
 * Pages have changed their state: the map says so, and the driver frees the
 * copy that lost.
 */
static void settle(GuestMemfd *gm, uint64_t start, uint64_t end, bool private)
    TSA_REQUIRES(guest_memfd_convert_lock)
    TSA_EXCLUDES(guest_memfd_state_lock)
{
    uint64_t changed = 0;

    /* Readers wait for as much as a GiB takes. */
    for (uint64_t s = start, size; s < end; s += size) {
        size = MIN(end - s, GiB);
        state_lock(gm);
        changed += guest_memfd_map_set(gm->map, s, size, private);
        state_unlock(gm);
    }
    stat64_add(&gm->stats[private].bytes, changed);
    if (changed && gm->ops->converted) {
        gm->ops->converted(gm, start, end - start, private);
    }
}

const GuestMemfdOps guest_memfd_emulated_ops = {
    .driver = GUEST_MEMFD_DRIVER_EMULATED,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
};

static int drive_again(GuestMemfd *gm, uint64_t end, bool to_private,
                       GuestMemfdStop *stop)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    unsigned long backoff = FIRST_BACKOFF_US;
    int ret = -EAGAIN, tries = MAX_RETRIES;

    while (ret == -EAGAIN && tries--) {
        uint64_t from = stop->done;

        stat64_add(&gm->stats[to_private].retries, 1);
        trace_guest_memfd_retry(gm->id, stop->held, backoff);
        g_usleep(backoff);
        backoff *= 2;
        ret = gm->ops->convert(gm, from, end - from, to_private, stop);
        if (stop->done > from) {
            backoff = FIRST_BACKOFF_US;
            tries = MAX_RETRIES;
        }
    }
    return ret;
}

int guest_memfd_drive(GuestMemfd *gm, uint64_t start, uint64_t end,
                      bool to_private, bool retry, GuestMemfdStop *stop)
{
    int ret = 0;

    *stop = (GuestMemfdStop) { .done = start, .held = start };
    if (gm->ops->convert) {
        ret = gm->ops->convert(gm, start, end - start, to_private, stop);
    }
    if (ret == -EAGAIN && retry) {
        ret = drive_again(gm, end, to_private, stop);
    }
    if (!ret) {
        stop->done = end;
    }
    trace_guest_memfd_drive(gm->id, start, end - start, to_private, ret);
    return ret;
}

static bool all_plugged(const Piece *p)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t start = p->start;

    return guest_memfd_plugged_run(p->gm, &start, p->end) == p->end &&
           start == p->start;
}

/* Find out what there is to do, and whether nothing but a refusal can fail. */
static int prepare(Transaction *t)
    TSA_REQUIRES(guest_memfd_convert_lock)
    TSA_EXCLUDES(guest_memfd_state_lock)
{
    bool to_private = t->req->to_private;

    for_each_piece(p, t->req) {
        int ret;

        t->refused = p;
        if (!p->gm->rb) {
            t->refused_by = "the memory was unplugged meanwhile";
            return -EINVAL;
        }
        if (!t->req->plug_done && !all_plugged(p)) {
            t->refused_by = "virtio-mem has not plugged all of it";
            return -EINVAL;
        }
        ret = guest_memfd_mend(p->gm);
        /* Memory must be able to become private, that may be the remedy. */
        if (ret && !to_private) {
            t->refused_by = "a DMA listener that lost a mapping cannot map "
                            "it again";
            return ret;
        }
        p->todo = p->start;
        p->todo_end = guest_memfd_map_next(map_of(p->gm), !to_private,
                                           &p->todo, p->end);
    }
    return 0;
}

static int listeners_follow(Transaction *t)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    for_each_piece(p, t->req) {
        int ret;

        if (p->todo == p->end) {
            continue;
        }
        ret = guest_memfd_sync_all(p->gm, p->todo, p->end,
                                   t->req->to_private ?
                                   GUEST_MEMFD_WANT_NOTHING :
                                   GUEST_MEMFD_WANT_ALL);
        if (ret) {
            t->refused = p;
            t->refused_by = LISTENER_REFUSED;
            return ret;
        }
    }
    return 0;
}

static int drivers_convert(Transaction *t)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    bool to_private = t->req->to_private;

    for_each_piece(p, t->req) {
        uint64_t s = p->todo, e = p->todo_end;

        t->at = p;
        t->stop.done = s;
        while (s < e) {
            int ret = guest_memfd_drive(p->gm, s, e, to_private, true,
                                        &t->stop);

            if (ret) {
                t->refused = p;
                t->refused_by = DRIVER_REFUSED;
                return ret;
            }
            s = e;
            e = s < p->end ?
                guest_memfd_map_next(map_of(p->gm), !to_private, &s, p->end) :
                0;
        }
    }
    return 0;
}

/* The driver converts back what it has converted of a piece, up to @limit. */
static void undo_piece(Piece *p, bool to_private, uint64_t limit)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t s = p->todo, e;

    while ((e = guest_memfd_map_next(map_of(p->gm), !to_private, &s, limit))) {
        GuestMemfdStop stop = { .done = s };
        int ret = 0;

        /* A listener that has mapped it already unmaps it before it is private. */
        if (!to_private) {
            ret = guest_memfd_sync_all(p->gm, s, e, GUEST_MEMFD_WANT_NOTHING);
        }
        if (!ret) {
            ret = guest_memfd_drive(p->gm, s, e, !to_private, false, &stop);
        }
        if (ret) {
            /* Tried once: what is converted stays so from here on. */
            settle(p->gm, stop.done, limit, to_private);
            return;
        }
        if (p->gm->ops->converted) {
            p->gm->ops->converted(p->gm, s, e - s, !to_private);
        }
        s = e;
    }
}

static void undo(Transaction *t)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    bool to_private = t->req->to_private;

    for_each_piece(p, t->req) {
        if (p <= t->at) {
            undo_piece(p, to_private, p == t->at ? t->stop.done : p->end);
        }
    }
    for_each_piece(p, t->req) {
        if (p->todo < p->end) {
            guest_memfd_sync_all(p->gm, p->todo, p->end,
                                 GUEST_MEMFD_WANT_SHARED);
            /* What is beside it may have gone with it. */
            guest_memfd_mend(p->gm);
        }
    }
}

static int run(Transaction *t)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    bool to_private = t->req->to_private;
    int ret = prepare(t);

    if (ret) {
        return ret;
    }
    if (to_private) {
        ret = listeners_follow(t);
    }
    ret = ret ?: drivers_convert(t);
    if (!ret && !to_private) {
        ret = listeners_follow(t);
    }
    if (ret) {
        undo(t);
        return ret;
    }
    for_each_piece(p, t->req) {
        if (p->todo < p->end) {
            settle(p->gm, p->todo, p->end, to_private);
        }
        if (t->req->plug_done) {
            t->req->plug_done(p->gm, p->start, p->end);
        }
    }
    return 0;
}

static int piece_cmp(const void *a, const void *b)
{
    const Piece *p = a, *q = b;

    if (p->gm != q->gm) {
        return p->gm->number < q->gm->number ? -1 : 1;
    }
    return p->start < q->start ? -1 : p->start > q->start;
}

/*
 * Sort by block, and make one piece of those of a block that touch or overlap
 * (a region can be seen at several addresses).
 */
static void merge_pieces(GuestMemfdRequest *req)
{
    Piece *last = req->piece;

    if (req->nr == 1) {
        return;
    }
    qsort(req->piece, req->nr, sizeof(*req->piece), piece_cmp);
    for (unsigned i = 1; i < req->nr; i++) {
        Piece *p = &req->piece[i];

        if (last->gm == p->gm && p->start <= last->end) {
            last->end = MAX(last->end, p->end);
            p->start = p->end = 0;
        } else {
            last = p;
        }
    }
}

static bool first_of_block(const GuestMemfdRequest *req, const Piece *p)
{
    return p == req->piece || p[-1].gm != p->gm;
}

static void lock_blocks(GuestMemfdRequest *req)
    TSA_ACQUIRE(guest_memfd_convert_lock) TSA_NO_TSA
{
    if (kvm_enabled()) {
        accel_ioctl_begin();
    }
    for_each_piece(p, req) {
        if (first_of_block(req, p)) {
            convert_lock(p->gm);
        }
    }
}

static void count(const Transaction *t, GuestMemfd *gm, int ret)
{
    GuestMemfdStats *stats = &gm->stats[t->req->to_private];

    stat64_add(&stats->requests, 1);
    if (ret) {
        stat64_add(&stats->failures, 1);
        stat64_add(&stats->rollbacks, t->refused_by == DRIVER_REFUSED ||
                                      t->refused_by == LISTENER_REFUSED);
    }
}

static void count_and_unlock(const Transaction *t, int ret)
    TSA_RELEASE(guest_memfd_convert_lock) TSA_NO_TSA
{
    for_each_piece(p, t->req) {
        trace_guest_memfd_convert(p->gm->id, p->start, p->end - p->start,
                                  t->req->to_private, ret);
        if (first_of_block(t->req, p)) {
            count(t, p->gm, ret);
            if (ret || t->req->to_private) {
                guest_memfd_settled(p->gm);
            }
            convert_unlock(p->gm);
        }
    }
    if (kvm_enabled()) {
        accel_ioctl_end();
    }
}

static char *explain(const Transaction *t, int ret)
{
    if (ret == -EAGAIN && t->refused_by == DRIVER_REFUSED) {
        return g_strdup_printf("%s: the page at offset 0x%" PRIx64 " is in use "
                               "by I/O or by a device that QEMU does not know "
                               "of", t->refused_by, t->stop.held);
    }
    return g_strdup_printf("%s: %s%s", t->refused_by, strerror(-ret),
                           ret == -ENOSPC && t->refused_by == LISTENER_REFUSED
                           ? " (a device has no DMA mapping left: convert "
                             "memory in larger ranges, or raise its limit)"
                           : "");
}

static void report(const Transaction *t, int ret, Error **errp)
{
    const Piece *p = t->refused;
    g_autofree char *why = explain(t, ret);

    qapi_event_send_guest_memfd_conversion_failed(p->gm->id, p->start,
                                                  p->end - p->start,
                                                  t->req->to_private, why);
    error_setg(errp, "cannot convert '%s' offset 0x%" PRIx64 " size 0x%"
               PRIx64 " to %s: %s", p->gm->id, p->start, p->end - p->start,
               t->req->to_private ? "private" : "shared", why);
}

int guest_memfd_transact(GuestMemfdRequest *req, Error **errp)
{
    Transaction t = { .req = req };
    int ret;

    if (!req->nr) {
        return 0;
    }
    merge_pieces(req);
    lock_blocks(req);
    ret = run(&t);
    count_and_unlock(&t, ret);
    if (ret) {
        report(&t, ret, errp);
    }
    return ret;
}

/* The next run that is plugged and is not in its initial state. */
static uint64_t next_to_reset(GuestMemfd *gm, uint64_t *start)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t end, stop = 0;

    while (!stop && (end = guest_memfd_map_next(map_of(gm), !gm->init_private,
                                                start, gm->size))) {
        stop = guest_memfd_plugged_run(gm, start, end);
    }
    return stop;
}

static int reset_locked(GuestMemfd *gm)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    bool private = gm->init_private;
    uint64_t s = 0, e;
    int ret, tries = RESET_TRIES;

    do {
        ret = guest_memfd_sync_all(gm, 0, gm->size, GUEST_MEMFD_WANT_NOTHING);
    } while (ret && --tries);
    /* What stays mapped somewhere can become shared, but not private. */
    if (!private) {
        ret = 0;
    }
    while (!ret && (e = next_to_reset(gm, &s))) {
        GuestMemfdStop stop;

        ret = guest_memfd_drive(gm, s, e, private, true, &stop);
        if (stop.done > s) {
            settle(gm, s, stop.done, private);
        }
        s = e;
    }
    /* A listener that cannot map it now is stale. */
    guest_memfd_sync_all(gm, 0, gm->size, GUEST_MEMFD_WANT_SHARED);
    return ret;
}

int guest_memfd_reset(GuestMemfd *gm, Error **errp)
{
    int ret;

    assert(bql_locked());
    convert_lock(gm);
    /* The devices that had old pointers are about to forget them. */
    ret = guest_memfd_restore_mapping(gm, 0, gm->size) ?: reset_locked(gm);
    guest_memfd_settled(gm);
    convert_unlock(gm);
    trace_guest_memfd_reset(gm->id, ret);
    if (ret) {
        error_setg_errno(errp, -ret, "cannot bring all of '%s' back to its "
                         "initial state", gm->id);
    }
    return ret;
}
