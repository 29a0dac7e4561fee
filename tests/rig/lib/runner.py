# SPDX-License-Identifier: GPL-2.0-or-later
"""L1s, and the scenarios that run in them."""

import itertools
import os
import threading
import time
import traceback

from lib.error import HarnessError
from lib.qmp import QmpError
from rig.lib.l1 import L1, L1_MIB, L1Error
from rig.lib.prepare import KERNEL, LOGS, QEMU, kernel_is_patched
from rig.lib.tap import Named
from rig.scenarios import scenarios

# Against hangs, in seconds: these are no measure of anything
BOOT_LIMIT = 600
SCENARIO_LIMIT = 1200
# L1s that run side by side, each with one IOMMU after the other: about as long
LANES = (('intel',), ('in-place', 'amd'))
# For each IOMMU: so often L1 may show what cpus.py knows, or hang while it boots
KNOWN_FAULTS = 2


def first_of_each_kind(items):
    """The first (name, function, configuration) of each function."""
    kinds = set()
    for item in items:
        if item[1] not in kinds:
            kinds.add(item[1])
            yield item


def available_mib():
    """Memory that programs can have (proc(5), MemAvailable)."""
    with open('/proc/meminfo', encoding='ascii') as f:
        return next(int(line.split()[1]) >> 10 for line in f
                    if line.startswith('MemAvailable:'))


class Rig:
    """L1s, each booted when a scenario needs it."""

    def __init__(self, tap, firmware, initramfs):
        self._tap = tap
        self._firmware = firmware
        self._boots = itertools.count(1)
        self._seconds = []      # (how long, name) of each scenario
        self._initramfs = initramfs

    def boot(self, platform):
        """An L1 that has not booted yet."""
        log = os.path.join(LOGS, f'l1-{platform}-{next(self._boots)}.log')
        self._tap.note(f'L1 boots with the {platform} IOMMU '
                       f'({os.path.relpath(log)})')
        return L1(platform, QEMU, self._firmware, KERNEL, self._initramfs, log)

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

    def _run_lane(self, platforms, wanted):
        for platform in platforms:
            try:
                self.run(platform, wanted)
            except Exception as err:    # pylint: disable=broad-except
                self._tap.result(f'{platform}: the rig can run',
                                 traceback.format_exception(err))

    def run(self, platform, wanted):
        """All scenarios with one IOMMU; a new L1 after one that died.

        What ended because of a known fault of L1 (cpus.py) runs again.
        """
        todo = scenarios(platform)
        if os.environ.get('QUICK'):
            todo = first_of_each_kind(todo)
        todo = [item for item in todo
                if all(word in f'{platform}: {item[0]}' for word in wanted)]
        if todo and platform == 'in-place' and not kernel_is_patched():
            self._tap.skip('in-place', 'KERNEL_SRC has not the patches of '
                           'tests/rig/kernel')
            return
        left = KNOWN_FAULTS
        while todo:
            with self.boot(platform) as l1:
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
            self._tap.result(f'{l1.platform}: L1 boots', l1.complaints(0))
        except (L1Error, HarnessError, OSError) as err:
            problems = [str(err)] + l1.tail()
            if l1.expired and left:
                self._tap.note('\n# '.join([f'{l1.platform}: L1 hangs:'] +
                                            problems))
            else:
                self._tap.result(f'{l1.platform}: L1 boots', problems)
            return False
        self._tap.note(f'{l1.platform}: L1 is up')
        return True

    def _scenario(self, l1, name, function, configuration, left):
        """Run it; False if L1 is of no more use."""
        tap = Named(self._tap, f'{l1.platform}: {name}')
        since = l1.position()
        start = time.monotonic()
        survives = True
        self._tap.note(f'{l1.platform}: {name}')
        try:
            with l1.bounded(SCENARIO_LIMIT):
                l1.mark(f'scenario {name}')
                try:
                    function(l1, tap, configuration)
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
        self._seconds.append((time.monotonic() - start, f'{l1.platform}: {name}'))
        for what, problems in tap.failed:
            if l1.known_fault and left:
                self._tap.note('\n# '.join(
                    [f'{l1.known_fault}, runs again: {what}'] +
                    list(map(str, problems))))
            else:
                self._tap.result(what, problems)
        return survives and not l1.known_fault
