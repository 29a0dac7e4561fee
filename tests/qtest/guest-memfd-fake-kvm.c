/*
 * A KVM whose ordinary VMs have private memory
 *
 * Loaded before libc (LD_PRELOAD), so that QEMU sets up memory with two copies
 * where the machine's KVM has no VMs of that kind.  Nothing that runs can be
 * tested with it: what is private stays shared for KVM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);

    if (request == KVM_CHECK_EXTENSION &&
        (long)arg == KVM_CAP_MEMORY_ATTRIBUTES) {
        return KVM_MEMORY_ATTRIBUTE_PRIVATE;
    }
    if (request == KVM_SET_MEMORY_ATTRIBUTES) {
        return 0;
    }
    return syscall(SYS_ioctl, fd, request, arg);
}
