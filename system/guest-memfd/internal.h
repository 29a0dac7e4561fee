/*
 * guest_memfd blocks: what the files of this directory share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_INTERNAL_H
#define SYSTEM_GUEST_MEMFD_INTERNAL_H

#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "system/guest-memfd-driver.h"
#include "system/guest-memfd-host.h"
#include "system/guest-memfd-map.h"
#include "system/memory.h"

/*
 * A block has two locks:
 *
 *  convert_lock  is held by whoever changes what the driver or a listener has:
 *                conversions, listeners that come or go, reset.  Its owner
 *                may wait for the kernel and for vfio-user servers.
 *  state_lock    guards the map.  It is held for microseconds, never across a
 *                call out, and readers take no other.
 *
 * Order: BQL, slots_lock, accel_ioctl_begin(), convert_lock (of several blocks,
 * in the order of their creation), what drivers and listeners take, state_lock.
 *  - Whoever holds a convert_lock never takes the BQL: hotplug and the monitor
 *    hold the BQL when they take it, and vCPUs convert without the BQL.
 *  - A conversion enters accel_ioctl_begin() before it locks: otherwise the
 *    main thread, which adds a memory slot with ioctls inhibited, could wait
 *    for a block whose owner waits for its ioctl.
 * clang checks all of this but the order of blocks (-Wthread-safety): the two
 * tokens below stand for the locks of all blocks at hand, since an attribute
 * of a C structure cannot name another member.
 */
typedef struct TSA_CAPABILITY("mutex") GuestMemfdLockToken {
    char unused;
} GuestMemfdLockToken;

extern GuestMemfdLockToken guest_memfd_convert_lock;
extern GuestMemfdLockToken guest_memfd_state_lock
    TSA(acquired_after(guest_memfd_convert_lock));

typedef struct GuestMemfdStats {
    Stat64 requests;
    Stat64 bytes;
    Stat64 failures;
    Stat64 retries;
    Stat64 rollbacks;
} GuestMemfdStats;

/* A listener, and where shared pages may not be mapped: nowhere if empty. */
typedef struct GuestMemfdFollower {
    RamDiscardListener *rdl;
    uint64_t stale_start;
    uint64_t stale_end;
} GuestMemfdFollower;

struct GuestMemfd {
    Object parent_obj;

    /* Set at creation: */
    char *id;
    uint64_t number;                    /* the order of blocks */
    uint64_t size;
    uint64_t page_size;
    GuestMemfdProvider provider;
    GuestMemfdRestructure restructure;  /* GUEST_MEMFD_RESTRUCTURE__MAX: ? */
    RAMBlock *rb;                       /* NULL when it has gone: convert_lock */
    MemoryRegion *mr;
    const GuestMemfdOps *ops;
    bool init_private;
    Error *migration_blocker;
    QTAILQ_ENTRY(GuestMemfd) next;      /* BQL */
    bool launching;                     /* written under the BQL */
    GuestMemfdFill *fill;               /* BQL; NULL: not after the launch */
    void *fill_opaque;

    QemuMutex convert_mutex;
    QemuMutex state_mutex;

    /* Changes under the BQL as well, so that the monitor can read it. */
    GPtrArray *followers TSA_GUARDED_BY(guest_memfd_convert_lock);
    bool stale TSA_GUARDED_BY(guest_memfd_convert_lock); /* one of them may be */

    /* Written with both locks held, so the owner of either can read it. */
    GuestMemfdMap *map TSA_GUARDED_BY(guest_memfd_state_lock);
    /* What is not plugged is "private"; NULL: all is (plug.c) */
    GuestMemfdMap *unplugged TSA_GUARDED_BY(guest_memfd_state_lock);
    GuestMemfdStats stats[2];           /* to shared, to private */
};

static inline void TSA_ACQUIRE(guest_memfd_convert_lock) TSA_NO_TSA
convert_lock(GuestMemfd *gm)
{
    qemu_mutex_lock(&gm->convert_mutex);
}

static inline void TSA_RELEASE(guest_memfd_convert_lock) TSA_NO_TSA
convert_unlock(GuestMemfd *gm)
{
    qemu_mutex_unlock(&gm->convert_mutex);
}

static inline void TSA_ACQUIRE(guest_memfd_state_lock) TSA_NO_TSA
state_lock(GuestMemfd *gm)
{
    qemu_mutex_lock(&gm->state_mutex);
}

static inline void TSA_RELEASE(guest_memfd_state_lock) TSA_NO_TSA
state_unlock(GuestMemfd *gm)
{
    qemu_mutex_unlock(&gm->state_mutex);
}

/* The map, to be read: it changes with both locks held. */
static inline TSA_REQUIRES(guest_memfd_convert_lock) TSA_NO_TSA
const GuestMemfdMap *map_of(const GuestMemfd *gm)
{
    return gm->map;
}

/**
 * guest_memfd_next_run - the next run of pages in a given state
 *
 * As guest_memfd_map_next(), for readers: takes the state_lock for a moment.
 */
uint64_t guest_memfd_next_run(GuestMemfd *gm, bool private, uint64_t *start,
                              uint64_t end)
    TSA_EXCLUDES(guest_memfd_state_lock);

/**
 * guest_memfd_run_at - the run of equal pages that starts at @offset
 *
 * As guest_memfd_map_run(), for readers.
 */
uint64_t guest_memfd_run_at(GuestMemfd *gm, uint64_t offset, uint64_t end,
                            bool *private)
    TSA_EXCLUDES(guest_memfd_state_lock);

/**
 * guest_memfd_plugged_run - the next run that is plugged
 *
 * @start: in: first byte to look at; out: start of the run, or @end
 * @end: where to stop, exclusive
 *
 * Called with one of the locks held.
 *
 * Returns: the end of the run, exclusive, at most @end; 0 if there is none.
 */
uint64_t guest_memfd_plugged_run(GuestMemfd *gm, uint64_t *start, uint64_t end)
    TSA_NO_TSA;

/**
 * guest_memfd_before_launch - is QEMU still to fill private memory?
 *
 * So in machines that launch from private memory, until
 * guest_memfd_finish_launch().
 */
bool guest_memfd_before_launch(void);

/**
 * guest_memfd_watch - survive accesses to private pages of @gm
 *
 * That is where they vanish from the mapping: in place, and with two copies whose
 * huge pages are given back.
 *
 * Called in the main thread, with the BQL held, as is its opposite.
 *
 * Returns: false if there are too many such blocks.
 */
#ifdef CONFIG_LINUX
bool guest_memfd_watch(GuestMemfd *gm);
void guest_memfd_unwatch(GuestMemfd *gm);

/**
 * guest_memfd_many_stand_ins - does a guest touch its private pages too much?
 *
 * Such a guest makes no more pages private, before QEMU has no room for more
 * pages that stand in.
 */
bool guest_memfd_many_stand_ins(void);
#else
static inline bool guest_memfd_watch(GuestMemfd *gm)
{
    return true;
}

static inline void guest_memfd_unwatch(GuestMemfd *gm)
{
}

static inline bool guest_memfd_many_stand_ins(void)
{
    return false;
}
#endif

/**
 * struct GuestMemfdPiece - a range of a block that is to be converted
 *
 * @start, @end: offsets in the block, in bytes; empty if another piece has it
 * @todo, @todo_end: the first run that is not in the wanted state; @end and 0
 *                   if there is none
 */
typedef struct GuestMemfdPiece {
    GuestMemfd *gm;
    uint64_t start;
    uint64_t end;
    uint64_t todo;
    uint64_t todo_end;
} GuestMemfdPiece;

#define GUEST_MEMFD_FEW_PIECES 4

/*
 * Called with the convert_lock held for each piece of a request that succeeds, to
 * remember that it is plugged, or not any more
 */
typedef void GuestMemfdPlugDone(GuestMemfd *gm, uint64_t start, uint64_t end);

/**
 * struct GuestMemfdRequest - what is to be converted, as a whole or not at all
 *
 * @plug_done: NULL for a conversion, of which nothing may be unplugged
 * @few: nearly all requests are of one piece, so none of them allocates memory
 */
typedef struct GuestMemfdRequest {
    bool to_private;
    GuestMemfdPlugDone *plug_done;
    unsigned nr;
    unsigned room;
    GuestMemfdPiece *piece;
    GuestMemfdPiece few[GUEST_MEMFD_FEW_PIECES];
} GuestMemfdRequest;

/**
 * guest_memfd_request_find - begin a request for a guest physical range
 *
 * @gpa, @size: bytes, anything
 *
 * Takes references to blocks, not to their memory: that may be unplugged until
 * guest_memfd_transact() has the locks, which refuses it then.
 *
 * Returns: 0; -EINVAL if not all of it can be converted.
 */
int guest_memfd_request_find(GuestMemfdRequest *req, hwaddr gpa, uint64_t size,
                             bool to_private);

/** guest_memfd_request_end - drop what find() has taken, failed or not */
void guest_memfd_request_end(GuestMemfdRequest *req);

/**
 * guest_memfd_drive - let the driver convert a run
 *
 * @retry: repeat it for some milliseconds as long as the driver says EAGAIN
 * @stop: out: how much of it was converted
 *
 * Returns: 0 or the errno of the driver.
 */
int guest_memfd_drive(GuestMemfd *gm, uint64_t start, uint64_t end,
                      bool to_private, bool retry, GuestMemfdStop *stop)
    TSA_REQUIRES(guest_memfd_convert_lock)
    TSA_EXCLUDES(guest_memfd_state_lock);

/**
 * guest_memfd_transact - convert all pieces of a request, or none
 *
 * The pieces are aligned to the host's page size and inside their blocks, in
 * any order; they are sorted and merged.
 *
 * Returns: 0, also if nothing had to change, or a negative errno, with @errp
 * set and the event sent.
 */
int guest_memfd_transact(GuestMemfdRequest *req, Error **errp)
    TSA_EXCLUDES(guest_memfd_convert_lock, guest_memfd_state_lock);

/**
 * guest_memfd_transact_piece - guest_memfd_transact() of one piece
 *
 * @offset, @size: inside the block, multiples of the host's page size; not 0
 * @plug_done: of the request
 */
int guest_memfd_transact_piece(GuestMemfd *gm, uint64_t offset, uint64_t size,
                               bool to_private, GuestMemfdPlugDone *plug_done,
                               Error **errp)
    TSA_EXCLUDES(guest_memfd_convert_lock, guest_memfd_state_lock);

/** enum GuestMemfdWant - what a listener is to have mapped of a range */
typedef enum GuestMemfdWant {
    GUEST_MEMFD_WANT_SHARED,    /* what the map calls shared */
    GUEST_MEMFD_WANT_ALL,
    GUEST_MEMFD_WANT_NOTHING,
} GuestMemfdWant;

/**
 * guest_memfd_sync_all - bring all listeners of a block in line in a range
 *
 * sync_range() in sync.c is the only way in which what a listener has mapped changes.
 * Nothing private is ever mapped (I1), so that what the map calls shared can only
 * be missing.
 *
 * With GUEST_MEMFD_WANT_SHARED all listeners are called, and those that fail are
 * stale in what they may lack of the range.  Otherwise those after the
 * one that failed are not called, and the caller settles what it left.
 *
 * Returns: 0 or the first errno.
 */
int guest_memfd_sync_all(GuestMemfd *gm, uint64_t start, uint64_t end,
                         GuestMemfdWant want)
    TSA_REQUIRES(guest_memfd_convert_lock)
    TSA_EXCLUDES(guest_memfd_state_lock);

/**
 * guest_memfd_settled - tell all listeners of a block that a request is settled
 *
 * The end of whatever may have made them unmap.
 */
void guest_memfd_settled(GuestMemfd *gm)
    TSA_REQUIRES(guest_memfd_convert_lock);

/**
 * guest_memfd_mend - sync stale listeners where they are stale
 *
 * Returns: 0 if no listener is stale any more, or the errno of one that is.
 */
int guest_memfd_mend(GuestMemfd *gm)
    TSA_REQUIRES(guest_memfd_convert_lock)
    TSA_EXCLUDES(guest_memfd_state_lock);

/** guest_memfd_rdm_listeners - set the methods for listeners of a manager */
void guest_memfd_rdm_listeners(RamDiscardManagerClass *rdmc);

#endif
