# SPDX-License-Identifier: GPL-2.0-or-later
"""What a split costs a device that works on a neighbour of the page.

Conversions of all pages but one of an extent, while DMA to that one goes on. A
policy without a gap loses no transfer; of the others, the figures are shown.
"""

from lib.units import MIB
from rig.lib.l1 import SECOND_EDU, L2
from rig.lib.machines import EMULATED, PAGES_2M, Row

# As many as have to pass without harm; with a gap, fewer
CONVERSIONS = {'cut': 10000, 'auto': 2000}
ROWS = [Row(split, EMULATED + PAGES_2M, 'iommufd', ram=64 * MIB, split=split,
            device=SECOND_EDU)
        for split in CONVERSIONS]


def gap(l1, tap, row):
    """DMA to one page, while its neighbours convert."""
    conversions = CONVERSIONS[row.name]
    words = f'conv={row.conv} base=16 window=16 gap={conversions} pause=1'
    if row.name != 'cut':
        l1.mark('expect-any-faults')
    with L2(l1, row, words) as l2:
        summary, problems = l2.run_until_hold()
        if problems:
            tap.result('the guest reaches its end', problems)
            return
        lost, transfers = summary['lost'], summary['transfers']
        listeners = l2.qmp.command('query-guest-memfd')[0]['listeners']
        splits = sum(listener['splits'] for listener in listeners)
        if not transfers or not splits:
            problems.append(f'nothing was tested: {summary}, {splits}')
        if row.name == 'cut' and lost:
            problems.append(f'{lost} transfers were lost')
        tap.result(f'{conversions} conversions, {splits} splits, {lost} of '
                   f'{transfers} transfers were lost', problems)
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def scenarios(config):
    """(name, function, row)"""
    if config == 'intel':
        for row in ROWS:
            yield f'gap, {row.name}', gap, row
