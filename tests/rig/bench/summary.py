# SPDX-License-Identifier: GPL-2.0-or-later
"""What the figures of the rig say together: lines for a reader."""

import collections
import statistics


def medians(records):
    """{(group, case): {side: {metric: the median of all repeats}}}"""
    values = collections.defaultdict(list)
    for one in records:
        values[one['group'], one['case'], one['side'],
               one['metric']].append(one['value'])
    found = {}
    for (group, case, side, metric), some in values.items():
        found.setdefault((group, case), {}).setdefault(side, {})[metric] = \
            statistics.median(some)
    return found


def times(more, less):
    """How many times as much."""
    return f'{more / less:.0f}' if less else 'infinitely many'


def against(case, sides, other):
    """'auto' and another side that has the same work."""
    ours, theirs = sides['auto'], sides[other]
    ratio = {name: times(theirs[name], ours[name]) for name in (
        'seconds-per-gib', 'dma-seconds-per-gib', 'calls-per-gib')}
    return (f"{case}: {other} takes {ratio['seconds-per-gib']} times as long "
            f"as auto ({ratio['dma-seconds-per-gib']} in calls for DMA), "
            f"{ratio['calls-per-gib']} times as many calls")


def schemes(case, sides):
    """What the ways to break huge pages cost, side by side."""
    for metric, unit, factor in (('vmemmap-bytes', 'KiB of vmemmap', 1024),
                                 ('slab-bytes', 'KiB of other memory', 1024),
                                 ('to-shared-seconds', 'ms to shared', 1e-3),
                                 ('to-private-seconds', 'ms to private', 1e-3),
                                 ('conversions-per-second', 'conversions a second',
                                  1)):
        have = {side: one[metric] / factor for side, one in sides.items()
                if metric in one}
        if have:
            yield f'restructure: {case}: ' + ', '.join(
                f'{side} {value:.4g}' for side, value in have.items()) + f' {unit}'


def summary(records):
    """Lines: policies, QEMU's part, sizes of VMs."""
    for (group, case), sides in medians(records).items():
        auto = sides.get('auto', {})
        if 'calls-per-gib' in auto and 'KiB out' not in case and \
                'KiB back' not in case:
            for other in ('page', 'qemu'):
                if other in sides:
                    yield f'{group}: ' + against(case, sides, other)
        if group == 'restructure':
            yield from schemes(case, sides)
        if group in ('conversion', 'request'):
            yield f"{group}: {case}: QEMU's part " + ', '.join(
                f"{side} {one['qemu-share']:.1%} ({one['futex-share']:.1%} are "
                'futexes)' for side, one in sides.items())
        if group == 'vm size':
            each = [one['median-seconds-per-conversion']
                    for one in sides.values()]
            yield (f'{group}: {case}: {min(each) * 1e6:.0f} to '
                   f'{max(each) * 1e6:.0f} us in VMs of '
                   f"{', '.join(sides)}")
