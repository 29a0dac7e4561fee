#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""All together with a real guest: QEMU, its memory, VFIO and a device.

The guest (tests/guest) converts memory and does DMA against its own model;
before it ends, the map that QEMU reports is compared with what the vfio-user
server has mapped.  Environment: QEMU, EDU_SERVER, GUEST_ELF, QEMU_FIRMWARE,
GUEST_OPS, GUEST_SEED, GUEST_TIMEOUT (seconds, against hangs),
QEMU_STORAGE_DAEMON.
"""

import os
import subprocess
import unittest

from lib import tap
from lib.dma_map import all_shared, compare_maps, query_map
from lib.guest import EXIT_PASS, key_values
from lib.hugepages import HUGE_PAGE
from lib.kvm import FAKE_KVM, MMAP_AND_INIT_SHARED, SW_PROTECTED_VM, kvm_problem
from lib.paths import Paths
from lib.process import die_with_parent
from lib.qmp import QmpError
from lib.storage import STORAGE_DAEMON, start_daemon
from lib.units import MIB, PAGE
from lib.vm import TIMEOUT, VM, VMTest

SEED = os.environ.get('GUEST_SEED', '1')
OPS = os.environ.get('GUEST_OPS')
# A guest that has the least of RAM, for what is no matter of size
SMALL = 'base=16 area=16'
BALLOON = 'virtio-balloon-pci,disable-legacy=on,free-page-reporting=on'
RNG = 'virtio-rng-pci,disable-legacy=on'


def summaries(lines):
    """What the guest says it has done, one for each line."""
    return [key_values(line) for line in lines if line.startswith('summary ')]


class SharedVM:
    """Tests that look at one VM, whose guest waits for the host."""

    name = None             # of the VM
    problem = None          # why this host cannot run it
    huge = 0                # pages that it needs

    @classmethod
    def setUpClass(cls):
        """Start the VM that all tests look at."""
        cls.need(cls.problem, cls.huge)
        cls.summary = None
        cls.start_for_all(cls.new_vm())

    def id(self):
        return f'{self.name}: {super().id()}'

    def paused(self):
        """The summary of the guest, which has to be there."""
        self.assertTrue(self.summary, 'the guest has not come so far')
        return self.summary

    def wait_for_summary(self):
        """The guest says what it has done, and waits."""
        type(self).summary = summaries(self.vm.said_until_pause())[-1]


class Conversions(SharedVM):
    """Memory is converted; what QEMU, the server and the guest say agrees."""

    accel, driver, conv = 'tcg,thread=multi', 'emulated', 'testdev'
    cpus = 1                # so many CPUs of the guest convert
    ram = 512 * MIB
    words = 'ops=2000'

    @classmethod
    def new_vm(cls):
        """The VM."""
        words = f'conv={cls.conv} seed={SEED} pause=1 {cls.words}'
        if OPS:
            words += f' ops={OPS}'
        if cls.cpus > 1:
            # The emulated driver keeps what is in a page.
            words += f" cpus={cls.cpus} keep={int(cls.driver == 'emulated')}"
        return VM(accel=cls.accel, ram=cls.ram, guest=words,
                  huge=bool(cls.huge), driver=cls.driver,
                  smp=max(cls.cpus, 2 if cls.accel == 'kvm' else 1),
                  devices=['guest-memfd-testdev'] * cls.cpus,
                  init='private' if cls.driver == 'emulated' else 'shared',
                  protected=cls.driver == 'kvm')

    def test_the_guest_verified_dma(self):
        """the guest verified DMA"""
        self.wait_for_summary()
        print(' '.join(f'{key}={value}' for key, value
                       in self.vm.control.stats().items()))

    def test_dma_mappings_are_the_shared_memory(self):
        """DMA mappings are the shared memory"""
        self.paused()
        self.assert_none(compare_maps(query_map(self.vm.qmp, 'm0'),
                                      self.vm.control.maps(), self.ram))

    def test_the_map_is_the_same_in_small_pages(self):
        self.paused()
        self.assertEqual(query_map(self.vm.qmp, 'm0', limit=7),
                         query_map(self.vm.qmp, 'm0'))

    def block(self):
        """What query-guest-memfd says of the memory."""
        block, = self.vm.qmp.command('query-guest-memfd')
        self.assertEqual(block['id'], 'm0')
        return block

    def test_counters_agree_with_the_map_and_the_server(self):
        self.paused()
        block = self.block()
        shared = sum(run['size'] for run in query_map(self.vm.qmp, 'm0')
                     if not run['private'])
        # ROMs, which lie over the RAM below 1 MiB, have no file
        extents = [m for m in self.vm.control.maps()
                   if m.iova < self.ram and m.fd]

        def total(key):
            return sum(listener[key] for listener in block['listeners'])

        self.assertEqual(block['size'], self.ram)
        self.assertEqual(block['driver'], self.driver)
        self.assertEqual(block['shared-bytes'], shared)
        self.assertEqual(block['private-bytes'], self.ram - shared)
        # one for each range of addresses at which the container sees it
        self.assertEqual(total('mapped-bytes'), sum(m.size for m in extents))
        self.assertEqual(total('extents'), len(extents))
        self.assertTrue(total('map-calls'))
        self.assertTrue(total('unmap-calls'))
        for level in block['huge-pages']:
            self.assertEqual(
                level['shared'] + level['private'] + level['mixed'],
                self.ram // level['size'], f"pages of {level['size']}")

    def test_counters_agree_with_the_guest(self):
        summary, block = self.paused(), self.block()
        # The guest leaves alone what is not in its bounce area.
        outside = (self.ram - summary['pages'] * PAGE
                   if block['init'] == 'shared' else 0)
        requests = [block[direction]['requests']
                    for direction in ('to-shared', 'to-private')]
        self.assertEqual(block['shared-bytes'],
                         summary['shared-pages'] * PAGE + outside)
        self.assertTrue(all(requests), requests)
        self.assertGreaterEqual(sum(requests), summary['conversions'])

    def test_qemu_and_the_server_end_well(self):
        """QEMU and the server end well"""
        self.paused()
        self.vm.resume()
        self.vm.assert_good_end()


class Tcg4K(Conversions, VMTest):
    """Much memory, in pages of 4 KiB."""
    name = 'tcg, 4K pages, emulated driver'


class Tcg2M(Conversions, VMTest):
    """Huge pages of 2 MiB."""
    name = 'tcg, 2M pages, emulated driver'
    ram = 128 * MIB
    huge = ram // HUGE_PAGE
    words = SMALL + ' ops=1000'


# TCG converts with the BQL held, so that it is under KVM that requests of several
# CPUs meet; two CPUs do, as a host may have no more.  TCG is where slices of four
# CPUs have borders in one huge page.
class Tcg4Cpus(Conversions, VMTest):
    """CPUs that convert at once."""
    name = 'tcg, 4K pages, emulated driver, 4 CPUs'
    cpus = 4
    ram = 128 * MIB
    words = 'base=16 area=64 ops=400 storm=200'


# Some KVMs emulate code without paging: each operation takes 20 ms, and longer
# where CPUs wait for each other.
class Kvm2M(Conversions, VMTest):
    """Huge pages of 2 MiB."""
    name = 'kvm, 2M pages, emulated driver'
    problem = kvm_problem()
    accel = 'kvm'
    ram = 64 * MIB
    huge = ram // HUGE_PAGE
    words = SMALL + ' ops=200'


class Kvm2Cpus(Conversions, VMTest):
    """Each of them does what one does; then their requests meet."""
    name = 'kvm, 4K pages, emulated driver, 2 CPUs'
    problem = kvm_problem()
    accel = 'kvm'
    cpus = 2
    ram = 64 * MIB
    words = 'base=16 area=32 ops=100 storm=500'


class KvmPrivate4Cpus(Conversions, VMTest):
    """Private memory of KVM, and hypercalls."""
    name = 'kvm, 4K pages, kvm driver, private memory, 4 CPUs'
    problem = kvm_problem(vm_type=SW_PROTECTED_VM)
    accel, driver, conv = 'kvm', 'kvm', 'hypercall'
    cpus = 4
    words = 'ops=200'


class KvmOrdinary(SharedVM, VMTest):
    """An ordinary VM, whose only memory is a mapped guest_memfd.

    Its guest waits twice: before it asks for conversions, and after it.
    """
    name = 'kvm, 4K pages, kvm driver'
    problem = kvm_problem(MMAP_AND_INIT_SHARED)
    ram = 64 * MIB

    @classmethod
    def new_vm(cls):
        """The VM."""
        return VM(accel='kvm', ram=cls.ram, smp=2, driver='kvm',
                  init='shared', devices=['guest-memfd-testdev', RNG, BALLOON],
                  guest=f'conv=refused seed={SEED} pause=1 {SMALL} '
                        'virtio=queues dma=1')

    def test_the_queues_of_virtio_rng_and_virtio_balloon_have_an_answer(self):
        said = summaries(self.vm.said_until('summary '))
        self.assertEqual(said, [{'devices': 2}])

    def test_the_guest_verified_dma(self):
        """the guest verified DMA"""
        self.vm.said_until_pause()
        type(self).before = self.vm.control.stats()

    def test_what_it_asked_for_was_refused(self):
        self.vm.resume()
        self.wait_for_summary()
        self.assertTrue(self.summary['refused'])
        stats = self.vm.control.stats()
        for calls in ('map', 'unmap'):
            self.assertEqual(stats[calls], self.before[calls], calls)

    def test_dma_mappings_are_all_of_the_memory(self):
        """DMA mappings are all of the memory"""
        self.paused()
        self.assert_none(compare_maps(
            all_shared(self.ram), self.vm.control.maps(), self.ram))

    def test_it_is_no_block(self):
        self.paused()
        qmp = self.vm.qmp
        self.assertEqual(qmp.command('query-guest-memfd'), [])
        with self.assertRaisesRegex(QmpError, 'ordinary memory'):
            qmp.command('query-guest-memfd-map', id='m0')
        with self.assertRaisesRegex(QmpError, 'ordinary memory'):
            qmp.command('x-guest-memfd-convert', id='m0', offset=0, size=PAGE,
                        private=True)
        # only the device is in the way
        with self.assertRaisesRegex(QmpError, "/vfio-user-pci'"):
            qmp.command('migrate', uri='exec:false')

    def test_qemu_and_the_server_end_well(self):
        """QEMU and the server end well"""
        self.paused()
        self.vm.resume()
        self.vm.assert_good_end()


class OneQuestion(VMTest):
    """VMs with 64 MiB that run to their end."""

    def run_to_end(self, words, *wanted, **args):
        """The guest's first summaries have what is wanted."""
        vm = self.start(VM(ram=64 * MIB, guest=f'{SMALL} {words}', **args))
        vm.assert_good_end()
        said = summaries(vm.console)
        self.assertGreaterEqual(len(said), len(wanted))
        for summary, keys in zip(said, wanted):
            self.assertEqual({key: summary.get(key) for key in keys}, keys)

    def run_to_end_under_kvm(self, words, *wanted, **args):
        """The same with memory that nobody converts."""
        problem = kvm_problem(MMAP_AND_INIT_SHARED)
        if problem:
            self.skipTest(problem)
        self.run_to_end('conv=none ' + words, *wanted, accel='kvm',
                        driver='kvm', init='shared', server=False, **args)

    @staticmethod
    def balloon(shared, private):
        """The arguments of a VM; of 8 pages given so many are empty then."""
        return 'virtio=balloon', {
            'shared-empty': shared, 'private-empty': private,
            'mixed-empty': shared + private}, {
            'shared-done': 1, 'shared-empty': shared,
            'private-done': 1, 'private-empty': private // 8,
            'all-private-done': 1, 'all-private-empty': private}

    @tap.cases({'no device with DMA, all that is given is empty': (False, 8),
                'a device with DMA, for which shared memory stays': (True, 0)})
    def test_virtio_balloon(self, server, shared):
        """virtio-balloon, emulated driver"""
        self.run_to_end(*self.balloon(shared, 8), server=server,
                        devices=['guest-memfd-testdev', BALLOON])

    def test_virtio_balloon_of_memory_without_access(self):
        """virtio-balloon, two copies: all reports have an answer

        QEMU cannot map private memory.  On this KVM a guest finds the shared copy in
        either state, which goes with the private one.
        """
        if kvm_problem():
            self.skipTest(kvm_problem())
        self.run_to_end(*self.balloon(8, 8), accel='kvm', driver='kvm',
                        init='shared', protected=True, server=False,
                        preload=FAKE_KVM,
                        devices=['guest-memfd-testdev', BALLOON])

    def test_virtio_balloon_with_the_kvm_driver(self):
        """virtio-balloon, kvm driver: 8 of the given pages are empty"""
        self.run_to_end_under_kvm(*self.balloon(8, 8),
                                  devices=['guest-memfd-testdev', BALLOON])

    def test_messages(self):
        """ordinary memory without a file: DMA by messages

        The server does the DMA while QEMU, with the BQL, waits for it to answer
        the write to a register; libvfio-user, which waits then, takes no other
        request.
        """
        self.run_to_end('ops=200 conv=none', {'dma-failed': 0},
                        memory=f'memory-backend-ram,id=m0,size={64 * MIB}',
                        device_options={'x-no-posted-writes': True})

    def test_vhost_vsock(self):
        """vhost-vsock, kvm driver: it has an answer

        The host's kernel works on queues in memory that nobody converts.
        """
        if not os.path.exists('/dev/vhost-vsock'):
            self.skipTest('/dev/vhost-vsock does not exist')
        self.run_to_end_under_kvm(
            'virtio=vsock', {'queues': 2},
            devices=[f'vhost-vsock-pci,guest-cid={os.getpid()},'
                     'disable-legacy=on'])


# The firmware reads it from a disk and runs it.  It writes itself to the next
# sector, and exits with EXIT_PASS if that worked:
#     mov $0x0301,%ax; mov $2,%cx; mov $0,%dh; mov $0x7c00,%bx; int $0x13
#     mov $0x11,%al; jc 1f; mov $0x10,%al; 1: out %al,$0xf4; 2: hlt; jmp 2b
BOOT_SECTOR = bytes.fromhex('b80103 b90200 b600 bb007c cd13'
                            'b011 7202 b010 e6f4 f4 ebfd'
                            ).ljust(510, b'\0') + b'\x55\xaa'


class VhostUser(tap.TestCase):
    """Another process does DMA to memory that nobody converts."""

    def qemu(self, path):
        """A VM that boots from the disk behind a socket; what is wrong."""
        paths = Paths()
        done = subprocess.run(
            [paths.qemu, '-nodefaults', '-display', 'none', '-accel', 'kvm',
             '-cpu', 'host', '-machine', 'q35,memory-backend=m0', '-m', '64M',
             *(word for name in paths.firmware for word in ('-L', name)),
             '-object', 'memory-backend-guest-memfd,id=m0,size=64M,'
                        'conversion=none',
             '-chardev', f'socket,id=c,path={path}',
             '-device', 'vhost-user-blk-pci,chardev=c,bootindex=1',
             '-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, errors='replace', timeout=TIMEOUT,
            check=False, preexec_fn=die_with_parent)
        self.assertEqual(done.returncode, EXIT_PASS, done.stdout)

    @unittest.skipIf(kvm_problem(MMAP_AND_INIT_SHARED),
                     str(kvm_problem(MMAP_AND_INIT_SHARED)))
    @unittest.skipUnless(os.path.isfile(STORAGE_DAEMON),
                         f'{STORAGE_DAEMON} does not exist')
    def test_vhost_user_blk(self):
        """vhost-user-blk, kvm driver: the guest reads and writes a disk"""
        disk = self.path / 'disk'
        disk.write_bytes(BOOT_SECTOR + bytes(MIB - len(BOOT_SECTOR)))
        daemon = start_daemon(disk, self.path / 'socket')
        try:
            self.qemu(self.path / 'socket')
        finally:
            daemon.kill()
            daemon.wait()
        self.assertEqual(disk.read_bytes()[:2 * len(BOOT_SECTOR)],
                         2 * BOOT_SECTOR)


if __name__ == '__main__':
    tap.main()
