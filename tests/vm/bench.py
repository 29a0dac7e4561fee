#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What conversions cost on a real kernel, under emulation: read the ratios.

Boots L1 as rig.py does, with conversion in place switched off and on, and
measures machines in it side by side. A line for each: what was converted, how
long that took, in how many calls of the container, and how often a page that was
in use had to be tried again. Times are those of a guest that does nothing else.
"""

import argparse
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, 'tests/guest')]

# pylint: disable=wrong-import-position
import initramfs
import rig
from harness import (EXIT_PASS, MIB, HarnessError, exit_on_signals,
                     find_firmware)
from l1 import L1, L2, L1Error
from machines import IN_PLACE, PAGES_2M, PROTECTED, TWO_COPY, Row

# type1 has 65535 mappings unless told otherwise, too few for 'page'
KERNEL_WORDS = 'vfio_iommu_type1.dma_entry_limit=1000000'
BASE_MIB = 16
LIMIT = 1800
# What is measured, by the switch of L1's kernel
KINDS = {'intel': ('two-copy', TWO_COPY), 'in-place': ('in-place', IN_PLACE)}


def listener_calls(l2):
    """(map calls, unmap calls, extents) of all listeners."""
    listeners = l2.qmp.command('query-guest-memfd')[0]['listeners']
    return tuple(sum(listener[name] for listener in listeners)
                 for name in ('map-calls', 'unmap-calls', 'extents'))


def cpu_ticks(l1):
    """(in QEMU, in the kernel) of the vCPU of L2, without what the guest ran.

    That is the thread which has run a guest at all.
    """
    threads = []
    for line in l1.run('cat /proc/$(pidof qemu)/task/*/stat'):
        fields = line.rpartition(') ')[2].split()
        user, system, guest = (int(fields[n - 3]) for n in (14, 15, 43))
        threads.append((guest, user - guest, system))
    return max(threads)[1:]


def failed(l2):
    """{direction: (conversions tried again, refused)}"""
    block = l2.qmp.command('query-guest-memfd')[0]
    return {to: (block[f'to-{to}']['retries'], block[f'to-{to}']['failures'])
            for to in ('private', 'shared')}


def measure(l1, row, chunk, window, rounds, touch):
    """Figures of a guest that converts @window MiB in requests of @chunk KiB.

    With @touch it writes to all pages in between.  The first round is not
    counted: memory begins in other pieces.
    """
    words = (f'conv={row.conv} base={BASE_MIB} window={window} '
             f'rounds={rounds + 1} chunk={chunk} touch={touch} hold=1')
    halves = []
    with L2(l1, row, words) as l2:
        while True:
            line = l1.console.readline().rstrip('\r\n')
            if line.startswith('begin '):
                start = time.monotonic()
            elif line.startswith('end '):
                seconds = time.monotonic() - start
            elif line == 'HOLD':
                halves.append((seconds, *listener_calls(l2)))
                ticks = cpu_ticks(l1)
                tries = failed(l2)
                l1.release()
            elif line.startswith('FAIL') or (not line and l1.console.ended):
                break
        if l2.wait() != EXIT_PASS:
            raise HarnessError('\n'.join([line] + l2.errors))
    figures = {'machine': row.name, 'chunk-kib': chunk, 'mib': window,
               'qemu-share': ticks[0] / max(sum(ticks), 1)}
    for to, first in (('private', 2), ('shared', 3)):
        picked = range(first, len(halves), 2)
        seconds = [halves[n][0] for n in picked]
        figures[to] = {
            'seconds': statistics.median(seconds),
            'spread': max(seconds) - min(seconds),
            'map-calls': halves[first][1] - halves[first - 1][1],
            'unmap-calls': halves[first][2] - halves[first - 1][2],
            'extents': halves[first][3],
            'retries': tries[to][0], 'failures': tries[to][1],
            'conversions-per-second':
                window * 1024 / chunk / statistics.median(seconds)}
    return figures


def machines(config):
    """(machine, KiB of a request, MiB, rounds, touch)"""
    kind, options = KINDS[config]
    if kind == 'two-copy':
        for vfio in ('iommufd', 'type1'):
            for split in ('log', 'page'):
                yield (Row(f'{vfio}, 2M pages, {split}',
                           f'{options}{PAGES_2M},x-dma-split={split}', vfio,
                           ram=320 * MIB, **PROTECTED), 2048, 256, 1, 0)
    for chunk, window, rounds in ((4, 16, 2), (2048, 32, 3)):
        for vfio in ('iommufd', None):
            yield (Row(f'{vfio or "no device"}, 4K pages, {kind}', options,
                       vfio, ram=64 * MIB, **PROTECTED),
                   chunk, window, rounds, 1)


def show(figures):
    """One machine's lines."""
    for to in ('private', 'shared'):
        one = figures[to]
        print(f"{figures['machine']:30} {to:8} {figures['mib']:4} MiB by "
              f"{figures['chunk-kib']:4} KiB {one['seconds']:8.3f} s "
              f"+-{one['spread']:6.3f} {one['conversions-per-second']:7.0f}/s "
              f"{one['map-calls']:6} maps {one['unmap-calls']:6} unmaps "
              f"{one['extents']:6} extents {one['retries']:4} retries "
              f"{one['failures']} failures, QEMU {figures['qemu-share']:5.1%}",
              flush=True)


def boot_and_measure(config, archive, words):
    """The figures of all machines with one switch of L1's kernel."""
    todo = [(row, *how) for row, *how in machines(config)
            if all(word in row.name for word in words)]
    results = []
    if not todo:
        return results
    with L1(config, rig.QEMU, find_firmware(rig.QEMU), rig.KERNEL, archive,
            os.path.join(rig.VM, f'bench-{config}.log'),
            KERNEL_WORDS) as l1, l1.bounded(LIMIT):
        l1.wait_ready()
        for machine in todo:
            results.append(measure(l1, *machine))
            show(results[-1])
    return results


def main():
    """Measure, print, write build/bench-vm.json."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('words', nargs='*',
                        help='only machines whose name has all of these')
    words = parser.parse_args().words
    exit_on_signals()
    results = []
    try:
        rig.prepare()
        archive = os.path.join(rig.VM, 'bench.cpio')
        initramfs.build(archive, TOP, rig.QEMU, rig.GUESTS_DIR)
        for config in KINDS:
            if config == 'in-place' and not rig.kernel_is_patched():
                print('no conversion in place: KERNEL_SRC has not the patches '
                      'of tests/vm/kernel')
            else:
                results += boot_and_measure(config, archive, words)
    except (HarnessError, L1Error) as err:
        print(f'bench.py: {err}', file=sys.stderr)
        return 1
    with open(os.path.join(rig.BUILD, 'bench-vm.json'), 'w',
              encoding='utf-8') as f:
        json.dump(results, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
