/*
 * The host's pools of huge pages, and who may have how many
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_HUGE_PAGE_POOL_H
#define BACKENDS_HUGE_PAGE_POOL_H

/**
 * huge_page_size - the size of the huge pages that an option chooses
 * @size: of the option hugetlbsize; 0: the host's default
 *
 * Returns 0, with @errp set, if the host does not have such pages.
 */
uint64_t huge_page_size(uint64_t size, Error **errp);

/**
 * huge_page_pool_check - whether @needed huge pages of @page_size bytes are free
 *
 * Huge pages are taken from a pool when they are reserved or preallocated.
 * What is short now would fail as "Cannot allocate memory" in the middle of
 * it, so @errp says beforehand what to do: to try again, too, if the whole pool
 * would be enough.
 */
bool huge_page_pool_check(uint64_t page_size, uint64_t needed, Error **errp);

/**
 * huge_page_node_check - whether they are free on these nodes of the host
 * @nodes: a bitmap of MAX_NODES bits, not empty
 *
 * For memory that has to be on these nodes (policy=bind) and is preallocated.
 * What is reserved is not reserved on a node, so that it may be short all the
 * same.
 */
bool huge_page_node_check(const unsigned long *nodes, uint64_t page_size,
                          uint64_t needed, Error **errp);

/**
 * huge_page_node_list - nodes of the host, for people
 * @nodes: a bitmap of @size bits
 *
 * Returns: their numbers, which the caller frees.
 */
char *huge_page_node_list(const unsigned long *nodes, unsigned long size);

/**
 * huge_page_cgroup_check - whether the control groups of QEMU allow so many
 * @proc: the directory of the process, "/proc/self"; a test has one of its own
 * @page_size: bytes
 * @needed: pages
 *
 * Looks at the limits of what is reserved and of what is taken from the pool,
 * in the group and in those above it, of cgroup v2 and v1 (hugetlb.*).
 *
 * Returns: false, with @errp set, if there is less left.  True if there is no
 * such controller, or if its files are not mounted.
 */
bool huge_page_cgroup_check(const char *proc, uint64_t page_size,
                            uint64_t needed, Error **errp);

#endif
