/*
 * Options of memory-backend-guest-memfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_GUEST_MEMFD_OPTIONS_H
#define BACKENDS_GUEST_MEMFD_OPTIONS_H

#include "qapi/qapi-types-guest-memfd-options.h"
#include "system/guest-memfd-kvm.h"
#include "system/hostmem.h"

#define TYPE_MEMORY_BACKEND_GUEST_MEMFD "memory-backend-guest-memfd"

/** struct GuestMemfdOptions - what the user asks for, beside the base class */
typedef struct GuestMemfdOptions {
    bool hugetlb;
    uint64_t hugetlbsize;
    GuestMemfdDriver driver;
    GuestMemfdConversion conversion;
    GuestMemfdInit init;
    GuestMemfdProvider provider;
    char *resource;     /* where a filesystem is mounted, or NULL */
} GuestMemfdOptions;

/**
 * struct GuestMemfdChoice - what the memory is made of
 *
 * @ops: what converts it; NULL: nothing does
 * @pages: what backs its shared part
 * @huge_size: of the huge pages of a mapped guest_memfd, or 0
 */
typedef struct GuestMemfdChoice {
    const GuestMemfdOps *ops;
    GuestMemfdPages pages;
    uint64_t huge_size;
} GuestMemfdChoice;

/**
 * guest_memfd_choose - what options mean for this machine, host and kernel
 *
 * @backend: with the options of the base class
 * @o: no member is "auto" any more afterwards
 * @choice: out
 * @errp: names what cannot be done, and the remedy
 *
 * Tries what the host has, and allocates nothing.  Warns of what can be done,
 * but may not be what was meant.  The caller closes the mount, see
 * guest_memfd_close_mount().
 *
 * Returns: false on error.
 */
bool guest_memfd_choose(HostMemoryBackend *backend, GuestMemfdOptions *o,
                        GuestMemfdChoice *choice, Error **errp);

/**
 * guest_memfd_close_mount - the file has been created, or will not be
 */
void guest_memfd_close_mount(GuestMemfdChoice *choice);

/**
 * guest_memfd_create_ordinary - the file of memory-backend-memfd,x-guest-memfd=on
 *
 * @backend: with the options of the base class
 * @hugetlb: of the backend
 * @errp: names what cannot be done, and the remedy
 *
 * What conversion=none is to memory-backend-guest-memfd: memory that is always
 * shared, which the caller maps and binds to no slot.
 *
 * Returns: a file descriptor; -1 on error.
 */
int guest_memfd_create_ordinary(HostMemoryBackend *backend, bool hugetlb,
                                Error **errp);

#endif
