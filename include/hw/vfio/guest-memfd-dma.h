/*
 * DMA mappings of guest_memfd memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_GUEST_MEMFD_DMA_H
#define HW_VFIO_GUEST_MEMFD_DMA_H

#include "hw/vfio/vfio-device.h"

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
 * vfio_guest_memfd_translate - a virtual IOMMU shows memory to a device
 *
 * @iova: where the device sees it, in bytes
 * @iotlb: what it sees; its permissions are not IOMMU_NONE
 *
 * The shared pages of it are mapped, now and after each conversion.  Who cannot
 * be served is told of once; the device cannot reach the memory then.
 *
 * Returns: false if that is not guest_memfd memory, and nothing was done.
 * Called with the BQL held.
 */
bool vfio_guest_memfd_translate(VFIOContainer *bcontainer, hwaddr iova,
                                const IOMMUTLBEntry *iotlb);

/**
 * vfio_guest_memfd_untranslate - a virtual IOMMU hides memory again
 *
 * @iova, @last: the first and the last byte; whatever was shown in there goes,
 *               as a whole
 * @final: the container is going, or unmaps all of the range: forget what could
 *         not be unmapped
 *
 * Returns: true if all of the range was guest_memfd memory, so that there is
 * nothing else to unmap.  Called with the BQL held.
 */
bool vfio_guest_memfd_untranslate(VFIOContainer *bcontainer, hwaddr iova,
                                  hwaddr last, bool final);

/**
 * vfio_guest_memfd_sync_dirty - fetch the dirty bitmap of what is mapped
 *
 * Returns: 0 or a negative errno, with @errp set.
 */
int vfio_guest_memfd_sync_dirty(VFIOContainer *bcontainer,
                                MemoryRegionSection *section, Error **errp);

/**
 * vfio_guest_memfd_attach - attach a device, with its x-dma-split
 *
 * All devices of a container have the same; page and auto can be had of each
 * container, cut only where the class has dma_cut.
 *
 * @ops: of the container that it will be attached to
 * @name, @vbasedev, @as, @errp: as for attach_device()
 *
 * Called with the BQL held.
 */
bool vfio_guest_memfd_attach(const VFIOIOMMUClass *ops, const char *name,
                             VFIODevice *vbasedev, AddressSpace *as,
                             Error **errp);

/**
 * vfio_guest_memfd_iommufd_prepare - let a new container cut mappings
 *
 * iommufd can only cut what it has mapped in small pages, which it has to be
 * told before the first device (IOMMU_OPTION_HUGE_PAGES).
 *
 * @bcontainer: a TYPE_VFIO_IOMMU_IOMMUFD, new; nothing happens if its dma_split
 *              is not cut
 * @errp: set if this kernel cannot
 *
 * Called with the BQL held.
 */
bool vfio_guest_memfd_iommufd_prepare(VFIOContainer *bcontainer, Error **errp);

/**
 * vfio_guest_memfd_iommufd_class_init - the operations that only iommufd has
 *
 * @vioc: of TYPE_VFIO_IOMMU_IOMMUFD
 */
void vfio_guest_memfd_iommufd_class_init(VFIOIOMMUClass *vioc);

#endif
