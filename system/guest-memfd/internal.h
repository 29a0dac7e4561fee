/*
 * guest_memfd blocks: what the files of this directory share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_INTERNAL_H
#define SYSTEM_GUEST_MEMFD_INTERNAL_H

#include "qemu/thread.h"
#include "system/guest-memfd.h"
#include "system/guest-memfd-map.h"
#include "system/guest-memfd-policy.h"

typedef struct GuestMemfdStats {
    uint64_t requests;
    uint64_t bytes;
    uint64_t failures;
    uint64_t retries;
    uint64_t rollbacks;
} GuestMemfdStats;

struct GuestMemfd {
    Object parent_obj;

    /* Set at creation: */
    char *id;
    RAMBlock *rb;                       /* its region may not know it yet */
    MemoryRegion *mr;
    const GuestMemfdOps *ops;
    bool init_private;
    GuestMemfdPlatform platform;
    GuestMemfdDmaSplit dma_split;
    uint64_t page_size;
    Error *migration_blocker;
    QTAILQ_ENTRY(GuestMemfd) next;      /* BQL */
    bool launching;                     /* written under the BQL */

    QemuMutex lock;
    /* Under the lock: */
    GuestMemfdMap *map;
    GPtrArray *listeners;               /* GuestMemfdListener, oldest first */
    GuestMemfdStats to_private;
    GuestMemfdStats to_shared;
};

/** guest_memfd_unmaps_private - do private pages vanish from the mapping? */
bool guest_memfd_unmaps_private(const GuestMemfd *gm);

/**
 * guest_memfd_watch - survive accesses to private pages of @gm
 *
 * Called in the main thread, with the BQL held, as is its opposite.
 *
 * Returns: false if there are too many such blocks.
 */
#ifdef CONFIG_LINUX
bool guest_memfd_watch(GuestMemfd *gm);
void guest_memfd_unwatch(GuestMemfd *gm);
#else
static inline bool guest_memfd_watch(GuestMemfd *gm)
{
    return true;
}

static inline void guest_memfd_unwatch(GuestMemfd *gm)
{
}
#endif

/* A range of a block. */
typedef struct GuestMemfdPiece {
    GuestMemfd *gm;
    uint64_t start;
    uint64_t end;
} GuestMemfdPiece;

/**
 * guest_memfd_collect - the pieces that a guest physical range consists of
 *
 * @pieces: out: GuestMemfdPiece, in the order of their addresses
 * @regions: out: MemoryRegion, all that were found, also on failure, each with a
 *           reference
 * @gpa, @size: bytes, anything
 *
 * Returns: 0; -EINVAL if not all of it can become what is asked.
 */
int guest_memfd_collect(GArray *pieces, GPtrArray *regions, hwaddr gpa,
                        uint64_t size, bool to_private);

/**
 * guest_memfd_drive - let the driver convert a run, as often as it says EAGAIN
 *
 * @stop: out: on failure, how much of it was converted
 *
 * Returns: 0 or the errno of the driver.  The lock of the block is held.
 */
int guest_memfd_drive(GuestMemfd *gm, uint64_t start, uint64_t end,
                      bool to_private, GuestMemfdStop *stop);

/**
 * guest_memfd_transact - convert all pieces, or none
 *
 * @pieces: GuestMemfdPiece, aligned to the host's page size, inside their
 *          blocks, in any order; is sorted and merged
 *
 * Returns: 0, also if nothing had to change, or a negative errno, with @errp
 * set and the event sent.  Takes the locks of the blocks.
 */
int guest_memfd_transact(GArray *pieces, bool to_private, Error **errp);

/**
 * guest_memfd_listener_notify - tell one listener about a range
 *
 * The part of [@start, @end) outside its section does not concern it.
 */
int guest_memfd_listener_notify(GuestMemfdListener *l, uint64_t start,
                                uint64_t end, bool populate);

/**
 * guest_memfd_listener_discard_runs - discard what is shared of a range
 *
 * Goes on after a failure.
 *
 * Returns: 0 or the first errno.
 */
int guest_memfd_listener_discard_runs(GuestMemfd *gm, GuestMemfdListener *l,
                                      uint64_t start, uint64_t end);

/**
 * guest_memfd_listener_populate_runs - populate what is shared of a range
 *
 * Returns: 0 or an errno, with nothing of the range populated.
 */
int guest_memfd_listener_populate_runs(GuestMemfd *gm, GuestMemfdListener *l,
                                       uint64_t start, uint64_t end);

#endif
