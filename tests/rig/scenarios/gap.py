# SPDX-License-Identifier: GPL-2.0-or-later
"""What a split costs a device that works on a neighbour of the page.

Conversions of all pages but one of an extent, while DMA to that one goes on. A
policy without a gap loses no transfer; of the others, the figures are shown.
"""

from lib.units import MIB
from rig.lib.l1 import SECOND_EDU, L2
from rig.lib.configurations import EMULATED, PAGES_2M, Config

# As many as have to pass without harm; with a gap, fewer
CONVERSIONS = {'cut': 10000, 'auto': 2000}
CONFIGS = [Config(split, EMULATED + PAGES_2M, 'iommufd', ram=64 * MIB,
                  split=split, device=SECOND_EDU)
           for split in CONVERSIONS]


def gap(l1, tap, config):
    """DMA to one page, while its neighbours convert."""
    conversions = CONVERSIONS[config.name]
    words = f'conv={config.conv} base=16 area=16 gap={conversions} pause=1'
    if config.name != 'cut':
        l1.mark('expect-any-faults')
    with L2(l1, config, words) as l2:
        summary, problems = l2.run_until_pause()
        if problems:
            tap.result('the guest reaches its end', problems)
            return
        lost, transfers = summary['lost'], summary['transfers']
        listeners = l2.qmp.command('query-guest-memfd')[0]['listeners']
        splits = sum(listener['splits'] for listener in listeners)
        if not transfers or not splits:
            problems.append(f'nothing was tested: {summary}, {splits}')
        if config.name == 'cut' and lost:
            problems.append(f'{lost} transfers were lost')
        tap.result(f'{conversions} conversions, {splits} splits, {lost} of '
                   f'{transfers} transfers were lost', problems)
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == 'intel':
        for config in CONFIGS:
            yield f'gap, {config.name}', gap, config
