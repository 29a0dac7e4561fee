# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs whose memory is huge pages of a guest_memfd that converts in place.

For an L1 whose kernel has them (tests/rig/kernel), in each of the schemes. At every
checkpoint guest, QEMU, IOMMU and kernel have to agree, on the vmemmap as well.
"""

import os

from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.checks import (VM, agree, missing, not_possible, run_batch,
                            setting, states_agree)
from rig.lib.configurations import (IN_PLACE, PAGES_1G, PAGES_2M, PROTECTED, Config)
from rig.lib.dimm import add_object, delete_object, plug, unplug
from rig.lib.l1 import EDU, L2, SCHEME, SCHEMES
from rig.lib.pools import pools, vmemmap, vmemmap_problems, wait_for_pools

BATCHES = 3
# Random conversions of all MIXED on all platforms
CONVERSIONS = int(os.environ.get('CONVERSIONS') or
                  (10000 if os.environ.get('QUICK') else 100000))
BASE_MIB, AREA_MIB = 16, 46
HUGE, GIANT = 2 * MIB, 1024 * MIB
PREALLOC = ',prealloc=on'
# Without prealloc=on it is the device, or the guest, that comes across a page first
MIXED = [Config(name, IN_PLACE + pages, vfio, ram=ram * MIB, platforms=platforms,
                split=split, **PROTECTED)
         for name, pages, vfio, split, ram, platforms in (
             ('2M, iommufd', PAGES_2M + PREALLOC, 'iommufd', None, 64, tuple(SCHEME)),
             ('2M, type1', PAGES_2M, 'type1', None, 64, ('log', 'log-amd')),
             ('2M, cut, iommufd', PAGES_2M + PREALLOC, 'iommufd', 'cut', 64,
              ('flat',)),
             ('2M, no device', PAGES_2M, None, None, 64, ('staged', 'flat')),
             ('1G, iommufd', PAGES_1G + PREALLOC, 'iommufd', None, 1024,
              ('staged', 'log')),
             ('thp, iommufd', ',x-provider=thp' + PREALLOC, 'iommufd', None, 64,
              ('log',)))]
BATCH = -(-CONVERSIONS // sum(len(config.platforms) for config in MIXED) // BATCHES)
# Two CPUs, each with a part of the memory; they share a huge page
CPUS = Config('2M, iommufd', IN_PLACE + PAGES_2M, 'iommufd', ram=64 * MIB,
              machine=PROTECTED['machine'], conv=PROTECTED['conv'],
              extra=PROTECTED['extra'] + ['-smp', '2'])
STORM = 2000
DIMM = Config('iommufd', IN_PLACE, 'iommufd', ram=64 * MIB,
              machine=PROTECTED['machine'],
              extra=PROTECTED['extra'] + ['-m', 'slots=2,maxmem=2G'])
PRIVATE = IN_PLACE.replace('shared', 'private')
# (name, options, size of a huge page, size, platforms)
DIMMS = (('2M', PAGES_2M + PREALLOC, HUGE, 64 * MIB, tuple(SCHEME)),
         ('1G', PAGES_1G + PREALLOC, GIANT, GIANT, ('staged', 'log')))
KILLED = Config('2M', IN_PLACE + PAGES_2M, 'iommufd', ram=64 * MIB, **PROTECTED)
NODES = '/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/'
BIND = PAGES_2M + ',policy=bind'
ON_NODE_0 = Config('2M', IN_PLACE + BIND + ',host-nodes=0' + PREALLOC, 'iommufd',
                   ram=64 * MIB, machine=DIMM.machine, extra=DIMM.extra)
# The monitor takes a list by its elements
ON_NODE_1 = PRIVATE + BIND + ',host-nodes.0=1'
NO_PAGE = 'nodes that policy=bind allows (1): 32 needed, 0 free'
REFUSED = (
    (Config('a pool that is short', IN_PLACE + PAGES_1G, None, ram=4096 * MIB,
            **PROTECTED), ('not enough free huge pages of 1 GiB', '4 needed')),
    (Config('not a multiple', IN_PLACE + PAGES_2M, None, ram=65 * MIB,
            **PROTECTED), ('multiple', '2 MiB')),
)


def random_mix(l1, tap, config):
    """Random conversions with DMA: data survives, and all agree after each batch."""
    words = (f'conv={config.conv} base={BASE_MIB} area={AREA_MIB} '
             f'rounds={BATCHES} mix={BATCH} '
             f'seed={1 + MIXED.index(config)} touch=1 keep=1 pause=1')
    allocated = config.vfio or PREALLOC in config.memory
    with L2(l1, config, words) as l2:
        for batch in range(BATCHES):
            end, seconds, problems = run_batch(l1)
            problems = problems or agree(l1, l2, config, end, AREA_MIB * MIB) + \
                vmemmap_problems(l1, l2, allocated)
            tap.result(f"batch {batch}: {end.get('shared-pages')} pages are shared",
                       problems)
            if problems:
                return
            tap.note(f'{BATCH / seconds:.0f} a second')
            l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def several_cpus(l1, tap, config):
    """Two CPUs convert parts of the same huge pages at once."""
    words = (f'conv={config.conv} base={BASE_MIB} area={AREA_MIB} cpus=2 '
             f'storm={STORM} ops={STORM} keep=1 pause=1')
    with L2(l1, config, words) as l2:
        end, problems = l2.run_until_pause()
        problems = problems or \
            states_agree(l1, l2, config, end['shared-pages'], AREA_MIB * MIB) + \
            vmemmap_problems(l1, l2)
        tap.result(f"{end.get('conversions')} conversions", problems)
        if problems:
            return
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def entries_of(l1, vm, size):
    """{size: how many} entries of the IOMMU for a block."""
    sizes = [length for address, length in iommu.READ[l1.platform](l1, EDU)
             if vm.base <= address < vm.base + size]
    return {length: sizes.count(length) for length in set(sizes)}


def starts_private(l1, tap, dimm):
    """A DIMM that starts private: whole huge pages, until parts are shared.

    The memory beside it is small pages, all shared.
    """
    _name, options, page_size, size, _platforms = dimm
    with L2(l1, DIMM) as l2:
        vm = plug(l1, l2, DIMM, PRIVATE + options, size)
        held = vmemmap(l1)
        tap.result('all of it is whole', vm.problems() +
                   vmemmap_problems(l1, l2) + ([f'{held}'] if held else []))
        answer, problems = vm.attempt(5 * PAGE, PAGE, False)
        problems += [answer] if answer else []
        problems += vmemmap_problems(l1, l2)
        held = vmemmap(l1)
        tap.result(f'one page is shared: {held} bytes of vmemmap', problems +
                   ([] if held else ['none']))
        # what was mapped by itself would stay a mapping of its own
        vm.convert(5 * PAGE, PAGE, True)
        answer, problems = vm.attempt(0, size, False)
        problems += [answer] if answer else []
        # the pages of a huge page are small, and adjacent
        entry = min(page_size, iommu.LARGEST[l1.platform])
        if entries_of(l1, vm, size) != {entry: size // entry}:
            problems.append(f'{entries_of(l1, vm, size)}')
        tap.result(f'all is shared: entries of {entry >> 10} KiB in the IOMMU',
                   problems)
        answer, problems = vm.attempt(0, size, True)
        problems += [answer] if answer else []
        problems += vmemmap_problems(l1, l2)
        held = vmemmap(l1)
        tap.result('all is private: whole again', problems +
                   ([f'{held}'] if held else []))
        answer, problems = vm.attempt(7 * PAGE, 9 * PAGE, False)
        problems += [answer] if answer else []
        tap.result('it goes while a part is shared',
                   problems + unplug(l2) + delete_object(l2))


def free_pages(l1):
    """How many of 2 MiB each node has."""
    return [int(l1.run(f'cat {NODES.format(node)}free_hugepages')[0])
            for node in range(2)]


def bound(l1, tap, config):
    """Memory comes from the pool of the node that it is bound to, or not at all."""
    free = free_pages(l1)
    size = config.ram

    def taken(*wanted):
        have = [(had - now) * HUGE for had, now in zip(free, free_pages(l1))]
        return [f'{have}, expected {wanted}'] if have != list(wanted) else []

    with L2(l1, config) as l2:
        tap.result('node 0', taken(size, 0))
        with_one = pools(l1)
        vm = plug(l1, l2, config, ON_NODE_1 + PREALLOC, size)
        tap.result('node 1', taken(size, size))
        for block in (VM(l1, l2, config), vm):
            for private in (True, False, True):
                answer, problems = block.attempt(33 * PAGE, 31 * MIB, private)
                tap.result(f'parts of it, private={private}',
                           problems + ([answer] if answer else []) +
                           vmemmap_problems(l1, l2) + taken(size, size))
        tap.result('its pages go back',
                   unplug(l2) + delete_object(l2) +
                   wait_for_pools(l1, with_one) + taken(size, 0))
        with setting(l1, f'{NODES.format(1)}nr_hugepages', 0):
            tap.result('node 1 is empty: QEMU says so', missing(
                add_object(l2, ON_NODE_1 + PREALLOC, size), [NO_PAGE]))
            tap.result('without it, the object is refused', missing(
                add_object(l2, ON_NODE_1, size), ['policy=bind', 'needs prealloc=on']))


def killed(l1, tap, config):
    """QEMU is killed while its guest converts: the runner looks what it left."""
    words = f'conv={config.conv} base={BASE_MIB} area={AREA_MIB} rounds=50 ' \
        'mix=3000 touch=1 keep=1'
    with L2(l1, config, words) as l2:
        while not l1.console.readline().startswith('begin '):
            if l1.console.ended:
                tap.result('the guest runs', l2.bad_end())
                return
        l1.run('kill -9 $(pidof qemu)')
        l2.wait()


def warns(l1, tap, config):
    """What starts shared starts in small pieces."""
    with L2(l1, config) as l2:
        tap.result('QEMU warns', missing(VM(l1, l2, config).said(),
                                         ['warning', 'init=shared']))


def scenarios(platform):
    """(name, function, configuration)"""
    for config in MIXED:
        if platform in config.platforms:
            yield f'huge pages, random, {config.name}', random_mix, config
    for dimm in DIMMS:
        name, *_, platforms = dimm
        if platform in platforms:
            yield (f'huge pages, a DIMM that starts private, {name}',
                   starts_private, dimm)
    if platform != SCHEMES[-1]:
        return
    yield f'huge pages, two CPUs, {CPUS.name}', several_cpus, CPUS
    yield f'huge pages, bound to nodes, {ON_NODE_0.name}', bound, ON_NODE_0
    yield 'huge pages, QEMU is killed', killed, KILLED
    yield 'huge pages, a warning', warns, KILLED
    for config, words in REFUSED:
        yield f'huge pages, refused, {config.name}', not_possible, (config, words)
