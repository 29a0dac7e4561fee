# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools of huge pages in L1, and the vmemmap of those that are split."""

import time

from lib.units import PAGE
from rig.lib.l1 import SCHEME

POOLS = '/sys/kernel/mm/hugepages'
# Against hangs, in seconds
PATIENCE = 60


def vmemmap(l1):
    """Bytes of vmemmap that the kernel has taken back from folded folios."""
    return int(l1.run('cat /sys/kernel/debug/folio_restructure/vmemmap_pages')[0]
               ) * PAGE


def pools(l1):
    """(free, reserved) of each pool."""
    return l1.run(f'grep . {POOLS}/*/free_hugepages {POOLS}/*/resv_hugepages')


def _wait(l1, look):
    """The problems of look() that stay.

    A page that a device had pinned returns from a workqueue of the kernel, which may
    run after QEMU has ended.
    """
    end = time.monotonic() + PATIENCE
    while (problems := look()) and time.monotonic() < end:
        l1.run('sleep 0.1')
    return problems


def wait_for_pools(l1, before):
    """Problems unless the pools become again what they were."""
    def look():
        now = pools(l1)
        return [] if now == before else [f'{now}, {before} before']
    return _wait(l1, look)


def wait_for_all(l1):
    """Problems unless all huge pages return, and what the split ones took."""
    def look():
        problems = []
        for line in l1.run(f'cd {POOLS}; for pool in *; do echo $pool $(cd $pool; '
                           'cat nr_hugepages free_hugepages resv_hugepages); done'):
            pool, number, free, reserved = line.split()
            if free != number or reserved != '0':
                problems.append(f'{pool}: {number} pages, {free} free, '
                                f'{reserved} reserved')
        if l1.platform in SCHEME and (held := vmemmap(l1)):
            problems.append(f'vmemmap: {held} bytes')
        return problems
    return _wait(l1, look)


def vmemmap_problems(l1, l2, allocated=True):
    """Problems if QEMU and the kernel differ on this VM, the only one.

    Unless all huge pages are @allocated, QEMU need not know.
    """
    blocks = [block for block in l2.qmp.command('query-guest-memfd')
              if block['provider'] == 'hugetlb']
    problems = [f'restructure: {block}' for block in blocks
                if block.get('restructure') != SCHEME[l1.platform]]
    said = [block.get('vmemmap-bytes') for block in blocks]
    have = vmemmap(l1)
    if allocated if None in said else sum(said) != have:
        problems.append(f'vmemmap: {have}, QEMU says {said}')
    return problems
