# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a VM in L2 while its guest converts memory (tests/guest/rounds.c).

calls-preload.c times each exit of a vCPU that converts something, and the calls of
the kernel in it; what is left of an exit is QEMU's, with the system calls that it
makes for itself: futexes, of locks and of call_rcu(). That is not the guest's time,
nor that of its console, and it is the same for any QEMU. An emulated CPU loses its
TLB when a guest exits, which makes what comes first look slower: QEMU's own code.
"""

import time

from lib.error import HarnessError
from lib.guest import PAUSED, key_values
from rig.lib import iommu
from rig.lib.l1 import EDU, L2

PRELOAD = ['env', 'LD_PRELOAD=/rig/calls-preload.so']
KERNEL_CALLS = ('map', 'unmap', 'attributes', 'memory', 'prefault', 'other')
# Of /proc/meminfo. The last one is what IOMMUs and KVM have; that of IOMMUs alone
# is in /proc/vmstat.
MEMINFO = ('Slab', 'PageTables', 'SecPageTables')


class Step:
    """One step of a round, and the VM while it waits after it.

    @calls: {kind of call, 'exits', 'exit': (how many, seconds)}
    @wall: seconds from its first line to its last
    """

    def __init__(self, l1, l2, config, words, wall):
        self.l1 = l1
        self.l2 = l2
        self.config = config
        self.round = int(words['round'])
        self.to = words['to']
        self.wall = wall
        self.calls = {}
        for line in l1.run('/rig/calls'):
            name, count, ns = line.split()
            self.calls[name] = (int(count), int(ns) / 1e9)

    @property
    def conversions(self):
        """Exits that converted something."""
        return self.calls['exits'][0]

    @property
    def seconds(self):
        """From each of these exits until the vCPU ran again."""
        return self.calls['exits'][1]

    @property
    def median(self):
        """Of one such exit."""
        return self.calls['exit'][1]

    @property
    def kernel_seconds(self):
        """In calls of the kernel."""
        return sum(self.calls[name][1] for name in KERNEL_CALLS)

    def memory(self):
        """{what: bytes}: of L1's kernel, and QEMU's own (its heap)."""
        found = {}
        for line in self.l1.run(
                f'cat /proc/meminfo /proc/$(pidof {self.config.qemu})/status; '
                'grep nr_iommu_pages /proc/vmstat'):
            name, *rest = line.replace(':', ' ').split()
            if name in MEMINFO:
                found[name] = int(rest[0]) * 1024
                found['kernel'] = found.get('kernel', 0) + found[name]
            elif name == 'RssAnon':
                found['QEMU'] = int(rest[0]) * 1024
            elif name == 'nr_iommu_pages':
                found['IOMMU'] = int(rest[0]) * 4096
        return found

    def entries(self):
        """{size: how many} in the IOMMU."""
        sizes = [size for _iova, size in iommu.READ[self.l1.platform](self.l1, EDU)]
        return {size: sizes.count(size) for size in set(sizes)}

    def stage2_entries(self):
        """{size: how many} that KVM counts."""
        return {size: int(self.l1.run(f'cat /sys/kernel/debug/kvm/pages_{size}')[0])
                for size in ('4k', '2m', '1g')}

    def block(self):
        """What our QEMU says of the memory."""
        return self.l2.qmp.command('query-guest-memfd')[0]


def steps(l1, config, words):
    """Run the guest: a Step each time it waits."""
    config.prefix = PRELOAD
    line = start = wall = label = None
    with L2(l1, config, f'conv={config.conv} pause=1 {words}') as l2:
        while True:
            line = l1.console.readline().rstrip('\r\n')
            if line.startswith('begin '):
                start = time.monotonic()
            elif line.startswith('end '):
                wall = time.monotonic() - start
                label = key_values(line)
            elif line == PAUSED:
                yield Step(l1, l2, config, label, wall)
                l1.release()
            elif line.startswith('FAIL') or (not line and l1.console.ended):
                break
        problems = l2.bad_end()
        if problems:
            raise HarnessError('\n'.join([f'{config.name}: {line}'] + problems))
