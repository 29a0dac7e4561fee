# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that start from private memory, firmware included.

For an L1 whose kernel converts in place: what TDX and SEV-SNP VMs do there,
but for what the hardware does.
"""

from lib.dma_map import query_map
from lib.units import MIB
from rig.lib import iommu
from rig.lib.checks import missing, not_possible
from rig.lib.l1 import EDU, L2, SCHEME
from rig.lib.configurations import IN_PLACE, PAGES_1G, PAGES_2M, Config
from rig.lib.pools import vmemmap_problems

FIRMWARE = 0xffff0000, 65536            # tests/guest/launch.S
FIRST_WORD = '0x662efcfa'               # of it
SHARED_PAGE = 0x1000000, 4096           # by it
MACHINE = {
    'machine': ['confidential-guest-support=p0'],
    'extra': ['-object', 'x-sw-protected-guest,id=p0,private-launch=on',
              '-bios', '/rig/launch.bin'],
    'ram': 64 * MIB,
}
# init=auto is private here
BACKEND = IN_PLACE.replace(',init=shared', '')
FILE = 'memory-backend-file,share=on,mem-path=/tmp/memory'

# memory-backend-guest-memfd, and what QEMU gives a guest_memfd itself
LAUNCHES = [
    Config(name, memory, vfio, platforms=(platform,), **{**MACHINE, **more})
    for name, memory, vfio, platform, more in (
        ('guest-memfd, iommufd', BACKEND, 'iommufd', 'in-place', {}),
        ('ram, type1', 'memory-backend-ram', 'type1', 'in-place', {}),
        ('memfd, iommufd', 'memory-backend-memfd', 'iommufd', 'in-place', {}),
        ('ram, preallocated', 'memory-backend-ram,prealloc=on', None, 'in-place', {}),
        ('guest-memfd, preallocated', BACKEND + ',prealloc=on', None, 'in-place', {}),
        ('2M pages, iommufd', BACKEND + PAGES_2M, 'iommufd', 'log', {}),
        ('1G page, type1', BACKEND + PAGES_1G + ',prealloc=on', 'type1', 'log',
         {'ram': 1024 * MIB}))]
WHOLE = Config('2M pages', BACKEND + PAGES_2M + ',prealloc=on', None, **MACHINE)
REFUSED = (
    (Config('huge pages', 'memory-backend-memfd' + PAGES_2M, None, **MACHINE),
     ("'m0' has huge pages", 'converted in place')),
    (Config('file', FILE, None, **MACHINE),
     ("'m0' is a file", 'use memory-backend-guest-memfd')),
)
TWO_COPY = (Config('two copies', 'memory-backend-ram', None, **MACHINE),
            ('private-launch=on: ', 'KVM_SET_MEMORY_ATTRIBUTES2'))


def only_shared(l2, config, wanted):
    """Problems if another page than @wanted, in blocks by name, is shared."""
    blocks = {block['id']: block
              for block in l2.qmp.command('query-guest-memfd')}
    problems = []
    if not {'m0', 'pc.bios'} <= set(blocks):
        problems.append(f'blocks: {sorted(blocks)}')
    for name, block in blocks.items():
        have = [block['conversion'], block['init']]
        if have != ['in-place', 'private']:
            problems.append(f'{name}: {have}')
        shared = [(run['offset'], run['size'])
                  for run in query_map(l2.qmp, name) if not run['private']]
        if shared != wanted.get(name, []):
            problems.append(f'{name}: shared is {shared}')
    if blocks['m0']['size'] != config.ram:
        problems.append(f"size of m0: {blocks['m0']['size']}")
    return problems


def show(l2, address):
    """What QEMU can read there."""
    return l2.qmp.command('human-monitor-command', **{
        'command-line': f'xp /1xw {address:#x}'})


def page_is_private(l1):
    """Problems if somebody else can get hold of a page of QEMU's memory."""
    code, lines = l1.shell('/rig/hold-page $(pidof qemu) 0 vmsplice </dev/null')
    return missing('\n'.join(lines) if code else 'held', ['Bad address'])


def launch(l1, tap, config):
    """All is private; firmware, which was, runs, and shares a page of RAM.

    KVM reads instructions that it emulates through the mapping, and SVM under
    TCG leaves many to it, so the firmware itself has to be shared to run.
    """
    def wrong_vmemmap(l2):
        return vmemmap_problems(l1, l2, 'prealloc' in config.memory) \
            if l1.platform in SCHEME else []

    with L2(l1, config) as l2:
        tap.result('all is private', wrong_vmemmap(l2) + only_shared(l2, config, {}) +
                   missing(show(l2, FIRMWARE[0]), ['Cannot access memory']) +
                   page_is_private(l1))
        if 'prealloc' in config.memory:
            says = l2.qmp.command('query-memdev')[0]['prealloc']
            tap.result('all is preallocated', [] if says else ['prealloc: false'])
        l2.qmp.command('x-guest-memfd-convert', id='pc.bios', offset=0,
                       size=FIRMWARE[1], private=False)
        tap.result('the firmware is there',
                   missing(show(l2, FIRMWARE[0]), [FIRST_WORD]))
        l2.qmp.command('cont')
        _summary, problems = l2.run_until_pause()
        tap.result('it runs, and shares a page', problems or
                   only_shared(l2, config, {'pc.bios': [(0, FIRMWARE[1])],
                                            'm0': [SHARED_PAGE]}) +
                   missing(show(l2, SHARED_PAGE[0]), ['0x600dda7a']) +
                   wrong_vmemmap(l2))
        if problems:
            return
        if config.vfio:
            tap.result('the IOMMU holds that page, no other of RAM',
                       iommu.compare_pages(iommu.READ[l1.platform](l1, EDU),
                                           query_map(l2.qmp, 'm0'), config.ram))
        l1.release()
        tap.result('the firmware got its page back', l2.bad_end())


def nr_split(l1):
    """How many huge pages the kernel has split."""
    return int(l1.run('cat /sys/kernel/debug/folio_restructure/split')[0])


def stays_whole(l1, tap, config):
    """Huge pages are preallocated when they are private: whole.

    What QEMU writes before splits some.
    """
    before = nr_split(l1)
    with L2(l1, config) as l2:
        tap.result('all is private', only_shared(l2, config, {}))
        split = nr_split(l1) - before
    pages = config.ram // (2 * MIB)
    tap.result(f'{split} of {pages} huge pages were split',
               ['expected fewer'] if split >= pages else [])


def scenarios(platform):
    """(name, function, configuration) of all that runs with this kernel."""
    if platform == 'intel':
        yield f'launch: refused, {TWO_COPY[0].name}', not_possible, TWO_COPY
    for config in LAUNCHES:
        if platform in config.platforms:
            yield f'launch: {config.name}', launch, config
    if platform == 'log':
        yield f'launch: preallocated whole, {WHOLE.name}', stays_whole, WHOLE
    if platform == 'in-place':
        for config, words in REFUSED:
            yield f'launch: refused, {config.name}', not_possible, (config, words)
