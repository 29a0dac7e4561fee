# SPDX-License-Identifier: GPL-2.0-or-later
"""How often QEMU waits for a vfio-user server: counted, so no noise at all.

QEMU's trace says when it asks the server to map or unmap memory, and when an
answer arrives.  A round trip begins with a request that is made while no other
request is unanswered.  Only requests about the block count: QEMU waits for each
of them, or for a batch; all others are sent ahead in a memory transaction.
"""

import collections
import os
import re
import resource
import sys

from bench_vfio import BASE, GIB, HUGE, MIB, PAGE, SPARE_FILES, Converter
from lib.error import HarnessError
from lib.paths import Paths

RAM = 2 * GIB
# Each at a multiple of its size, and apart from the others
SPLITS = {'2 MiB': (BASE, HUGE), '64 MiB': (512 * MIB, 64 * MIB),
          '1 GiB': (GIB, GIB)}
QUICK = [256]
EXTENTS = [1000, 15000]
# From one extent to the next: with private memory between them, or none
STRIDES = {'apart': 2 * PAGE, 'side by side': PAGE}

REQUEST = re.compile(r'vfio_user_dma_(?:un)?map +iova (0x[0-9a-f]+) ')
# The replies to VFIO_USER_DMA_MAP and VFIO_USER_DMA_UNMAP
REPLY = re.compile(r'vfio_user_recv_hdr .* cmd 0x[23] ')


def count(trace):
    """Requests about the block, and round trips, in lines of a trace"""
    requests = trips = 0
    waiting = collections.deque()   # is it about the block?  Answers keep order
    for line in trace:
        request = REQUEST.search(line)
        if request:
            ours = MIB <= int(request.group(1), 16) < RAM
            requests += ours
            trips += ours and not any(waiting)
            waiting.append(ours)
        elif REPLY.search(line):
            waiting.popleft()
    return {'requests': requests, 'round-trips': trips}


class Traced(Converter):
    """A VM that says what it sends, and has a slot for a second device."""

    def __init__(self, paths):
        super().__init__(paths, RAM)
        self._second = None

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-D', self.socket('trace'), '-trace', 'vfio_user_dma_*',
            '-trace', 'vfio_user_recv_hdr', '-action', 'reboot=reset',
            '-device', 'pcie-root-port,id=rp,chassis=1']

    def close(self):
        super().close()
        if self._second:
            self._second.kill()
            self._second.wait()

    def share(self, count_, stride):
        """So many requests of a page, which are as many extents"""
        pages = [BASE + n * stride for n in range(count_)]
        self.convert(pages, PAGE, False)

    def plug(self):
        """A second device, with a server of its own"""
        self._second = self.start_server('second', '--once')[0]
        self.qmp.command('device_add', driver='vfio-user-pci', id='second',
                         bus='rp', socket={'type': 'unix',
                                           'path': self.socket('second')})

    def reset(self):
        """Of the VM"""
        self.qmp.reset()

    def counted(self, case, action, *args):
        """The records of what an action does"""
        trace = self.socket('trace')
        before = os.path.getsize(trace)
        action(*args)
        with open(trace, encoding='ascii') as lines:
            lines.seek(before)
            counts = count(lines)
        if not counts['requests']:
            raise HarnessError(f'{case}: no request in the trace of QEMU, '
                               'which needs the trace backend "log"')
        for metric, value in counts.items():
            yield {'group': 'round-trips', 'case': case, 'side': 'ours',
                   'metric': metric, 'value': value}


def most_extents():
    """What a server can hold, a file each, less what QEMU keeps for others"""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if files == resource.RLIM_INFINITY else \
        files * 7 // 8 - SPARE_FILES


def count_all(extents, vm=Traced):
    """The records of all cases"""
    paths = Paths()
    most = most_extents()
    with vm(paths) as one:
        for name, (start, size) in SPLITS.items():
            one.convert([start], size, False)
            yield from one.counted(f'split of {name}', one.convert,
                                   [start + size // 2], PAGE, True)
    for n in (min(n, most) for n in extents):
        with vm(paths) as one:
            one.share(n, STRIDES['apart'])
            yield from one.counted(f'reset of {n} extents', one.reset)
    for name, stride in STRIDES.items():
        with vm(paths) as one:
            one.share(n, stride)
            yield from one.counted(f'plug beside {n} extents, {name}',
                                   one.plug)
