/*
 * A KVM that seems to have private memory
 *
 * Loaded before libc (LD_PRELOAD) it makes a software-protected VM of an ordinary
 * one: KVM takes the attributes of pages, and nothing comes of them.  So QEMU's
 * part of conversions with two copies can be tested where KVM has not been built
 * with CONFIG_KVM_SW_PROTECTED_VM.  The page whose guest physical address is in
 * the environment, FAKE_KVM_REFUSES, never becomes private.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static bool refused(const struct kvm_memory_attributes *a)
{
    const char *gpa = getenv("FAKE_KVM_REFUSES");
    uint64_t page = gpa ? g_ascii_strtoull(gpa, NULL, 0) : 0;

    return gpa && (a->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) &&
           page >= a->address && page - a->address < a->size;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    long arg;

    va_start(ap, request);
    arg = va_arg(ap, long);
    va_end(ap);

    switch (request) {
    case KVM_CHECK_EXTENSION:
        switch (arg) {
        case KVM_CAP_VM_TYPES:
            return 1 << KVM_X86_DEFAULT_VM | 1 << KVM_X86_SW_PROTECTED_VM;
        case KVM_CAP_MEMORY_ATTRIBUTES:
            return KVM_MEMORY_ATTRIBUTE_PRIVATE;
        case KVM_CAP_GUEST_MEMFD_FLAGS:
            return 0;
        }
        break;
    case KVM_CREATE_VM:
        arg = KVM_X86_DEFAULT_VM;
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
