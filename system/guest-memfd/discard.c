/*
 * guest_memfd blocks: memory whose contents a guest does not need
 *
 * That is what a balloon takes.  Its pages are freed and keep their state, so
 * that the map, the driver and the listeners need not change: the guest finds
 * them empty when it uses them again.
 *
 * Shared memory is freed only where no device has it mapped, as with all other
 * memory.  Nobody but the guest reaches what is private, so that it can always be
 * freed.  The convert_lock keeps it private meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

/* What there is of the mapped file's pages in a range. */
static void discard_mapped(RAMBlock *rb, uint64_t start, uint64_t end)
{
    uint64_t page = qemu_ram_pagesize(rb);

    start = ROUND_UP(start, page);
    end = QEMU_ALIGN_DOWN(end, page);
    if (start < end) {
        ram_block_discard_range(rb, start, end - start);
    }
}

static void discard_private(GuestMemfd *gm, uint64_t start, uint64_t end)
    TSA_REQUIRES(guest_memfd_convert_lock)
{
    uint64_t stop;

    for (; (stop = guest_memfd_map_next(map_of(gm), true, &start, end));
         start = stop) {
        if (gm->ops->conversion == GUEST_MEMFD_CONVERSION_TWO_COPY) {
            ram_block_discard_guest_memfd_range(gm->rb, start, stop - start);
        } else {
            discard_mapped(gm->rb, start, stop);
        }
    }
}

void guest_memfd_discard(GuestMemfd *gm, uint64_t offset, uint64_t size,
                         bool shared)
{
    bool two_copy = gm->ops->conversion == GUEST_MEMFD_CONVERSION_TWO_COPY;
    uint64_t page = qemu_real_host_page_size();
    uint64_t start = ROUND_UP(offset, page);
    uint64_t end = QEMU_ALIGN_DOWN(offset + size, page);

    if (start >= end) {
        return;
    }
    convert_lock(gm);
    trace_guest_memfd_discard(gm->id, start, end - start, shared);
    if (two_copy || !shared) {
        discard_private(gm, start, end);
    }
    if (shared) {
        /* A huge page may be mixed: it goes as a whole. */
        discard_mapped(gm->rb, start, end);
    }
    convert_unlock(gm);
}

/*
 * As memory_region_find(), with a reference to what is found.  A FlatView has one
 * of its own until the grace period ends: the caller does not drop the last one,
 * which it may not do without the BQL.
 */
static MemoryRegionSection find_block(AddressSpace *as, hwaddr addr,
                                      uint64_t size)
{
    MemoryRegionSection s = memory_region_find(as->root, addr, size);

    if (s.mr && (!guest_memfd_from_mr(s.mr) ||
                 s.offset_within_address_space > addr)) {
        memory_region_unref(s.mr);
        s.mr = NULL;
    }
    return s;
}

bool guest_memfd_find_dma(AddressSpace *as, hwaddr addr, hwaddr *len)
{
    MemoryRegionSection s;

    RCU_READ_LOCK_GUARD();
    s = find_block(as, addr, *len);
    if (!s.mr) {
        return false;
    }
    *len = int128_get64(s.size);
    memory_region_unref(s.mr);
    return true;
}

void guest_memfd_discard_dma(AddressSpace *as, hwaddr addr, uint64_t size,
                             bool shared)
{
    MemoryRegionSection s;

    RCU_READ_LOCK_GUARD();
    s = find_block(as, addr, size);
    if (s.mr) {
        guest_memfd_discard(guest_memfd_from_mr(s.mr), s.offset_within_region,
                            int128_get64(s.size), shared);
        memory_region_unref(s.mr);
    }
}
