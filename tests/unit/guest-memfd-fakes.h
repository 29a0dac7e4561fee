/*
 * What surrounds a guest_memfd block in its unit tests
 *
 * A driver and listeners that remember each page, check what they are asked,
 * and fail where they are told to, and as much of QEMU's memory core as a block
 * needs.  The driver enforces invariant I1: a page becomes private only while no
 * listener can reach it, and no listener maps a page that is private.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_FAKES_H
#define GUEST_MEMFD_FAKES_H

#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "system/guest-memfd-host.h"
#include "system/guest-memfd-kvm.h"
#include "system/kvm.h"
#include "system/ramblock.h"
#include "guest-memfd-model.h"

#define PAGE fake_page_size
#define PAGES 1024
#define LISTENERS 3
#define BLOCKS 2

typedef struct Listener {
    RamDiscardListener rdl;
    DECLARE_BITMAP(mapped, PAGES);
    bool discarded;             /* and not told since that it is settled */
} Listener;

typedef struct Block {
    RAMBlock rb;
    MemoryRegion mr;
    GuestMemfd *gm;
    DECLARE_BITMAP(private, PAGES);     /* what the driver made of it */
    Listener listener[LISTENERS];
    Model *model;               /* NULL in machines that are launched */
} Block;

/*
 * Failures to inject: the calls of drivers and listeners are counted, those
 * with these numbers fail.  A listener that fails has done half of its work, and
 * so has the driver with @partial, as kernels that convert one huge page after
 * the other.
 */
typedef struct Fake {
    QemuMutex lock;
    unsigned calls;
    unsigned fail[2];
    bool fail_all_after;
    int error;
    unsigned eagain;
    bool partial;
    unsigned failed;            /* how many did */
    /* A listener that waits in its discard until it is told to go on: */
    bool waits;
    QemuSemaphore waiting;
    QemuSemaphore go_on;
} Fake;

/*
 * Guest physical addresses: block 0, block 1, hole, the start of block 0 once
 * more, hole, ROM, MMIO, hole.
 */
#define GPA_BLOCK0 0
#define GPA_BLOCK1 (PAGES * PAGE)
#define GPA_ALIAS  (3 * PAGES * PAGE)
#define ALIAS_SIZE (16 * PAGE)
#define GPA_ROM    (4 * PAGES * PAGE)
#define GPA_MMIO   (GPA_ROM + 16 * PAGE)
#define GPA_END    (GPA_MMIO + 16 * PAGE)

/* What getpagesize() says, in bytes; at first what the host has */
extern uint64_t fake_page_size;

extern Block block[BLOCKS];
extern Fake fake;
extern int region_refs;         /* references held to memory regions */
extern const GuestMemfdOps fake_ops;

/* system/kvm.h and kvm_int.h show them to what is compiled for a target. */
int kvm_vm_check_extension(KVMState *s, unsigned int extension);
void kvm_hwpoison_page_add(ram_addr_t ram_addr);

/* Once, before anything else */
void fake_init(void);

/* No failures from now on */
void fake_reset(void);

/* Blocks that come now are in a machine that launches from private memory */
void fake_launching(bool launching);

/* Blocks with their listeners, all of them private or all shared */
void setup(bool private);

/* The end, with nothing left behind */
void teardown(void);

/* A listener that is like those of the blocks; maps what is shared of @s */
void listener_init(Listener *l);
int listener_add(Block *b, Listener *l, MemoryRegionSection *s);
void listener_remove(Block *b, Listener *l);

/* By guest physical address, as a guest does */
int convert_gpa(hwaddr gpa, uint64_t size, bool to_private);

int convert(Block *b, uint64_t first, uint64_t nr, bool to_private);

MemoryRegionSection section_of(Block *b, uint64_t offset, uint64_t size);
void section_pages(const MemoryRegionSection *s, unsigned long *first,
                   unsigned long *nr);

/* The map of a block as bits, one a private page */
void read_map(Block *b, unsigned long *bits);

/* I1 and the part of I3 that always holds: the map is what the driver has */
void check_safe(void);

/* I2 and all of I3 */
void check_exact(void);

#endif
