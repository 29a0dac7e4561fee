#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A vfio-user server with libvfio-user as QEMU's release has it.

That holds 16 mappings, does not say so, and answers EINVAL to one more. Environment:
QEMU_SRC, CC, and what tests/lib/paths.py names.
"""

import os
import shlex
import subprocess
import tempfile

from lib import TOP, tap
from lib.dma_map import compare_maps, query_map
from lib.error import HarnessError
from lib.paths import Paths
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from lib.vm import VM, VMTest

QEMU_BUILD = os.environ.get('QEMU_BUILD', os.path.join(TOP, 'build/qemu'))
SERVER = 'tests/vfio-user/edu-server'
LIBRARY = 'subprojects/libvfio-user/lib/libvfio-user.a'
STOCK = os.path.join(os.environ.get('QEMU_SRC') or os.path.join(TOP, 'build/pristine'),
                     'subprojects/libvfio-user')
SOURCES = ('dma', 'irq', 'libvfio-user', 'migration', 'pci', 'pci_caps', 'tran',
           'tran_sock')
LIMIT = 16
RAM = 64 * MIB
GIB = 1024 * MIB
# Where nothing but the tests converts
AREA = 32 * MIB
WARNING = 'QEMU makes fewer, larger mappings; raise the limit of the server'
NO_ROOM = 'a device has no DMA mapping left: convert memory in larger ranges'


def memory(size, init):
    """-object: no page is there before it is used."""
    return (f'memory-backend-guest-memfd,id=m0,size={size},driver=emulated,init={init},'
            'reserve=off')


class StockServer(VMTest):
    """A guest with DMA to what is shared, on a server with 16 mappings."""

    @classmethod
    def setUpClass(cls):
        """Compile the library, and link the server with it."""
        if not os.path.isdir(STOCK):
            raise tap.Skip(f'{STOCK} does not exist')
        scratch = cls.enterClassContext(tempfile.TemporaryDirectory())
        flags = subprocess.run(['pkg-config', '--cflags', 'json-c'], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.split()
        sources = [os.path.join(STOCK, f'lib/{name}.c') for name in SOURCES]
        subprocess.run(
            [os.environ.get('CC', 'cc'), '-c', '-fPIC', '-O1', '-std=gnu99', '-w',
             '-D_GNU_SOURCE', f"-I{os.path.join(STOCK, 'include')}", *sources, *flags],
            cwd=scratch, check=True)
        link = shlex.split(subprocess.run(
            ['ninja', '-C', QEMU_BUILD, '-t', 'commands', '-s', SERVER], check=True,
            stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        at = link.index(LIBRARY)
        link[at:at + 1] = [os.path.join(scratch, f'{name}.o') for name in SOURCES]
        cls.paths = Paths()
        cls.paths.server = link[link.index(SERVER)] = os.path.join(scratch, 'edu-server')
        subprocess.run(link, cwd=QEMU_BUILD, check=True)

    def start_paused(self, init, **more):
        """A guest that has done DMA to shared memory, and converts none."""
        ram = more.pop('ram', RAM)
        words = 'base=16 area=16 ops=20 pause=1'
        vm = self.start(VM(
            self.paths, ram=ram, memory=memory(ram, init),
            guest=f"conv={'none' if init == 'shared' else 'testdev'} {words}", **more))
        return vm

    def convert(self, offset, size, private):
        """None, or why QEMU has refused it."""
        try:
            self.vm.qmp.command('x-guest-memfd-convert', id='m0', offset=offset,
                                size=size, private=private)
        except QmpError as err:
            return str(err)
        return None

    def problems(self):
        """What is mapped is not what is shared."""
        maps = self.vm.control.maps()
        self.assertLessEqual(len(maps), LIMIT)
        return compare_maps(query_map(self.vm.qmp, 'm0'), maps, RAM)

    def assert_safe(self):
        """I1: nothing private is mapped."""
        private = [run for run in query_map(self.vm.qmp, 'm0') if run['private']]
        reached = [(hex(run['offset']), hex(m.iova)) for run in private
                   for m in self.vm.control.maps()
                   if m.iova < run['offset'] + run['size'] and
                   run['offset'] < m.iova + m.size]
        self.assertEqual(reached, [])

    def test_giving_back_always_works(self):
        """Pages here and there, far more than there are mappings."""
        vm = self.start_paused('shared')
        vm.said_until_pause()
        self.assert_none(self.problems())
        for page in range(3 * LIMIT):
            self.assertIsNone(self.convert(AREA + page * 5 * PAGE, PAGE, True))
            self.assert_safe()
        self.assertIn(WARNING, vm.errors())
        self.assertIn('cannot reach all of', vm.errors())
        # nothing is shared while something shared has no mapping
        self.assertIn('cannot map it again', self.convert(AREA, PAGE, False))
        for private in (True, False):
            self.assertIsNone(self.convert(AREA, RAM - AREA, private))
            self.assert_none(self.problems())
        vm.resume()
        vm.assert_good_end()

    def test_sharing_in_small_pieces_is_refused_with_advice(self):
        """Up to the limit; then a larger range works."""
        vm = self.start_paused('private', devices=['guest-memfd-testdev'])
        vm.qmp.command('stop')
        self.assertIsNone(self.convert(0, RAM, True))
        answers = []
        for page in range(2 * LIMIT):
            answers.append(self.convert(AREA + 2 * page * PAGE, PAGE, False))
            self.assert_none(self.problems())
        granted = answers.count(None)
        self.assertGreater(granted, LIMIT // 2)
        self.assertEqual(answers[:granted], [None] * granted)
        for answer in answers[granted:]:
            self.assertIn(NO_ROOM, answer)
        self.assertIn(WARNING, vm.errors())
        # one mapping instead of all of these
        self.assertIsNone(self.convert(AREA, 4 * LIMIT * PAGE, False))
        self.assert_none(self.problems())
        self.assertIsNone(self.convert(AREA + PAGE, PAGE, True))
        self.assert_none(self.problems())
        self.assertIsNone(self.convert(0, RAM, True))
        self.assert_none(self.problems())
        self.assertEqual([m for m in vm.control.maps() if m.fd], [])

    def test_a_large_vm_needs_few_mappings(self):
        """More GiB than there are mappings."""
        size = 24 * GIB
        vm = self.start_paused('shared', ram=size)
        vm.said_until_pause()
        mapped = [m for m in vm.control.maps() if m.iova >= 4 * GIB and m.fd]
        self.assertEqual([(m.iova, m.size) for m in mapped],
                         [(4 * GIB, size - 2 * GIB)])

    def test_a_device_that_cannot_be_is_refused(self):
        """Each page by itself is more than fits."""
        with self.assertRaises(HarnessError) as caught:
            self.start_paused('shared', device_options={'x-dma-split': 'page'})
        for words in ('cannot map the shared part of', 'the device refuses them beside',
                      'use x-dma-split=auto, or raise the limit of the server'):
            self.assertIn(words, str(caught.exception))


if __name__ == '__main__':
    tap.main()
