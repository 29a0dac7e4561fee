/*
 * DMA mappings of guest_memfd memory: which pieces are mapped
 *
 * Policy without mechanism: no state, no calls to anybody.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "hw/vfio/guest-memfd-dma.h"

/* Large initial ranges are cut so that a split never costs more than this. */
#define MAX_EXTENT (1 * GiB)

static uint64_t smallest_page(const VFIOGuestMemfdPlan *plan)
{
    return 1ULL << plan->host.shift[plan->host.levels - 1];
}

uint64_t vfio_guest_memfd_extent(const VFIOGuestMemfdPlan *plan,
                                 uint64_t start, uint64_t end)
{
    uint64_t size = MAX_EXTENT;

    if (plan->split == GUEST_MEMFD_DMA_SPLIT_PAGE) {
        size = smallest_page(plan);
    }
    /* not MIN(end, ...): the next boundary may be 2^64 */
    return start + MIN(end - start, size - start % size);
}

uint64_t vfio_guest_memfd_extents(const VFIOGuestMemfdPlan *plan,
                                  uint64_t start, uint64_t end)
{
    uint64_t size = MAX_EXTENT;

    if (plan->split == GUEST_MEMFD_DMA_SPLIT_PAGE) {
        size = smallest_page(plan);
    }
    /* not of end: that may be 2^64 */
    return DIV_ROUND_UP(start % size + (end - start), size);
}

/* Naturally aligned powers of two, as large as they can be. */
static uint64_t log_piece(uint64_t start, uint64_t end)
{
    uint64_t size = pow2floor(end - start);

    if (start) {
        size = MIN(size, 1ULL << ctz64(start));
    }
    return start + size;
}

/* Pages of the host, as large as they can be. */
static uint64_t staged_piece(const VFIOGuestMemfdPlan *plan, uint64_t start,
                             uint64_t end)
{
    for (unsigned l = 0; l < plan->host.levels; l++) {
        uint64_t size = 1ULL << plan->host.shift[l];

        if (QEMU_IS_ALIGNED(start, size) && end - start >= size) {
            return start + size;
        }
    }
    return start + smallest_page(plan);
}

/* Small pages in the huge page that was broken, and one piece of the rest. */
static uint64_t flat_piece(const VFIOGuestMemfdPlan *plan, uint64_t start,
                           uint64_t end, uint64_t border)
{
    uint64_t flat = QEMU_ALIGN_DOWN(border, plan->huge);
    uint64_t flat_end = ROUND_UP(border, plan->huge);

    if (start >= flat && start < flat_end) {
        return start + smallest_page(plan);
    }
    return start < flat && flat < end ? flat : end;
}

uint64_t vfio_guest_memfd_piece(const VFIOGuestMemfdPlan *plan, uint64_t start,
                                uint64_t end, uint64_t border)
{
    if (plan->coarse) {
        return end;
    }
    switch (plan->split) {
    case GUEST_MEMFD_DMA_SPLIT_LOG:
        return log_piece(start, end);
    case GUEST_MEMFD_DMA_SPLIT_STAGED:
        return staged_piece(plan, start, end);
    case GUEST_MEMFD_DMA_SPLIT_FLAT:
        return flat_piece(plan, start, end, border);
    case GUEST_MEMFD_DMA_SPLIT_PAGE:
        return start + smallest_page(plan);
    default:
        g_assert_not_reached();
    }
}

uint64_t vfio_guest_memfd_pieces(const VFIOGuestMemfdPlan *plan,
                                 uint64_t start, uint64_t end, uint64_t border,
                                 uint64_t max)
{
    uint64_t n = 0;

    while (start != end && n <= max) {
        start = vfio_guest_memfd_piece(plan, start, end, border);
        n++;
    }
    return n;
}
