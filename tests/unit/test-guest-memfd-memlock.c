/*
 * What is said of RLIMIT_MEMLOCK when memory cannot be mapped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "qemu/memalign.h"
#include "guest-memfd-fake-container.h"

static int unmap_exact(VFIOContainer *bcontainer, hwaddr iova, uint64_t size)
{
    return 0;
}

/* @needle: "" for none at all */
static void check_advice(int ret, uint64_t more, const char *needle)
{
    g_autofree char *advice = vfio_ram_discard_advice(&fake.v, ret, more);

    g_test_message("%s", advice);
    g_assert_cmpint(*advice != 0, ==, *needle != 0);
    g_assert_nonnull(strstr(advice, needle));
}

/* Whether QEMU's threads have a capability */
static void set_ipc_lock(bool have)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    uint32_t bit = 1u << CAP_IPC_LOCK;

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    data[0].effective &= ~bit;
    data[0].effective |= have ? data[0].permitted & bit : 0;
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
}

static bool has_ipc_lock(void)
{
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &status, NULL,
                                      NULL));
    line = strstr(status, "CapEff:");
    return g_ascii_strtoull(line + strlen("CapEff:"), NULL, 16) >>
           CAP_IPC_LOCK & 1;
}

/* RLIMIT_MEMLOCK is named where it counts, with what counts. */
static void test_memlock(void)
{
    VFIOIOMMUClass *vioc =
        VFIO_IOMMU_CLASS(object_class_by_name(TYPE_VFIO_IOMMU));
    struct rlimit before, limit;
    void *locked;

    fake_container_start(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    limit = before;
    limit.rlim_cur = MIN(64 * KiB, before.rlim_max);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);

    set_ipc_lock(true);
    if (has_ipc_lock()) {
        check_advice(-ENOMEM, 128 * KiB, "");
        vioc->dma_unmap_exact = unmap_exact;
        check_advice(-ENOMEM, 128 * KiB, "");
        vioc->dma_unmap_exact = NULL;
        set_ipc_lock(false);
    }
    if (limit.rlim_cur == 64 * KiB) {
        locked = qemu_memalign(PAGE, 16 * KiB);
        memset(locked, 0, 16 * KiB);
        /* AddressSanitizer's mlock() does nothing. */
        g_assert_cmpint(syscall(SYS_mlock, locked, 16 * KiB), ==, 0);
        check_advice(-ENOMEM, 48 * KiB, "");
        check_advice(-ENOSPC, 52 * KiB, "");
        check_advice(-ENOMEM, 52 * KiB, " (RLIMIT_MEMLOCK is 64 KiB, QEMU has "
                     "locked 16 KiB, and this needs 52 KiB more: without "
                     "CAP_IPC_LOCK, raise the limit above the memory of the "
                     "guest, once for each address space that devices see, ");
        /* What others have mapped is not known. */
        vioc->dma_unmap_exact = unmap_exact;
        check_advice(-ENOMEM, 4 * KiB, " (RLIMIT_MEMLOCK is 64 KiB, iommufd "
                     "counts what all processes of the user have mapped, and "
                     "this needs 4 KiB more: without CAP_IPC_LOCK, raise the "
                     "limit above the memory of all VMs of the user, ");
        vioc->dma_unmap_exact = NULL;
        g_assert_cmpint(syscall(SYS_munlock, locked, 16 * KiB), ==, 0);
        qemu_vfree(locked);
    }
    set_ipc_lock(true);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    fake_container_stop();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_container_register();
    g_test_add_func("/guest-memfd-memlock/advice", test_memlock);
    return g_test_run();
}
