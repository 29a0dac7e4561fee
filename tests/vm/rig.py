#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig: real KVM, VFIO, iommufd and IOMMU drivers under our QEMU.

Boots Linux 7.3 (L1) under TCG with an emulated IOMMU, and in it runs QEMU (L2)
under KVM with the edu device passed through. Two L1s run side by side, as far as
the machine has memory for both: each keeps one processor busy most of the time.
Prints TAP; the last line is "N passed, N failed, N skipped". Logs are
build/vm/*.log.

Environment: CHECK_VM=skip (do nothing), QUICK=1 (the first row of each kind),
CONVERSIONS (random ones, in place), KERNEL_SRC, QEMU_DL_DIR, JOBS.
"""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
import traceback

sys.dont_write_bytecode = True

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, 'tests/guest')]

# pylint: disable=wrong-import-position
import gap
import initramfs
import inplace
import inplace_life
import iommu
import launch
import lifecycle
import memory
import refusals
import virtio
from harness import (MIB, HarnessError, QmpError, all_shared, exit_on_signals,
                     find_firmware, query_map)
from l1 import EDU, L1, L1_MIB, L2, L1Error
from machines import (EMULATED, IN_PLACE, PAGES_1G, PAGES_2M, PROTECTED,
                      SHARED, TWO_COPY, Row)

BUILD = os.path.join(TOP, 'build')
VM = os.path.join(BUILD, 'vm')
QEMU = os.path.join(BUILD, 'qemu-system-x86_64')
GUESTS_DIR = os.path.join(BUILD, 'tests/guest')
KERNEL = os.path.join(BUILD, 'kernel/arch/x86/boot/bzImage')

# Against hangs, in seconds: these are no measure of anything
BOOT_LIMIT = 300
SCENARIO_LIMIT = 600
# L1s that run side by side, each with one IOMMU after the other: about as long
LANES = (('intel',), ('in-place', 'amd'))
# For each IOMMU: so often L1 may show what cpus.py knows, or hang while it boots
KNOWN_FAULTS = 2

# Each runs the guest of tests/guest
GUESTS = (
    Row('4K pages, iommufd', EMULATED, 'iommufd', configs=('intel', 'amd')),
    Row('cut, 4K pages, iommufd', EMULATED, 'iommufd', split='cut'),
    Row('4K pages, type1', EMULATED, 'type1'),
    Row('2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd'),
    Row('2M pages, type1', EMULATED + PAGES_2M, 'type1',
        configs=('intel', 'amd')),
    Row('two-copy, 4K pages, iommufd', TWO_COPY, 'iommufd', **PROTECTED),
    Row('two-copy, 2M pages, type1', TWO_COPY + PAGES_2M, 'type1',
        **PROTECTED),
    Row('two-copy, 1G pages, iommufd', TWO_COPY + PAGES_1G, 'iommufd',
        ram=1024 * MIB, **PROTECTED),
    # q35 with SMM shows a part of RAM at two addresses
    Row('a mapped guest_memfd, iommufd', SHARED, 'iommufd', conv='none',
        faults=0),
    Row('in-place, iommufd', IN_PLACE, 'iommufd', configs=('in-place',),
        **PROTECTED),
    Row('in-place, type1', IN_PLACE, 'type1', configs=('in-place',),
        **PROTECTED),
    Row('in-place, cut, iommufd', IN_PLACE, 'iommufd', split='cut',
        configs=('in-place',), **PROTECTED),
    Row('in-place, page, type1', IN_PLACE, 'type1', split='page',
        ram=64 * MIB, configs=('in-place',), **PROTECTED),
)

# Each goes through STEPS, without a guest
SHAPES = (
    Row('4K pages, iommufd', EMULATED, 'iommufd'),
    Row('cut, 4K pages, iommufd', EMULATED, 'iommufd', split='cut'),
    Row('4K pages, type1', EMULATED, 'type1'),
    Row('2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd',
        page_size=2 * MIB),
    Row('2M pages, type1', EMULATED + PAGES_2M, 'type1', page_size=2 * MIB),
    Row('1G pages, iommufd', EMULATED + PAGES_1G, 'iommufd',
        page_size=1024 * MIB, ram=2048 * MIB),
    Row('cut, 2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd',
        page_size=2 * MIB, split='cut'),
    Row('1G pages, type1', EMULATED + PAGES_1G, 'type1',
        page_size=1024 * MIB, ram=2048 * MIB),
)

K = 1024
# (offset, from the end if negative; size; private)
STEPS = (
    (32 * MIB, 16 * MIB, False),            # eight huge pages
    (36 * MIB, 4 * K, True),                # the first page of one
    (40 * MIB + 0x45000, 4 * K, True),      # one in the middle
    (44 * MIB - 20 * K, 40 * K, True),      # a border
    (36 * MIB, 4 * K, False),               # back: a mapping of its own
    (33 * MIB, 1 * MIB, True),              # half a huge page
    (64 * MIB + 12 * K, 5 * MIB, False),    # starts and ends anywhere
    (66 * MIB, 2 * MIB, True),              # a whole huge page in it
    (32 * MIB, 64 * MIB, True),             # all of it
    (0, None, False),                       # the whole block
    (-32 * MIB + 4 * K, 4 * K, True),       # one page of that
    (0, None, True),
)


class Tap:
    """Numbered results, and what they sum up to. For several threads."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def _line(self, word, name, problems=()):
        number = self.passed + self.failed + self.skipped
        lines = [f'{word} {number} - {name}']
        for problem in problems:
            lines += [f'# {line}' for line in str(problem).splitlines() or ['']]
        print('\n'.join(lines), flush=True)

    def result(self, name, problems=()):
        """One test; without problems it is ok."""
        with self._lock:
            if problems:
                self.failed += 1
            else:
                self.passed += 1
            self._line('not ok' if problems else 'ok', name, problems)

    def skip(self, name, reason):
        """One test that is not run."""
        with self._lock:
            self.skipped += 1
            self._line('ok', f'{name} # SKIP {reason}')

    def note(self, text):
        """Progress."""
        seconds = int(time.monotonic() - self._start)
        with self._lock:
            print(f'# {seconds // 60}:{seconds % 60:02} {text}', flush=True)

    def end(self):
        """The last line; the exit code."""
        print(f'{self.passed} passed, {self.failed} failed, '
              f'{self.skipped} skipped', flush=True)
        return 1 if self.failed or not self.passed + self.skipped else 0


# Scenarios: functions of a booted L1 that give results to a Tap

def kvm_offers(l1, tap, _row):
    """What KVM can do here."""
    _code, lines = l1.shell('/rig/kvm-caps')
    for line in lines:
        word, _, text = line.partition(' - ')
        if word in ('ok', 'not ok'):
            tap.result(f'KVM in L1: {text}', [line] if word != 'ok' else [])
    if not lines:
        tap.result('KVM in L1', ['kvm-caps said nothing'])


def devices_exist(l1, tap, _row):
    """VFIO, iommufd and huge pages."""
    pools = '/sys/kernel/mm/hugepages/hugepages'
    for what, test in (
            ('/dev/iommu', '-c /dev/iommu'),
            ('edu as a VFIO character device', '-c /dev/vfio/devices/vfio0'),
            ('edu in a VFIO group', f'-d /sys/bus/pci/devices/{EDU}/iommu_group'
             ' && ls /dev/vfio/[0-9]*'),
            ('two nodes', '-d /sys/devices/system/node/node1'),
            ('huge pages of 2 MiB', f'$(cat {pools}-2048kB/free_hugepages) '
             '-ge 128'),
            ('huge pages of 1 GiB', f'$(cat {pools}-1048576kB/free_hugepages)'
             ' -ge 2')):
        first, and_then, rest = test.partition(' && ')
        code, lines = l1.shell(f'[ {first} ]{and_then}{rest}')
        tap.result(f'L1 has {what}',
                   [f'exit code {code}'] + lines if code else [])


def guest_runs(l1, tap, row):
    """The guest of tests/guest with edu; the IOMMU while it waits."""
    words = row.guest
    if row.faults:
        words += f' faults={row.faults}'
        l1.mark(f'expect-fault {row.faults}')
    with L2(l1, row, words) as l2:
        summary, problems = l2.run_until_hold()
        if not problems and summary.get('blocked', 0) != row.faults:
            problems = [f'{row.faults} DMAs to private memory were wanted: '
                        f'{summary}']
        tap.result('the guest verified DMA', problems)
        if not problems:
            runs = (all_shared(row.ram) if row.memory == SHARED else
                    query_map(l2.qmp, 'm0'))
            entries = iommu.READ[l1.config](l1, EDU)
            tap.result('the IOMMU holds the shared pages, no others',
                       iommu.compare_pages(entries, runs, row.ram))
            shared = sum(run['size'] for run in runs if not run['private'])
            wanted = summary['shared-pages'] * 4096
            if not row.memory.startswith(EMULATED):
                # all that the guest does not convert stays as it began
                wanted += row.ram - summary['pages'] * 4096
            tap.result('QEMU and the guest agree on what is shared',
                       [f'{shared} != {wanted}'] if shared != wanted else [])
            l1.release()
            tap.result('QEMU ended well', l2.bad_end())


def compare_extents(l2, model):
    """Problems if QEMU says that it has mapped something else."""
    listeners = l2.qmp.command('query-guest-memfd')[0]['listeners']
    have = (sum(listener['extents'] for listener in listeners),
            sum(listener['mapped-bytes'] for listener in listeners))
    want = (len(model.extents),
            sum(end - start for start, end in model.extents))
    if have != want:
        return [f'QEMU has (extents, bytes) {have}, expected {want}']
    return []


def shapes(l1, tap, row):
    """Conversions of all shapes: pages and sizes of entries in the IOMMU."""
    model = iommu.CutExtents() if row.split == 'cut' else iommu.Extents()
    with L2(l1, row) as l2:
        for offset, size, private in STEPS:
            offset %= row.ram
            size = size or row.ram
            what = f"{offset:#x}+{size:#x} to " \
                f"{'private' if private else 'shared'}"
            l2.qmp.command('x-guest-memfd-convert', id='m0', offset=offset,
                           size=size, private=private)
            (model.take if private else model.share)(offset, offset + size)
            entries = iommu.READ[l1.config](l1, EDU)
            problems = iommu.compare_pages(entries, query_map(l2.qmp, 'm0'),
                                           row.ram)
            if not problems:
                problems = compare_extents(l2, model)
            if row.page_size > 4096 and not problems:
                problems = iommu.compare_entries(
                    entries, model.entries(row.page_size), row.ram)
            sizes = [f'{sum(e[1] == s and e[0] < row.ram for e in entries)} '
                     f'of {s >> 10}K' for s in iommu.SIZES]
            tap.result(f"{what}: {', '.join(sizes)}", problems)


def first_of_each_kind(items):
    """The first (name, function, row) of each function."""
    kinds = set()
    for item in items:
        if item[1] not in kinds:
            kinds.add(item[1])
            yield item


def scenarios(config):
    """(name, function, row) of all that runs with an IOMMU."""
    if config == 'intel':
        yield 'KVM', kvm_offers, None
        yield 'devices', devices_exist, None
    for row in GUESTS:
        if config in row.configs:
            yield f'guest, {row.name}', guest_runs, row
    if config == 'intel':
        for row in SHAPES:
            yield f'shapes, {row.name}', shapes, row
        yield from gap.scenarios()
        yield from memory.scenarios(config)
        yield from lifecycle.scenarios()
        yield from refusals.scenarios()
        yield from virtio.scenarios(config)
        yield 'no conversion in place', inplace.kernel_works, 'off'
    if config == 'in-place':
        yield from inplace.scenarios()
        yield from inplace_life.scenarios()
        yield from memory.scenarios(config)
        yield from virtio.scenarios(config)
        yield from refusals.in_place_scenarios()
    yield from launch.scenarios(config)


class Named:
    """A Tap for which all names begin the same, and failures wait.

    They may come from a known fault of L1.
    """

    def __init__(self, tap, prefix):
        self._tap = tap
        self._prefix = prefix
        self.failed = []

    def result(self, name, problems=()):
        """One test."""
        name = f'{self._prefix}: {name}'
        problems = list(problems)
        if problems:
            self.failed.append((name, problems))
        else:
            self._tap.result(name)

    def note(self, text):
        """Progress."""
        self._tap.note(f'{self._prefix}: {text}')


class Rig:
    """L1s, each booted when a scenario needs it."""

    def __init__(self, tap, firmware):
        self._tap = tap
        self._firmware = firmware
        self._boots = itertools.count(1)
        self._seconds = []      # (how long, name) of each scenario
        self.initramfs = os.path.join(VM, 'initramfs.cpio')

    def boot(self, config):
        """A machine that has not booted yet."""
        log = os.path.join(VM, f'l1-{config}-{next(self._boots)}.log')
        self._tap.note(f'L1 boots with the {config} IOMMU '
                       f'({os.path.relpath(log)})')
        return L1(config, QEMU, self._firmware, KERNEL, self.initramfs, log)

    def run_all(self, wanted):
        """The lanes, each in a thread; one after the other without the memory."""
        lanes = [threading.Thread(target=self._run_lane, args=(lane, wanted),
                                  daemon=True) for lane in LANES]
        together = available_mib() > len(LANES) * L1_MIB
        if not together:
            self._tap.note(f'less than {len(LANES) * L1_MIB} MiB of memory are '
                           'available: one L1 after the other')
        for lane in lanes:
            lane.start()
            if not together:
                lane.join()
        for lane in lanes:
            lane.join()

    def note_slowest(self):
        """The ten that took longest."""
        self._tap.note('the slowest:')
        for seconds, name in sorted(self._seconds, reverse=True)[:10]:
            self._tap.note(f'{seconds:4.0f} s {name}')

    def _run_lane(self, configs, wanted):
        for config in configs:
            try:
                self.run(config, wanted)
            except Exception as err:    # pylint: disable=broad-except
                self._tap.result(f'{config}: the rig can run',
                                 traceback.format_exception(err))

    def run(self, config, wanted):
        """All scenarios with one IOMMU; a new L1 after one that died.

        What ended because of a known fault of L1 (cpus.py) runs again.
        """
        todo = scenarios(config)
        if os.environ.get('QUICK'):
            todo = first_of_each_kind(todo)
        todo = [item for item in todo
                if all(word in f'{config}: {item[0]}' for word in wanted)]
        if todo and config == 'in-place' and not kernel_is_patched():
            self._tap.skip('in-place', 'KERNEL_SRC has not the patches of '
                           'tests/vm/kernel')
            return
        left = KNOWN_FAULTS
        while todo:
            with self.boot(config) as l1:
                up = self._start(l1, left)
                while up and todo and self._scenario(l1, *todo[0], left):
                    todo.pop(0)
                if left and (l1.known_fault or l1.expired and not up):
                    left -= 1
                elif not up:
                    return
                elif todo:
                    todo.pop(0)

    def _start(self, l1, left):
        """Wait until L1 has booted; False if it did not.

        A boot has been seen to hang where the kernel changes its clock, long
        before anything of ours runs: that is a note while there are some @left.
        """
        try:
            with l1.bounded(BOOT_LIMIT):
                l1.wait_ready()
                l1.mark('booted')
            self._tap.result(f'{l1.config}: L1 boots', l1.complaints(0))
        except (L1Error, HarnessError, OSError) as err:
            problems = [str(err)] + l1.tail()
            if l1.expired and left:
                self._tap.note('\n# '.join([f'{l1.config}: L1 hangs:'] +
                                            problems))
            else:
                self._tap.result(f'{l1.config}: L1 boots', problems)
            return False
        self._tap.note(f'{l1.config}: L1 is up')
        return True

    def _scenario(self, l1, name, function, row, left):
        """Run it; False if L1 is of no more use."""
        tap = Named(self._tap, f'{l1.config}: {name}')
        since = l1.position()
        start = time.monotonic()
        survives = True
        self._tap.note(f'{l1.config}: {name}')
        try:
            with l1.bounded(SCENARIO_LIMIT):
                l1.mark(f'scenario {name}')
                try:
                    function(l1, tap, row)
                except (HarnessError, QmpError, EOFError, KeyError) as err:
                    tap.result('runs to its end',
                               [f'{type(err).__name__}: {err}'] +
                               l1.shell('tail -n 20 /tmp/l2.log')[1])
                l1.mark(f'end {name}')
                if tap.failed:
                    l1.look()
            tap.result('the kernel has nothing else to say',
                       l1.complaints(since))
        except (L1Error, OSError) as err:
            tap.result('L1 survives', [str(err)] + l1.tail())
            survives = False
        self._seconds.append((time.monotonic() - start, f'{l1.config}: {name}'))
        for what, problems in tap.failed:
            if l1.known_fault and left:
                self._tap.note('\n# '.join(
                    [f'{l1.known_fault}, runs again: {what}'] +
                    list(map(str, problems))))
            else:
                self._tap.result(what, problems)
        return survives and not l1.known_fault


def available_mib():
    """Memory that programs can have (proc(5), MemAvailable)."""
    with open('/proc/meminfo', encoding='ascii') as f:
        return next(int(line.split()[1]) >> 10 for line in f
                    if line.startswith('MemAvailable:'))


def kernel_is_patched():
    """Not if KERNEL_SRC is somebody's own."""
    tree = os.environ.get('KERNEL_SRC') or os.path.join(BUILD, 'kernel-src')
    with open(os.path.join(tree, 'virt/kvm/guest_memfd.c'),
              encoding='utf-8') as f:
        return 'gmem_in_place_conversion' in f.read()


def prepare():
    """Packages, the kernel, the initramfs; a HarnessError if it fails."""
    for command in ('install-packages.sh', 'build-kernel.sh'):
        done = subprocess.run([os.path.join(HERE, command)], check=False,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            raise HarnessError(
                f'the rig has no kernel: tests/vm/{command} failed, see above '
                '(CHECK_VM=skip leaves the rig out)')
    for path in [QEMU] + [os.path.join(GUESTS_DIR, name)
                            for name in initramfs.GUESTS]:
        if not os.path.isfile(path):
            raise HarnessError(f'{os.path.relpath(path)} does not exist: run '
                               '"make build" first')
    os.makedirs(VM, exist_ok=True)


def main():
    """Build what is missing, run everything."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('words', nargs='*', help='run only scenarios whose '
                        'name, like "intel: guest, 4K", has all of these')
    args = parser.parse_args()
    exit_on_signals()
    tap = Tap()
    if os.environ.get('CHECK_VM') == 'skip':
        tap.skip('the rig', 'CHECK_VM=skip')
        return tap.end()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    try:
        prepare()
        rig = Rig(tap, find_firmware(QEMU))
        initramfs.build(rig.initramfs, TOP, QEMU, GUESTS_DIR)
        rig.run_all(args.words)
        rig.note_slowest()
    except (HarnessError, OSError, subprocess.CalledProcessError) as err:
        tap.result('the rig can run', [str(err)])
    tap.note('done')
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
