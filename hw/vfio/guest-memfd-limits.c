/*
 * DMA mappings of guest_memfd memory: limits
 *
 * How many mappings a container may have, and how much memory a process may lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include "qemu/bitops.h"
#include "qemu/units.h"
#include "guest-memfd-internal.h"

/*
 * Mappings of a limited container that conversions leave to sections that come
 * later: at most this many, or an eighth.
 */
#define MAPPINGS_FOR_OTHERS 512

/*
 * Of a container without a limit of its own.  A mapping costs the kernel memory
 * (iommufd: 448 bytes), and a guest can share each page by itself.
 */
#define MAX_MAPPINGS (1u << 20)

/*
 * type1: dma_entry_limit; vfio-user: max_dma_maps; iommufd has no limit of its
 * own, so there is one of ours, but not for virtio-mem, whose blocks have the size
 * that the user wants.
 */
uint64_t vfio_ram_discard_limit(const VFIORamDiscard *v)
{
    return v->bcontainer->dma_max_mappings ?:
           v->granularity ? UINT_MAX : MAX_MAPPINGS;
}

bool vfio_ram_discard_reserve(VFIORamDiscard *v, uint64_t n)
{
    VFIOContainer *bcontainer = v->bcontainer;
    uint64_t limit = vfio_ram_discard_limit(v);
    uint64_t kept = v->arriving || v->granularity ? 0 :
                    MIN(MAPPINGS_FOR_OTHERS, limit / 8);
    unsigned used = qatomic_read(&bcontainer->dma_extents), seen;

    for (;; used = seen) {
        if (n > limit || used + n + kept > limit) {
            return !n;
        }
        seen = qatomic_cmpxchg(&bcontainer->dma_extents, used, used + n);
        if (seen == used) {
            return true;
        }
    }
}

void vfio_ram_discard_release(VFIORamDiscard *v, uint64_t n)
{
    qatomic_sub(&v->bcontainer->dma_extents, n);
}

/* What /proc/self/status says of a name that ends with a colon; 0: nothing */
static uint64_t status_value(const char *status, const char *name, int base)
{
    const char *line = status ? strstr(status, name) : NULL;

    return line ? g_ascii_strtoull(line + strlen(name), NULL, base) : 0;
}

/*
 * The kernel answers ENOMEM when RLIMIT_MEMLOCK is too low, and also when there is
 * no memory.  type1 compares the limit with all memory that the process has locked,
 * in any container: QEMU can check this.  iommufd, the only backend that unmaps
 * exactly, compares it with what all processes of the user have mapped, which no
 * process can query.  Both ignore the limit for a process that has CAP_IPC_LOCK.  A
 * vfio-user server has limits of its own.
 */
char *vfio_ram_discard_advice(VFIORamDiscard *v, int ret, uint64_t more)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    bool per_user = vioc->dma_unmap_exact;
    g_autofree char *status = NULL, *counted = NULL;
    struct rlimit limit;
    uint64_t locked;

    if (ret != -ENOMEM || vioc->lost || getrlimit(RLIMIT_MEMLOCK, &limit) ||
        limit.rlim_cur == RLIM_INFINITY) {
        return g_strdup("");
    }
    g_file_get_contents("/proc/self/status", &status, NULL, NULL);
    locked = status_value(status, "\nVmLck:", 10) * KiB;
    if (status_value(status, "\nCapEff:", 16) & BIT_ULL(CAP_IPC_LOCK) ||
        (!per_user && locked + more <= limit.rlim_cur)) {
        return g_strdup("");
    }
    counted = per_user ? g_strdup("iommufd counts what all processes of the "
                                  "user have mapped") :
              g_strdup_printf("QEMU has locked %" PRIu64 " KiB", locked / KiB);
    return g_strdup_printf(" (RLIMIT_MEMLOCK is %" PRIu64 " KiB, %s, and this "
                           "needs %" PRIu64 " KiB more: without CAP_IPC_LOCK, "
                           "raise the limit above the memory of %s, once for "
                           "each address space that devices see, with ulimit "
                           "-l, LimitMEMLOCK= of systemd, or "
                           "<memtune><hard_limit> of libvirt)",
                           (uint64_t)limit.rlim_cur / KiB, counted, more / KiB,
                           per_user ? "all VMs of the user" : "the guest");
}
