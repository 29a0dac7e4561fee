#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench.py: every benchmark runs, every group has its sides, goals are judged.

Prints TAP.  What the figures are does not matter here.
"""

import json
import math
import os
import shutil
import sys

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import tap

sys.path.append(str(tap.TOP / 'scripts'))
import bench
import bench_report

KEYS = {'group', 'case', 'side', 'metric', 'value', 'repeat'}
BOTH = {'ours', 'qemu'}
POLICIES = {'auto', 'page'}
SIDES = {'memory': BOTH, 'map': BOTH, 'convert': BOTH, 'vfio-user': POLICIES,
         'vm-size': {'ours'}}
# What takes time, and how much memory is taken, is never nothing.
POSITIVE = {'ns', 'us', 'seconds-per-gib', 'bytes', 'instructions'}


def run_bench(directory, *groups):
    """What bench.py writes, and what it prints"""
    output = directory / 'bench.json'
    done = tap.run('bench.py', '--quick', '--output', output, *groups,
                   REPEATS=2, SKIP_PACKAGES=1, CHECK_VM='skip',
                   QEMU_SRC=os.environ.get('QEMU_SRC', ''))
    tap.assert_done(done)
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
        wanted = [0] if key[2] == 'instructions' else [0, 1]
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


def every_group_has_its_sides(directory):
    groups = ('map', 'convert', 'threads', 'vfio-user', 'vm-size')
    result, text = run_bench(directory, *groups)
    records = result['records']
    check_records(records)
    for name in ('cpu', 'cores', 'kernel', 'date', 'load', 'commit', 'qemu'):
        assert result['machine'][name], name
    for group, wanted in SIDES.items():
        for case, sides in sides_of(records, group).items():
            assert sides == wanted, '%s %s: %s' % (group, case, sides)
    for (case, _), sides in sides_of(records, 'threads').items():
        wanted = {'ours'} if case.startswith('one') else BOTH
        assert sides == wanted, '%s: %s' % (case, sides)
    check_page(records)
    check_table(records, text)


def check_page(records):
    """The policy that all others are compared with maps page by page."""
    for to in ('shared', 'private'):
        values = {record['side']: record['value'] for record in records
                  if record['case'] == '2 MiB to ' + to and
                  record['metric'] == 'calls-per-gib'}
        assert values['page'] == 2 ** 18, values
        assert values['auto'] == 2 ** 9, values


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


def instructions_are_counted(directory):
    if not shutil.which('valgrind'):
        raise tap.Skip('valgrind is not installed')
    result = run_bench(directory, 'instructions')[0]
    check_records(result['records'])
    for group in ('map', 'convert'):
        for case, sides in sides_of(result['records'], group,
                                    'instructions').items():
            assert sides == BOTH, '%s %s: %s' % (group, case, sides)


def made_up(ours, qemu):
    """A record for each side, of the first goal"""
    for side, value in (('ours', ours), ('qemu', qemu)):
        yield {'group': 'map', 'case': '1 TiB uniform by 4 KiB',
               'metric': 'ns', 'side': side, 'value': value}


def goals_are_met_and_missed(_directory):
    def verdict(*values):
        figures = bench_report.Figures(made_up(*values))
        return list(bench_report.goals(figures))[0]

    assert verdict(100, 100000).endswith('met')
    assert verdict(100, 50000).endswith('missed by a factor of 2')


def the_cost_is_constant_or_not(_directory):
    def verdict(*values):
        records = [{'group': 'convert', 'case': size + ' uniform by 4 KiB',
                    'metric': 'instructions', 'side': 'ours', 'value': value}
                   for size, value in zip(('1 GiB', '1 TiB'), values)]
        return list(bench_report.goals(bench_report.Figures(records)))

    absolute = 'a conversion, 1 TiB uniform by 4 KiB: %d instructions, wanted ' \
        '1000: %s'
    lines = verdict(900, 981)
    assert absolute % (981, 'met') in lines
    assert lines[-1].endswith('9 % apart, wanted 10: met')
    lines = verdict(1250, 1500)
    assert absolute % (1500, 'missed by 50 %') in lines
    assert lines[-1].endswith('missed by 10 points')


def what_is_slower_is_named(_directory):
    def lines(case, ours, qemu):
        records = [dict(record, case=case) for record in made_up(ours, qemu)]
        return [line for line in
                bench_report.goals(bench_report.Figures(records))
                if line.startswith('slower')]

    assert lines('1 GiB uniform by 4 KiB', 200, 100) == [
        "slower than QEMU's, map, 1 GiB uniform by 4 KiB, ns, ours: 2 times"]
    assert not lines('1 GiB uniform by 4 KiB', 99, 100)


def what_has_no_noise_comes_first(_directory):
    records = [{'group': 'convert', 'case': 'a', 'metric': metric,
                'side': 'ours', 'value': 1} for metric in ('ns', 'instructions')]
    assert [row[2] for row in
            bench_report.rows(bench_report.Figures(records))] == \
        ['instructions', 'ns']


def only_qemus_own_code_is_compared_with(directory):
    sources = {name: tap.TOP / 'build/src' / copy
               for name, copy in bench.ORIGINALS.items()}
    tap.write(directory / 'VERSION', '10.2.2\n')
    for changed in sources:
        for name, source in sources.items():
            tap.write(directory / name, source.read_text() +
                      ('/* changed */\n' if name == changed else ''))
        tap.assert_refused(tap.run('bench.py', '--quick', 'map',
                                   QEMU_SRC=directory), changed)


def a_group_that_is_not_there_is_refused(directory):
    done = tap.run('bench.py', 'maps', '--output', directory / 'bench.json')
    assert done.returncode and 'there is no group "maps"' in done.stderr
    assert not (directory / 'bench.json').exists()


if __name__ == '__main__':
    tap.main([every_group_has_its_sides, instructions_are_counted,
              goals_are_met_and_missed, the_cost_is_constant_or_not,
              what_is_slower_is_named, what_has_no_noise_comes_first,
              only_qemus_own_code_is_compared_with,
              a_group_that_is_not_there_is_refused])
