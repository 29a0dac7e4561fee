# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM of this host can do."""

import fcntl
import os

from lib import TOP

# Looks like a KVM with private memory (tests/qtest/guest-memfd-fake-kvm.c)
FAKE_KVM = os.path.join(
    TOP, 'build/qemu/tests/guest-memfd/libguest-memfd-fake-kvm.so')
KVM_GET_API_VERSION = 0xae00
KVM_CREATE_VM = 0xae01
KVM_CHECK_EXTENSION = 0xae03
KVM_CAP_VM_TYPES = 235
KVM_CAP_GUEST_MEMFD_FLAGS = 244

# For kvm_problem(): flags of a guest_memfd that can be mapped; a type of VMs
MMAP_AND_INIT_SHARED = 3
SW_PROTECTED_VM = 1


def kvm_problem(guest_memfd_flags=0, vm_type=0):
    """None if KVM can create such a VM whose guest_memfd have these flags, else
    why not."""
    try:
        fd = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError as err:
        return f'/dev/kvm: {err.strerror}'
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION) != 12:
            return '/dev/kvm: unknown API version'
        types = fcntl.ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES)
        if vm_type and not types & 1 << vm_type:
            return f'/dev/kvm: VMs have the types 0x{types:x} only'
        vm = fcntl.ioctl(fd, KVM_CREATE_VM, vm_type)
        flags = fcntl.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS)
        os.close(vm)
        if flags & guest_memfd_flags != guest_memfd_flags:
            return f'/dev/kvm: guest_memfd has the flags 0x{flags:x} only'
    except OSError as err:
        return f'/dev/kvm: cannot create a VM: {err.strerror}'
    finally:
        os.close(fd)
    return None


def protected_preload():
    """What QEMU loads for a VM with private memory whose vCPUs do not run; or None.

    Without such VMs KVM only seems to have them.
    """
    return FAKE_KVM if kvm_problem(vm_type=SW_PROTECTED_VM) else None
