/*
 * What KVM in L1 offers: one line for each check, "ok - " or "not ok - "
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/kvm.h>

#include "gmem.h"
#include "result.h"

#define SIZE    (2 * 1024 * 1024)

static int create_memfd(int vm, uint64_t flags)
{
    struct kvm_create_guest_memfd create = { .size = SIZE, .flags = flags };

    return ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
}

static int bind_memfd(int vm, uint64_t gpa, void *host, int fd, uint32_t slot)
{
    struct kvm_userspace_memory_region2 region = {
        .slot = slot,
        .flags = KVM_MEM_GUEST_MEMFD,
        .guest_phys_addr = gpa,
        .memory_size = SIZE,
        .userspace_addr = (uintptr_t)host,
        .guest_memfd = fd,
    };

    return ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

static int set_private(int vm, uint64_t gpa, bool private)
{
    struct kvm_memory_attributes attributes = {
        .address = gpa,
        .size = PAGE,
        .attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
    };

    return ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

static void check_protected(int kvm)
{
    int vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
    void *host = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd, cap;

    result(vm >= 0, "a software-protected VM");
    if (vm < 0) {
        return;
    }
    cap = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES);
    result(cap & KVM_MEMORY_ATTRIBUTE_PRIVATE,
           "KVM_CAP_MEMORY_ATTRIBUTES of it is %d", cap);
    fd = create_memfd(vm, 0);
    result(fd >= 0, "its guest_memfd");
    result(!bind_memfd(vm, 0, host, fd, 0), "bound to a slot");
    result(!set_private(vm, PAGE, true), "a page is private");
    result(!set_private(vm, PAGE, false), "the page is shared again");
}

static void check_ordinary(int kvm)
{
    const uint64_t flags = FLAG_MMAP | FLAG_INIT_SHARED;
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    int fd, cap, ret;
    void *map;

    cap = ioctl(vm, KVM_CHECK_EXTENSION, CAP_GUEST_MEMFD_FLAGS);
    result((cap & flags) == flags, "guest_memfd flags of an ordinary VM: %d",
           cap);
    fd = create_memfd(vm, flags);
    map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    result(fd >= 0 && map != MAP_FAILED, "its guest_memfd, mapped");
    if (map == MAP_FAILED) {
        return;
    }
    memset(map, 1, PAGE);
    result(!bind_memfd(vm, 0, map, fd, 0), "bound to a slot");
    ret = bind_memfd(vm, SIZE, map, fd, 1) ? errno : 0;
    result(ret == EEXIST, "bound twice: %s", strerror(ret));
    ret = set_private(vm, 0, true) ? errno : 0;
    result(ret, "no page of it can be private: %s", strerror(ret));
}

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR);
    int types;

    result(kvm >= 0, "/dev/kvm");
    if (kvm < 0) {
        return 1;
    }
    types = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);
    result(types & (1 << KVM_X86_SW_PROTECTED_VM), "KVM_CAP_VM_TYPES is %d",
           types);
    check_protected(kvm);
    check_ordinary(kvm);
    return failed;
}
