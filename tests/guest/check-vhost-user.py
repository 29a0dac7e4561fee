#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of QEMU's storage daemon, and a file of virtiofsd, which have a file descriptor
of the guest's memory.

The guest (tests/guest/disk.c) says what the daemon could do with private memory.
Environment: QEMU_STORAGE_DAEMON, VIRTIOFSD, and what tests/lib/paths.py names.
"""

import os
from unittest import mock

from lib import tap
from lib.error import HarnessError
from lib.guest import key_values
from lib.hugepages import HUGE_PAGE, huge_pages
from lib.kvm import (MMAP_AND_INIT_SHARED, SW_PROTECTED_VM, kvm_problem,
                     protected_preload)
from lib.storage import (EXAMPLE, OLD_VIRTIOFSD, STORAGE_DAEMON, VIRTIOFSD, start_daemon,
                         start_virtiofsd, virtiofsd_problem)
from lib.units import MIB
from lib.vm import VM, VMTest

RAM = 64 * MIB
WORDS = 'base=16 area=16'
OBJECT = f'memory-backend-guest-memfd,id=m0,size={RAM}'
# Nothing protects the memory of the emulated driver
NO_IOMMU = ',iommu_platform=off'
REFUSAL = 'iommu_platform=true is not supported by the device'
ALL_SEEN = {'write-status': 0, 'seen': 1}
NOTHING_SEEN = {'write-status': 0, 'seen': 0}
MEMORIES = {
    'tcg, emulated driver': (
        'tcg', f'{OBJECT},driver=emulated,init=private', 'testdev', ALL_SEEN, {}),
    'kvm, emulated driver, 2M pages': (
        'kvm', f'{OBJECT},driver=emulated,init=private,hugetlb=on,hugetlbsize=2M',
        'testdev', ALL_SEEN, {}),
    'kvm, kvm driver': (
        'kvm', f'{OBJECT},conversion=none', 'none', None,
        {'guest_memfd_flags': MMAP_AND_INIT_SHARED}),
    'kvm, kvm driver, two copies': (
        'kvm', f'{OBJECT},conversion=two-copy,init=shared', 'hypercall', NOTHING_SEEN,
        {'vm_type': SW_PROTECTED_VM})}


class DiskVM(VM):
    """A VM with a device whose backend has a socket, of which this is the option."""

    def __init__(self, socket, device, guest, **more):
        super().__init__(ram=RAM, server=False, guest=f'{WORDS} {guest}',
                         devices=['guest-memfd-testdev', device], **more)
        self._socket = socket

    def command_line(self, fds):
        return [*super().command_line(fds), '-chardev', self._socket]


class Backend:
    """A daemon and the guest use one disk, or one file."""

    device = words = None
    reconnect = ''      # option of the socket

    def setUp(self):
        """A disk that is empty."""
        super().setUp()
        self.socket = str(self.path / 'socket')
        (self.path / 'shared').mkdir()
        self.disk = self.path / 'shared/disk'
        self.disk.write_bytes(bytes(MIB))

    def until_the_end(self, daemon):
        """One that ends with the test."""
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        return daemon

    def new_vm(self, guest='', options='', **more):
        """A VM with the device, which has more @options."""
        return DiskVM(f'socket,id=c,path={self.socket}{self.reconnect}',
                      self.device + options, f'{self.words} {guest}', **more)

    def summaries(self):
        """What the guest has said up to now."""
        return [key_values(line) for line in self.vm.console
                if line.startswith('summary ')]

    def start_guest(self, accel, memory, conv, needs):
        """The daemon and a guest with one of MEMORIES, if this host has it."""
        if accel == 'kvm':
            problem = kvm_problem(**needs)
            if problem:
                self.skipTest(problem)
        if 'hugetlb' in memory:
            problem = self.enterContext(huge_pages(RAM // HUGE_PAGE))
            if problem:
                self.skipTest(problem)
        daemon = self.start_daemon()
        protected = conv == 'hypercall'
        self.start(self.new_vm(f'conv={conv}', NO_IOMMU if protected else '',
                               accel=accel, memory=memory, protected=protected))
        return daemon

    def assert_used(self, seen):
        """The guest has used the disk, and seen that of private memory."""
        self.vm.assert_good_end()
        self.assertEqual(self.summaries(), ([seen] if seen else []) + [{'disk': 1}])

    def kill_the_daemon(self, init='private'):
        """A guest with the device goes on when the daemon is killed, resets the device,
        and waits."""
        daemon = self.start_daemon()
        vm = self.start(self.new_vm(
            'conv=testdev dies=1', memory=f'{OBJECT},driver=emulated,init={init}'))
        vm.said_until_pause()
        daemon.kill()
        daemon.wait()
        self.assertEqual(vm.qmp.command('query-status')['status'], 'running')
        vm.resume()
        vm.said_until_pause()

    def refused(self, how):
        """QEMU says before the guest runs that the device cannot have this memory, unless
        it asks no IOMMU.

        KVM may only seem to have private memory: the guest does not get far.
        """
        problem = kvm_problem()
        if problem:
            self.skipTest(problem)
        self.enterContext(mock.patch.dict(os.environ, FAKE_KVM_PRIVATE=how))
        confidential = {'accel': 'kvm', 'protected': True, 'preload': protected_preload(),
                        'memory': f'{OBJECT},conversion={how},init=shared'}
        self.start_daemon()
        with self.assertRaisesRegex(HarnessError, REFUSAL), self.new_vm(**confidential):
            pass
        self.start_daemon()
        with self.new_vm(options=NO_IOMMU, **confidential) as vm:
            self.assertEqual(len(vm.qmp.command('query-guest-memfd')), 1)


class VhostUser(Backend, VMTest):
    """A disk of QEMU's storage daemon; QEMU connects again when there is another one."""

    device = 'vhost-user-blk-pci,chardev=c,num-queues=1,disable-legacy=on'
    words = 'virtio=blk'
    reconnect = ',reconnect-ms=100'

    def setUp(self):
        if not os.path.isfile(STORAGE_DAEMON):
            self.skipTest(f'{STORAGE_DAEMON} does not exist')
        super().setUp()

    def start_daemon(self, program=STORAGE_DAEMON):
        """One that ends with the test."""
        return self.until_the_end(start_daemon(self.disk, self.socket, program))

    @tap.cases(MEMORIES)
    def test_a_guest_uses_the_disk(self, accel, memory, conv, seen, needs):
        self.start_guest(accel, memory, conv, needs)
        self.assert_used(seen)

    def test_a_guest_uses_the_disk_of_the_example_in_contrib(self):
        self.start_daemon(EXAMPLE)
        self.start(self.new_vm('conv=testdev',
                               memory=f'{OBJECT},driver=emulated,init=private'))
        self.vm.assert_good_end()
        self.assertEqual(self.summaries(), [ALL_SEEN, {'disk': 1}])

    @tap.cases({init: init for init in ('private', 'shared')})
    def test_the_daemon_is_killed_and_another_one_comes(self, init):
        self.kill_the_daemon(init)
        self.start_daemon()
        self.vm.resume()
        self.vm.assert_good_end()
        self.assertEqual(self.summaries()[-1], {'disk': 1})

    @tap.cases({how: how for how in ('two-copy', 'in-place')})
    def test_a_confidential_guest_is_refused(self, how):
        self.refused(how)


class Virtiofs(Backend, VMTest):
    """A file of a directory that virtiofsd shares; QEMU connects once."""

    device = 'vhost-user-fs-pci,chardev=c,tag=shared'
    words = 'virtio=fs'

    def setUp(self):
        problem = virtiofsd_problem()
        if problem:
            self.skipTest(problem)
        super().setUp()

    def start_daemon(self):
        """One that ends with the test."""
        return self.until_the_end(start_virtiofsd(self.path / 'shared', self.socket))

    @tap.cases(MEMORIES)
    def test_a_guest_uses_a_file_of_virtiofsd(self, accel, memory, conv, seen, needs):
        daemon = self.start_guest(accel, memory, conv, needs)
        if VIRTIOFSD == OLD_VIRTIOFSD or 'conversion=none' not in memory or \
                not self.ends_first(daemon):
            self.assert_used(seen)

    def ends_first(self, daemon):
        """Whether the daemon ends before QEMU does, because it cannot map the memory.

        It looks for the end of the file with lseek(), which a guest_memfd does not have.
        """
        daemon.wait()
        try:
            status = self.vm.qmp.command('query-status')['status']
        except EOFError:
            return False
        self.assertEqual(status, 'running')
        # QEMU has answered after the CPU that started the device
        self.assertIn('vhost_set_mem_table failed', self.vm.errors())
        print('this virtiofsd cannot map a guest_memfd')
        return True

    def test_virtiofsd_is_killed_and_the_guest_goes_on(self):
        self.kill_the_daemon()
        self.vm.resume()
        self.vm.assert_good_end()
        self.assertEqual(self.summaries(), [ALL_SEEN, {'disk': 0}])

    @tap.cases({how: how for how in ('two-copy', 'in-place')})
    def test_a_confidential_guest_is_refused(self, how):
        """a confidential guest is refused with virtiofsd"""
        self.refused(how)

    def test_a_socket_that_reconnects_is_refused(self):
        self.start_daemon()
        self.reconnect = ',reconnect-ms=100'
        with self.assertRaisesRegex(HarnessError, 'vhost_backend_init failed'), \
                self.new_vm(memory=f'{OBJECT},driver=emulated'):
            pass


if __name__ == '__main__':
    tap.main()
