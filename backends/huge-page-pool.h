/*
 * The host's pools of huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_HUGE_PAGE_POOL_H
#define BACKENDS_HUGE_PAGE_POOL_H

/** huge_page_sizes - the host's huge page sizes, for error messages */
char *huge_page_sizes(void);

/** huge_page_pool_exists - whether the host has huge pages of @size bytes */
bool huge_page_pool_exists(uint64_t size);

/** huge_page_default_size - the size of huge pages when none is asked for */
bool huge_page_default_size(uint64_t *size);

/**
 * huge_page_pool_check - whether @needed huge pages of @page_size bytes are free
 *
 * Huge pages are taken from a pool when they are reserved or preallocated.
 * What is short now would fail as "Cannot allocate memory" in the middle of
 * it, so @errp says beforehand what to do.
 */
bool huge_page_pool_check(uint64_t page_size, uint64_t needed, Error **errp);

#endif
