/*
 * guest_memfd blocks: the conversion transaction
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A request is a list of pieces, each a range of one block (system/guest-memfd-
 * request.c); only runs of pages that really change take part.  All of it
 * happens under the locks of all blocks concerned, in two steps:
 *
 *   to private:  1. listeners discard   2. the driver converts
 *   to shared:   1. the driver converts 2. listeners populate
 *
 * so no page is ever private and reachable by DMA (I1).  A step that fails has
 * undone itself; the step before it is undone in turn, and only when both
 * succeeded does the map change (I2, I3).
 *
 * Undoing can fail too.  Then the map says what is true, on the safe side:
 *  - the driver does not take a run back: the run stays in its new state;
 *  - a listener does not let go of a run that was to be shared: it stays
 *    shared, whatever else was asked;
 *  - a listener cannot map again what it had discarded: the run stays shared
 *    and the listener is stale there.  Each later conversion of the block
 *    first tries to mend that; one to shared fails if it cannot.
 * A listener that failed to undo something is not asked again in the same
 * transaction: a peer that hangs costs one time-out, not one per run.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "system/accel-blocker.h"
#include "system/address-spaces.h"
#include "system/kvm.h"
#include "internal.h"
#include "trace.h"

/* A page that is held is usually let go within microseconds. */
#define MAX_RETRIES 10
#define FIRST_BACKOFF_US 10

typedef GuestMemfdPiece Piece;

typedef struct Transaction {
    GArray *pieces;             /* Piece, by block and start, no overlaps */
    bool to_private;
    /* On failure: */
    const char *refused_by;
    uint64_t held;              /* with EAGAIN: the page that is in use */
    bool rolled_back;           /* something had been done, and was undone */
    bool undoing;
} Transaction;

/*
 * A step, and how to undo it, for one run of one block.  Both leave the run as
 * a whole in one state or the other; undo has no return value because there is
 * nobody left to tell: it settles what is true in the map.
 */
typedef struct Step {
    const char *who;
    int (*apply)(Transaction *t, GuestMemfd *gm, uint64_t start, uint64_t end);
    void (*undo)(Transaction *t, GuestMemfd *gm, uint64_t start, uint64_t end);
} Step;

static GuestMemfdStats *stats_of(GuestMemfd *gm, bool to_private)
{
    return to_private ? &gm->to_private : &gm->to_shared;
}

/* The run is in this state, against what was wanted. */
static void settle(GuestMemfd *gm, uint64_t start, uint64_t end, bool private)
{
    trace_guest_memfd_settle(gm->id, start, end - start, private);
    guest_memfd_map_set(gm->map, start, end - start, private);
}

static int undo_notify(GuestMemfdListener *l, uint64_t start, uint64_t end,
                       bool populate)
{
    int ret = -EIO;

    if (!l->undo_failed) {
        ret = guest_memfd_listener_notify(l, start, end, populate);
        l->undo_failed = ret != 0;
    }
    return ret;
}

static void all_stale(GuestMemfd *gm, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < gm->listeners->len; i++) {
        guest_memfd_listener_stale(gm->listeners->pdata[i], start, end);
    }
}

/*
 * Tell all listeners about a run, or none.  The one that refuses and those
 * before it hear the opposite, in reverse order.
 */
static int tell(Transaction *t, GuestMemfd *gm, uint64_t start, uint64_t end,
                bool populate)
{
    bool stuck = false;
    int ret = 0;
    guint i;

    for (i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        ret = t->undoing ? undo_notify(l, start, end, populate) :
              guest_memfd_listener_notify(l, start, end, populate);
        if (ret) {
            break;
        }
    }
    if (!ret) {
        return 0;
    }

    t->rolled_back |= i > 0;
    do {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        if (!undo_notify(l, start, end, !populate)) {
            continue;
        }
        if (populate) {
            stuck = true;
        } else {
            guest_memfd_listener_stale(l, start, end);
        }
    } while (i-- > 0);

    if (stuck) {
        /* Mapped somewhere for good, so shared; the others may follow later. */
        settle(gm, start, end, false);
        all_stale(gm, start, end);
    }
    return ret;
}

static int listeners_apply(Transaction *t, GuestMemfd *gm, uint64_t start,
                           uint64_t end)
{
    return tell(t, gm, start, end, !t->to_private);
}

static void listeners_undo(Transaction *t, GuestMemfd *gm, uint64_t start,
                           uint64_t end)
{
    if (!t->to_private) {
        if (tell(t, gm, start, end, false)) {
            settle(gm, start, end, false);
        }
        return;
    }
    /* Each for itself: one that cannot map again must not unmap the rest. */
    for (guint i = gm->listeners->len; i-- > 0; ) {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        if (undo_notify(l, start, end, true)) {
            guest_memfd_listener_stale(l, start, end);
        }
    }
}

int guest_memfd_drive(GuestMemfd *gm, uint64_t start, uint64_t end,
                      bool to_private, GuestMemfdStop *stop)
{
    unsigned long backoff = FIRST_BACKOFF_US;
    int ret, tries = 0;

    *stop = (GuestMemfdStop) { .done = start, .held = start };
    for (;;) {
        uint64_t from = stop->done;

        ret = gm->ops->convert(gm, from, end - from, to_private, stop);
        if (ret != -EAGAIN) {
            break;
        }
        if (stop->done > from) {
            backoff = FIRST_BACKOFF_US;
            tries = 0;
        }
        if (tries++ == MAX_RETRIES) {
            break;
        }
        stats_of(gm, to_private)->retries++;
        trace_guest_memfd_retry(gm->id, stop->held, backoff);
        g_usleep(backoff);
        backoff *= 2;
    }
    trace_guest_memfd_drive(gm->id, start, end - start, to_private, ret);
    return ret;
}

static void driver_undo(Transaction *t, GuestMemfd *gm, uint64_t start,
                        uint64_t end)
{
    GuestMemfdStop stop;

    if (guest_memfd_drive(gm, start, end, !t->to_private, &stop) && stop.done < end) {
        settle(gm, stop.done, end, t->to_private);
        if (!t->to_private) {
            all_stale(gm, stop.done, end);
        }
    }
}

static int driver_apply(Transaction *t, GuestMemfd *gm, uint64_t start,
                        uint64_t end)
{
    GuestMemfdStop stop;
    int ret = guest_memfd_drive(gm, start, end, t->to_private, &stop);

    t->held = stop.held;
    if (ret && stop.done > start) {
        t->rolled_back = t->undoing = true;
        driver_undo(t, gm, start, stop.done);
    }
    return ret;
}

static const Step listeners_step = {
    .who = "a DMA listener refused",
    .apply = listeners_apply,
    .undo = listeners_undo,
};

static const Step driver_step = {
    .who = "the driver refused",
    .apply = driver_apply,
    .undo = driver_undo,
};

/* Undo @step for all runs before @stop of piece number @last. */
static void step_undo(Transaction *t, const Step *step, guint last,
                      uint64_t stop)
{
    t->undoing = true;
    for (guint i = 0; i <= last && i < t->pieces->len; i++) {
        Piece *p = &g_array_index(t->pieces, Piece, i);
        uint64_t limit = i == last ? stop : p->end;
        uint64_t s = p->start, e;

        for (; (e = guest_memfd_map_next(p->gm->map, !t->to_private, &s,
                                         limit)); s = e) {
            t->rolled_back = true;
            step->undo(t, p->gm, s, e);
        }
    }
}

static int step_apply(Transaction *t, const Step *step)
{
    for (guint i = 0; i < t->pieces->len; i++) {
        Piece *p = &g_array_index(t->pieces, Piece, i);
        uint64_t s = p->start, e;

        for (; (e = guest_memfd_map_next(p->gm->map, !t->to_private, &s,
                                         p->end)); s = e) {
            int ret = step->apply(t, p->gm, s, e);

            if (ret) {
                t->refused_by = step->who;
                step_undo(t, step, i, s);
                return ret;
            }
        }
    }
    return 0;
}

/* Let listeners that could not map again after a rollback try once more. */
static int mend_listeners(GuestMemfd *gm)
{
    int ret = 0;

    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];
        uint64_t s = l->resync_start, e;
        int r = 0;

        l->undo_failed = false;
        for (; !r && (e = guest_memfd_map_next(gm->map, false, &s,
                                               l->resync_end)); s = e) {
            r = guest_memfd_listener_notify(l, s, e, true);
        }
        if (!r) {
            l->resync_start = l->resync_end = 0;
        }
        ret = ret ?: r;
    }
    return ret;
}

static int prepare(Transaction *t)
{
    for (guint i = 0; i < t->pieces->len; i++) {
        Piece *p = &g_array_index(t->pieces, Piece, i);
        int ret = mend_listeners(p->gm);

        /* Memory must be able to become private, that may be the remedy. */
        if (ret && !t->to_private) {
            t->refused_by = "a DMA listener that lost a mapping cannot map "
                            "it again";
            return ret;
        }
        if (!guest_memfd_map_reserve(p->gm->map)) {
            t->refused_by = "QEMU has no memory to remember the change";
            return -ENOMEM;
        }
    }
    return 0;
}

static void commit(Transaction *t)
{
    for (guint i = 0; i < t->pieces->len; i++) {
        Piece *p = &g_array_index(t->pieces, Piece, i);
        uint64_t before = guest_memfd_map_private_bytes(p->gm->map);
        uint64_t after;

        guest_memfd_map_set(p->gm->map, p->start, p->end - p->start,
                            t->to_private);
        after = guest_memfd_map_private_bytes(p->gm->map);
        if (after != before && p->gm->ops->converted) {
            p->gm->ops->converted(p->gm, p->start, p->end - p->start,
                                  t->to_private);
        }
        stats_of(p->gm, t->to_private)->bytes += t->to_private ?
                                                 after - before :
                                                 before - after;
    }
}

static int run(Transaction *t)
{
    const Step *steps[2] = { &driver_step, &listeners_step };
    int ret = prepare(t);

    if (ret) {
        return ret;
    }
    if (t->to_private) {
        steps[0] = &listeners_step;
        steps[1] = &driver_step;
    }

    ret = step_apply(t, steps[0]);
    if (ret) {
        return ret;
    }
    ret = step_apply(t, steps[1]);
    if (ret) {
        step_undo(t, steps[0], t->pieces->len, 0);
        return ret;
    }
    commit(t);
    return 0;
}

static int piece_cmp(gconstpointer a, gconstpointer b)
{
    const Piece *p = a, *q = b;

    if (p->gm != q->gm) {
        return (uintptr_t)p->gm < (uintptr_t)q->gm ? -1 : 1;
    }
    return p->start < q->start ? -1 : p->start > q->start;
}

/*
 * Sort by block, and make one piece of those of a block that touch or overlap
 * (a region can be seen at several addresses).
 */
static void pieces_merge(GArray *pieces)
{
    guint n = 0;

    g_array_sort(pieces, piece_cmp);
    for (guint i = 0; i < pieces->len; i++) {
        Piece *p = &g_array_index(pieces, Piece, i);
        Piece *last = n ? &g_array_index(pieces, Piece, n - 1) : NULL;

        if (last && last->gm == p->gm && p->start <= last->end) {
            last->end = MAX(last->end, p->end);
        } else {
            g_array_index(pieces, Piece, n++) = *p;
        }
    }
    g_array_set_size(pieces, n);
}

static bool first_of_block(Transaction *t, guint i)
{
    return i == 0 || g_array_index(t->pieces, Piece, i - 1).gm !=
                     g_array_index(t->pieces, Piece, i).gm;
}

/* Blocks lock in the order of their addresses, which is that of the pieces. */
static void lock_blocks(Transaction *t)
{
    if (kvm_enabled()) {
        accel_ioctl_begin();
    }
    for (guint i = 0; i < t->pieces->len; i++) {
        if (first_of_block(t, i)) {
            qemu_mutex_lock(&g_array_index(t->pieces, Piece, i).gm->lock);
        }
    }
}

static void unlock_blocks(Transaction *t)
{
    for (guint i = t->pieces->len; i-- > 0; ) {
        if (first_of_block(t, i)) {
            qemu_mutex_unlock(&g_array_index(t->pieces, Piece, i).gm->lock);
        }
    }
    if (kvm_enabled()) {
        accel_ioctl_end();
    }
}

static char *explain(const Transaction *t, int ret)
{
    if (ret == -EAGAIN && t->refused_by == driver_step.who) {
        return g_strdup_printf("%s: the page at offset 0x%" PRIx64 " is in use "
                               "by I/O or by a device that QEMU does not know "
                               "of", t->refused_by, t->held);
    }
    return g_strdup_printf("%s: %s%s", t->refused_by, strerror(-ret),
                           ret == -ENOSPC && t->refused_by == listeners_step.who
                           ? " (a device has no DMA mapping left: convert "
                             "memory in larger ranges, or raise its limit)"
                           : "");
}

int guest_memfd_transact(GArray *pieces, bool to_private, Error **errp)
{
    Transaction t = { .pieces = pieces, .to_private = to_private };
    Piece *first;
    int ret;

    pieces_merge(pieces);
    if (!pieces->len) {
        return 0;
    }

    lock_blocks(&t);
    ret = run(&t);
    for (guint i = 0; i < pieces->len; i++) {
        Piece *p = &g_array_index(pieces, Piece, i);

        if (first_of_block(&t, i)) {
            stats_of(p->gm, to_private)->requests++;
            stats_of(p->gm, to_private)->failures += ret != 0;
            stats_of(p->gm, to_private)->rollbacks += t.rolled_back;
        }
        trace_guest_memfd_convert(p->gm->id, p->start, p->end - p->start,
                                  to_private, ret);
    }
    unlock_blocks(&t);

    if (ret) {
        g_autofree char *why = explain(&t, ret);

        first = &g_array_index(pieces, Piece, 0);
        qapi_event_send_guest_memfd_conversion_failed(first->gm->id,
                                                      first->start,
                                                      first->end - first->start,
                                                      to_private, why);
        error_setg(errp, "cannot convert '%s' offset 0x%" PRIx64 " size 0x%"
                   PRIx64 " to %s: %s", first->gm->id, first->start,
                   first->end - first->start,
                   to_private ? "private" : "shared", why);
    }
    return ret;
}

static int reset_locked(GuestMemfd *gm)
{
    uint64_t s = 0, size = guest_memfd_size(gm), e;
    int ret = 0;

    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        ret = guest_memfd_listener_discard_runs(gm, l, 0, size);
        if (ret) {
            break;
        }
    }
    for (; !ret && (e = guest_memfd_map_next(gm->map, !gm->init_private, &s,
                                             size)); s = e) {
        GuestMemfdStop stop;
        uint64_t done;

        ret = guest_memfd_drive(gm, s, e, gm->init_private, &stop);
        done = ret ? stop.done : e;
        if (done > s) {
            settle(gm, s, done, gm->init_private);
            if (gm->ops->converted) {
                gm->ops->converted(gm, s, done - s, gm->init_private);
            }
        }
    }
    for (guint i = 0; i < gm->listeners->len; i++) {
        GuestMemfdListener *l = gm->listeners->pdata[i];

        if (guest_memfd_listener_populate_runs(gm, l, 0, size)) {
            guest_memfd_listener_stale(l, 0, size);
        } else {
            l->resync_start = l->resync_end = 0;
        }
    }
    return ret;
}

int guest_memfd_reset(GuestMemfd *gm, Error **errp)
{
    GuestMemfdMapState init = gm->init_private ? GUEST_MEMFD_MAP_PRIVATE :
                                                 GUEST_MEMFD_MAP_SHARED;
    int ret = 0;

    assert(bql_locked());
    WITH_QEMU_LOCK_GUARD(&gm->lock) {
        if (guest_memfd_map_state(gm->map, 0, guest_memfd_size(gm)) != init) {
            ret = reset_locked(gm);
        }
    }
    trace_guest_memfd_reset(gm->id, ret);
    if (ret) {
        error_setg_errno(errp, -ret, "cannot bring all of '%s' back to its "
                         "initial state", gm->id);
    }
    return ret;
}
