/*
 * Preallocation of a guest_memfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_GUEST_MEMFD_PREALLOC_H
#define BACKENDS_GUEST_MEMFD_PREALLOC_H

#include "system/hostmem.h"

/**
 * guest_memfd_prealloc - fill a guest_memfd before the guest runs
 * @backend: has its memory, whose guest_memfd is filled
 * @page_size: of that file; each thread fills a multiple of it
 *
 * Private memory cannot be touched through a mapping, and touching a huge page
 * maps it in small pages.  So the file is filled, by prealloc-threads of them
 * in the prealloc-context, which have the NUMA policy of the backend.
 */
bool guest_memfd_prealloc(HostMemoryBackend *backend, uint64_t page_size,
                          Error **errp);

#endif
