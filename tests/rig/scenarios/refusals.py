# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel refuses, and memory that fails.

QEMU says what happened and goes on, or ends, as it is documented; in no case
do the map and the IOMMU differ. Failures are injected into the kernel
(Documentation/fault-injection of Linux) below one of its functions and for one
thread, so that nothing else in L1 notices.
"""

import copy
import itertools
import random

from lib.error import HarnessError
from lib.units import MIB
from rig.lib.checks import (VM, failed_conversions, missing, not_possible,
                            refused)
from rig.lib.l1 import SCHEMES, SECOND_EDU, L2
from rig.lib.configurations import (EMULATED, IN_PLACE, PAGES_2M, PROTECTED, SHARED,
                                    TWO_COPY, Config)

K = 1024
NO_MEMORY = 'Cannot allocate memory'
VFIO = ('iommufd', 'type1')
RAM = 64 * MIB
LIMIT = 32 * MIB
BOUNCE = 16 * MIB       # where the guest has its buffers

# Functions of the kernel below which allocations fail
CREATE = '__kvm_gmem_create kvm_gmem_create'
IOCTL = {'two-copy': 'kvm_vm_ioctl', 'in-place': 'kvm_gmem_ioctl',
         'iommufd': 'iommufd_fops_ioctl', 'type1': 'vfio_iommu_type1_ioctl'}
FAULTS = '/sys/kernel/debug'
ALLOCATIONS = ('failslab', 'fail_page_alloc')
PIECE = (16 * MIB, 64 * K)
# Each after those before it. To let go of a whole mapping needs no memory.
MAPPING_STEPS = (
    ('share', *PIECE, False),
    ('take a page out of the middle', 16 * MIB + 20 * K, 4 * K, True),
    ('give it back', *PIECE, False),
    ('take all', *PIECE, True),
)
# About what a node takes of the tree in which KVM keeps attributes of pages
NODE_BYTES = 600
# The percentages of allocations that fail in batches of random conversions
PERCENT = (3, 30, 100)
BATCHES = 12
BATCH = 20


def limited(size):
    """The words before a command that bound the memory it can lock."""
    return ['/rig/limited', str(size)]


LOCKED = [Config(vfio, EMULATED.replace('private', 'shared'), vfio, ram=RAM,
                 prefix=limited(LIMIT))
          for vfio in VFIO]
LOCKING = [Config(vfio, EMULATED, vfio, ram=RAM, prefix=limited(LIMIT))
           for vfio in VFIO]
FILES = [Config('mapped', SHARED, None, ram=RAM),
         Config('two-copy', TWO_COPY, None, ram=RAM, **PROTECTED)]
MAPPINGS = [Config(vfio, EMULATED, vfio, ram=RAM) for vfio in VFIO]
CUTS = [Config('cut', EMULATED, 'iommufd', ram=RAM, split='cut')]
NO_CUT = (Config('cut by type1', EMULATED, 'type1', ram=RAM, split='cut'),
          ('x-dma-split=cut needs iommufd', 'use x-dma-split=auto'))
DIFFERENT = [(Config(f'two of {vfio}', EMULATED, vfio, ram=RAM, split='page',
                     extra=['-device', f'vfio-pci,host={SECOND_EDU}{more}']),
              ('x-dma-split=auto differs from page', 'give both the same'))
             for vfio, more in (('iommufd', ',iommufd=iommufd0'),
                                ('type1', ''))]
ATTRIBUTES = [Config(f'two-copy, {vfio}', TWO_COPY, vfio, ram=RAM, **PROTECTED)
              for vfio in VFIO]
IN_PLACE_4K = Config('in-place, iommufd', IN_PLACE, 'iommufd', ram=RAM, **PROTECTED)
SPLITS = [Config(vfio, IN_PLACE + PAGES_2M, vfio, ram=RAM, **PROTECTED)
          for vfio in VFIO]
FAILING = Config('in-place', IN_PLACE + ',prealloc=on', None, ram=RAM,
                 **dict(PROTECTED, conv='none', extra=PROTECTED['extra'] + [
                  '-S', '-device', 'edu', '-action', 'reboot=reset']))


def prefixed(config, prefix):
    """The same vm, with other words before its command line."""
    clone = copy.copy(config)
    clone.prefix = prefix
    return clone


# Locked memory

def memlock_at_start(l1, tap, config):
    """RLIMIT_MEMLOCK is below what is shared from the beginning."""
    problems = refused(l1, config, [
        f'RLIMIT_MEMLOCK is {LIMIT // K} KiB', NO_MEMORY, 'ulimit -l',
        'LimitMEMLOCK=', '<memtune><hard_limit>'])
    tap.result('QEMU names the limit and the remedy',
               ['QEMU started'] if problems is None else problems)
    enough = prefixed(config, limited(RAM + LIMIT))
    with L2(l1, enough) as l2:
        tap.result('with a higher limit it starts',
                   VM(l1, l2, enough).problems())


def memlock_conversion(l1, tap, config):
    """A conversion goes beyond RLIMIT_MEMLOCK, others do not."""
    steps = (('within the limit', 16, 8, False, None),
             ('beyond it', 24, 32, False, NO_MEMORY),
             ('within it, after that', 24, 16, False, None),
             ('all back', 0, RAM // MIB, True, None),
             ('where it was refused', 24, 24, False, None))
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        for name, offset, size, private, reason in steps:
            answer, problems = vm.attempt(offset * MIB, size * MIB,
                                          private)
            if reason:
                problems += missing(answer, [reason])
            elif answer:
                problems.append(answer)
            tap.result(name, problems)
        reasons = failed_conversions(l2)
        tap.result('one event', missing(reasons[0], [NO_MEMORY])
                   if len(reasons) == 1 else [f'events: {reasons}'])
        tap.result('QEMU names the limit once',
                   [vm.said()]
                   if vm.said().count('RLIMIT_MEMLOCK is') != 1 else [])


# Allocations of the kernel that fail

def function_range(l1, names):
    """Where the first of these that the compiler has not inlined starts and ends."""
    l1.run('[ -s /tmp/symbols ] || sort /proc/kallsyms >/tmp/symbols')
    for name in names.split():
        lines = l1.run(
            f"awk '$3 == \"{name}\" {{start = $1; next}} start && $1 != start "
            "{print start, $1; exit}' /tmp/symbols")
        if lines and lines[0]:
            return ['0x' + word for word in lines[0].split()]
    raise HarnessError(f'the kernel has no function {names}')


class Failures:
    """Allocations below a function of the kernel fail: a context manager."""

    def __init__(self, l1, function):
        self._l1 = l1
        self._function = function

    def _set(self, *kinds, **values):
        self._l1.run(' && '.join(
            f"echo {value} >{FAULTS}/{kind}/{name.replace('_', '-')}"
            for kind in kinds for name, value in values.items()))

    def __enter__(self):
        first, end = function_range(self._l1, self._function)
        # fail-nth counts allocations of all kinds
        self._set(*ALLOCATIONS, probability=0, require_start=first,
                  require_end=end, stacktrace_depth=32, task_filter=1,
                  ignore_gfp_wait=0, interval=1, times=-1, verbose=0)
        self._set('fail_page_alloc', min_order=0, ignore_gfp_highmem=0)
        return self

    def __exit__(self, *exc):
        self._set('failslab', probability=0)

    def percent(self, pid, percent, space=0):
        """So many of the allocations fail, after @space bytes of them."""
        self._l1.run(f'echo 1 >/proc/{pid}/make-it-fail')
        self._set('failslab', space=space, probability=percent)

    def stop(self):
        """No more of that."""
        self._set('failslab', probability=0)

    def only(self, pid, number):
        """The allocation of this number fails, no other one."""
        self._l1.run(f'echo {number} >/proc/{pid}/fail-nth')

    def reached(self, pid):
        """It was reached; it cannot be any more."""
        left = int(self._l1.run(f'cat /proc/{pid}/fail-nth')[0])
        self._l1.run(f'echo 0 >/proc/{pid}/fail-nth')
        return not left


def creation(l1, tap, config):
    """Each allocation fails that the kernel makes for a guest_memfd."""
    # the first file is a page, by which QEMU sees what the kernel can do
    words = ['cannot create a guest_memfd of ', f'bytes: {NO_MEMORY}']
    with Failures(l1, CREATE):
        for number in itertools.count(1):
            problems = refused(l1, prefixed(config, [
                'sh', '-c', f'echo {number} >/proc/self/fail-nth; exec "$@"',
                'sh']), words)
            if problems is None:
                break
            tap.result(f'allocation {number}', problems)
    tap.result('allocations were made', ['none'] if number == 1 else [])


def mappings(l1, tap, config):
    """Each allocation fails that an IOMMU's driver makes for a conversion."""
    with L2(l1, config) as l2, Failures(l1, IOCTL[config.vfio]) as failures:
        vm = VM(l1, l2, config)
        for index, (name, *conversion) in enumerate(MAPPING_STEPS):
            refusals = 0
            for number in itertools.count(1):
                vm.convert(*PIECE, True)
                for _name, *earlier in MAPPING_STEPS[:index]:
                    vm.convert(*earlier)
                failures.only(vm.pid, number)
                answer, problems = vm.attempt(*conversion)
                reached = failures.reached(vm.pid)
                refusals += answer is not None
                if answer and not reached:
                    problems.append(f'refused for no reason: {answer}')
                if problems or not reached:
                    break
            if not refusals and conversion != [*PIECE, True]:
                problems.append('no allocation was refused')
            tap.result(f'{name}: {number - 1} allocations, {refusals} refusals',
                       problems)


def attributes(l1, tap, config):
    """All allocations fail from one on, when KVM is told of private pages."""
    offset, size = 16 * MIB, 2 * MIB
    refused = 0
    with L2(l1, config) as l2, Failures(l1, IOCTL['two-copy']) as failures:
        vm = VM(l1, l2, config)
        for space in itertools.count(0, NODE_BYTES):
            failures.percent(vm.pid, 100, space)
            answer, problems = vm.attempt(offset, size, True)
            failures.stop()
            problems += missing(answer, [NO_MEMORY]) if answer else []
            if problems or not answer:
                break
            refused += 1
        tap.result(f'refused {refused} times, then granted',
                   problems or ([] if refused else ['never refused']))
        answer, problems = vm.attempt(offset, size, False)
        tap.result('shared again', problems + ([answer] if answer else []))


def splits(l1, tap, config):
    """All allocations fail when the kernel takes a huge page apart."""
    page = 16 * MIB + 20 * K
    with L2(l1, config) as l2, Failures(l1, IOCTL['in-place']) as failures:
        vm = VM(l1, l2, config)
        vm.convert(16 * MIB, 2 * MIB, True)
        failures.percent(vm.pid, 100, 0)
        answer, problems = vm.attempt(page, 4 * K, False)
        failures.stop()
        tap.result('refused, and nothing has changed',
                   problems + missing(answer, [NO_MEMORY]))
        answer, problems = vm.attempt(page, 4 * K, False)
        tap.result('with memory it works', problems + ([answer] if answer else []))


def random_failures(l1, tap, config):
    """Many conversions while allocations fail at random."""
    rng = random.Random(1)
    names = [config.vfio] + [name for name in ('two-copy', 'in-place')
                             if config.name.startswith(name)]
    refused = 0
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        vm.convert(0, RAM, True)
        for batch in range(BATCHES):
            with Failures(l1, IOCTL[names[batch % len(names)]]) as failures:
                failures.percent(vm.pid, PERCENT[batch % len(PERCENT)])
                for _ in range(BATCH):
                    size = rng.choice((1, 2, 3, 16, 37, 512)) * 4 * K
                    offset = 16 * MIB + rng.randrange(1024) * 4 * K
                    refused += vm.convert(offset, size,
                                          rng.random() < 0.5) is not None
            # what could not be mapped again is less than the map allows
            problems = [text for text in vm.problems()
                        if not text.startswith('shared')]
            # and the next conversion mends it
            last = RAM - 4 * K
            problems += filter(None, (vm.convert(last, 4 * K, False),
                                      vm.convert(last, 4 * K, True)))
            problems += vm.problems()
            tap.result(f'batch {batch}', problems)
    total = BATCHES * BATCH
    tap.result(f'{refused} of {total} conversions were refused',
               [] if 0 < refused < total else ['this tests nothing'])


# Memory that fails

def wait_stopped(l2):
    """The state of a VM that does not run any more."""
    while True:
        status = l2.qmp.command('query-status')
        if not status['running']:
            return status['status']


def memory_failure(l1, tap, config):
    """A page fails, the guest comes across it, a reset gives it another."""
    with L2(l1, config, config.guest) as l2:
        vm = VM(l1, l2, config)
        l1.run(f'/rig/poison {vm.pid} kvm-gmem {BOUNCE:#x}')
        l2.qmp.command('cont')
        state = wait_stopped(l2)
        tap.result('the VM stops', [state] if state != 'internal-error' else
                   missing(vm.said(), [
                       f"'m0' offset {BOUNCE:#x} (guest physical address "
                       f'{BOUNCE:#x}, shared)']))
        events = [event['data']['recipient'] for event in l2.qmp.events
                  if event['event'] == 'MEMORY_FAILURE']
        tap.result('the guest was told before',
                   [f'events: {events}'] if events != ['guest'] else [])
        l2.qmp.reset()
        l2.qmp.command('cont')
        _summary, problems = l2.run_until_pause()
        tap.result('after a reset it runs', problems)
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def in_place_scenarios():
    """For a kernel that converts in place."""
    yield (f'refusals: random failures, {IN_PLACE_4K.name}', random_failures,
           IN_PLACE_4K)
    yield f'refusals: memory failure, {FAILING.name}', memory_failure, FAILING


def intel_scenarios():
    """For one that does not."""
    for what, function, configurations in (
            ('memlock at the start', memlock_at_start, LOCKED),
            ('memlock and conversions', memlock_conversion, LOCKING),
            ('creation', creation, FILES),
            ('mappings', mappings, MAPPINGS + CUTS),
            ('attributes', attributes, ATTRIBUTES),
            ('random failures', random_failures,
             MAPPINGS + CUTS + ATTRIBUTES)):
        for config in configurations:
            yield f'refusals: {what}, {config.name}', function, config
    for what in (NO_CUT, *DIFFERENT):
        yield f'refusals: policy, {what[0].name}', not_possible, what


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == 'intel':
        yield from intel_scenarios()
    elif platform == 'in-place':
        yield from in_place_scenarios()
    elif platform == SCHEMES[-1]:
        for config in SPLITS:
            yield f'refusals: splits of huge pages, {config.name}', splits, config
