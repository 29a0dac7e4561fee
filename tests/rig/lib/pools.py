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


def wait_for_pools(l1, before):
    """Problems unless all pages return; the last reference may go late."""
    end = time.monotonic() + PATIENCE
    while pools(l1) != before and time.monotonic() < end:
        l1.run('sleep 0.1')
    now = pools(l1)
    return [] if now == before else [f'{now}, {before} before']


def vmemmap_problems(l1, l2, before, allocated=True):
    """Problems if QEMU and the kernel differ, which had taken @before bytes.

    Unless all huge pages are @allocated, QEMU need not know.
    """
    blocks = [block for block in l2.qmp.command('query-guest-memfd')
              if block['provider'] == 'hugetlb']
    problems = [f'restructure: {block}' for block in blocks
                if block.get('restructure') != SCHEME[l1.platform]]
    said = [block.get('vmemmap-bytes') for block in blocks]
    have = vmemmap(l1) - before
    if allocated if None in said else sum(said) != have:
        problems.append(f'vmemmap: {have}, QEMU says {said}')
    return problems
