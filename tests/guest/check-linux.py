#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Linux with all of its RAM in this memory.

Prints TAP.  The kernel is Debian's own one for clouds, as it is
(scripts/fetch-cloud-kernel.py).  Its only process (tests/guest/linux) fills
memory, reads and writes a disk with O_DIRECT, converts the memory that it does
this with, and has the edu device do DMA there.  What it says it has done is
compared with QEMU's map, with what the vfio-user server has mapped, and with
the disk.

Environment: QEMU, EDU_SERVER, LINUX_INIT, QEMU_FIRMWARE, QEMU_DL_DIR,
GUEST_OPS, GUEST_SEED, GUEST_TIMEOUT (seconds, against hangs).
"""

import collections
import contextlib
import os
import random
import re
import stat
import subprocess
import sys
import zlib

from lib import TOP
from lib.cpio import Archive
from lib.dma_map import LEGACY, cut, join, query_map
from lib.error import HarnessError
from lib.guest import EXIT_PASS, key_values
from lib.hugepages import huge_pages
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from lib.vm import Machine

KERNEL = os.path.join(TOP, 'build/cloud-kernel')
SEED = int(os.environ.get('GUEST_SEED', '1'))
OPS = os.environ.get('GUEST_OPS', '1000')
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
NOT_DELIVERED = 2       # says fetch-cloud-kernel.py: no network, for example
DISK_SIZE = 4 * MIB
GIB = 1024 * MIB
# Of q35: where RAM ends below 4 GiB, if it does not fit there
LOW_RAM = 2 * GIB

STEPS = (
    'Linux boots and verifies memory, disk and DMA',
    'all RAM is in the blocks',
    'the map is what the guest says',
    'DMA mappings are the shared memory',
    'counters agree',
    'the disk has what the guest has written',
    'QEMU and the server ended well',
)

# A range of RAM, and where it is in which block
Piece = collections.namedtuple('Piece', 'gpa size block offset')

Disk = collections.namedtuple('Disk', 'name device path')
VIRTIO = Disk('virtio-blk', 'virtio-blk-pci,disable-legacy=on,drive=disk',
              '/dev/vda')
NVME = Disk('nvme', 'nvme,serial=disk,drive=disk', '/dev/nvme0n1')


class Case:
    """A machine, and what it is told.

    @nodes: the sizes of its blocks; more than one are NUMA nodes
    @fill: MiB that the guest fills and verifies
    """

    def __init__(self, disk, nodes, fill, huge=False, init='shared'):
        self.disk = disk
        self.nodes = nodes
        self.fill = fill
        self.huge = huge
        self.init = init

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

CASES = (
    Case(VIRTIO, [512 * MIB], fill=256),
    Case(VIRTIO, [512 * MIB], fill=256, huge=True),
    Case(NVME, [GIB, 2 * GIB], fill=512, init='private'),
)


class LinuxMachine(Machine):
    """Linux in place of the guest of this directory."""

    def __init__(self, paths, case):
        self.case = case
        super().__init__(
            paths, accel='tcg,thread=multi', ram=case.ram, smp=2,
            timeout=TIMEOUT, memory=case.objects[0],
            devices=['guest-memfd-testdev'] * 2,
            guest='console=ttyS1 panic=-1 mitigations=off -- '
                  f'ops={OPS} seed={SEED} fill={case.fill} '
                  f"private={int(case.init == 'private')} "
                  f'disk={case.disk.path}')

    def __enter__(self):
        self.disk_before = random.Random(SEED).randbytes(DISK_SIZE)
        return super().__enter__()

    def command_line(self, fds):
        with open(self.disk, 'wb') as f:
            f.write(self.disk_before)
        write_initramfs(self.socket('initramfs'), self.paths.init)
        args = super().command_line(fds)
        if len(self.case.nodes) > 1:
            args[args.index('q35,memory-backend=m0')] = 'q35'
            for n, memory in enumerate(self.case.objects):
                if n:
                    args += ['-object', memory]
                args += ['-numa', f'node,memdev=m{n},cpus={n}']
        return args + [
            '-initrd', self.socket('initramfs'),
            '-chardev', f'file,id=log,path={self.socket("log")}',
            '-device', 'isa-serial,chardev=log',
            '-blockdev', f'file,node-name=disk,filename={self.disk}',
            '-device', self.case.disk.device]

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
    """The lines of the guest, up to HOLD."""

    def __init__(self, machine):
        self.lines = collections.defaultdict(list)
        self.problems = []
        while (line := machine.lines.get()) != 'HOLD':
            if line is None:
                self.problems.append('the guest ended before it was done')
                return
            if line.startswith('FAIL'):
                self.problems.append(line)
                return
            self.lines[line.partition(' ')[0]].append(key_values(line))

    def total(self, kind, key):
        """Of all lines of a kind."""
        return sum(line[key] for line in self.lines[kind])


def check_said(case, said):
    """The guest has done all that it was to do."""
    problems = list(said.problems)
    if problems:
        return problems
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


def check_ram(machine, said):
    """What Linux takes for RAM is in the blocks, and nearly all of them."""
    case, problems = machine.case, []
    blocks = {block['id']: block['size']
              for block in machine.qmp.command('query-guest-memfd')}
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
            answer = machine.qmp.command(
                'human-monitor-command',
                **{'command-line': f'gpa2hva {gpa:#x}'})
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


def check_map(machine, states):
    """QEMU's map of each block."""
    problems = []
    for block, expected in states.items():
        actual = bytearray()
        for run in query_map(machine.qmp, block):
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


def check_mappings(machine, states):
    """What the server has mapped."""
    layout = machine.case.layout
    shared = join(cut([part for piece in layout
                       for part in ranges_of(piece, states)], LEGACY))
    mapped = join(cut([(m.iova, m.iova + m.size)
                       for m in machine.control.maps()
                       if any(piece.gpa <= m.iova < piece.gpa + piece.size
                              for piece in layout)], LEGACY))
    return ([f'mapped [{start:#x}, {end:#x}) is no shared range'
             for start, end in sorted(set(mapped) - set(shared))[:5]] +
            [f'shared [{start:#x}, {end:#x}) is no mapped range'
             for start, end in sorted(set(shared) - set(mapped))[:5]])


def check_counters(machine, said, states):
    """QEMU and the server have counted what the guest has."""
    blocks = machine.qmp.command('query-guest-memfd')
    stats = machine.control.stats()
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


def check_disk(machine, said, when, content):
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
                machine.disk_before[start:end]:
            problems.append(f"worker {line['worker']} has written nothing")
    return problems


def check_exit(machine):
    """The end, after the guest was released."""
    problems = []
    qemu, server = machine.wait()
    if qemu != EXIT_PASS or 'PASS' not in machine.console:
        problems.append(f'QEMU exited with {qemu}, expected {EXIT_PASS}')
    if server != 0:
        problems.append(f'the server exited with {server}')
    return problems


def check_machine(machine):
    """Yields the problems of each step."""
    said = Said(machine)
    yield check_said(machine.case, said)
    for kind in ('fill', 'worker'):
        for line in said.lines[kind]:
            print(f'# {kind}: ' + ' '.join(f'{key}={value}' for key, value
                                           in line.items()))
    states = states_said(machine.case, said)
    yield check_ram(machine, said)
    yield check_map(machine, states)
    yield check_mappings(machine, states)
    yield check_counters(machine, said, states)
    with open(machine.disk, 'rb') as f:
        content = f.read()
    yield (check_disk(machine, said, 'start', machine.disk_before) +
           check_disk(machine, said, 'end', content))
    machine.release()
    yield check_exit(machine)


def run_case(paths, case):
    """Problems of the steps of a machine, as far as it gets."""
    results = []
    try:
        with LinuxMachine(paths, case) as machine:
            for problems in check_machine(machine):
                results.append(problems)
                if problems and len(results) == 1:
                    break
            if any(results):
                if machine.timed_out:
                    results[-1].append(f'no end after {TIMEOUT} s: killed')
                for what, lines in (('guest', machine.console),
                                    ('kernel', machine.log()),
                                    ('stderr', machine.errors().splitlines())):
                    results[-1] += [f'{what}: {line}' for line in lines[-20:]]
    except (HarnessError, QmpError, EOFError, OSError, KeyError,
            ValueError) as err:
        results.append([f'{type(err).__name__}: {err}'])
    return results + [['not reached']] * (len(STEPS) - len(results))


def no_kernel():
    """Why this machine cannot have one, or None."""
    done = subprocess.run(
        [os.path.join(TOP, 'scripts/fetch-cloud-kernel.py')], check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, universal_newlines=True)
    why = ' '.join(done.stderr.split())
    if done.returncode not in (0, NOT_DELIVERED):
        raise HarnessError(why)
    return why if done.returncode else None


def main():
    """All cases."""
    exit_on_signals()
    print('TAP version 13')
    print(f'1..{len(CASES) * len(STEPS)}')
    try:
        paths = Paths()
        paths.guest = os.path.join(KERNEL, 'vmlinuz')
        paths.init = os.environ.get(
            'LINUX_INIT', os.path.join(TOP, 'build/tests/guest/linux-init'))
        if not os.path.isfile(paths.init):
            raise HarnessError(f'{paths.init} does not exist: run "make '
                               'build" first, or set LINUX_INIT')
        missing = no_kernel()
    except HarnessError as err:
        print(f'Bail out! {err}')
        return 1
    number, failed = 0, False
    for case in CASES:
        results = []
        with contextlib.ExitStack() as stack:
            problem = missing
            if not problem and case.huge:
                problem = stack.enter_context(
                    huge_pages(case.ram // (2 * MIB)))
            if not problem:
                results = run_case(paths, case)
        for index, step in enumerate(STEPS):
            number += 1
            if problem:
                print(f'ok {number} - {case.name}: {step} # SKIP {problem}')
                continue
            problems = results[index]
            failed = failed or bool(problems)
            print(f"{'not ' if problems else ''}ok {number} - {case.name}: "
                  f'{step}')
            for line in problems:
                print(f'# {line}')
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
