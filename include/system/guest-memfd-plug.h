/*
 * guest_memfd memory: what virtio-mem has plugged of it
 *
 * Of a block that virtio-mem has, two decide what devices can reach: the guest,
 * which converts pages, and virtio-mem, which plugs blocks of them.  What is not
 * plugged is private to the map, the driver and the listeners, and nobody can
 * convert it.  So only what is plugged and shared is mapped for DMA.
 *
 * The caller keeps its own record of what is plugged; one caller at a time has a
 * block.  All functions are called with the BQL held; @offset and @size are bytes
 * in the block, multiples of the host's page size.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_PLUG_H
#define SYSTEM_GUEST_MEMFD_PLUG_H

#include "system/guest-memfd.h"

/**
 * guest_memfd_plug_start - nothing of a block is plugged from now on
 *
 * The memory is not mapped in the guest yet.  What it had is lost.
 *
 * Returns: false, with @errp set, if that cannot be.
 */
bool guest_memfd_plug_start(GuestMemfd *gm, Error **errp);

/**
 * guest_memfd_plug_end - all of a block is plugged again, and nobody unplugs it
 *
 * The memory is not mapped in the guest any more.  What it had is lost.
 */
void guest_memfd_plug_end(GuestMemfd *gm);

/**
 * guest_memfd_plug - plug memory that is not plugged
 *
 * It gets the state that all memory of the block has at the start.
 *
 * Returns: 0; or the errno of the driver or of a listener, and nothing has
 * changed.  The event has been sent then.
 */
int guest_memfd_plug(GuestMemfd *gm, uint64_t offset, uint64_t size);

/**
 * guest_memfd_unplug - unplug memory, of which a part can be unplugged already
 *
 * No device reaches it any more, and both copies of it are freed.  What the kernel
 * does not free stays, which has been logged.
 *
 * @offset, @size: multiples of the block's page size as well
 *
 * Returns: as guest_memfd_plug()
 */
int guest_memfd_unplug(GuestMemfd *gm, uint64_t offset, uint64_t size);

#endif
