# SPDX-License-Identifier: GPL-2.0-or-later
"""What L1 has; the guest of tests/guest with each kind of memory and container."""

from lib.dma_map import all_shared, query_map
from lib.units import MIB
from rig.lib import iommu
from rig.lib.l1 import EDU, L2, SCHEMES
from rig.lib.configurations import (EMULATED, IN_PLACE, PAGES_1G, PAGES_2M, PROTECTED,
                                    PROTECTED_IN_PLACE, PROTECTED_TWO_COPY, SHARED,
                                    TWO_COPY, WRITTEN, Config)

# Each runs the guest of tests/guest
GUESTS = (
    Config('4K pages, iommufd', EMULATED, 'iommufd', platforms=('intel', 'amd')),
    Config('cut, 4K pages, iommufd', EMULATED, 'iommufd', split='cut'),
    Config('4K pages, type1', EMULATED, 'type1'),
    Config('2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd'),
    Config('2M pages, type1', EMULATED + PAGES_2M, 'type1',
           platforms=('intel', 'amd')),
    Config('two-copy, 4K pages, iommufd', WRITTEN, 'iommufd', **PROTECTED_TWO_COPY),
    Config('two-copy, 2M pages, type1', TWO_COPY + PAGES_2M, 'type1',
           **PROTECTED),
    Config('two-copy, 1G pages, iommufd', TWO_COPY + PAGES_1G, 'iommufd',
           ram=1024 * MIB, **PROTECTED),
    # q35 with SMM shows a part of RAM at two addresses
    Config('a mapped guest_memfd, iommufd', SHARED, 'iommufd', conv='none',
           faults=0),
    Config('in-place, iommufd', WRITTEN, 'iommufd', platforms=('in-place',),
           **PROTECTED_IN_PLACE),
    Config('in-place, type1', IN_PLACE, 'type1', platforms=('in-place',),
           **PROTECTED),
    Config('in-place, cut, iommufd', IN_PLACE, 'iommufd', split='cut',
           platforms=('in-place',), **PROTECTED),
    Config('in-place, huge pages of 2M, iommufd', IN_PLACE + PAGES_2M, 'iommufd',
           platforms=SCHEMES, **PROTECTED),
    Config('in-place, huge pages of 1G, type1', IN_PLACE + PAGES_1G, 'type1',
           ram=1024 * MIB, platforms=('log',), **PROTECTED),
    Config('in-place, thp, iommufd', IN_PLACE + ',x-provider=thp', 'iommufd',
           platforms=('flat',), **PROTECTED),
    Config('a mapped guest_memfd of 2M pages, iommufd', SHARED + PAGES_2M, 'iommufd',
           conv='none', faults=0, platforms=('log',)),
    Config('in-place, page, type1', IN_PLACE, 'type1', split='page',
           ram=64 * MIB, platforms=('in-place',), **PROTECTED),
)

# Each goes through STEPS, without a guest
SHAPES = (
    Config('4K pages, iommufd', EMULATED, 'iommufd'),
    Config('cut, 4K pages, iommufd', EMULATED, 'iommufd', split='cut'),
    Config('4K pages, type1', EMULATED, 'type1'),
    Config('2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd',
           page_size=2 * MIB),
    Config('2M pages, type1', EMULATED + PAGES_2M, 'type1', page_size=2 * MIB),
    Config('1G pages, iommufd', EMULATED + PAGES_1G, 'iommufd',
           page_size=1024 * MIB, ram=2048 * MIB),
    Config('cut, 2M pages, iommufd', EMULATED + PAGES_2M, 'iommufd',
           page_size=2 * MIB, split='cut'),
    Config('1G pages, type1', EMULATED + PAGES_1G, 'type1',
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


def guest_runs(l1, tap, config):
    """The guest of tests/guest with edu; the IOMMU while it waits."""
    words = config.guest
    if config.faults:
        words += f' faults={config.faults}'
        l1.mark(f'expect-fault {config.faults}')
    with L2(l1, config, words) as l2:
        summary, problems = l2.run_until_pause()
        if not problems and summary.get('blocked', 0) != config.faults:
            problems = [f'{config.faults} DMAs to private memory were wanted: '
                        f'{summary}']
        tap.result('the guest verified DMA', problems)
        if not problems:
            runs = (all_shared(config.ram) if config.memory.startswith(SHARED) else
                    query_map(l2.qmp, 'm0'))
            entries = iommu.READ[l1.platform](l1, EDU)
            tap.result('the IOMMU holds the shared pages, no others',
                       iommu.compare_pages(entries, runs, config.ram))
            shared = sum(run['size'] for run in runs if not run['private'])
            wanted = summary['shared-pages'] * 4096
            if not config.memory.startswith(EMULATED):
                # all that the guest does not convert stays as it began
                wanted += config.ram - summary['pages'] * 4096
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


def shapes(l1, tap, config):
    """Conversions of all shapes: pages and sizes of entries in the IOMMU."""
    model = iommu.CutExtents() if config.split == 'cut' else iommu.Extents()
    with L2(l1, config) as l2:
        for offset, size, private in STEPS:
            offset %= config.ram
            size = size or config.ram
            what = f"{offset:#x}+{size:#x} to " \
                f"{'private' if private else 'shared'}"
            l2.qmp.command('x-guest-memfd-convert', id='m0', offset=offset,
                           size=size, private=private)
            (model.take if private else model.share)(offset, offset + size)
            entries = iommu.READ[l1.platform](l1, EDU)
            problems = iommu.compare_pages(entries, query_map(l2.qmp, 'm0'),
                                           config.ram)
            if not problems:
                problems = compare_extents(l2, model)
            if config.page_size > 4096 and not problems:
                problems = iommu.compare_entries(
                    entries, model.entries(config.page_size), config.ram)
            sizes = [f'{sum(e[1] == s and e[0] < config.ram for e in entries)} '
                     f'of {s >> 10}K' for s in iommu.SIZES]
            tap.result(f"{what}: {', '.join(sizes)}", problems)


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == 'intel':
        yield 'KVM', kvm_offers, None
        yield 'devices', devices_exist, None
    for config in GUESTS:
        if platform in config.platforms:
            yield f'guest, {config.name}', guest_runs, config
    if platform == 'intel':
        for config in SHAPES:
            yield f'shapes, {config.name}', shapes, config
