/*
 * For system/ram-block-attributes.c as QEMU has it
 *
 * Included before anything else: what patches/ take out of QEMU's headers.
 * scripts/prepare-qemu.py puts QEMU's own ramblock.h here.  The trace event is
 * off.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_QEMU_H
#define GUEST_MEMFD_QEMU_H

#include "qemu/osdep.h"
#include "qemu-ramblock.h"

static inline void
trace_ram_block_attributes_state_change(uint64_t offset, uint64_t size,
                                        const char *from, const char *to)
{
}

#endif
