/*
 * DMA mappings of guest_memfd memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_GUEST_MEMFD_DMA_H
#define HW_VFIO_GUEST_MEMFD_DMA_H

#include "hw/vfio/vfio-device.h"

/**
 * struct VFIODmaRequest - a mapping to be made or removed by dma_batch()
 *
 * @map: make it; @vaddr, @readonly and @mr are as for dma_map().  It fails if
 *       something is mapped there
 * @ret: out: 0 or a negative errno
 */
struct VFIODmaRequest {
    bool map;
    bool readonly;
    hwaddr iova;
    uint64_t size;
    void *vaddr;
    MemoryRegion *mr;
    int ret;
};

/**
 * vfio_ram_discard_region_add - map what is populated of @section, and follow it
 *
 * @section: of a memory region with a RamDiscardManager
 * @cpr_remap: it is followed; map again what is mapped
 * @errp: set if the container cannot map what is populated; nothing is mapped
 *        then
 *
 * When that happens to a running device (memory is plugged, or remapped by the
 * guest) it is reported, and tried again with the next conversion to shared: the
 * device cannot reach the section until then, and the VM goes on.  Memory without a
 * GuestMemfd is not tried again.
 *
 * Called with the BQL held.
 */
bool vfio_ram_discard_region_add(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section, bool cpr_remap,
                                 Error **errp);

/**
 * vfio_ram_discard_region_del - the opposite; a section never added is ignored
 *
 * Called with the BQL held.
 */
void vfio_ram_discard_region_del(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section);

/** vfio_ram_discard_commit - a memory transaction has ended; BQL held */
void vfio_ram_discard_commit(VFIOContainer *bcontainer);

/**
 * vfio_guest_memfd_hidden - does a virtual IOMMU show memory that is converted?
 *
 * Nobody would unmap a page of it that becomes private, so that it must not be
 * mapped.  vfio_guest_memfd_attach() refuses the device if the memory is there
 * before it.
 *
 * @iotlb: what it shows
 *
 * Called with the BQL held.
 */
bool vfio_guest_memfd_hidden(const IOMMUTLBEntry *iotlb);

/**
 * vfio_ram_discard_sync_dirty - fetch the dirty bitmap of what is mapped
 *
 * Returns: 0 or a negative errno, with @errp set.
 */
int vfio_ram_discard_sync_dirty(VFIOContainer *bcontainer,
                                MemoryRegionSection *section, Error **errp);

/**
 * vfio_guest_memfd_attach - attach a device, with its x-dma-split
 *
 * All devices of a container have the same; page and auto can be had of each
 * container, cut only where the class has dma_cut.  No memory that is converted
 * can be reached through a virtual IOMMU.
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
