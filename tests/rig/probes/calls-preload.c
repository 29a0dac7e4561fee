/*
 * Count the calls of the kernel that QEMU's vCPUs make to convert memory
 *
 * Loaded before libc (LD_PRELOAD).  An exit of a vCPU, from the return of KVM_RUN
 * to the next KVM_RUN, counts if it mapped or unmapped something for DMA or
 * changed attributes.  What is left of its time, without the calls counted here,
 * is QEMU's: libc, futexes and page faults included.  calls.c shows the sums.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/iommufd.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"

static Calls *calls;

/* The exit that this thread handles, if it is a vCPU */
static __thread struct {
    bool is_one;
    uint64_t start;
    uint64_t count[CALL_KINDS];
    uint64_t ticks[CALL_KINDS];
} now;

static void __attribute__((constructor)) begin(void)
{
    int fd = open(CALLS_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *p;

    if (fd < 0 || ftruncate(fd, sizeof(Calls))) {
        return;
    }
    p = mmap(NULL, sizeof(Calls), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED) {
        calls = p;
        calls->first_tick = ticks_now();
        calls->first_ns = ns_now();
    }
}

static void add(uint64_t *sum, uint64_t n)
{
    __atomic_fetch_add(sum, n, __ATOMIC_RELAXED);
}

static void end_exit(void)
{
    uint64_t ticks = ticks_now() - now.start, n;
    int kind;

    if (calls && (now.count[CALL_MAP] || now.count[CALL_UNMAP] ||
                  now.count[CALL_ATTRIBUTES])) {
        for (kind = 0; kind < CALL_KINDS; kind++) {
            add(&calls->count[kind], now.count[kind]);
            add(&calls->ticks[kind], now.ticks[kind]);
        }
        add(&calls->exit_ticks, ticks);
        n = __atomic_fetch_add(&calls->exits, 1, __ATOMIC_RELAXED);
        if (n < MAX_EXITS) {
            calls->each[n] = ticks > UINT32_MAX ? UINT32_MAX : ticks;
        }
    }
}

/* libc's syscall() is one of those that are counted */
static long call_kernel(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
    long ret;

    asm volatile("syscall" : "=a"(ret)
                 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    return ret;
}

static long counted(int kind, long nr, long a, long b, long c, long d, long e,
                    long f)
{
    uint64_t start = ticks_now();
    long ret = call_kernel(nr, a, b, c, d, e, f);

    if (now.is_one) {
        now.count[kind]++;
        now.ticks[kind] += ticks_now() - start;
    }
    return ret;
}

static long run_vcpu(int fd)
{
    long ret;

    if (now.is_one) {
        end_exit();
    }
    ret = call_kernel(SYS_ioctl, fd, KVM_RUN, 0, 0, 0, 0);
    memset(&now, 0, sizeof(now));
    now.is_one = true;
    now.start = ticks_now();
    return ret;
}

static int kind_of(unsigned long request)
{
    switch (request) {
    case IOMMU_IOAS_MAP:
    case IOMMU_IOAS_MAP_FILE:
    case VFIO_IOMMU_MAP_DMA:
        return CALL_MAP;
    case IOMMU_IOAS_UNMAP:
    case VFIO_IOMMU_UNMAP_DMA:
        return CALL_UNMAP;
    case KVM_PRE_FAULT_MEMORY:
        return CALL_PREFAULT;
    }
    /* that of a file has another size */
    if (_IOC_TYPE(request) == KVMIO &&
        _IOC_NR(request) == _IOC_NR(KVM_SET_MEMORY_ATTRIBUTES)) {
        return CALL_ATTRIBUTES;
    }
    return CALL_OTHER;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    long arg;

    va_start(list, request);
    arg = va_arg(list, long);
    va_end(list);
    return request == KVM_RUN ? run_vcpu(fd) :
        counted(kind_of(request), SYS_ioctl, fd, request, arg, 0, 0, 0);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    return counted(CALL_MEMORY, SYS_fallocate, fd, mode, offset, size, 0, 0);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
    return fallocate(fd, mode, offset, size);
}

int madvise(void *addr, size_t size, int advice)
{
    return counted(CALL_MEMORY, SYS_madvise, (long)addr, size, advice, 0, 0, 0);
}

int munmap(void *addr, size_t size)
{
    return counted(CALL_MEMORY, SYS_munmap, (long)addr, size, 0, 0, 0, 0);
}

void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
    return (void *)counted(CALL_MEMORY, SYS_mmap, (long)addr, size, prot, flags,
                           fd, offset);
}

void *mmap64(void *addr, size_t size, int prot, int flags, int fd,
             off64_t offset)
{
    return mmap(addr, size, prot, flags, fd, offset);
}

/* QEMU's locks and events; libc's own do not come here */
long syscall(long nr, ...)
{
    long a[6];
    va_list list;
    int i;

    va_start(list, nr);
    for (i = 0; i < 6; i++) {
        a[i] = va_arg(list, long);
    }
    va_end(list);
    return counted(nr == SYS_futex ? CALL_FUTEX : CALL_OTHER, nr, a[0], a[1],
                   a[2], a[3], a[4], a[5]);
}
