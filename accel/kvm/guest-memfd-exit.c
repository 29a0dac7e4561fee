/*
 * guest_memfd blocks: what vCPUs exit for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "system/address-spaces.h"
#include "system/guest-memfd-kvm.h"
#include "system/kvm.h"
#include "system/kvm_int.h"

/* Each takes 10 ms in guest_memfd_drive(): a page may be in use for 10 s. */
#define MAX_FAULTS 1000

/*
 * The kernel takes 0, EINVAL and EAGAIN, positive; for anything else KVM_RUN of
 * a TDX or SEV-SNP guest fails.  What may work later, without the guest asking
 * for something else, is EAGAIN.
 */
static int for_guest(int ret)
{
    switch (ret) {
    case 0:
        return 0;
    case -EAGAIN:
    case -EBUSY:
    case -EINTR:
    case -ENOMEM:
    case -ENOSPC:
        return -EAGAIN;
    default:
        return -EINVAL;
    }
}

uint64_t guest_memfd_kvm_map_gpa_range(hwaddr gpa, uint64_t npages,
                                       bool to_private)
{
    int ret = npages > UINT64_MAX / (4 * KiB) ? -EINVAL :
              kvm_convert_memory(gpa, npages * 4 * KiB, to_private);

    return -for_guest(ret);
}

int guest_memfd_kvm_fault(const struct kvm_run *run)
{
    static __thread uint64_t last_gpa;
    static __thread unsigned faults;    /* refused, one after the other */
    uint64_t gpa = run->memory_fault.gpa;
    bool private = run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
    int ret = kvm_convert_memory(gpa, run->memory_fault.size, private);

    if (ret != -EAGAIN) {
        faults = 0;
    } else if (!faults || gpa != last_gpa) {
        last_gpa = gpa;
        faults = 1;
    } else if (++faults == MAX_FAULTS) {
        faults = 0;
    }
    /* The page is in use: the guest faults again. */
    if (faults) {
        return 0;
    }
    /* Another conversion was faster, so there is nothing that can be refused. */
    if (ret && guest_memfd_is_converted(gpa, run->memory_fault.size, private)) {
        return 0;
    }
    if (ret) {
        error_report("the guest has accessed memory that cannot become %s "
                     "(guest physical address 0x%" PRIx64 "): %s; the VM stops",
                     private ? "private" : "shared", gpa, strerror(-ret));
    }
    return ret;
}

static void report_failed(int err, const char *where)
{
    switch (err) {
    case -EHWPOISON:
        error_report("the guest has accessed memory that is broken in the "
                     "host: %s; the VM stops", where);
        break;
    case -ENOSPC:
        error_report("the guest has accessed memory for which no huge page is "
                     "left where the NUMA policy allows one (use prealloc=on): "
                     "%s; the VM stops", where);
        break;
    case -ENOMEM:
        error_report("the guest has accessed memory for which the host, or the "
                     "control group of QEMU, has no page left: %s; the VM "
                     "stops", where);
        break;
    }
}

/*
 * A guest_memfd keeps a page that is broken, and each access to it fails.  A
 * reset replaces a shared one, as it does with other memory.
 */
void guest_memfd_kvm_run_failed(const struct kvm_run *run, int err)
{
    uint64_t gpa = run->memory_fault.gpa;
    bool private = run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
    g_autofree char *where = NULL;
    MemoryRegionSection s;

    if ((err != -EHWPOISON && err != -ENOSPC && err != -ENOMEM) ||
        run->exit_reason != KVM_EXIT_MEMORY_FAULT) {
        return;
    }
    BQL_LOCK_GUARD();
    s = memory_region_find(get_system_memory(), gpa, 1);
    if (!s.mr) {
        return;
    }
    where = g_strdup_printf("'%s' offset 0x%" PRIx64 " (guest physical address "
                            "0x%" PRIx64 ", %s)", memory_region_name(s.mr),
                            (uint64_t)s.offset_within_region, gpa,
                            private ? "private" : "shared");
    report_failed(err, where);
    if (err == -EHWPOISON && !private && memory_region_is_ram(s.mr)) {
        kvm_hwpoison_page_add(memory_region_get_ram_addr(s.mr) +
                              s.offset_within_region);
    }
    memory_region_unref(s.mr);
}
