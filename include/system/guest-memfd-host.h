/*
 * guest_memfd memory: QEMU's own accesses to it, and the launch of a guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_HOST_H
#define SYSTEM_GUEST_MEMFD_HOST_H

#include "system/guest-memfd.h"

/**
 * guest_memfd_host_access - may QEMU touch the memory of @gm at @offset?
 *
 * @len: in: bytes; out: as far as the answer goes, at least 1
 *
 * Not if it is private to a guest of KVM's, whichever way it converts, unless
 * the machine is yet to be launched.  The answer can be outdated as soon as it
 * is there, for which there is guest_memfd_sigbus().  Every value of @offset and
 * @len is allowed.
 */
bool guest_memfd_host_access(GuestMemfd *gm, uint64_t offset, uint64_t *len);

/**
 * guest_memfd_discard - free memory whose contents the guest does not need
 *
 * @offset, @size: inside the block, in bytes; pages that lie there only in part
 *                 stay
 * @shared: free shared memory, too: no device has it mapped.  A huge page of a
 *          file that is converted in place goes as a whole, whatever is private of
 *          it
 *
 * Nothing else changes: each page keeps its state, and is empty the next time it
 * is used.  What the kernel does not free stays, which has been logged.  Called
 * with the BQL held.
 */
void guest_memfd_discard(GuestMemfd *gm, uint64_t offset, uint64_t size,
                         bool shared);

/**
 * guest_memfd_find_dma - is there memory of a block at an address of a device?
 *
 * @as: what the device addresses
 * @len: in: bytes, not 0; out: as far as the block goes, if there is one
 *
 * An IOMMU is not looked through.  Every value of @addr and @len is allowed.
 */
bool guest_memfd_find_dma(AddressSpace *as, hwaddr addr, hwaddr *len);

/**
 * guest_memfd_discard_dma - guest_memfd_discard() by an address of a device
 *
 * @as, @addr, @size: as guest_memfd_find_dma() has found it; nothing happens if
 *                    it is not there any more
 */
void guest_memfd_discard_dma(AddressSpace *as, hwaddr addr, uint64_t size,
                             bool shared);

#ifdef CONFIG_LINUX
/**
 * guest_memfd_sigbus - QEMU has accessed memory that is not there
 *
 * For the handler of SIGBUS, with its arguments.
 *
 * Returns: true if that has been dealt with.
 */
bool guest_memfd_sigbus(siginfo_t *siginfo, void *context);
#endif

/**
 * guest_memfd_check_save - is the memory at a guest physical address readable?
 *
 * @gpa, @size: bytes, anything.  There may be more than memory in the range, and
 *              nothing: that does not count
 *
 * Returns: false, with @errp set, if a page of it is private.
 */
bool guest_memfd_check_save(hwaddr gpa, uint64_t size, Error **errp);

/**
 * guest_memfd_may_load - may a snapshot be loaded into all memory?
 *
 * Returns: false, with @errp set, if there is a block: no snapshot carries its
 * private pages.  Called with the BQL held.
 */
bool guest_memfd_may_load(Error **errp);

/**
 * guest_memfd_launch - make memory private that the kernel is about to fill
 *
 * @gpa, @size: where it is to go, in bytes, multiples of the host's page size
 * @source: in: what the kernel is to copy, @size bytes; out: the same, or a copy
 *          of it if it would become private itself.  The copy lasts until
 *          guest_memfd_finish_launch().  NULL if there is none
 *
 * Returns: 0 or a negative errno.  Called with the BQL held.
 */
int guest_memfd_launch(hwaddr gpa, uint64_t size, void **source, Error **errp);

/**
 * guest_memfd_finish_launch - all that the map calls private is private now
 *
 * Returns: false on error: the machine cannot run.  Called with the BQL held,
 * before a vCPU runs.
 */
bool guest_memfd_finish_launch(Error **errp);

#endif
