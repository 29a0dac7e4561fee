/*
 * guest_memfd memory: creating a block, and drivers that convert its memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_DRIVER_H
#define SYSTEM_GUEST_MEMFD_DRIVER_H

#include "system/guest-memfd.h"

/**
 * struct GuestMemfdStop - where a driver stopped, as it failed
 *
 * Both are the start of the range before the call.
 *
 * @done: the end of what has been converted, and stays so: a kernel that
 *        converts huge pages does so one by one
 * @held: with -EAGAIN: the first page that is in use
 */
typedef struct GuestMemfdStop {
    uint64_t done;
    uint64_t held;
} GuestMemfdStop;

/**
 * struct GuestMemfdOps - what changes the state of a block's memory
 *
 * All offsets and sizes are bytes within the block, multiples of the host's
 * page size, inside the block and not empty.  Every member is called with the
 * convert_lock of the block held and may be called without the BQL; none may take
 * the BQL.
 */
typedef struct GuestMemfdOps {
    /** @driver: the name of the option that chooses it */
    GuestMemfdDriver driver;
    /** @conversion: how it converts; never 'auto' */
    GuestMemfdConversion conversion;

    /**
     * @convert: change the state of a range; optional, nothing is to do if not
     *
     * Pages that are in that state already stay as they are.
     *
     * @stop: out, on failure, see there
     *
     * Returns: 0 or a negative errno.  -EAGAIN: call again.
     */
    int (*convert)(GuestMemfd *gm, uint64_t offset, uint64_t size,
                   bool to_private, GuestMemfdStop *stop);

    /**
     * @converted: optional; a range stays in the state that it has
     *
     * Everybody agreed and the map has changed, or the driver went back, which
     * it did for whole runs.  The place to free the copy that lost.  It cannot
     * fail any more.  Pages of the range may have been in their state before.
     */
    void (*converted)(GuestMemfd *gm, uint64_t offset, uint64_t size,
                      bool to_private);
} GuestMemfdOps;

/**
 * guest_memfd_emulated_ops - the software driver: bookkeeping only
 *
 * Shared and private are states of the same page, as with a kernel that converts
 * in place, but nothing enforces them: the host can read everything.  That is what
 * TCG, qtest and the development of devices need.
 */
extern const GuestMemfdOps guest_memfd_emulated_ops;

/**
 * guest_memfd_is_mapped - is the guest_memfd mapped, and holds all pages?
 *
 * @ops: NULL for memory that nothing converts (conversion=none)
 */
static inline bool guest_memfd_is_mapped(const GuestMemfdOps *ops)
{
    return !ops || (ops->driver == GUEST_MEMFD_DRIVER_KVM &&
                    ops->conversion == GUEST_MEMFD_CONVERSION_IN_PLACE);
}

/**
 * guest_memfd_new - make the pages of a block convertible
 *
 * @rb: its memory region is not mapped yet and has no RamDiscardManager;
 *      @rb->gmem points to the result from now on
 * @id: the name that QMP uses
 * @ops: what converts
 * @private: the state every page starts in, and returns to with
 *           guest_memfd_reset(); see also guest_memfd_starts_shared()
 * @errp: set when discarding of RAM is blocked by another device, when there
 *        is a manager already, or when migration cannot be blocked, or is
 *        expected
 *
 * Migration and snapshots are blocked while the block exists, because they
 * would leave its private pages out without a word; for the same reason a VM
 * that waits for -incoming cannot have a block.
 *
 * Returns: the block, to be released by guest_memfd_free(); NULL on error.
 * Called with the BQL held.
 */
GuestMemfd *guest_memfd_new(RAMBlock *rb, const char *id,
                            const GuestMemfdOps *ops, bool private,
                            Error **errp);

/** guest_memfd_thp_size - a transparent huge page of the host, in bytes */
uint64_t guest_memfd_thp_size(void);

/**
 * guest_memfd_set_provider - say where the pages of a block come from
 *
 * For what the page size of the RAMBlock does not tell: without this call it is
 * hugetlb for huge pages, else pages.
 */
void guest_memfd_set_provider(GuestMemfd *gm, GuestMemfdProvider provider);

/**
 * guest_memfd_set_restructure - say how the kernel splits a block's huge pages
 *
 * Without this call nobody knows.
 */
void guest_memfd_set_restructure(GuestMemfd *gm, GuestMemfdRestructure how);

/**
 * guest_memfd_huge_page_size - the size of a block's huge pages
 *
 * Returns: bytes; the host's page size if its provider has none.
 */
uint64_t guest_memfd_huge_page_size(const GuestMemfd *gm);

/**
 * guest_memfd_free - the end of a block; NULL is allowed
 *
 * All listeners have left.  The memory region is not looked at, it may be half
 * gone, but the memory is there until this returns: a conversion that runs is
 * waited for, and those that wait are refused.  Called with the BQL held.
 */
void guest_memfd_free(GuestMemfd *gm);

/**
 * guest_memfd_starts_shared - is the file of a private block shared at first?
 *
 * So with drivers that convert in place, in machines that launch from private
 * memory.  The pages are private to everybody but QEMU, which fills them, until
 * guest_memfd_finish_launch().  Called with the BQL held.
 */
bool guest_memfd_starts_shared(const GuestMemfdOps *ops);

/* Returns: false, with @errp set, if the memory cannot be filled. */
typedef bool GuestMemfdFill(void *opaque, Error **errp);

/**
 * guest_memfd_fill_after_launch - allocate the pages of a block later
 *
 * A file that is shared at first has small pages while it is shared.  Allocated
 * then, each of its huge pages would be split, and be merged again when the
 * launch has made it private.
 *
 * @fill: called once, by guest_memfd_finish_launch(), with the BQL held
 *
 * Returns: false, and does nothing, if the file of @gm is not shared at first.
 * Called with the BQL held.
 */
bool guest_memfd_fill_after_launch(GuestMemfd *gm, GuestMemfdFill *fill,
                                   void *opaque);

/**
 * guest_memfd_gives_back - are huge pages whose memory is private freed?
 *
 * With two copies only, and not if they are preallocated or reserved: another
 * process may take at once what goes back to the pool.
 */
bool guest_memfd_gives_back(const GuestMemfd *gm);

#ifdef CONFIG_LINUX
/**
 * guest_memfd_restore_mapping - show the pages of the file again
 *
 * What stands in for them goes.  To be called for a range that has become shared,
 * and before a reset; with the lock held.
 *
 * Returns: 0 or a negative errno.
 */
int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset,
                                uint64_t size);

/**
 * guest_memfd_giving_back - huge pages are about to be freed
 *
 * Called by drivers, with the lock held, for memory that is wholly private and
 * for which guest_memfd_gives_back().
 */
void guest_memfd_giving_back(GuestMemfd *gm, uint64_t offset, uint64_t size);

/**
 * guest_memfd_take_back - let there be memory for huge pages
 *
 * @offset, @size: multiples of the block's page size
 *
 * Called by drivers, with the lock held, for a range of which some is about to
 * become shared.  The memory follows the NUMA policy of the mapping.
 *
 * Returns: 0; -ENOMEM if the pool has none; -EAGAIN if it was touched meanwhile.
 */
int guest_memfd_take_back(GuestMemfd *gm, uint64_t offset, uint64_t size);
#else
static inline int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset,
                                              uint64_t size)
{
    return 0;
}
#endif

#endif
