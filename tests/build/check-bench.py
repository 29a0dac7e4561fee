#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench.py: every benchmark runs, every group has its sides, goals are judged.

What the figures are does not matter here.
"""

import json
import math
import os
import shutil

import bench
import bench_report
import bench_trips
from lib import TOP, tap
from lib.scripts import assert_done, assert_refused, run_script, write

KEYS = {'group', 'case', 'side', 'metric', 'value', 'repeat'}
BOTH = {'ours', 'qemu'}
POLICIES = {'auto', 'page'}
SIDES = {'memory': BOTH, 'map': BOTH, 'convert': BOTH, 'vfio-user': POLICIES,
         'vm-size': {'ours'}, 'round-trips': {'ours'}}
# What takes time, and how much memory is taken, is never nothing.
POSITIVE = {'ns', 'us', 'seconds-per-gib', 'bytes', 'instructions',
            'requests', 'round-trips'}
# Requests that are sent together
BATCH = 128


def run_bench(directory, *groups):
    """What bench.py writes, and what it prints"""
    output = directory / 'bench.json'
    done = run_script('bench.py', '--quick', '--output', output, *groups,
                      REPEATS=2, SKIP_PACKAGES=1, CHECK_VM='skip',
                      QEMU_SRC=os.environ.get('QEMU_SRC', ''))
    assert_done(done)
    return json.loads(output.read_text()), done.stdout


def check_records(records):
    """Their shape, and that each of them was measured as often as asked"""
    times = {}
    for record in records:
        assert set(record) == KEYS, record
        assert math.isfinite(record['value']), record
        assert record['value'] > 0 or record['metric'] not in POSITIVE, record
        key = tuple(record[name] for name in
                    ('group', 'case', 'metric', 'side'))
        times.setdefault(key, []).append(record['repeat'])
    for key, repeats in times.items():
        wanted = [0] if key[2] in bench_report.COUNTED else [0, 1]
        assert repeats == wanted, '%s: %s' % (key, repeats)


def sides_of(records, group, metric=None):
    """{(case, metric): sides}"""
    sides = {}
    for record in records:
        if record['group'] == group and metric in (None, record['metric']):
            sides.setdefault((record['case'], record['metric']),
                             set()).add(record['side'])
    assert sides, 'nothing of %s' % group
    return sides


def check_page(records):
    """The policy that all others are compared with maps page by page."""
    for to in ('shared', 'private'):
        values = {record['side']: record['value'] for record in records
                  if record['case'] == '2 MiB to ' + to and
                  record['metric'] == 'calls-per-gib'}
        assert values['page'] == 2 ** 18, values
        assert values['auto'] == 2 ** 9, values


def check_trips(records):
    """A split needs the right pieces; what belongs together is sent so."""
    values = {(record['case'], record['metric']): record['value']
              for record in records if record['group'] == 'round-trips'}
    n, = bench_trips.QUICK
    for case, requests, trips in (
            ('split of 2 MiB', 10, 1), ('split of 64 MiB', 15, 1),
            ('split of 1 GiB', 19, 1), (f'reset of {n} extents', n, n / BATCH),
            (f'plug beside {n} extents, apart', n, n / BATCH),
            (f'plug beside {n} extents, side by side', n, n / BATCH)):
        assert values.pop((case, 'requests')) == requests, case
        assert values.pop((case, 'round-trips')) == trips, case
    assert not values, values


def check_table(records, text):
    """Each case has a line, and goals are judged where there are figures."""
    for record in records:
        assert any(record['case'] in line for line in text.splitlines()), \
            record['case']
    judged = [line for line in text.splitlines()
              if line.startswith('auto and page, ')]
    assert len(judged) == 4, text
    for line in judged:
        if 'calls' in line:
            assert line.endswith(': met'), line
    judged = [line for line in text.splitlines()
              if line.startswith('round trips, ')]
    assert len(judged) == 4, text
    for line in judged:
        assert line.endswith(': met'), line


def made_up(ours, qemu):
    """A record for each side, of the first goal"""
    for side, value in (('ours', ours), ('qemu', qemu)):
        yield {'group': 'map', 'case': '1 TiB uniform by 4 KiB',
               'metric': 'ns', 'side': side, 'value': value}


class Benchmarks(tap.TestCase):
    """What bench.py writes and says."""

    def test_every_group_has_its_sides(self):
        groups = ('map', 'convert', 'threads', 'vfio-user', 'round-trips',
                  'vm-size')
        result, text = run_bench(self.path, *groups)
        records = result['records']
        check_records(records)
        for name in ('cpu', 'cores', 'kernel', 'date', 'load', 'commit',
                     'qemu'):
            assert result['machine'][name], name
        for group, wanted in SIDES.items():
            for case, sides in sides_of(records, group).items():
                assert sides == wanted, '%s %s: %s' % (group, case, sides)
        for (case, _), sides in sides_of(records, 'threads').items():
            wanted = {'ours'} if case.startswith('one') else BOTH
            assert sides == wanted, '%s: %s' % (case, sides)
        check_page(records)
        check_trips(records)
        check_table(records, text)

    def test_instructions_are_counted(self):
        if not shutil.which('valgrind'):
            raise tap.Skip('valgrind is not installed')
        result = run_bench(self.path, 'instructions')[0]
        check_records(result['records'])
        for group in ('map', 'convert'):
            for case, sides in sides_of(result['records'], group,
                                        'instructions').items():
                assert sides == BOTH, '%s %s: %s' % (group, case, sides)

    def test_goals_are_met_and_missed(self):
        def verdict(*values):
            figures = bench_report.Figures(made_up(*values))
            return list(bench_report.goals(figures))[0]

        assert verdict(100, 100000).endswith('met')
        assert verdict(100, 50000).endswith('missed by a factor of 2')

    def test_the_cost_is_constant_or_not(self):
        def verdict(*values):
            records = [{'group': 'convert', 'case': size + ' uniform by 4 KiB',
                        'metric': 'instructions', 'side': 'ours',
                        'value': value}
                       for size, value in zip(('1 GiB', '1 TiB'), values)]
            return list(bench_report.goals(bench_report.Figures(records)))

        absolute = 'a conversion, 1 TiB uniform by 4 KiB: ' \
            '%d instructions, wanted 1000: %s'
        lines = verdict(900, 981)
        assert absolute % (981, 'met') in lines
        assert lines[-1].endswith('9 % apart, wanted 10: met')
        lines = verdict(1250, 1500)
        assert absolute % (1500, 'missed by 50 %') in lines
        assert lines[-1].endswith('missed by 10 points')

    def test_round_trips_are_counted(self):
        # Lines as of QEMU's trace; mappings of other memory do not count
        here, rom = bench_trips.BASE, 0xc0000

        def lines(*events):
            for event in events:
                yield 'vfio_user_recv_hdr  (edu) id 0x9 cmd 0x%x size 0x10 ' \
                    'flags 0x1' % -event if event < 0 else \
                    'vfio_user_dma_map  iova 0x%x size 0x1000 off 0x0 ' \
                    'flags 0x3 async_ops 1' % event if event % 2 == 0 else \
                    'vfio_user_dma_unmap  iova 0x%x size 0x1000 flags 0x0 ' \
                    'async_ops 1' % (event - 1)

        def counted(*events):
            return tuple(bench_trips.count(lines(*events)).values())

        mapped, unmapped = -2, -3
        assert counted() == (0, 0)
        assert counted(here, here, here, mapped, mapped, mapped) == (3, 1)
        assert counted(here, mapped, here + 1, unmapped, here, mapped) == (3, 3)
        assert counted(here + 1, here, unmapped, here, mapped, mapped) == (3, 1)
        # other messages, and other memory
        assert counted(here, -9, here, mapped, mapped) == (2, 1)
        assert counted(rom, here, mapped, here, mapped, mapped, rom) == (2, 1)
        assert counted(rom, here, mapped, mapped, here, mapped) == (2, 2)

    def test_round_trips_are_judged(self):
        def verdict(case, requests, trips):
            records = [{'group': 'round-trips', 'case': case, 'side': 'ours',
                        'metric': metric, 'value': value} for metric, value in
                       (('requests', requests), ('round-trips', trips))]
            return list(bench_report.goals(bench_report.Figures(records)))

        assert verdict('split of 2 MiB', 10, 1)[0].endswith(
            ': 1, wanted 1: met')
        assert verdict('split of 2 MiB', 10, 10)[0].endswith('a factor of 10')
        reset = 'reset of 640 extents'
        assert verdict(reset, 640, 10)[0].endswith(': 10, wanted 10: met')
        assert verdict(reset, 640, 20)[0].endswith('missed by a factor of 2')
        assert not verdict('plug beside 640 extents, apart', 640, 640)

    def test_what_is_slower_is_named(self):
        def lines(case, ours, qemu):
            records = [dict(record, case=case)
                       for record in made_up(ours, qemu)]
            return [line for line in
                    bench_report.goals(bench_report.Figures(records))
                    if line.startswith('slower')]

        assert lines('1 GiB uniform by 4 KiB', 200, 100) == [
            "slower than QEMU's, map, 1 GiB uniform by 4 KiB, ns, ours: "
            '2 times']
        assert not lines('1 GiB uniform by 4 KiB', 99, 100)

    def test_what_has_no_noise_comes_first(self):
        records = [{'group': 'convert', 'case': 'a', 'metric': metric,
                    'side': 'ours', 'value': 1}
                   for metric in ('ns', 'instructions', 'calls', 'round-trips')]
        rows = list(bench_report.rows(bench_report.Figures(records)))
        assert [(row[2], row[5]) for row in rows] == [
            ('instructions', ''), ('round-trips', ''), ('ns', '1..1'),
            ('calls', '1..1')]

    def test_only_qemus_own_code_is_compared_with(self):
        sources = {name: TOP / 'build/src' / copy
                   for name, copy in bench.ORIGINALS.items()}
        write(self.path / 'VERSION', '10.2.2\n')
        for changed in sources:
            for name, source in sources.items():
                write(self.path / name, source.read_text() +
                      ('/* changed */\n' if name == changed else ''))
            assert_refused(run_script('bench.py', '--quick', 'map',
                                      QEMU_SRC=self.path), changed)

    def test_a_group_that_is_not_there_is_refused(self):
        done = run_script('bench.py', 'maps', '--output',
                          self.path / 'bench.json')
        assert done.returncode and 'there is no group "maps"' in done.stderr
        assert not (self.path / 'bench.json').exists()


if __name__ == '__main__':
    tap.main()
