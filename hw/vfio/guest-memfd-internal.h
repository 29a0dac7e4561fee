/*
 * DMA mappings of guest_memfd memory: between hw/vfio/guest-memfd-*.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_GUEST_MEMFD_INTERNAL_H
#define HW_VFIO_GUEST_MEMFD_INTERNAL_H

#include "qemu/interval-tree.h"
#include "qemu/queue.h"
#include "hw/vfio/guest-memfd-dma.h"
#include "system/guest-memfd.h"

/**
 * struct VFIOGuestMemfdWindow - a range of a block, where devices see it
 *
 * @node: offsets in the memory region, inclusive
 * @iova_node: I/O virtual addresses, inclusive; for a virtual IOMMU only
 * @to_iova: add to an offset in the memory region, modulo 2^64
 * @readonly: devices may not write
 * @dead: hidden again, but not unmapped: tried again when it becomes private
 * @extents: what is mapped of it, by offsets in the memory region
 */
typedef struct VFIOGuestMemfdWindow {
    IntervalTreeNode node;
    IntervalTreeNode iova_node;
    uint64_t to_iova;
    bool readonly;
    bool dead;
    IntervalTreeRoot extents;
} VFIOGuestMemfdWindow;

/**
 * struct VFIOGuestMemfd - a container follows a block
 *
 * Either through one window, a section of its address space; or through all
 * that a virtual IOMMU shows it (hw/vfio/guest-memfd-translate.c).
 */
typedef struct VFIOGuestMemfd {
    RamDiscardListener listener;
    VFIOContainer *bcontainer;
    GuestMemfd *gm;
    MemoryRegion *mr;
    hwaddr iova;                /* of the section */
    bool arriving;              /* being registered: may take what is left */
    VFIOGuestMemfdWindow window;        /* the section */
    /* Under the lock of the block; the first two are queried without: atomic */
    unsigned nr_extents;
    size_t mapped_bytes;
    uint64_t map_calls;
    uint64_t unmap_calls;
    uint64_t splits;
    /* With a virtual IOMMU: all windows; changed under both locks */
    IntervalTreeRoot by_offset;
    IntervalTreeRoot by_iova;
    unsigned nr_windows;
    QLIST_ENTRY(VFIOGuestMemfd) next;
} VFIOGuestMemfd;

/** vfio_guest_memfd_new - @bcontainer is to follow @mr, which has a block */
VFIOGuestMemfd *vfio_guest_memfd_new(VFIOContainer *bcontainer,
                                     MemoryRegion *mr,
                                     NotifyRamPopulate populate,
                                     NotifyRamDiscard discard);

/**
 * vfio_guest_memfd_limit - how many mappings a container may have
 *
 * type1: dma_entry_limit; vfio-user: max_dma_maps; iommufd has no limit of its
 * own.
 */
uint64_t vfio_guest_memfd_limit(const VFIOContainer *bcontainer);

/**
 * vfio_guest_memfd_extents - how many mappings a range takes that becomes shared
 *
 * @start, @end: I/O virtual addresses, in bytes, multiples of the page size; not
 *               empty
 */
uint64_t vfio_guest_memfd_extents(const VFIOContainer *bcontainer,
                                  uint64_t start, uint64_t end);

/**
 * vfio_guest_memfd_advice - what to do about an error, beyond what it says
 *
 * @ret: negative errno of a map
 * @more: bytes that were to be mapped besides those that are
 *
 * Returns: text to append, to be freed.
 */
char *vfio_guest_memfd_advice(VFIOGuestMemfd *v, int ret, uint64_t more);

/**
 * vfio_guest_memfd_populate - map what is not mapped yet of a range
 *
 * @start, @end: offsets in the memory region, page aligned, inside of @w
 *
 * Returns: 0; or a negative errno, with any part of it mapped.  -ENOSPC if the
 * container may not hold so many mappings.  This and the following are called
 * with the lock of the block held.
 */
int vfio_guest_memfd_populate(VFIOGuestMemfd *v, VFIOGuestMemfdWindow *w,
                              uint64_t start, uint64_t end);

/**
 * vfio_guest_memfd_discard - unmap a range, in the way x-dma-split says
 *
 * What lies outside stays mapped, or the listener is stale there.
 *
 * Returns: 0; or a negative errno, with any part of it unmapped.
 */
int vfio_guest_memfd_discard(VFIOGuestMemfd *v, VFIOGuestMemfdWindow *w,
                             uint64_t start, uint64_t end);

/** vfio_guest_memfd_next_mapped - as next_mapped() of a listener */
uint64_t vfio_guest_memfd_next_mapped(VFIOGuestMemfdWindow *w, uint64_t *start);

/**
 * vfio_guest_memfd_forget - what is still mapped cannot be unmapped any more
 *
 * The container is going, or refused.
 */
void vfio_guest_memfd_forget(VFIOGuestMemfd *v, VFIOGuestMemfdWindow *w);

/** vfio_guest_memfd_query - as query() of a listener, without its name */
void vfio_guest_memfd_query(VFIOGuestMemfd *v, GuestMemfdListenerInfo *info);

#endif
