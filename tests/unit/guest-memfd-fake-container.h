/*
 * A container for unit tests
 *
 * It takes a mapping only where there is none, and unmaps only what it mapped in
 * one call, as type1 does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_FAKE_CONTAINER_H
#define GUEST_MEMFD_FAKE_CONTAINER_H

#include "qemu/units.h"
#include "../hw/vfio/guest-memfd-internal.h"

/* What the code is told by getpagesize() */
extern uint64_t fake_page_size;

#define PAGE fake_page_size
#define PAGES 512
#define IOVA (3 * GiB - 256 * PAGE)     /* a boundary of 1 GiB is inside */

typedef struct FakeContainer {
    const unsigned long *shared;        /* what the map says, a bit a page */
    VFIOContainer *bcontainer;
    VFIORamDiscard v;
    uint64_t iova;
    uint64_t end_of[PAGES];     /* of the mapping that starts there; 0: none */
    unsigned nr;
    unsigned limit;             /* of the fake itself */
    unsigned fail;              /* this call fails, and those after it; 0: none */
    int unmap_error;            /* with that; 0: EIO */
    unsigned refusals;          /* of unmaps */
    bool refused;               /* an unmap of this batch */
    unsigned batches;
    uint64_t touched, touched_end;      /* by unmaps, as offsets */
    uint64_t stale, stale_end;
} FakeContainer;

extern FakeContainer fake;

/* Before the first test */
void fake_container_register(void);
/* Whether it can have many requests in a round trip */
void fake_container_batch(bool batch);
/* A new one, with so many mappings at most; nothing is mapped. */
void fake_container_start(unsigned limit, GuestMemfdDmaSplit split);
/* All is given back. */
void fake_container_stop(void);

#endif
