#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Linux with all of its RAM in this memory.

The kernel is Debian's own one for clouds, as it is
(scripts/fetch-cloud-kernel.py).  Its only process (tests/guest/linux) fills
memory, reads and writes a disk with O_DIRECT, converts the memory that it does
this with, and has the edu device do DMA there.  What it says it has done is
compared with QEMU's map, with what the vfio-user server has mapped, and with
the disk.  Two VMs have a file of virtiofsd's in place of the disk, and one has
virtio-mem.

Environment: QEMU, EDU_SERVER, LINUX_INIT, QEMU_FIRMWARE, QEMU_DL_DIR,
VIRTIOFSD, GUEST_OPS, GUEST_SEED, GUEST_TIMEOUT (seconds, against hangs).
"""

import collections
import contextlib
import functools
import os
import random
import re
import stat
import subprocess
import zlib

from lib import TOP, tap
from lib.cpio import Archive
from lib.dma_map import LEGACY, cut, join, query_map
from lib.error import HarnessError
from lib.guest import PAUSED, key_values
from lib.hugepages import HUGE_PAGE
from lib.paths import Paths
from lib.storage import start_virtiofsd, virtiofsd_problem
from lib.units import MIB, PAGE
from lib.vm import VM, VMTest

KERNEL = os.path.join(TOP, 'build/cloud-kernel')
SEED = int(os.environ.get('GUEST_SEED', '1'))
OPS = os.environ.get('GUEST_OPS', '1000')
NOT_DELIVERED = 2       # says fetch-cloud-kernel.py: no network, for example
DISK_SIZE = 4 * MIB
GIB = 1024 * MIB
USE_MEMORY = b'm'       # to tests/guest/linux/init.c
# Of q35: where RAM ends below 4 GiB, if it does not fit there
LOW_RAM = 2 * GIB
INIT = os.environ.get(
    'LINUX_INIT', os.path.join(TOP, 'build/tests/guest/linux-init'))

# A range of RAM, and where it is in which block
Piece = collections.namedtuple('Piece', 'gpa size block offset')

Disk = collections.namedtuple('Disk', 'name device path')
VIRTIO = Disk('virtio-blk', 'virtio-blk-pci,disable-legacy=on,drive=disk',
              '/dev/vda')
VIRTIOFS = Disk('virtiofs', 'vhost-user-fs-pci,chardev=fs,tag=share',
                '/share/disk')
NVME = Disk('nvme', 'nvme,serial=disk,drive=disk', '/dev/nvme0n1')


class Case:
    """A VM, and what it is told.

    @nodes: the sizes of its blocks; more than one are NUMA nodes
    @fill: MiB that the guest fills and verifies
    @pluggable: bytes of virtio-mem, none of which is plugged at first
    """

    def __init__(self, disk, nodes, fill, huge=False, init='shared', pluggable=0):
        self.disk = disk
        self.nodes = nodes
        self.fill = fill
        self.huge = huge
        self.init = init
        self.pluggable = pluggable

    @property
    def name(self):
        """For people."""
        nodes = (f'{len(self.nodes)} NUMA nodes, ' if len(self.nodes) > 1
                 else '')
        return (f"{nodes}{self.ram // MIB} MiB of {'2M' if self.huge else '4K'}"
                f' pages, {self.init} at first, {self.disk.name}')

    @property
    def ram(self):
        """Bytes of all blocks."""
        return sum(self.nodes)

    @property
    def objects(self):
        """One for each block."""
        pages = ',hugetlb=on,hugetlbsize=2M' if self.huge else ''
        return [f'memory-backend-guest-memfd,id=m{n},size={size},'
                f'driver=emulated,init={self.init}{pages}'
                for n, size in enumerate(self.nodes)]

    @property
    def layout(self):
        """The pieces of RAM, by address."""
        low = self.ram if self.ram <= LOW_RAM else LOW_RAM
        pieces, address = [], 0
        for n, size in enumerate(self.nodes):
            for start, end in ((address, min(address + size, low)),
                               (max(address, low), address + size)):
                if start < end:
                    gpa = start if start < low else start - low + 4 * GIB
                    pieces.append(Piece(gpa, end - start, f'm{n}',
                                        start - address))
            address += size
        return pieces


class LinuxVM(VM):
    """Linux in place of the guest of this directory."""

    words = ''      # more of what its process is told

    def __init__(self, case):
        self.case = case
        paths = Paths()
        paths.guest = os.path.join(KERNEL, 'vmlinuz')
        super().__init__(
            paths, accel='tcg,thread=multi', ram=case.ram, smp=2,
            memory=case.objects[0], devices=['guest-memfd-testdev'] * 2,
            guest='console=ttyS1 panic=-1 mitigations=off '
                  'memhp_default_state=online_movable -- '
                  f'ops={OPS} seed={SEED} fill={case.fill} '
                  f"private={int(case.init == 'private')} "
                  f'disk={case.disk.path} {self.words}')

    def __enter__(self):
        self.disk_before = random.Random(SEED).randbytes(DISK_SIZE)
        return super().__enter__()

    def command_line(self, fds):
        with open(self.disk, 'wb') as f:
            f.write(self.disk_before)
        write_initramfs(self.socket('initramfs'), INIT)
        args = super().command_line(fds)
        if len(self.case.nodes) > 1:
            args[args.index('q35,memory-backend=m0')] = 'q35'
            for n, memory in enumerate(self.case.objects):
                if n:
                    args += ['-object', memory]
                args += ['-numa', f'node,memdev=m{n},cpus={n}']
        if self.case.pluggable:
            args += ['-m', f'maxmem={self.case.ram + self.case.pluggable}',
                     '-object', 'memory-backend-guest-memfd,id=vm0,driver=emulated,'
                                f'init={self.case.init},size={self.case.pluggable}',
                     '-device', 'virtio-mem-pci,id=vmem,memdev=vm0']
        return args + [
            '-initrd', self.socket('initramfs'),
            '-chardev', f'file,id=log,path={self.socket("log")}',
            '-device', 'isa-serial,chardev=log', *self.disk_options(),
            '-device', self.case.disk.device]

    def disk_options(self):
        """What the device of the disk needs."""
        return ['-blockdev', f'file,node-name=disk,filename={self.disk}']

    @property
    def disk(self):
        """The path of the file."""
        return self.socket('disk')

    def log(self):
        """What the kernel printed."""
        with contextlib.suppress(OSError), \
                open(self.socket('log'), encoding='ascii',
                     errors='replace') as f:
            return f.read().splitlines()
        return []

    def explain(self):
        return super().explain() + [f'kernel: {line}'
                                    for line in self.log()[-20:]]


class DirectoryVM(LinuxVM):
    """Linux whose disk is a file of a directory that virtiofsd shares."""

    words = 'share=share'
    daemon = None

    def command_line(self, fds):
        os.mkdir(self.socket('shared'))
        self.daemon = start_virtiofsd(self.socket('shared'),
                                      self.socket('virtiofsd'))
        return super().command_line(fds)

    def disk_options(self):
        return ['-chardev', f'socket,id=fs,path={self.socket("virtiofsd")}']

    @property
    def disk(self):
        return self.socket('shared/disk')

    def kill_daemon(self):
        """End it as SIGBUS would."""
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()

    def close(self):
        super().close()
        self.kill_daemon()


def write_initramfs(path, init):
    """The file system that Linux begins with."""
    archive = Archive(path)
    archive.add('dev/console', stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add_file('init', init)
    modules = os.path.join(KERNEL, 'modules')
    archive.add_file('modules/list', modules, 0o644)
    with open(modules, encoding='ascii') as f:
        for name in f.read().split():
            archive.add_file(f'modules/{name}.ko',
                             os.path.join(KERNEL, f'{name}.ko'), 0o644)
    archive.close()


class Said:
    """The lines of the guest before it waits for the host."""

    def __init__(self, vm):
        self.lines = collections.defaultdict(list)
        for line in vm.said_until(PAUSED)[:-1]:
            self.lines[line.partition(' ')[0]].append(key_values(line))

    def total(self, kind, key):
        """Of all lines of a kind."""
        return sum(line[key] for line in self.lines[kind])


def check_said(case, said):
    """The guest has done all that it was to do."""
    problems = []
    if [line['n'] for line in said.lines['cpus']] != [2]:
        problems.append(f"it has the CPUs {said.lines['cpus']}")
    if said.total('fill', 'bytes') != case.fill * MIB or \
            not all(line['passes'] for line in said.lines['fill']):
        problems.append(f"it has filled {said.lines['fill']}")
    if case.ram > LOW_RAM and not said.total('fill', 'high'):
        problems.append('it has used no memory above 4 GiB')
    for worker in said.lines['worker']:
        problems += [f"worker {worker['number']}: {key} is 0"
                     for key, value in worker.items()
                     if key != 'number' and not value]
    if len(said.lines['worker']) != 2:
        problems.append(f"workers: {said.lines['worker']}")
    return problems


def check_ram(vm, said):
    """What Linux takes for RAM is in the blocks, and nearly all of them."""
    case, problems = vm.case, []
    blocks = {block['id']: block['size']
              for block in vm.qmp.command('query-guest-memfd')}
    expected = {f'm{n}': size for n, size in enumerate(case.nodes)}
    if blocks != expected:
        problems.append(f'the blocks are {blocks}')
    # The firmware keeps its tables, and what is below 1 MiB.
    if not case.ram - 2 * MIB <= said.total('ram', 'size') <= case.ram:
        problems.append(f"RAM of {said.total('ram', 'size')} bytes")
    for ram in said.lines['ram']:
        for gpa in (ram['start'], ram['start'] + ram['size'] - 1):
            block = [piece.block for piece in case.layout
                     if piece.gpa <= gpa < piece.gpa + piece.size]
            answer = vm.qmp.human(f'gpa2hva {gpa:#x}')
            where = re.search(r' \((\S+)\) is ', answer)
            if not where or block != [where.group(1)]:
                problems.append(f'{gpa:#x} should be in {block}: {answer}')
    return problems


def states_said(case, said):
    """A byte for each page of each block: 1 if the guest says it is private."""
    states = {f'm{n}': bytearray([case.init == 'private']) * (size // PAGE)
              for n, size in enumerate(case.nodes)}
    for run in said.lines['run']:
        piece, = (piece for piece in case.layout
                  if piece.gpa <= run['gpa'] < piece.gpa + piece.size)
        first = (run['gpa'] - piece.gpa + piece.offset) // PAGE
        pages = run['size'] // PAGE
        states[piece.block][first:first + pages] = \
            bytes([run['private']]) * pages
    return states


def check_map(vm, states):
    """QEMU's map of each block."""
    problems = []
    for block, expected in states.items():
        actual = bytearray()
        for run in query_map(vm.qmp, block):
            actual += bytes([run['private']]) * (run['size'] // PAGE)
        if len(actual) != len(expected):
            problems.append(f'{block}: {len(actual)} pages')
        elif actual != expected:
            wrong = [page for page, (a, b) in
                     enumerate(zip(actual, expected)) if a != b]
            problems.append(f'{block}: {len(wrong)} pages are not as the guest '
                            f'says, the first one at {wrong[0] * PAGE:#x}')
    return problems


def ranges_of(piece, states):
    """The addresses of a piece that are shared, as (start, end)."""
    pages = states[piece.block][piece.offset // PAGE:
                                (piece.offset + piece.size) // PAGE]
    for match in re.finditer(rb'\0+', pages):
        yield (piece.gpa + match.start() * PAGE,
               piece.gpa + match.end() * PAGE)


def check_mappings(vm, states):
    """What the server has mapped."""
    layout = vm.case.layout
    shared = join(cut([part for piece in layout
                       for part in ranges_of(piece, states)], LEGACY))
    mapped = join(cut([(m.iova, m.iova + m.size)
                       for m in vm.control.maps()
                       if any(piece.gpa <= m.iova < piece.gpa + piece.size
                              for piece in layout)], LEGACY))
    return ([f'mapped [{start:#x}, {end:#x}) is no shared range'
             for start, end in sorted(set(mapped) - set(shared))[:5]] +
            [f'shared [{start:#x}, {end:#x}) is no mapped range'
             for start, end in sorted(set(shared) - set(mapped))[:5]])


def check_counters(vm, said, states):
    """QEMU and the server have counted what the guest has."""
    blocks = vm.qmp.command('query-guest-memfd')
    stats = vm.control.stats()
    problems = []

    def same(what, a, b):
        if a != b:
            problems.append(f'{what}: {a} != {b}')

    same('requests', sum(block[direction]['requests'] for block in blocks
                         for direction in ('to-shared', 'to-private')),
         said.total('worker', 'conversions'))
    for block in blocks:
        if not block['to-shared']['requests']:
            problems.append(f"nothing of {block['id']} was converted")
        same(f"private-bytes of {block['id']}", block['private-bytes'],
             sum(states[block['id']]) * PAGE)
    for key in ('dma-ok', 'dma-failed'):
        same(key, stats[key], said.total('worker', key))
    return problems


def check_disk(vm, said, when, content):
    """The checksums of what the guest says is in the file."""
    problems = []
    lines = [line for line in said.lines['disk'] if line['when'] == when]
    if sum(line['size'] for line in lines) != DISK_SIZE:
        problems.append(f'the guest has said of the {when}: {lines}')
    for line in lines:
        start, end = line['offset'], line['offset'] + line['size']
        if zlib.crc32(content[start:end]) != line['crc']:
            problems.append(f"worker {line['worker']} has another disk in the "
                            f'{when}')
        if when == 'end' and content[start:end] == \
                vm.disk_before[start:end]:
            problems.append(f"worker {line['worker']} has written nothing")
    return problems


@functools.cache
def no_kernel():
    """Why this vm cannot have one, or None."""
    done = subprocess.run(
        [os.path.join(TOP, 'scripts/fetch-cloud-kernel.py')], check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, universal_newlines=True)
    why = ' '.join(done.stderr.split())
    if done.returncode not in (0, NOT_DELIVERED):
        raise HarnessError(why)
    return why if done.returncode else None


class Linux:
    """Linux boots, and all that it says is compared, while it waits."""

    case = None
    vm_class = LinuxVM

    @classmethod
    def problem(cls):
        """Why this host cannot have the VM, or None."""
        return no_kernel()

    @classmethod
    def setUpClass(cls):
        """Boot Linux once for all tests."""
        cls.need(cls.problem(), cls.case.ram // HUGE_PAGE if cls.case.huge else 0)
        cls.said = None
        cls.start_for_all(cls.vm_class(cls.case))

    def id(self):
        return f'{self.case.name}: {super().id()}'

    def paused(self):
        """What the guest has said."""
        self.assertTrue(self.said, 'the guest has not come so far')
        return self.said

    def states(self):
        """What the guest says of each page."""
        return states_said(self.case, self.paused())

    def test_linux_boots_and_verifies_memory_disk_and_dma(self):
        """Linux boots and verifies memory, disk and DMA"""
        said = Said(self.vm)
        for kind in ('fill', 'worker'):
            for line in said.lines[kind]:
                print(f'{kind}: ' + ' '.join(f'{key}={value}' for key, value
                                             in line.items()))
        self.assert_none(check_said(self.case, said))
        type(self).said = said

    def test_all_ram_is_in_the_blocks(self):
        """all RAM is in the blocks"""
        self.assert_none(check_ram(self.vm, self.paused()))

    def test_the_map_is_what_the_guest_says(self):
        self.assert_none(check_map(self.vm, self.states()))

    def test_mappings(self):
        """DMA mappings are the shared memory"""
        self.assert_none(check_mappings(self.vm, self.states()))

    def test_counters_agree(self):
        self.assert_none(check_counters(self.vm, self.paused(),
                                        self.states()))

    def test_the_disk_has_what_the_guest_has_written(self):
        said = self.paused()
        with open(self.vm.disk, 'rb') as f:
            content = f.read()
        self.assert_none(
            check_disk(self.vm, said, 'start', self.vm.disk_before) +
            check_disk(self.vm, said, 'end', content))

    def test_qemu_and_the_server_end_well(self):
        """QEMU and the server end well"""
        self.paused()
        self.vm.resume()
        self.vm.assert_good_end()


class Huge(Linux, VMTest):
    """Huge pages, and virtio-blk."""
    case = Case(VIRTIO, [256 * MIB], fill=96, huge=True)


class Nodes(Linux, VMTest):
    """RAM above 4 GiB, two NUMA nodes, private at first, and NVMe."""
    case = Case(NVME, [GIB, 2 * GIB], fill=256, init='private')


class Small(Linux, VMTest):
    """Pages of 4 KiB, and virtio-blk."""
    case = Case(VIRTIO, [256 * MIB], fill=96)


class Directory(Linux):
    """virtiofsd reads and writes the memory, until it is killed."""

    vm_class = DirectoryVM

    @classmethod
    def problem(cls):
        return super().problem() or virtiofsd_problem()

    def test_the_disk_has_what_the_guest_has_written(self):
        """the files of the host are what the guest has read and written"""
        super().test_the_disk_has_what_the_guest_has_written()
        with open(self.vm.disk, 'rb') as f, open(f'{self.vm.disk}.copy', 'rb') as copy:
            self.assertTrue(f.read() == copy.read(), 'the copy is another file')

    def convert_all(self, private):
        """What the guest has said is not so any more."""
        states = {block: bytes([private]) * len(pages)
                  for block, pages in self.states().items()}
        for block, pages in states.items():
            self.vm.qmp.command('x-guest-memfd-convert', id=block, offset=0,
                                size=len(pages) * PAGE, private=private)
        self.assert_none(check_map(self.vm, states) + check_mappings(self.vm, states))

    def test_qemu_and_the_server_end_well(self):
        """virtiofsd is killed, and QEMU and the guest go on"""
        self.paused()
        self.vm.kill_daemon()
        self.assertEqual(self.vm.qmp.command('query-status')['status'], 'running')
        for private in (True, False):
            self.convert_all(private)
        self.vm.resume(USE_MEMORY)
        self.assertGreater(Said(self.vm).total('fill', 'passes'), 0)
        super().test_qemu_and_the_server_end_well()


class SmallDirectory(Directory, VMTest):
    """Pages of 4 KiB, and virtiofs."""
    case = Case(VIRTIOFS, [256 * MIB], fill=32)


class HugeDirectory(Directory, VMTest):
    """Huge pages that are private at first, and virtiofs."""
    case = Case(VIRTIOFS, [256 * MIB], fill=32, huge=True, init='private')


class Plugged(VMTest):
    """virtio-mem beside a device that does DMA."""

    @classmethod
    def setUpClass(cls):
        """Boot Linux without any of it plugged."""
        cls.need(no_kernel())
        cls.start_for_all(LinuxVM(Case(VIRTIO, [256 * MIB], fill=64,
                                       pluggable=512 * MIB)))

    def resize(self, size, boot):
        """Have the guest plug so much, and use more memory than it booted with.

        QEMU has plugged the last block before the guest has it as RAM.
        """
        self.vm.qmp.command('qom-set', path='vmem', property='requested-size',
                            value=size)
        self.vm.qmp.wait(lambda event: event['event'] == 'MEMORY_DEVICE_SIZE_CHANGE'
                         and event['data']['size'] == size)
        ram = used = 0
        while ram != boot + size or (size and used <= boot):
            self.vm.resume(USE_MEMORY)
            said = Said(self.vm)
            ram, used = said.total('ram', 'size'), said.total('fill', 'bytes')

    def assert_plugged(self, size):
        """What is not plugged is private, and not mapped."""
        device, = self.vm.qmp.command('query-memory-devices')
        start, pluggable = device['data']['memaddr'], device['data']['max-size']
        block, = [block for block in self.vm.qmp.command('query-guest-memfd')
                  if block['id'] == 'vm0']
        self.assertEqual(block['private-bytes'], pluggable - size)
        self.assertEqual(sum(run['size'] for run in query_map(self.vm.qmp, 'vm0')
                             if not run['private']), size)
        self.assertEqual(sum(m.size for m in self.vm.control.maps()
                             if start <= m.iova < start + pluggable), size)

    def test_linux_plugs_and_unplugs_memory(self):
        boot = Said(self.vm).total('ram', 'size')
        self.assert_plugged(0)
        for size in (256 * MIB, 0, 384 * MIB):
            with self.subTest(plugged=size):
                self.resize(size, boot)
                self.assert_plugged(size)
        self.vm.resume()
        self.vm.assert_good_end()


if __name__ == '__main__':
    tap.main()
