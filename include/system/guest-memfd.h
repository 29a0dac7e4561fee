/*
 * guest_memfd memory: blocks whose pages are shared or private
 *
 * One GuestMemfd belongs to each RAMBlock whose pages a guest can convert.  It
 * is the RamDiscardManager of the block's memory region ("populated" is
 * shared, "discarded" is private), remembers the state of every page, and runs
 * conversions as transactions over a driver (which changes the state of the
 * memory) and listeners (which keep DMA mappings).  docs/devel/guest-memfd/
 * has the whole picture.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_H
#define SYSTEM_GUEST_MEMFD_H

#include "qemu/queue.h"
#include "qom/object.h"
#include "exec/hwaddr.h"
#include "qapi/qapi-types-guest-memfd.h"
#include "system/guest-memfd-map.h"
#include "system/memory.h"

#define TYPE_GUEST_MEMFD "guest-memfd"
OBJECT_DECLARE_SIMPLE_TYPE(GuestMemfd, GUEST_MEMFD)

/*
 * A listener is a RamDiscardListener like those of any other manager, and gets
 * more from this one:
 *  - It is called with the convert_lock of the block, at times without the BQL.
 *    It must not take the BQL, nor call the manager except for
 *    guest_memfd_listener_stale(), guest_memfd_next_shared() and
 *    guest_memfd_next_border().
 *  - Populate may meet parts that are mapped, discard parts that are not.
 *  - When discard returns, the hardware (IOMMU, IOTLB, vfio-user server) cannot reach it.
 *  - On failure either may leave any part of the section mapped or not.  It is
 *    told again to map what is shared, soon or before the next conversion.
 *  - What lies outside of the section stays mapped, or the listener says so
 *    (guest_memfd_listener_stale()).
 */

/** guest_memfd_from_mr - the block of @mr, or NULL */
GuestMemfd *guest_memfd_from_mr(const MemoryRegion *mr);

/** guest_memfd_next - iterate over all blocks, NULL to start; BQL held */
GuestMemfd *guest_memfd_next(GuestMemfd *gm);

const char *guest_memfd_id(const GuestMemfd *gm);
MemoryRegion *guest_memfd_mr(const GuestMemfd *gm);

/**
 * guest_memfd_convert - convert memory at the request of a guest
 *
 * @gpa: guest physical address
 * @size: bytes
 * @to_private: the state wanted
 *
 * The range may cross memory regions: it converts as a whole or not at all.
 * Holes and MMIO cannot become private; a request to share them succeeds, since
 * firmware makes it (TDX guests share MMIO to get their #VE).
 *
 * Every value is the guest's and may be hostile.  Can be called with or
 * without the BQL.
 *
 * Returns: 0; -EINVAL for a range that is empty, unaligned, overflows or holds
 * something that cannot be converted; else what driver or listener said, and
 * then nothing has changed.
 */
int guest_memfd_convert(hwaddr gpa, uint64_t size, bool to_private);

/**
 * guest_memfd_is_converted - is memory of blocks in a state already?
 *
 * @gpa, @size, @private: as for guest_memfd_convert()
 *
 * The answer can be outdated as soon as it is there.  Can be called with or
 * without the BQL.
 */
bool guest_memfd_is_converted(hwaddr gpa, uint64_t size, bool private);

/**
 * guest_memfd_convert_block - convert a part of one block
 *
 * @offset, @size: bytes, multiples of the host's page size
 * @errp: says which argument is wrong, or what refused
 *
 * Returns: 0 or a negative errno, as guest_memfd_convert().
 */
int guest_memfd_convert_block(GuestMemfd *gm, uint64_t offset, uint64_t size,
                              bool to_private, Error **errp);

/**
 * guest_memfd_reset - all pages back to their initial state
 *
 * Listeners unmap everything and map again in whole runs, so that what a
 * guest has fragmented does not outlive it.
 *
 * Returns: 0, or the errno of what refused, with @errp set: not all pages are in
 * their initial state, and the VM must not run.  Called with the BQL held and no
 * vCPU running.
 */
int guest_memfd_reset(GuestMemfd *gm, Error **errp);

/**
 * guest_memfd_next_shared - find the next run of shared pages
 *
 * @start: where to look from, in bytes; out: where the run starts
 * @end: where to stop, in bytes
 *
 * Returns: the end of the run, or 0 if there is none.  Called by listeners, in
 * notify_populate_parts().
 */
uint64_t guest_memfd_next_shared(GuestMemfd *gm, uint64_t *start, uint64_t end);

/**
 * guest_memfd_next_border - where mappings of a block begin or end
 *
 * @start, @end: offsets, in bytes
 *
 * Returns: the first offset after @start at which the mapping of a listener begins
 * or ends that has next_mapped(); @end if there is none before it.  Called by
 * listeners that register.
 */
uint64_t guest_memfd_next_border(GuestMemfd *gm, uint64_t start, uint64_t end);

/**
 * guest_memfd_listener_stale - what is shared of a range is not mapped
 *
 * @rdl: registered for the block
 * @start, @end: offsets in the memory region, in bytes
 *
 * For listeners that lost a mapping.  They are told to map it again before the
 * next conversion of the block; one to shared fails if that does.  Called with
 * the convert_lock of the block held, as it is in the calls of a listener.
 */
void guest_memfd_listener_stale(GuestMemfd *gm, RamDiscardListener *rdl,
                                uint64_t start, uint64_t end);

/**
 * guest_memfd_foreach_run - act on each run of equal pages of a range
 *
 * The convert_lock of the block is held around all of them.
 *
 * Returns: the first value of @fn that is not 0, else 0.
 */
int guest_memfd_foreach_run(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            int (*fn)(uint64_t offset, uint64_t size,
                                      bool private, void *opaque),
                            void *opaque);

/** guest_memfd_all_private - is a range wholly private? */
bool guest_memfd_all_private(GuestMemfd *gm, uint64_t offset, uint64_t size);

#endif
