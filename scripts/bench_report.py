# SPDX-License-Identifier: GPL-2.0-or-later
"""From records to a table, and to goals that are met or missed."""

import re
import statistics

# What the others are compared with, where it is there
BASELINES = ('qemu', 'page', 'two-copy')
# The table leaves out other metrics, which are in the file.
SHOWN = re.compile('ns|us|calls|bytes|instructions|requests|round-trips|'
                   '(seconds|calls)-per-gib|'
                   '(median-seconds-per-conversion|qemu-share)|'
                   'kernel-bytes-per-gib|iommu-entries-.*')
# These are the same each time.
COUNTED = ('instructions', 'requests', 'round-trips')
FLAT = 0.1
CONVERSION = 1000               # instructions
OWN_PART = 0.1
EXTENTS_A_TRIP = 64             # of a reset
REQUESTS = 512                  # of 2 MiB in a GiB


class Figures:
    """Medians and spreads of records that belong together."""

    def __init__(self, records):
        self.values = {}
        for record in records:
            key = (record['group'], record['case'], record['metric'])
            sides = self.values.setdefault(key, {})
            sides.setdefault(record['side'], []).append(record['value'])

    def median(self, key, side):
        """The median of a side, or None"""
        values = self.values.get(key, {}).get(side)
        return statistics.median(values) if values else None

    def best(self, key, side):
        """The least value of a side: what noise has added least to"""
        return min(self.values[key][side])

    def ratio(self, key, side, baseline):
        """How many times less than the baseline, or None"""
        one, other = self.median(key, side), self.median(key, baseline)
        return other / one if one and other is not None else None


def number(value):
    """Short, with three digits at least"""
    if value == int(value) or abs(value) >= 1000:
        return '%d' % round(value)
    return '%.3g' % value


def rows(figures):
    """The lines of the table, as lists of cells; first what has no noise"""
    for key, sides in sorted(figures.values.items(),
                             key=lambda item: item[0][2] not in COUNTED):
        if not SHOWN.fullmatch(key[2]):
            continue
        baseline = next((side for side in BASELINES if side in sides), None)
        for n, (side, values) in enumerate(sides.items()):
            cells = list(key) if not n else ['', '', '']
            ratio = None
            if baseline and side != baseline and key[2] != 'qemu-share':
                ratio = figures.ratio(key, side, baseline)
            spread = '' if key[2] in COUNTED else \
                '%s..%s' % (number(min(values)), number(max(values)))
            yield cells + [side, number(statistics.median(values)), spread,
                           '' if ratio is None else number(ratio)]


def aligned(lines):
    """Cells as text; all but the first four columns are numbers."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield '  '.join(cell.ljust(width) if n < 4 else cell.rjust(width)
                        for n, (cell, width) in
                        enumerate(zip(line, widths))).rstrip()


def less(figures, name, key, side, baseline, factor):
    """The goal of taking that many times less than the baseline"""
    ratio = figures.ratio(key, side, baseline)
    if not ratio:
        return
    verdict = 'met' if ratio >= factor else \
        'missed by a factor of %.2g' % (factor / ratio)
    yield '%s: %s times less, wanted %d: %s' % (name, number(ratio), factor,
                                                verdict)


def flat(name, values, unit):
    """The goal of the same cost everywhere"""
    if len(values) < 2:
        return
    spread = max(values) / min(values) - 1
    verdict = 'met' if spread <= FLAT else \
        'missed by %.0f points' % (100 * (spread - FLAT))
    yield '%s: %s to %s %s, %.0f %% apart, wanted %.0f: %s' % (
        name, number(min(values)), number(max(values)), unit, 100 * spread,
        100 * FLAT, verdict)


def flat_goals(figures):
    """The cost in machines of all sizes up to 1 TiB; at best, where noise is
    larger than what is measured"""
    def picked(pick, group, case, metric):
        return [pick(key, 'ours') for key in figures.values
                if key[0] == group and key[2] == metric and
                re.fullmatch(case, key[1])]

    small = '(1 GiB|16 GiB|256 GiB|1 TiB) uniform by 4 KiB'
    for metric in ('ns', 'instructions'):
        yield from flat('a conversion in VMs up to 1 TiB, at best',
                        picked(figures.best, 'convert', small, metric), metric)
    for to in ('shared', 'private'):
        yield from flat('to %s with a vfio-user device, up to 1 TiB' % to,
                        picked(figures.median, 'vm-size',
                               '2 MiB to %s of .*' % to, 'us'), 'us')
    for key, sides in figures.values.items():
        if key[0] == 'vm size' and key[2] == 'median-seconds-per-conversion':
            yield from flat('the rig, %s, of %s' % (key[1],
                                                    ', '.join(sides)),
                            [figures.median(key, side) for side in sides],
                            'seconds')


def own_part(figures):
    """How much of a conversion is spent in QEMU itself"""
    own = figures.median(('convert', '1 GiB uniform by 2 MiB', 'ns'), 'ours')
    per_gib = figures.median(('vfio-user', '2 MiB to shared',
                              'seconds-per-gib'), 'auto')
    shares = {'vfio-user, 2 MiB to shared': own * REQUESTS / 1e9 / per_gib} \
        if own and per_gib else {}
    shares.update(('%s, %s' % key[:2], figures.median(key, 'auto'))
                  for key, sides in figures.values.items()
                  if key[2] == 'qemu-share' and 'auto' in sides)
    for name, share in shares.items():
        verdict = 'met' if share <= OWN_PART else \
            'missed by %.0f points' % (100 * (share - OWN_PART))
        yield "QEMU's own part, %s: %.1f %%, wanted %.0f: %s" % (
            name, 100 * share, 100 * OWN_PART, verdict)


def conversion_goal(figures):
    """The instructions of a small conversion, whatever the map is like"""
    for key, sides in figures.values.items():
        if key[0] == 'convert' and key[2] == 'instructions' and \
                key[1].endswith('by 4 KiB'):
            value = statistics.median(sides['ours'])
            yield 'a conversion, %s: %s instructions, wanted %d: %s' % (
                key[1], number(value), CONVERSION,
                'met' if value <= CONVERSION else
                'missed by %.0f %%' % (100 * (value / CONVERSION - 1)))


def trip_goals(figures):
    """A split waits once, a reset once for many extents."""
    for key in figures.values:
        if key[2] != 'round-trips':
            continue
        trips = figures.median(key, 'ours')
        extents = figures.median((*key[:2], 'requests'), 'ours')
        wanted = {'split': 1, 'reset': extents / EXTENTS_A_TRIP} \
            .get(key[1].split()[0])
        if wanted:
            yield 'round trips, %s: %s, wanted %s: %s' % (
                key[1], number(trips), number(wanted),
                'met' if trips <= wanted else
                'missed by a factor of %.2g' % (trips / wanted))


def slower(figures):
    """What takes longer than with QEMU as released"""
    for key, sides in figures.values.items():
        if 'qemu' not in sides or key[2] == 'bytes' or \
                not SHOWN.fullmatch(key[2]):
            continue
        for side in sides:
            ratio = figures.ratio(key, side, 'qemu')
            if side != 'qemu' and ratio and ratio < 1:
                yield "slower than QEMU's, %s, %s, %s, %s: %s times" % (
                    *key, side, number(1 / ratio))


def goals(figures):
    """A line for each goal for which there are figures"""
    yield from conversion_goal(figures)
    yield from trip_goals(figures)
    yield from slower(figures)
    yield from less(figures, 'the map, 4 KiB in 1 TiB, time',
                    ('map', '1 TiB uniform by 4 KiB', 'ns'),
                    'ours', 'qemu', 1000)
    for key in figures.values:
        wanted = {'seconds-per-gib': 100, 'calls-per-gib': 500}.get(key[2])
        if wanted and re.search('to (shared|private)$', key[1]):
            yield from less(figures, 'auto and page, %s, %s, %s' % key, key,
                            'auto', 'page', wanted)
    yield from flat_goals(figures)
    yield from own_part(figures)


def report(facts, records):
    """All lines of the report"""
    figures = Figures(records)
    yield '%(cpu)s, %(cores)d cores, Linux %(kernel)s, %(date)s' % facts
    yield 'load %s before, %s after; commit %s, QEMU %s' % (
        number(facts['load'][0]), number(facts['load-after'][0]),
        facts['commit'], facts['qemu'])
    yield ''
    head = ['group', 'case', 'metric', 'side', 'median', 'spread', 'ratio']
    yield from aligned([head] + list(rows(figures)))
    yield ''
    yield from goals(figures)
