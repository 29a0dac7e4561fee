/*
 * DMA mappings of guest_memfd memory: which pieces a split leaves
 *
 * Policy without mechanism: no state, no calls to anybody.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "hw/vfio/guest-memfd-dma.h"

uint64_t vfio_guest_memfd_piece(uint64_t start, uint64_t end)
{
    uint64_t size = pow2floor(end - start);

    if (start) {
        size = MIN(size, 1ULL << ctz64(start));
    }
    return start + size;
}
