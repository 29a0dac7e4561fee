/*
 * Whether the host has the memory that a backend needs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_NUMA
#include <numaif.h>
#endif
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "hostmem-pools.h"
#include "huge-page-pool.h"

#ifdef CONFIG_NUMA
/* The kernel refuses a bitmap that is smaller than its own, of 2^10 at most. */
#define KERNEL_NODES 1024

/*
 * mbind(2): of the nodes that are not in the cpuset of the process, or have no
 * memory, the kernel uses none, and refuses a policy without any other.
 */
static bool check_nodes(HostMemoryBackend *backend, Error **errp)
{
    g_autofree char *name = NULL;
    g_autofree char *wanted = NULL;
    g_autofree char *there = NULL;
    DECLARE_BITMAP(allowed, KERNEL_NODES + 1);

    bitmap_zero(allowed, KERNEL_NODES + 1);
    if (backend->policy == HOST_MEM_POLICY_DEFAULT ||
        bitmap_empty(backend->host_nodes, MAX_NODES) ||
        get_mempolicy(NULL, allowed, KERNEL_NODES + 1, NULL,
                      MPOL_F_MEMS_ALLOWED) ||
        bitmap_intersects(backend->host_nodes, allowed, MAX_NODES)) {
        return true;
    }
    name = host_memory_backend_get_name(backend);
    wanted = huge_page_node_list(backend->host_nodes, MAX_NODES);
    there = huge_page_node_list(allowed, KERNEL_NODES);
    error_setg(errp, "host-nodes: '%s' can have no memory of the host's node "
               "%s, which has none or is not in the cpuset of QEMU; it can of "
               "%s", name, wanted, there);
    return false;
}
#else
static bool check_nodes(HostMemoryBackend *backend, Error **errp)
{
    return true;
}
#endif

/*
 * The kernel reserves huge pages on any node: if those that policy=bind allows
 * have too few, it ends QEMU by SIGBUS when the guest touches one more.
 */
static bool check_bound(HostMemoryBackend *backend, uint64_t page_size,
                        uint64_t needed, Error **errp)
{
    g_autofree char *name = host_memory_backend_get_name(backend);
    Error *local_err = NULL;

    if (backend->policy != HOST_MEM_POLICY_BIND ||
        bitmap_empty(backend->host_nodes, MAX_NODES) ||
        huge_page_node_check(backend->host_nodes, page_size, needed,
                             &local_err)) {
        return true;
    }
    if (backend->prealloc) {
        error_propagate(errp, local_err);
        return false;
    }
    warn_reportf_err(local_err, "the VM may end when it touches all of '%s', "
                     "so use prealloc=on: ", name);
    return true;
}

bool hostmem_check_pools(HostMemoryBackend *backend, uint64_t page_size,
                         bool always, Error **errp)
{
    uint64_t needed = DIV_ROUND_UP(backend->size, page_size);
    bool huge = page_size != qemu_real_host_page_size() &&
                (backend->prealloc || backend->reserve || always);

    return (!huge ||
            (huge_page_pool_check(page_size, needed, errp) &&
             huge_page_cgroup_check("/proc/self", page_size, needed, errp) &&
             check_bound(backend, page_size, needed, errp))) &&
           check_nodes(backend, errp);
}

bool hostmem_check_memfd(HostMemoryBackend *backend, bool hugetlb,
                         uint64_t hugetlbsize, Error **errp)
{
    uint64_t page_size = hugetlb ? huge_page_size(hugetlbsize, errp) :
                                   qemu_real_host_page_size();

    return page_size && hostmem_check_pools(backend, page_size, false, errp);
}
