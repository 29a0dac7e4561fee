/*
 * DMA mappings of guest_memfd memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_GUEST_MEMFD_DMA_H
#define HW_VFIO_GUEST_MEMFD_DMA_H

#include "hw/vfio/vfio-container.h"
#include "qapi/qapi-types-guest-memfd-options.h"
#include "system/guest-memfd-map.h"

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
 * vfio_guest_memfd_iommufd_prepare - let a new container cut mappings
 *
 * If any memory has x-dma-split=cut, or has auto and no memory has huge pages;
 * and before the first device: iommufd can only cut what it has mapped in small
 * pages (IOMMU_OPTION_HUGE_PAGES).
 *
 * @bcontainer: a TYPE_VFIO_IOMMU_IOMMUFD, new; dma_cut is set if it can
 * @errp: set if it cannot, but x-dma-split=cut
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

/**
 * struct VFIOGuestMemfdPlan - how a container maps a section
 *
 * @split: the policy; not auto
 * @host: the page sizes of the host
 * @huge: what the memory is made of, in bytes; one of the host's page sizes
 * @coarse: instead of what @split says of the rest of an extent, it is one piece
 */
typedef struct VFIOGuestMemfdPlan {
    GuestMemfdDmaSplit split;
    GuestMemfdMapGeometry host;
    uint64_t huge;
    bool coarse;
} VFIOGuestMemfdPlan;

/**
 * vfio_guest_memfd_extent - the first extent of a range that becomes shared
 *
 * @start, @end: I/O virtual addresses, in bytes, multiples of the smallest
 *               page; not empty
 *
 * Returns: the end of it: a page with the policy page, else the whole range up
 * to the next multiple of 1 GiB.
 */
uint64_t vfio_guest_memfd_extent(const VFIOGuestMemfdPlan *plan,
                                 uint64_t start, uint64_t end);

/**
 * vfio_guest_memfd_extents - how many of these a range becomes
 *
 * @start, @end: as above
 */
uint64_t vfio_guest_memfd_extents(const VFIOGuestMemfdPlan *plan,
                                  uint64_t start, uint64_t end);

/**
 * vfio_guest_memfd_piece - the first piece of what a split leaves
 *
 * @start, @end: I/O virtual addresses of the rest on one side, as above
 * @border: @start or @end, on the side of what was dropped
 *
 * log: the largest naturally aligned power of two, so that the IOMMU can use
 * its large entries.  Of a naturally aligned mapping of n pages that loses one
 * page, log2(n) pieces remain.  staged: the largest page of the host.  flat:
 * the smallest page in the huge page that has the border in it, all of the rest
 * outside.
 *
 * Returns: the end of it.
 */
uint64_t vfio_guest_memfd_piece(const VFIOGuestMemfdPlan *plan, uint64_t start,
                                uint64_t end, uint64_t border);

/**
 * vfio_guest_memfd_pieces - how many pieces that are
 *
 * @start, @end, @border: as above; @start may be @end
 *
 * Returns: the number, or @max + 1 if there are more than @max.
 */
uint64_t vfio_guest_memfd_pieces(const VFIOGuestMemfdPlan *plan,
                                 uint64_t start, uint64_t end, uint64_t border,
                                 uint64_t max);

#endif
