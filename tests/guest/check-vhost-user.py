#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of QEMU's storage daemon, which has a file descriptor of the guest's memory.

The guest (tests/guest/blk.c) says what the daemon could do with private memory.
Environment: QEMU_STORAGE_DAEMON, and what tests/lib/paths.py names.
"""

import os

from lib import tap
from lib.guest import key_values
from lib.hugepages import HUGE_PAGE, huge_pages
from lib.kvm import MMAP_AND_INIT_SHARED, SW_PROTECTED_VM, kvm_problem
from lib.storage import EXAMPLE, STORAGE_DAEMON, start_daemon
from lib.units import MIB
from lib.vm import VM, VMTest

RAM = 64 * MIB
WORDS = 'base=16 area=16 virtio=blk'
OBJECT = f'memory-backend-guest-memfd,id=m0,size={RAM}'
DISK = 'vhost-user-blk-pci,chardev=c,num-queues=1,disable-legacy=on'
# Nothing protects the memory of the emulated driver
ALL_SEEN = {'write-status': 0, 'seen': 1}
NOTHING_SEEN = {'write-status': 0, 'seen': 0}


class DiskVM(VM):
    """A VM that connects to the backend, and again when there is another one."""

    def __init__(self, path, **more):
        super().__init__(ram=RAM, server=False, devices=['guest-memfd-testdev', DISK],
                         **more)
        self._path = path

    def command_line(self, fds):
        return [*super().command_line(fds), '-chardev',
                f'socket,id=c,path={self._path},reconnect-ms=100']


class VhostUser(VMTest):
    """The daemon and the guest use one disk."""

    def setUp(self):
        """A disk that is empty."""
        if not os.path.isfile(STORAGE_DAEMON):
            self.skipTest(f'{STORAGE_DAEMON} does not exist')
        super().setUp()
        self.socket = str(self.path / 'socket')
        self.disk = self.path / 'disk'
        self.disk.write_bytes(bytes(MIB))

    def start_daemon(self, program=STORAGE_DAEMON):
        """One that ends with the test."""
        daemon = start_daemon(self.disk, self.socket, program)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        return daemon

    def summaries(self):
        """What the guest has said up to now."""
        return [key_values(line) for line in self.vm.console
                if line.startswith('summary ')]

    @tap.cases({
        'tcg, emulated driver': (
            'tcg', f'{OBJECT},driver=emulated,init=private', 'testdev', ALL_SEEN, {}),
        'kvm, emulated driver, 2M pages': (
            'kvm', f'{OBJECT},driver=emulated,init=private,hugetlb=on,hugetlbsize=2M',
            'testdev', ALL_SEEN, {}),
        'kvm, kvm driver': (
            'kvm', f'{OBJECT},conversion=none', 'none', None,
            {'guest_memfd_flags': MMAP_AND_INIT_SHARED}),
        'kvm, kvm driver, two copies': (
            'kvm', f'{OBJECT},conversion=two-copy,init=shared', 'hypercall',
            NOTHING_SEEN, {'vm_type': SW_PROTECTED_VM})})
    def test_a_guest_uses_the_disk(self, accel, memory, conv, seen, needs):
        if accel == 'kvm':
            problem = kvm_problem(**needs)
            if problem:
                self.skipTest(problem)
        if 'hugetlb' in memory:
            problem = self.enterContext(huge_pages(RAM // HUGE_PAGE))
            if problem:
                self.skipTest(problem)
        self.start_daemon()
        self.start(DiskVM(self.socket, accel=accel, memory=memory,
                          guest=f'{WORDS} conv={conv}', protected=conv == 'hypercall'))
        self.vm.assert_good_end()
        self.assertEqual(self.summaries(), ([seen] if seen else []) + [{'disk': 1}])

    def test_a_guest_uses_the_disk_of_the_example_in_contrib(self):
        self.start_daemon(EXAMPLE)
        self.start(DiskVM(self.socket, memory=f'{OBJECT},driver=emulated,init=private',
                          guest=f'{WORDS} conv=testdev'))
        self.vm.assert_good_end()
        self.assertEqual(self.summaries(), [ALL_SEEN, {'disk': 1}])

    @tap.cases({'private': ('private', 'testdev'), 'shared': ('shared', 'testdev')})
    def test_the_daemon_is_killed_and_another_one_comes(self, init, conv):
        daemon = self.start_daemon()
        vm = self.start(DiskVM(
            self.socket, memory=f'{OBJECT},driver=emulated,init={init}',
            guest=f'{WORDS} conv={conv} dies=1'))
        vm.said_until_pause()
        daemon.kill()
        daemon.wait()
        self.assertEqual(vm.qmp.command('query-status')['status'], 'running')
        vm.resume()
        vm.said_until_pause()
        self.start_daemon()
        vm.resume()
        vm.assert_good_end()
        self.assertEqual(self.summaries()[-1], {'disk': 1})


if __name__ == '__main__':
    tap.main()
