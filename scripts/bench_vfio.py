# SPDX-License-Identifier: GPL-2.0-or-later
"""What a conversion costs with a real device: QEMU and a vfio-user server.

No guest runs.  Requests are writes to the test device, sent over QEMU's qtest
socket many at a time, so that little is measured but the conversion; how much,
says the case "nothing to do", in which all pages have the wanted state already.
"""

import contextlib
import os
import resource
import socket
import time

from lib.error import HarnessError
from lib.hugepages import huge_pages
from lib.paths import Paths
from lib.units import MIB, PAGE
from lib.vm import VM

GIB = 1 << 30
HUGE = 2 * MIB
POLICIES = ('auto', 'page')
RAM = 512 * MIB
BASE = 256 * MIB
# Where the RAM goes on that is more than the first 2 GiB
HIGH = 4 * GIB

CONFIG_ADDRESS, CONFIG_DATA = 0xcf8, 0xcfc
SLOT, BAR = 8, 0xe0000000
TESTDEV = f'guest-memfd-testdev,addr={SLOT:#x}'
TO_PRIVATE, TO_SHARED = 1, 2
BATCH = 256                     # requests that are sent together
SPARE_FILES = 128               # of the server, for other things
PASSES = 20


class Converter(VM):
    """A VM without a guest, that converts what it is told."""

    def __init__(self, paths, ram, split='auto', huge=False):
        pages = ',hugetlb=on,hugetlbsize=2M' if huge else ',reserve=off'
        super().__init__(
            paths, accel='qtest', ram=ram, devices=[TESTDEV], timeout=None,
            memory=f'memory-backend-guest-memfd,id=m0,size={ram},'
                   f'driver=emulated,init=private{pages}')
        self._split = split
        self._listener = self._qtest = None

    def __enter__(self):
        super().__enter__()
        try:
            connection = self._listener.accept()[0]
            self._qtest = connection.makefile('rw', encoding='ascii',
                                              newline='\n')
            connection.close()
            for register, value in ((0x10, BAR), (0x04, 2)):
                address = 1 << 31 | SLOT << 11 | register
                self._request([f'outl {CONFIG_ADDRESS:#x} {address:#x}',
                           f'outl {CONFIG_DATA:#x} {value:#x}'])
        except BaseException:
            self.close()
            raise
        return self

    def close(self):
        """End whatever still runs."""
        for each in (self._qtest, self._listener):
            if each:
                each.close()
        super().close()

    def command_line(self, fds):
        """With a qtest socket, and a CPU that puts 1 TiB of RAM at 4 GiB"""
        path = os.path.join(self._dir, 'qtest')
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        args = super().command_line(fds)
        args[args.index('max')] = 'max,vendor=GenuineIntel,phys-bits=46'
        return args + ['-qtest', f'unix:{path}', '-qtest-log', 'none',
                       '-global', f'vfio-user-pci.x-dma-split={self._split}']

    def _request(self, commands):
        """Send commands in one piece; the answers, one a line."""
        text = '\n'.join(commands) + '\n'
        self._qtest.write(text)
        self._qtest.flush()
        lines = [self._qtest.readline() for _ in range(text.count('\n'))]
        for line in lines:
            if not line.startswith('OK'):
                raise HarnessError(f'QEMU answers "{line.strip()}"')
        return [line.split()[1:] for line in lines]

    def convert(self, addresses, size, to_private):
        """Convert ranges of @size bytes; how many seconds all took."""
        command = TO_PRIVATE if to_private else TO_SHARED
        self._request([f'writeq {BAR + 8:#x} {size:#x}'])
        seconds = 0
        for first in range(0, len(addresses), BATCH):
            requests = [f'writeq {BAR:#x} {gpa:#x}\n'
                        f'writel {BAR + 16:#x} {command}\n'
                        f'readl {BAR + 24:#x}'
                        for gpa in addresses[first:first + BATCH]]
            start = time.perf_counter()
            answers = self._request(requests)
            seconds += time.perf_counter() - start
            if any(int(answer[0], 16) for answer in answers[2::3]):
                raise HarnessError('a conversion failed')
        return seconds

    def calls(self):
        """How often the container was told to map or to unmap."""
        return sum(listener['map-calls'] + listener['unmap-calls']
                   for block in self.qmp.command('query-guest-memfd')
                   for listener in block['listeners'])


def step(vm, case, addresses, size, to_private):
    """Convert, and the records: microseconds and calls of a request"""
    before = vm.calls()
    seconds = vm.convert(addresses, size, to_private)
    calls = vm.calls() - before
    for metric, value in (('us', seconds * 1e6), ('calls', calls)):
        yield {'group': 'vfio-user', 'case': case, 'metric': metric,
               'value': value / len(addresses)}


def per_gib(records):
    """The same for a GiB, in seconds"""
    for record in records:
        factor = GIB / HUGE
        if record['metric'] == 'us':
            factor /= 1e6
        yield dict(record, value=record['value'] * factor,
                   metric={'us': 'seconds-per-gib', 'calls': 'calls-per-gib'}
                   [record['metric']])


def policy_records(vm, area):
    """Requests of 2 MiB, and a page out of each of them"""
    whole = list(range(BASE, BASE + area, HUGE))
    pages = [gpa + HUGE // 2 for gpa in whole]
    yield from per_gib(step(vm, '2 MiB to shared', whole, HUGE, False))
    yield from (record for record in
                step(vm, 'nothing to do', whole, HUGE, False)
                if record['metric'] == 'us')
    yield from step(vm, '4 KiB out of 2 MiB', pages, PAGE, True)
    yield from step(vm, '4 KiB back', pages, PAGE, False)
    vm.convert(whole, HUGE, True)
    vm.convert(whole, HUGE, False)
    yield from per_gib(step(vm, '2 MiB to private', whole, HUGE, True))


def places(ram, count):
    """Guest physical addresses all over a VM"""
    low = min(ram, 2 * GIB)
    stride = (ram - BASE) // count // HUGE * HUGE
    found = [BASE + n * stride for n in range(count)]
    return [gpa if gpa < low else gpa - low + HIGH for gpa in found]


def policies(area, huge):
    """All policies side by side, with @huge in 2 MiB pages if there are some"""
    paths = Paths()
    # Each mapping costs the server an open file.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    while files != resource.RLIM_INFINITY and \
            area // PAGE > files - SPARE_FILES and area > HUGE:
        area //= 2
    with huge_pages(RAM // HUGE if huge else 0) as problem:
        for policy in POLICIES:
            with Converter(paths, RAM, policy,
                           huge and not problem) as vm:
                for record in policy_records(vm, area):
                    yield dict(record, side=policy)


def sizes(rams, count):
    """VMs that convert as much, in turn: the best of some passes"""
    paths = Paths()
    best = {}
    with contextlib.ExitStack() as stack:
        vms = [(ram, stack.enter_context(Converter(paths, ram)))
                    for ram in rams]
        for _ in range(PASSES):
            for to_private in (False, True):
                for ram, vm in vms:
                    seconds = vm.convert(places(ram, count), HUGE,
                                              to_private)
                    case = '2 MiB to %s of %d GiB' % (
                        'private' if to_private else 'shared', ram // GIB)
                    best[case] = min(best.get(case, seconds), seconds)
    for case, seconds in best.items():
        yield {'group': 'vm-size', 'case': case, 'side': 'ours',
               'metric': 'us', 'value': seconds * 1e6 / count}
