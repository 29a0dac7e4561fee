# SPDX-License-Identifier: GPL-2.0-or-later
"""What rig.bench measures on the rig: VMs, and what their guests do.

A group is a function of a booted L1 and a Report. What is compared runs by turns:
a, b, a, b, ... in one boot.
"""

import collections
import contextlib
import itertools

from lib.error import HarnessError
from lib.units import MIB
from rig.bench.measure import steps
from rig.lib.checks import memory_used, setting
from rig.lib.configurations import (EMULATED, IN_PLACE, PAGES_1G, PAGES_2M, PROTECTED,
                                    TWO_COPY, Config)
from rig.lib.l1 import SCHEMES
from rig.lib.pools import POOLS, vmemmap, wait_for_all

BASE_MIB = 16
GIB_MIB = 1024
POLICIES = (('iommufd', 'auto'), ('iommufd', 'page'), ('iommufd', 'cut'),
            ('type1', 'auto'), ('type1', 'page'))
DMA_MIB = 64
SIZES_MIB = (64, 128, 256, 512)
STEADY_MIB, SWIOTLB_MIB, SINGLE_PAGES = 128, 32, 500
# Whose VMs settle, and what their memory is, by what L1's kernel is told. Huge
# pages of a memfd that are reserved, as by default, or preallocated are not freed;
# those of a guest_memfd are always reserved.
SETTLING = {
    'intel': [(side, pages)
              for pages in ('', PAGES_2M + ',reserve=off', PAGES_2M + ',prealloc=on')
              for side in ('two-copy', 'qemu')],
    'in-place': [('in-place', '')],
    **{scheme: [(scheme, PAGES_2M)] for scheme in SCHEMES}}
# A VM that shares a bounce area, in pieces of so many KiB, and is private otherwise
PLACED_MIB, BOUNCE_MIB = 2048, 64
PLACES = {'in one piece': 0, 'in pieces of 2 MiB': 2048, 'in single pages': 4}
PLACING = {
    'intel': [('two-copy', PAGES_2M + ',reserve=off'), ('qemu', PAGES_2M +
                                                        ',reserve=off')],
    'in-place': [('in-place', '')],
    **{scheme: [(scheme, PAGES_2M), (scheme, PAGES_1G)] for scheme in SCHEMES}}
# Of released QEMU: what guests of TDX and SEV-SNP would get
BASELINE = 'memory-backend-memfd,share=on'
# What a step is called in a case
STEPS = {'private': 'to private', 'shared': 'to shared',
         'out': '4 KiB out', 'back': '4 KiB back'}


class Report:
    """Records for build/bench-vm.json, and a line for each step."""

    def __init__(self, words, repeats):
        self._words = words
        self.repeats = repeats
        self.records = []

    def wanted(self, *names):
        """Not if a word of the command line, or each of a|b, is in none of these."""
        return all(any(one in ' '.join(names) for one in word.split('|'))
                   for word in self._words)

    def add(self, where, figures):
        """@figures by metric; @where is (group, case, side, repeat)."""
        group, case, side, repeat = where
        for metric, value in figures.items():
            self.records.append({'group': group, 'case': case, 'side': side,
                                 'metric': metric, 'value': value,
                                 'repeat': repeat})

    def step(self, where, step, mib, chunk, more=()):
        """What @step has cost: requests for each @chunk KiB of so many MiB."""
        if step.conversions != mib * 1024 // chunk:
            raise HarnessError(f'{where}: {step.conversions} conversions were '
                               f'seen, not {mib * 1024 // chunk}')
        gibs = mib / GIB_MIB
        maps, unmaps = step.calls['map'], step.calls['unmap']
        figures = {
            'seconds-per-gib': step.seconds / gibs,
            'dma-seconds-per-gib': (maps[1] + unmaps[1]) / gibs,
            'map-calls-per-gib': maps[0] / gibs,
            'unmap-calls-per-gib': unmaps[0] / gibs,
            'calls-per-gib': (maps[0] + unmaps[0]) / gibs,
            'median-seconds-per-conversion': step.median,
            'conversions': step.conversions,
            'qemu-share': 1 - step.kernel_seconds / step.seconds,
            'futex-share': step.calls['futex'][1] / step.seconds,
            'wall-seconds-per-gib': step.wall / gibs, **dict(more)}
        self.add(where, figures)
        group, case, side, repeat = where
        print(f'{group}: {case}, {side} #{repeat}: {step.conversions} in '
              f'{step.seconds:.3f} s (wall {step.wall:.3f}), one in '
              f'{step.median * 1e6:.0f} us, {maps[0]} maps {maps[1]:.3f} s, '
              f'{unmaps[0]} unmaps {unmaps[1]:.3f} s, '
              f"QEMU {figures['qemu-share']:.1%}", flush=True)

    def note(self, where, figures):
        """Figures that are no times."""
        self.add(where, figures)
        group, case, side, repeat = where
        text = ', '.join(f'{metric} {value:.10g}'
                         for metric, value in figures.items())
        print(f'{group}: {case}, {side} #{repeat}: {text}', flush=True)


def words_for(area, chunk, rounds, **more):
    """The guest's command line."""
    more.update(base=BASE_MIB, area=area, chunk=chunk, rounds=rounds)
    return ' '.join(f'{key}={value}' for key, value in more.items())


def split_figures(step, before, gibs):
    """Memory of mappings since @before, and entries of the IOMMU."""
    now = step.memory()
    return {**{f'{what}-bytes-per-gib': (now[what] - before[what]) / gibs
               for what in now}, **entries(step)}


def dma(l1, report):
    """Nothing but mappings for DMA: the driver that does nothing else."""
    gibs = DMA_MIB / GIB_MIB
    for repeat in range(1, report.repeats + 1):
        for vfio, split in POLICIES:
            if not report.wanted('dma', vfio, split):
                continue
            config = Config(f'{vfio}, {split}', EMULATED + PAGES_2M, vfio,
                            ram=(BASE_MIB + DMA_MIB + 16) * MIB, split=split)
            before = None
            for step in steps(l1, config, words_for(DMA_MIB, 2048, 2, piece=4)):
                case = f'{vfio}, 2M pages, {STEPS[step.to]}'
                where = ('dma', case, split, repeat)
                if step.round == 2:
                    report.step(where, step, DMA_MIB, 2048)
                elif step.to == 'private':
                    before = step.memory()
                else:
                    report.note(where, split_figures(step, before, gibs))
                if step.to == 'out':
                    report.note(where, split_figures(step, before, gibs))


def conversion_config(side, vfio, pages, ram):
    """A VM of ours (by its kind or policy) or of released QEMU."""
    if side == 'qemu':
        return Config(f'{vfio}, {side}', BASELINE + pages, vfio, ram=ram,
                      qemu='baseline', **PROTECTED)
    options = IN_PLACE if side in ('in-place', *SCHEMES) else TWO_COPY
    split = side if side in ('auto', 'page') else None
    return Config(f'{vfio}, {side}', options + pages, vfio, ram=ram, split=split,
                  **PROTECTED)


def page_size(config):
    """Of the memory."""
    return next((size for size in ('1G', '2M')
                 if f'hugetlbsize={size}' in config.memory), '4K')


def converted(l1, report, group, config, side, todo, repeat=0):
    """Run one VM; a step of each round after the first is reported."""
    area, chunk, rounds, touch = todo
    for step in steps(l1, config, words_for(area, chunk, rounds + 1,
                                            touch=touch)):
        if step.round == 1:
            continue
        case = f"{config.vfio or 'no device'}, {page_size(config)} pages, {chunk} KiB " \
            f'{STEPS[step.to]}'
        more = {}
        if config.qemu == 'qemu':
            one = step.block()[f'to-{step.to}']
            more = {'retries': one['retries'], 'failures': one['failures']}
        report.step((group, case, side, repeat or step.round - 1), step,
                    area, chunk, more)


def huge(l1, report):
    """Shared memory of 2 MiB pages and a device: ours and QEMU's way."""
    for repeat in range(1, report.repeats + 1):
        for vfio in ('iommufd', 'type1'):
            for side in ('auto', 'page', 'qemu'):
                if report.wanted('conversion', vfio, side):
                    config = conversion_config(side, vfio, PAGES_2M, 64 * MIB)
                    converted(l1, report, 'conversion', config, side,
                              (32, 2048, 1, 0), repeat)


def requests(l1, report):
    """4 KiB pages, small and large requests; the guest uses the memory."""
    sides = ('in-place',) if l1.platform == 'in-place' else ('two-copy', 'qemu')
    for chunk, area in ((4, 4), (2048, 32)):
        for vfio in ('iommufd', None):
            for side in sides:
                if report.wanted('request', vfio or 'no device', side):
                    config = conversion_config(side, vfio, '', 64 * MIB)
                    converted(l1, report, 'request', config, side,
                              (area, chunk, report.repeats, 1))


def steady(l1, report):
    """What a VM holds once its guest has settled."""
    for side, pages in SETTLING[l1.platform]:
        if report.wanted('steady memory', side):
            steady_of(l1, report, conversion_config(side, None, pages,
                                                    STEADY_MIB * MIB), side)


def steady_of(l1, report, config, side):
    """All private except a bounce area; single pages here and there; as at first."""
    when = {(1, 'shared'): f'{SWIOTLB_MIB} MiB shared',
            (1, 'any'): f'then {SINGLE_PAGES} single pages',
            (2, 'shared'): f'then again {SWIOTLB_MIB} MiB shared'}
    held(l1, report, config, ('steady memory', side), when,
         words_for(STEADY_MIB - BASE_MIB - 2, 2048, 2, touch=1,
                   share=SWIOTLB_MIB, mix=SINGLE_PAGES))


def held(l1, report, config, group_and_side, when, words):
    """What a VM holds after steps; @when: {(round, to): the case}."""
    group, side = group_and_side
    pages = page_size(config)
    if 'prealloc' in config.memory:
        pages += ', preallocated'
    pools = side not in SCHEMES
    # The VM before this one may still have some
    if problems := wait_for_all(l1):
        raise HarnessError('; '.join(problems))
    before, reserved = memory_used(l1, pools), reserved_pages(l1)
    with contextlib.closing(steps(l1, config, words)) as run:
        for step in run:
            if (step.round, step.to) in when:
                there = memory_used(l1, pools) - before
                kept = (reserved_pages(l1) - reserved) * 2 * MIB
                report.note((group, f'{pages}, {when.pop((step.round, step.to))}',
                             side, 1),
                            {'bytes': there, 'bytes-of-machine-size':
                             there / config.ram, 'reserved-bytes': kept,
                             'vmemmap-bytes': 0 if pools else vmemmap(l1),
                             **entries(step)})
            if not when:
                break


def entries(step):
    """How many entries of each size stage 2 has, and the IOMMU if there is a device."""
    figures = {f'stage-2-entries-{size}': count
               for size, count in step.stage2_entries().items()}
    if step.config.vfio:
        figures.update((f'iommu-entries-{size >> 10}k', count)
                       for size, count in sorted(step.entries().items()))
    return figures


def placement(l1, report):
    """What a larger VM with a device holds, by where its bounce area is."""
    with setting(l1, f'{POOLS}/hugepages-2048kB/nr_hugepages', PLACED_MIB // 2 + 64):
        for (side, pages), (where, scatter) in itertools.product(
                PLACING[l1.platform], PLACES.items()):
            if report.wanted('placement', side):
                held(l1, report, conversion_config(side, 'iommufd', pages,
                                                   PLACED_MIB * MIB),
                     ('placement', side),
                     {(1, 'shared'): f'{BOUNCE_MIB} MiB {where}'},
                     words_for(PLACED_MIB - BASE_MIB - 2, 2048, 1, touch=1,
                               share=BOUNCE_MIB, scatter=scatter))


def reserved_pages(l1):
    """Huge pages that are free, but for somebody who has not used them yet."""
    return int(l1.run('cat /sys/kernel/mm/hugepages/hugepages-2048kB/'
                      'resv_hugepages')[0])


def sizes(l1, report):
    """The same work in VMs of several sizes."""
    for repeat in range(1, report.repeats + 1):
        for size in SIZES_MIB:
            if not report.wanted('vm size', str(size)):
                continue
            config = conversion_config('two-copy', 'iommufd', '', size * MIB)
            for step in steps(l1, config, words_for(16, 64, 2, piece=4)):
                if step.round == 2:
                    report.step(('vm size', f'iommufd, 4K pages, '
                                 f'{STEPS[step.to]}', f'{size} MiB', repeat),
                                step, 16, 64)


def restructure(l1, report):
    """What it costs to share parts of a huge page: the kernel's part, no VM."""
    for order, pages in ((9, '2M'), (18, '1G')):
        if not report.wanted('restructure', pages, l1.platform):
            continue
        repeats = collections.Counter()
        for line in l1.run(f'/rig/restructure {order} {report.repeats}'):
            what, metric, value = line.split('|')
            repeats[what, metric] += 1
            report.note(('restructure', f'{pages}: {what}', l1.platform,
                         repeats[what, metric]), {metric: float(value)})


# By what L1's kernel is told
GROUPS = {'intel': (dma, huge, sizes, steady, placement, requests),
          'in-place': (requests, steady, placement),
          **dict.fromkeys(SCHEMES, (restructure, steady, placement))}
# What has these words is measured there: L1 need not boot for anything else
NAMES = {'intel': [('dma', *itertools.chain(*POLICIES)),
                   ('conversion', 'iommufd', 'type1', 'auto', 'page', 'qemu'),
                   ('request', 'iommufd no device', 'two-copy', 'qemu'),
                   ('steady memory', 'two-copy', 'qemu'),
                   ('placement', 'two-copy', 'qemu'),
                   ('vm size', *map(str, SIZES_MIB))],
         'in-place': [('request', 'iommufd no device', 'in-place'),
                      ('steady memory', 'in-place'), ('placement', 'in-place')],
         **{scheme: [('restructure', '2M 1G', scheme), ('steady memory', scheme),
                     ('placement', scheme)] for scheme in SCHEMES}}
