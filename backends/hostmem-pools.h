/*
 * Whether the host has the memory that a backend needs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_HOSTMEM_POOLS_H
#define BACKENDS_HOSTMEM_POOLS_H

#include "system/hostmem.h"

/**
 * hostmem_check_pools - before the memory of @backend is created
 * @page_size: of its pages, in bytes
 * @always: the kernel reserves huge pages even without reserve=on
 *
 * Checks huge pages that are reserved or preallocated: in the pool of the host,
 * in those of the nodes that policy=bind allows (without prealloc=on that is a
 * warning), and in the control groups of QEMU.  Checks that the nodes of
 * host-nodes have memory for QEMU.  Otherwise the kernel says "Cannot allocate
 * memory", "Bad address" or "Invalid argument" later, or ends QEMU by SIGBUS.
 *
 * What the host does not tell is not checked.  Others may take what is free
 * now, so that the caller needs its own errors, too.
 *
 * Returns: false if there is less than needed, with @errp set.
 */
bool hostmem_check_pools(HostMemoryBackend *backend, uint64_t page_size,
                         bool always, Error **errp);

/**
 * hostmem_check_memfd - hostmem_check_pools() of memory that is a memfd
 * @hugetlbsize: of its huge pages, in bytes; 0 for the host's default size
 *
 * Checks that the host has huge pages of this size, too.
 */
bool hostmem_check_memfd(HostMemoryBackend *backend, bool hugetlb,
                         uint64_t hugetlbsize, Error **errp);

#endif
