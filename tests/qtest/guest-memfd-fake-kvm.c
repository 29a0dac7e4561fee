/*
 * A KVM that seems to have private memory, or huge pages
 *
 * Loaded before libc (LD_PRELOAD) it makes a software-protected VM of an ordinary
 * one: KVM takes the attributes of pages, and nothing comes of them.  So QEMU's
 * part of conversions with two copies can be tested where KVM has not been built
 * with CONFIG_KVM_SW_PROTECTED_VM.  The page whose guest physical address is in
 * the environment, FAKE_KVM_REFUSES, never becomes private.  FAKE_KVM_PRIVATE says
 * how memory becomes private: "two-copy" (the default), "in-place", "either" or
 * "never".  Its files that are mapped are memfds, which no slot is bound to.
 *
 * With FAKE_KVM_PAGES it is an ordinary VM, whose guest_memfd seems to have
 * transparent huge pages, and those of a pool, by "order" or by "resource" only.
 * FAKE_KVM_FALLOCATE is the file that each fallocate() is written to, or the
 * errno of all of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "qemu/bitops.h"

static bool refused(const struct kvm_memory_attributes *a)
{
    const char *gpa = getenv("FAKE_KVM_REFUSES");
    uint64_t page = gpa ? g_ascii_strtoull(gpa, NULL, 0) : 0;

    return gpa && (a->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) &&
           page >= a->address && page - a->address < a->size;
}

#ifndef KVM_SET_MEMORY_ATTRIBUTES2
#define KVM_SET_MEMORY_ATTRIBUTES2 _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 128)
#endif

static bool becomes_private(const char *how)
{
    const char *says = getenv("FAKE_KVM_PRIVATE") ?: "two-copy";

    return !strcmp(says, how) || !strcmp(says, "either");
}

static long create_mapped_file(const struct kvm_create_guest_memfd *create)
{
    int fd = memfd_create("guest_memfd", MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, create->size)) {
        close(fd);
        return -1;
    }
    return fd;
}

#define FILE_HUGETLB BIT_ULL(2)
#define FILE_THP BIT_ULL(3)

static long create_file(int fd, struct kvm_create_guest_memfd create,
                        const char *pages)
{
    int word = create.reserved[0];

    if (create.flags & FILE_HUGETLB) {
        if (!strcmp(pages, "resource")) {
            errno = fcntl(word, F_GETFD) < 0 ? EBADF : EINVAL;
            return -1;
        }
        if ((word != 9 && word != 18) ||
            create.size % (4096ULL << word)) {
            errno = EINVAL;
            return -1;
        }
    }
    create.flags &= ~(FILE_HUGETLB | FILE_THP);
    memset(create.reserved, 0, sizeof(create.reserved));
    return syscall(SYS_ioctl, fd, KVM_CREATE_GUEST_MEMFD, &create);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    const char *how = getenv("FAKE_KVM_FALLOCATE");
    int number = how ? atoi(how) : 0;

    if (number) {
        errno = number;
        return -1;
    }
    if (how) {
        int log = open(how, O_WRONLY | O_APPEND | O_CLOEXEC);

        dprintf(log, "%" PRIu64 " %" PRIu64 "\n", (uint64_t)offset,
                (uint64_t)size);
        close(log);
    }
    return syscall(SYS_fallocate, fd, mode, offset, size);
}

int ioctl(int fd, unsigned long request, ...)
{
    const char *pages = getenv("FAKE_KVM_PAGES");
    va_list ap;
    long arg;

    va_start(ap, request);
    arg = va_arg(ap, long);
    va_end(ap);

    if (pages && request == KVM_CREATE_GUEST_MEMFD) {
        return create_file(fd, *(const struct kvm_create_guest_memfd *)arg,
                           pages);
    }
    if (pages) {
        return syscall(SYS_ioctl, fd, request, arg);
    }
    switch (request) {
    case KVM_CHECK_EXTENSION:
        switch (arg) {
        case KVM_CAP_VM_TYPES:
            return 1 << KVM_X86_DEFAULT_VM | 1 << KVM_X86_SW_PROTECTED_VM;
        case KVM_CAP_MEMORY_ATTRIBUTES:
            return becomes_private("two-copy") ? KVM_MEMORY_ATTRIBUTE_PRIVATE :
                                                 0;
        case KVM_CAP_GUEST_MEMFD_FLAGS:
            return becomes_private("in-place") ?
                   GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED : 0;
        }
        break;
    case KVM_CREATE_VM:
        arg = KVM_X86_DEFAULT_VM;
        break;
    case KVM_CREATE_GUEST_MEMFD:
        if (((const struct kvm_create_guest_memfd *)arg)->flags &
            GUEST_MEMFD_FLAG_MMAP) {
            return create_mapped_file((const void *)arg);
        }
        break;
    case KVM_SET_USER_MEMORY_REGION2:
        if (becomes_private("in-place")) {
            ((struct kvm_userspace_memory_region2 *)arg)->flags &=
                ~KVM_MEM_GUEST_MEMFD;
        }
        break;
    case KVM_SET_MEMORY_ATTRIBUTES2:
        if (becomes_private("in-place")) {
            return 0;
        }
        break;
    case KVM_SET_MEMORY_ATTRIBUTES:
        if (refused((const struct kvm_memory_attributes *)arg)) {
            errno = ENOMEM;
            return -1;
        }
        return 0;
    }
    return syscall(SYS_ioctl, fd, request, arg);
}
