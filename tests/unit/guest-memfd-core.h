/*
 * As much of QEMU's memory core as a guest_memfd block needs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_CORE_H
#define GUEST_MEMFD_CORE_H

#include "system/memory.h"

/* How many blocks want that discards are coordinated */
extern int core_discards_required;

/* How often memory was freed, and how much of it */
typedef struct CoreDiscards {
    unsigned shared;            /* of the mapping */
    unsigned private;           /* of a guest_memfd beside it */
    uint64_t shared_bytes;
    uint64_t private_bytes;
} CoreDiscards;

extern CoreDiscards core_discards;

/* What machine_require_guest_memfd() says of any machine */
extern bool core_requires_guest_memfd;

/* Make @rb and @mr belong together; whatever they were is forgotten. */
void core_init_block(RAMBlock *rb, MemoryRegion *mr, uint64_t size);

#endif
