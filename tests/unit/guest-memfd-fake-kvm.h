/*
 * A KVM for unit tests
 *
 * It keeps the attribute of each page at two addresses, or of a file that is
 * converted in place, and refuses the calls that it is told to.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_FAKE_KVM_H
#define GUEST_MEMFD_FAKE_KVM_H

#include <linux/kvm.h>
#include "exec/cpu-common.h"
#include "guest-memfd-fakes.h"

#define HUGE_PAGE (4 * PAGE)
#define SIZE_PAGES 8
#define SIZE (SIZE_PAGES * PAGE)

#define SHARED_FILE (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

/* Flags of kernels that have huge pages there */
#define FILE_HUGETLB BIT_ULL(2)         /* or a file descriptor of a filesystem */
#define FILE_THP BIT_ULL(3)

#define RAM_ADDR 0x10000000

/* Where the guest sees the block */
#define ADDRESSES 2
extern const hwaddr gpas[ADDRESSES];

typedef enum FakePages {
    FAKE_SMALL,
    FAKE_ORDER,
    FAKE_RESOURCE,
} FakePages;

typedef struct FakeKVM {
    uint64_t attributes[ADDRESSES][SIZE_PAGES];
    unsigned calls;
    uint64_t refuse;            /* a bit for each call, from 1 on */
    int convert;                /* what conversions say */
    unsigned conversions;
    uint64_t gpa;               /* of the last one */
    uint64_t size;
    bool to_private;
    unsigned poisoned;
    ram_addr_t poison;          /* the last one */
    /* What it offers: */
    uint64_t file_flags;
    bool no_attribute;
    int in_place;               /* errno of conversions in place */
    FakePages pages;
    bool thp;
    bool huge_shared;           /* huge pages may start shared */
    /* Files: */
    int create;                 /* errno */
    int create_huge;            /* of huge pages alone */
    uint64_t created;           /* flags of the last one */
    uint64_t created_word;      /* and the first reserved word */
    unsigned creates;
    /* In place, the attributes are those of the first address. */
    uint64_t held;              /* a page, for so many calls: */
    unsigned held_calls;
    int held_errno;             /* instead of EAGAIN */
    enum {
        NAMES_PAGE,
        NAMES_FOLIO,            /* where the huge page starts */
        NAMES_NOTHING,
    } names;                    /* of what is held */
} FakeKVM;

extern FakeKVM kvm;

/*
 * A block that is as KVM knows it: all of it shared, and its memory in a memfd.
 *
 * @ops: NULL: two-copy
 */
void setup_kvm(uint64_t page_size, uint32_t flags, const GuestMemfdOps *ops);
void teardown_kvm(void);

#endif
