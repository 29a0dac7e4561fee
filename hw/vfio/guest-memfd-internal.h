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

/** enum VFIORamDiscardPieces - which mappings a range is made of */
typedef enum VFIORamDiscardPieces {
    VFIO_RAM_DISCARD_POPULATED, /* one for each range that was populated */
    VFIO_RAM_DISCARD_ALIGNED,   /* naturally aligned powers of two */
    VFIO_RAM_DISCARD_FEW,       /* as few as possible, for lack of mappings */
} VFIORamDiscardPieces;

/**
 * struct VFIORamDiscard - a section of a container's address space
 *
 * @gm: NULL if another RamDiscardManager has it (virtio-mem)
 * @granularity: of that, else 0
 * @iova: where it starts, in bytes
 * @to_iova: add to an offset in the memory region, modulo 2^64
 * @readonly: devices may not write
 * @arriving: it is being registered, and may take mappings that are kept
 * @leaving: it is being removed
 * @extents: what is mapped of it, by offsets in the memory region, inclusive
 * @gone: what was, when it left.  Kept until the memory transaction ends: a part of
 *        it may come back in another section, and is mapped in the same extents
 * @gone_start, @gone_end: the offsets at which the section itself began and ended
 * @kept: mappings that are reserved until what unmapped them is settled
 * @batch: requests that the container has not got yet
 *
 * The lock of the block, or the BQL if @gm is NULL, guards all but @nr_extents and
 * @mapped_bytes, which are atomic, since they are queried without it.
 */
typedef struct VFIORamDiscard {
    RamDiscardListener listener;
    VFIOContainer *bcontainer;
    GuestMemfd *gm;
    uint64_t granularity;
    const char *name;
    MemoryRegion *mr;
    hwaddr iova;
    uint64_t to_iova;
    bool readonly;
    bool arriving;
    bool leaving;
    VFIORamDiscardPieces pieces;
    IntervalTreeRoot extents;
    IntervalTreeRoot gone;
    uint64_t gone_start, gone_end;
    uint64_t kept;
    VFIODmaRequest batch[128];  /* a split of MAX_EXTENT needs 69 at most */
    unsigned nr_batch;
    unsigned nr_extents;
    unsigned nr_joints;         /* where two of them could be one */
    size_t mapped_bytes;
    uint64_t map_calls;
    uint64_t unmap_calls;
    uint64_t splits;
    QLIST_ENTRY(VFIORamDiscard) next;
} VFIORamDiscard;

/**
 * vfio_ram_discard_add - one more request to the container of @v
 *
 * @start, @end: offsets in the memory region, in bytes, page aligned
 * @map: map it; else unmap what one request mapped
 *
 * The rest and the result are as for vfio_ram_discard_run(), which this may call.
 */
int vfio_ram_discard_add(VFIORamDiscard *v, uint64_t start, uint64_t end,
                         bool map, uint64_t *reserved);

/**
 * vfio_ram_discard_run - do all requests that vfio_ram_discard_add() took
 *
 * A server that is lost has nothing mapped, so its requests succeed.
 *
 * @reserved: mappings; one less for each that was made, one more for each that
 *            was removed
 *
 * Returns: the first error.  What succeeded has been done all the same.
 */
int vfio_ram_discard_run(VFIORamDiscard *v, uint64_t *reserved);

/** vfio_ram_discard_changed - the container has mapped a range, or unmapped it */
void vfio_ram_discard_changed(VFIORamDiscard *v, uint64_t start, uint64_t size,
                              bool mapped);

/**
 * vfio_ram_discard_extents - how many mappings a range takes that becomes shared
 *
 * @start, @end: offsets in the memory region, in bytes, page aligned
 */
uint64_t vfio_ram_discard_extents(VFIORamDiscard *v, uint64_t start,
                                  uint64_t end);

/** vfio_ram_discard_limit - the most mappings that the container of @v may have */
uint64_t vfio_ram_discard_limit(const VFIORamDiscard *v);

/**
 * vfio_ram_discard_reserve - @n more mappings are about to be made
 *
 * Conversions leave some to sections that come later; these do not, nor does
 * virtio-mem, which may take back an unplug.
 *
 * Returns: false if the container may not have them.
 */
bool vfio_ram_discard_reserve(VFIORamDiscard *v, uint64_t n);

/** vfio_ram_discard_release - @n mappings are gone, or were not needed */
void vfio_ram_discard_release(VFIORamDiscard *v, uint64_t n);

/**
 * vfio_ram_discard_advice - what to do about an error, beyond what it says
 *
 * @ret: negative errno of a map
 * @more: bytes that were to be mapped besides those that are
 *
 * Returns: text to append, to be freed.
 */
char *vfio_ram_discard_advice(VFIORamDiscard *v, int ret, uint64_t more);

/**
 * vfio_ram_discard_populate - map what is not mapped yet of a range
 *
 * @start, @end: offsets in the memory region, page aligned, in the section
 *
 * Returns: 0; or a negative errno, with any part of it mapped.  -ENOSPC if the
 * container may not hold so many mappings.  This and the following are called
 * with the lock of the block held.
 */
int vfio_ram_discard_populate(VFIORamDiscard *v, uint64_t start, uint64_t end);

/**
 * vfio_ram_discard_populate_shared - map what is shared, and not mapped, of a range
 *
 * In one round trip, if the container is given many requests at once.  The rest is
 * as for vfio_ram_discard_populate().
 *
 * @v: with a GuestMemfd
 */
int vfio_ram_discard_populate_shared(VFIORamDiscard *v, uint64_t start,
                                     uint64_t end);

/**
 * vfio_ram_discard_discard - unmap a range, in the way x-dma-split says
 *
 * What lies outside stays mapped, or the listener is stale there.
 *
 * Returns: 0; or a negative errno, with any part of it unmapped.
 */
int vfio_ram_discard_discard(VFIORamDiscard *v, uint64_t start, uint64_t end);

/**
 * vfio_ram_discard_settled - as settled() of a listener
 *
 * What was unmapped is not going to be mapped again.  Until then its mappings are
 * reserved, so that a request to private can be taken back at any limit.
 */
void vfio_ram_discard_settled(VFIORamDiscard *v);

/** vfio_ram_discard_next_mapped - as next_mapped() of a listener */
uint64_t vfio_ram_discard_next_mapped(VFIORamDiscard *v, uint64_t *start);

/**
 * vfio_ram_discard_forget - what is still mapped cannot be unmapped any more
 *
 * The container is going, or refused.
 */
void vfio_ram_discard_forget(VFIORamDiscard *v);

#endif
