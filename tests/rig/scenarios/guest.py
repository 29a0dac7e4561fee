# SPDX-License-Identifier: GPL-2.0-or-later
"""What L1 has; the guest of tests/guest with each kind of memory and container."""

from lib.dma_map import all_shared, query_map
from lib.units import MIB
from rig.lib import iommu
from rig.lib.l1 import EDU, L2
from rig.lib.machines import (EMULATED, IN_PLACE, PAGES_1G, PAGES_2M, PROTECTED,
                              SHARED, TWO_COPY, Row)

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


def scenarios(config):
    """(name, function, row)"""
    if config == 'intel':
        yield 'KVM', kvm_offers, None
        yield 'devices', devices_exist, None
    for row in GUESTS:
        if config in row.configs:
            yield f'guest, {row.name}', guest_runs, row
    if config == 'intel':
        for row in SHAPES:
            yield f'shapes, {row.name}', shapes, row
