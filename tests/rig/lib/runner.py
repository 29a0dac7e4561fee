# SPDX-License-Identifier: GPL-2.0-or-later
"""L1s, and the scenarios that run in them."""

import collections
import itertools
import os
import threading
import time
import traceback

from lib.error import HarnessError
from rig.lib.faults import KnownFaults
from rig.lib.l1 import L1, L1_MIB, SCHEME, L1Error
from rig.lib.pools import wait_for_all
from rig.lib.prepare import KERNEL, LOGS, QEMU, kernel_has
from rig.lib.tap import Results
from rig.scenarios import scenarios

# Against hangs, in seconds: these are no measure of anything
BOOT_LIMIT = 600
SCENARIO_LIMIT = 1200
# L1s that run side by side, each with one platform after the other
LANES = (('intel', 'staged'), ('in-place', 'flat', 'log', 'amd', 'log-amd'))
PLATFORMS = tuple(itertools.chain(*LANES))
# A lane that has nothing left takes part in what another one has, if that is worth
# the boot of an L1
WORTH_A_BOOT = 6
BOOTS = 'L1 boots'
# What guest_memfd.c of the kernel has to have for a platform
NEEDS = {'in-place': 'gmem_in_place_conversion',
         **dict.fromkeys(SCHEME, 'gmem_restructure')}


def first_of_each_kind(items):
    """The first (name, function, configuration) of each function."""
    kinds = set()
    for item in items:
        if item[1] not in kinds:
            kinds.add(item[1])
            yield item


def select(wanted, quick):
    """{platform: [(name, function, configuration)]} of all that is to run.

    @wanted: words that "PLATFORM: NAME" has to have; @quick: one of each kind
    """
    selected = {}
    for platform in PLATFORMS:
        items = list(scenarios(platform))
        if quick:
            items = list(first_of_each_kind(items))
        items = [item for item in items
                 if all(word in f'{platform}: {item[0]}' for word in wanted)]
        if items:
            selected[platform] = items
    return selected


def available_mib():
    """Memory that programs can have (proc(5), MemAvailable)."""
    with open('/proc/meminfo', encoding='ascii') as f:
        return next(int(line.split()[1]) >> 10 for line in f
                    if line.startswith('MemAvailable:'))


class Queue:
    """Scenarios of a platform that wait for an L1; for several threads."""

    def __init__(self, items):
        self._items = collections.deque(items)
        self.boot_problems = []
        self.booted = False

    def __len__(self):
        return len(self._items)

    def take(self):
        """The next one; None if there is none."""
        try:
            return self._items.popleft()
        except IndexError:
            return None

    def again(self, item):
        """Run it once more."""
        self._items.appendleft(item)


class Rig:
    """L1s, each booted when a scenario needs it."""

    def __init__(self, tap, selected):
        self._tap = tap
        self._queues = {platform: Queue(items)
                        for platform, items in selected.items()}
        self._boots = itertools.count(1)
        self._faults = KnownFaults()
        self._seconds = []      # (how long, name) of each scenario
        self._firmware = self._initramfs = None

    def tests(self):
        """How many tests there are: the scenarios, and whether L1 boots."""
        return sum(len(queue) + 1 for queue in self._queues.values())

    def boot(self, platform):
        """An L1 that has not booted yet."""
        log = os.path.join(LOGS, f'l1-{platform}-{next(self._boots)}.log')
        self._tap.note(f'L1 boots: {platform} ({os.path.relpath(log)})')
        return L1(platform, QEMU, self._firmware, KERNEL, self._initramfs, log)

    def run_all(self, firmware, initramfs):
        """The lanes, each in a thread; one after the other without the memory."""
        self._firmware, self._initramfs = firmware, initramfs
        for platform, word in NEEDS.items():
            if platform in self._queues and not kernel_has(word):
                self.skip(platform, 'KERNEL_SRC has not the patches of '
                          'tests/rig/kernel')
        lanes = [threading.Thread(target=self._run_lane, args=(lane,),
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

    def skip(self, platform, reason):
        """Run nothing on a platform."""
        queue = self._queues.pop(platform)
        for name, *_ in iter(queue.take, None):
            self._tap.skip(f'{platform}: {name}', reason)
        self._tap.skip(f'{platform}: {BOOTS}', reason)

    def finish(self, reason):
        """A result for each test that has none yet: it failed, for a @reason."""
        for platform, queue in self._queues.items():
            for name, *_ in iter(queue.take, None):
                self._tap.test(f'{platform}: {name}', [('runs', [reason])])
            problems = queue.boot_problems
            if not queue.booted and not problems:
                problems = [reason]
            self._tap.test(f'{platform}: {BOOTS}', [(BOOTS, problems)])

    def note_slowest(self):
        """The ten that took longest."""
        self._tap.note('the slowest:')
        for seconds, name in sorted(self._seconds, reverse=True)[:10]:
            self._tap.note(f'{seconds:4.0f} s {name}')

    def _run_lane(self, lane):
        others = [platform for platform in PLATFORMS if platform not in lane]
        for platform, least in [(platform, 1) for platform in lane] + \
                [(platform, WORTH_A_BOOT) for platform in others]:
            queue = self._queues.get(platform)
            try:
                while queue and len(queue) >= least and \
                        self._run(platform, queue):
                    # what runs again has nobody else
                    least = 1
            except Exception as err:
                queue.boot_problems += traceback.format_exception(err)

    def _run(self, platform, queue):
        """Scenarios in one L1, until it is of no more use; False if none is.

        What ended because of a known fault of L1 runs again.
        """
        with self.boot(platform) as l1:
            if not self._start(l1, queue):
                return not queue.boot_problems
            for item in iter(queue.take, None):
                if not self._scenario(l1, queue, item):
                    break
        return True

    def _tolerated(self, l1, name, problems):
        """Whether the known fault of this name is tolerated; that is noted."""
        tolerated, text = self._faults.tolerate(l1.platform, name)
        self._tap.note('\n'.join([f'{l1.platform}: {text}'] +
                                 list(map(str, problems if tolerated else ()))))
        return tolerated

    def _start(self, l1, queue):
        """Wait until L1 has booted; False if it did not."""
        try:
            with l1.bounded(BOOT_LIMIT):
                l1.wait_ready()
                l1.mark('booted')
            queue.boot_problems += l1.complaints(0)
        except (L1Error, HarnessError, OSError) as err:
            problems = [str(err)] + l1.tail()
            if not (l1.expired and self._tolerated(
                    l1, l1.known_fault or 'boot', problems)):
                queue.boot_problems += problems
            return False
        queue.booted = True
        self._tap.note(f'{l1.platform}: L1 is up')
        return True

    def _scenario(self, l1, queue, item):
        """Run it; False if L1 is of no more use."""
        name, function, config = item
        full_name = f'{l1.platform}: {name}'
        results = Results(self._tap, full_name)
        start = time.monotonic()
        self._tap.note(full_name)
        survives = self._attempt(l1, results, name,
                                 lambda: function(l1, results, config))
        self._seconds.append((time.monotonic() - start, full_name))
        if results.failed and l1.known_fault and self._tolerated(
                l1, l1.known_fault,
                [f'{full_name} runs again: {what}: {problem}'
                 for what, problems in results.failed for problem in problems]):
            queue.again(item)
        else:
            self._tap.test(full_name, results.results)
        return survives and not l1.known_fault

    def _attempt(self, l1, results, name, function):
        """Do it; False if L1 is gone. Any other exception is a result like others."""
        since = l1.position()
        try:
            with l1.bounded(SCENARIO_LIMIT):
                l1.mark(f'scenario {name}')
                try:
                    function()
                except (L1Error, OSError):
                    raise
                except Exception as err:
                    results.result('runs to its end',
                                   traceback.format_exception(err) +
                                   l1.shell('tail -n 20 /tmp/l2.log')[1])
                # The next scenario begins without any
                results.result('no huge page is held', wait_for_all(l1))
                l1.mark(f'end {name}')
                if results.failed:
                    l1.look()
            results.result('the kernel has nothing else to say',
                           l1.complaints(since))
        except (L1Error, OSError) as err:
            results.result('L1 survives', [str(err)] + l1.tail())
            return False
        return True
