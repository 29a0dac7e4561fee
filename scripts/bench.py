#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure this repository side by side with QEMU's own code.

All benchmarks run in turn, REPEATS times (5), so that noise hits all sides.
Writes build/bench.json and prints medians, spreads, ratios and which goals are
met.  docs/devel/guest-memfd/benchmark.rst explains the groups.
"""

import argparse
import datetime
import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import bench_count
import bench_report
import bench_trips
import bench_vfio
from bench_vfio import GIB, MIB, HarnessError

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / 'build'
PROGRAMS = BUILD / 'qemu/tests/guest-memfd'
VM = BUILD / 'bench-vm.json'

# What is QEMU's in guest-memfd-qemu-bench: in its tree, and in build/src
ORIGINALS = {
    'system/ram-block-attributes.c': 'tests/bench/qemu-ram-block-attributes.c',
    'include/system/ramblock.h': 'tests/bench/qemu-ramblock.h',
}
# Programs by group and side
IN_PROCESS = {
    'map': ('guest-memfd-map-bench', 'guest-memfd-qemu-bench'),
    'convert': ('guest-memfd-convert-bench', 'guest-memfd-qemu-bench'),
}
GROUPS = {
    'map': 'the map alone, and its memory',
    'convert': 'a whole conversion without kernel and hardware',
    'threads': 'the same from several threads at once',
    'instructions': 'map and convert, counted by valgrind',
    'vfio-user': 'a conversion with a vfio-user device',
    'round-trips': 'how often QEMU waits for such a device, counted',
    'vm-size': 'the same in VMs of 1 GiB to 1 TiB',
    'rig': 'conversions on a kernel of its own (CHECK_VM=skip: not)',
    'restructure': 'what huge pages cost that are shared in part, there',
}


class BenchError(Exception):
    """A failure that one sentence explains."""


class Plan:
    """How much is measured."""

    def __init__(self, quick):
        self.sizes = ['1G'] if quick else ['1G', '16G', '256G', '1T', '4T']
        self.ms = 1 if quick else 50
        self.thread_ops = 10 if quick else 5000
        self.area = (16 if quick else 64) * MIB
        self.huge = not quick   # other tests count free huge pages
        self.vm_sizes = [n * GIB for n in ((1,) if quick else (1, 64, 1024))]
        self.vm_count = 16 if quick else 256
        self.count = bench_count.QUICK if quick else bench_count.CASES
        self.extents = bench_trips.QUICK if quick else bench_trips.EXTENTS


def run_program(name, *args):
    """The records that a program prints"""
    done = subprocess.run([PROGRAMS / name, *args], check=False,
                          stdout=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        raise BenchError('%s %s failed with exit code %d.'
                         % (name, ' '.join(args), done.returncode))
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_process(plan, group):
    """Both sides in turn, size by size"""
    for size in plan.sizes:
        for program in IN_PROCESS[group]:
            yield from run_program(program, '--groups=' + group,
                                   '--sizes=' + size, '--ms=%d' % plan.ms)


def threads(plan):
    """As many conversions by each of 1, 2 and 4 threads"""
    for program, factor in zip(IN_PROCESS['convert'], (10, 1)):
        yield from run_program(program, '--groups=convert', '--sizes=16G',
                               '--threads=1,2,4',
                               '--ops=%d' % (factor * plan.thread_ops))


def repeated(plan, groups):
    """One repetition of what is measured again and again"""
    for group in IN_PROCESS:
        if group in groups:
            yield from in_process(plan, group)
    if 'threads' in groups:
        yield from threads(plan)
    if 'vfio-user' in groups:
        yield from bench_vfio.policies(plan.area, plan.huge)
    if 'vm-size' in groups:
        yield from bench_vfio.sizes(plan.vm_sizes, plan.vm_count)


def rig(*words):
    """What tests/rig/bench has measured; it repeats by itself."""
    VM.unlink(missing_ok=True)
    command = ['/usr/bin/python3', '-m', 'rig.bench', *words]
    if subprocess.run(command, check=False).returncode:
        raise BenchError('tests/rig/bench failed (CHECK_VM=skip leaves it '
                         'out).')
    return [record for record in json.loads(VM.read_text())
            if {'group', 'case', 'side', 'metric', 'value'} <= set(record)]


def check_originals():
    """What is compared with must be QEMU's code, byte by byte."""
    given = os.environ.get('QEMU_SRC')
    base = Path(given) if given else BUILD / 'pristine'
    for original, copy in ORIGINALS.items():
        if not filecmp.cmp(base / original, BUILD / 'src' / copy,
                           shallow=False):
            raise BenchError('build/src/%s differs from %s: it is no longer '
                             "QEMU's own code." % (copy, base / original))
    return (base / 'VERSION').read_text().strip()


def machine_facts():
    """Where and when this is measured"""
    models = [line.split(':', 1)[1].strip() for line in
              Path('/proc/cpuinfo').read_text().splitlines()
              if line.startswith('model name')]
    commit = subprocess.run(
        ['git', '-c', 'safe.directory=*', '-C', TOP, 'describe', '--always',
         '--dirty'], check=False, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, universal_newlines=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    return {'cpu': models[0] if models else os.uname().machine,
            'cores': os.cpu_count(), 'kernel': os.uname().release,
            'date': now.isoformat(timespec='seconds'),
            'load': os.getloadavg(), 'commit': commit.stdout.strip(),
            'qemu': check_originals()}


def measure(plan, groups, repeats):
    """All records"""
    records = []
    for repeat in range(repeats):
        print('repetition %d of %d' % (repeat + 1, repeats), flush=True)
        records += [dict(record, repeat=repeat)
                    for record in repeated(plan, groups)]
    if 'instructions' in groups:
        problem = bench_count.missing()
        if problem:
            print('no instructions: ' + problem)
        else:
            print('counting instructions', flush=True)
            records += [dict(record, repeat=0) for record in
                        bench_count.count_all(PROGRAMS, IN_PROCESS, plan.count)]
    if 'round-trips' in groups:
        records += [dict(record, repeat=0)
                    for record in bench_trips.count_all(plan.extents)]
    if 'rig' in groups:
        records += rig()        # all that it has
    elif 'restructure' in groups:
        records += rig('restructure|steady|placement')
    return records


def parse_arguments():
    """The command line"""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('groups', nargs='*', metavar='GROUP',
                        help='only these: ' + ', '.join(GROUPS))
    parser.add_argument('--quick', action='store_true',
                        help='to test the benchmarks: small, few')
    parser.add_argument('--output', type=Path, default=BUILD / 'bench.json')
    args = parser.parse_args()
    for group in args.groups:
        if group not in GROUPS:
            parser.error('there is no group "%s", but %s'
                         % (group, ', '.join(GROUPS)))
    return args


def main():
    """Measure, write, print."""
    args = parse_arguments()
    groups = set(args.groups or GROUPS)
    if os.environ.get('CHECK_VM') == 'skip':
        groups -= {'rig', 'restructure'}
    try:
        repeats = int(os.environ.get('REPEATS') or 5)
        facts = machine_facts()
        records = measure(Plan(args.quick), groups, max(repeats, 1))
        facts['load-after'] = os.getloadavg()
    except (BenchError, HarnessError, OSError, EOFError, ValueError) as error:
        print('bench: %s' % error, file=sys.stderr)
        return 1
    args.output.write_text(json.dumps(
        {'machine': facts, 'records': records}, indent=1) + '\n')
    print('\n'.join(bench_report.report(facts, records)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
