/*
 * guest_memfd blocks: what the kernel pays for huge pages that are split
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_VMEMMAP_H
#define SYSTEM_GUEST_MEMFD_VMEMMAP_H

#include "qapi/qapi-types-guest-memfd.h"
#include "system/guest-memfd-map.h"

/**
 * guest_memfd_vmemmap_bytes - what one huge page costs, beyond one that is whole
 *
 * @start, @size: the huge page, in bytes
 * @how: how the kernel splits it
 *
 * The cost of this function is bounded by @size, whatever its pages are.
 */
uint64_t guest_memfd_vmemmap_bytes(const GuestMemfdMap *map, uint64_t start,
                                   uint64_t size, GuestMemfdRestructure how);

#endif
