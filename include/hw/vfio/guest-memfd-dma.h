/*
 * DMA mappings of guest_memfd memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_GUEST_MEMFD_DMA_H
#define HW_VFIO_GUEST_MEMFD_DMA_H

#include "hw/vfio/vfio-container.h"

/**
 * vfio_guest_memfd_region_add - map the shared part of @section, and follow it
 *
 * @section: of a memory region with a GuestMemfd
 * @errp: set if the container cannot map what is shared now; nothing is mapped
 *        then
 *
 * When that happens to a running device (memory is plugged, or remapped by the
 * guest) it is reported, and tried again with the next conversion to shared: the
 * device cannot reach the section until then, and the VM goes on.
 *
 * Called with the BQL held.
 */
bool vfio_guest_memfd_region_add(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section, Error **errp);

/**
 * vfio_guest_memfd_region_del - the opposite; a section never added is ignored
 *
 * Called with the BQL held.
 */
void vfio_guest_memfd_region_del(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section);

/**
 * vfio_guest_memfd_may_translate - may a virtual IOMMU map pages of @mr?
 *
 * Not those of guest_memfd memory: nobody would unmap them when they become
 * private.  Says so once.
 */
bool vfio_guest_memfd_may_translate(MemoryRegion *mr);

/**
 * vfio_guest_memfd_sync_dirty - fetch the dirty bitmap of what is mapped
 *
 * Returns: 0 or a negative errno, with @errp set.
 */
int vfio_guest_memfd_sync_dirty(VFIOContainer *bcontainer,
                                MemoryRegionSection *section, Error **errp);

/**
 * vfio_guest_memfd_piece - the next piece of a range that was split
 *
 * @start, @end: I/O virtual addresses, in bytes, multiples of 4 KiB; not empty
 *
 * What is left of a mapping is mapped again as naturally aligned powers of two,
 * so that the IOMMU can use its large entries: of a naturally aligned mapping
 * of n pages that loses one page, log2(n) pieces remain.
 *
 * Returns: the end of the largest naturally aligned power of two at @start that
 * does not go beyond @end.
 */
uint64_t vfio_guest_memfd_piece(uint64_t start, uint64_t end);

#endif
