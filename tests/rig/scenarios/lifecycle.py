# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that come and go, several of them, and limits of their mappings.

In each state the IOMMU, and a vfio-user server where there is one, have exactly
the shared pages mapped.
"""

import os
import time

from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.checks import (LISTENER, VM, del_device, failed_conversions,
                            listeners, missing, must_refuse, not_possible,
                            setting)
from rig.lib.l1 import EDU, L2, SECOND_EDU
from rig.lib.configurations import (EMULATED, PAGES_2M, PORT, PROTECTED, TWO_COPY,
                              Config)
from rig.lib.server import SERVER, Server

GIB = 1024 * MIB
HUGE = 2 * MIB
NO_ROOM = 'No space left on device (a device has no DMA mapping left'
ENTRY_LIMIT = '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit'
# Of these an eighth is left to memory that comes later
FEW = 256
LEFT = FEW // 8
# So few that the ROMs of a VM that begins private need more
TOO_FEW = (1, 2)
# The reserve, and one more
DIMMS = 64 // 8 + 1
MANY = 10000 if os.environ.get('QUICK') else 100000
PLUGS = 8
# On a slow host more of the guest's requests fall into one coming and going
ENOUGH = 2
QTEST = '/tmp/qtest'


def extents(vm):
    """All that is mapped for one device."""
    return sum(listener['extents']
               for listener in listeners(vm).values())


def entry_limit(l1, limit):
    """No new container of type1 has more mappings."""
    return setting(l1, ENTRY_LIMIT, limit)


# Limits

def budget(l1, tap, config):
    """Conversions up to the limit of a container, and beyond it."""
    with entry_limit(l1, FEW), L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        huge = 32 * MIB
        problems = [vm.convert(huge, HUGE, False)]
        problems += [vm.convert(MIB + n * 2 * PAGE, PAGE, False)
                     for n in range(FEW - LEFT - 4)]
        room = FEW - LEFT - extents(vm)
        tap.result(f'{extents(vm)} mappings, room for {room}',
                   list(filter(None, problems)) + vm.problems() +
                   ([] if 0 < room < 9 else ['no room for a test']))

        # nine, naturally aligned
        answer, problems = vm.attempt(huge + 5 * PAGE, PAGE, True)
        tap.result('a split that has no room for its pieces has two',
                   problems + ([answer] if answer else []) +
                   ([] if FEW - LEFT - extents(vm) == room - 1
                    else [f'{extents(vm)} mappings']))
        for number in range(room):
            answer, problems = vm.attempt(48 * MIB + number * 2 * PAGE,
                                               PAGE, False)
            if answer or problems:
                break
        tap.result('up to the limit', problems + missing(answer, [NO_ROOM])
                   if answer else ['it was never reached'])
        for what, offset, size, private in (
                ('a page', 56 * MIB, PAGE, False),
                ('a page and more', 16 * MIB, 8 * MIB, False)):
            answer, problems = vm.attempt(offset, size, private)
            tap.result(f'{what} beyond it is refused',
                       problems + missing(answer, [NO_ROOM]))
        tap.result('an event says so', missing(
            ' '.join(failed_conversions(l2)), [NO_ROOM]))
        answer, problems = vm.attempt(MIB + PAGE, PAGE, False)
        tap.result('a page between two makes one mapping of three',
                   problems + ([answer] if answer else []))
        answer, problems = vm.attempt(MIB + PAGE, PAGE, True)
        tap.result('and goes back', problems + ([answer] if answer else []))
        # memory that is plugged in has the part that was left
        l2.qmp.command('object-add', id='d0', size=128 * MIB, **{
            'qom-type': 'memory-backend-ram'})
        l2.qmp.command('device_add', driver='pc-dimm', id='dimm0', memdev='d0')
        tap.result('other memory is plugged in', vm.problems())

        answer = vm.convert(huge + 9 * PAGE, PAGE, True)
        lost = vm.problems()
        tap.result('a split beyond it loses what has no mapping',
                   ([answer] if answer else []) +
                   ([] if lost else ['nothing is missing']) +
                   missing(vm.said(), ['cannot reach all of']))

        answer = vm.convert(MIB, 8 * PAGE, True)
        tap.result('mappings are given back', [answer] if answer else [])
        answer, problems = vm.attempt(56 * MIB, PAGE, False)
        tap.result('a page works again, and all is there',
                   problems + ([answer] if answer else []))


class High(VM):
    """The part of a VM's memory that is above 4 GiB."""

    LOW = 2 * GIB

    def __init__(self, l1, l2, config):
        super().__init__(l1, l2, config, base=4 * GIB, size=config.ram - self.LOW)

    def convert(self, offset, size, private):
        return super().convert(self.LOW + offset, size, private)

    def runs(self):
        return [{'private': run['private'],
                 'offset': max(0, run['offset'] - self.LOW),
                 'size': run['offset'] + run['size'] -
                         max(run['offset'], self.LOW)}
                for run in super().runs()
                if run['offset'] + run['size'] > self.LOW]


def no_room_for_roms(l1, tap, config):
    """Other memory has no mapping: the VM does not start."""
    for limit in TOO_FEW:
        with entry_limit(l1, limit):
            tap.result(f'{limit}: refused with the reason', must_refuse(
                l1, config, ['No space left on device', 'unable to continue']))


def no_room_for_dimms(l1, tap, config):
    """Nor has memory that is plugged in: the VM that ran stops, and is there."""
    with entry_limit(l1, 64), L2(l1, config, config.guest) as l2:
        vm = VM(l1, l2, config)
        _, problems = l2.run_until_pause()
        offset = 40 * MIB
        while not vm.convert(offset, PAGE, False):
            offset += 2 * PAGE
        for n in range(DIMMS):
            l2.qmp.command('object-add', id=f'd{n}', size=HUGE, **{
                'qom-type': 'memory-backend-ram'})
            l2.qmp.command('device_add', driver='pc-dimm', id=f'dimm{n}',
                           memdev=f'd{n}')
        l2.qmp.wait(lambda event: event['event'] == 'STOP')
        status = l2.qmp.command('query-status')['status']
        tap.result('the VM stops', problems + (
            [] if status == 'internal-error' else [f'status {status}']) +
            missing(vm.said(), ['No space left on device',
                                     'unable to continue']))


def large(l1, tap, config):
    """A VM far larger than a container has mappings for its pages."""
    with L2(l1, config) as l2:
        vm = High(l1, l2, config)
        tap.result('it starts', vm.problems())
        for offset, size, private in ((60 * GIB - HUGE, HUGE, False),
                                      (32 * GIB, 4 * HUGE, False),
                                      (32 * GIB + HUGE, PAGE, True),
                                      (60 * GIB - HUGE, HUGE, True)):
            answer, problems = vm.attempt(offset, size, private)
            tap.result(f'{offset:#x}+{size:#x} private={private}',
                       problems + ([answer] if answer else []))


# Devices that come and go

def add_edu(l2, vfio):
    """Plug edu in."""
    extra = {'iommufd': 'iommufd0'} if vfio == 'iommufd' else {}
    l2.qmp.command('device_add', driver='vfio-pci', id='dev', bus='rp',
                   host=EDU, **extra)


def plug_config(memory, vfio, **more):
    """A VM whose device comes later."""
    extra = PORT + more.pop('extra', [])
    if vfio == 'iommufd':
        extra += ['-object', 'iommufd,id=iommufd0']
    config = Config(vfio, memory, None, extra=extra, **more)
    config.plugged = vfio
    return config


def requests(vm):
    """How many conversions were requested."""
    block = vm.l2.qmp.command('query-guest-memfd')[0]
    return block['to-private']['requests'] + block['to-shared']['requests']


def plug_often(vm, vfio):
    """Plug and unplug; how often the guest has converted meanwhile.

    That is counted from when it begins, and ends when it waits.
    """
    changed = idle = 0
    while changed < PLUGS and idle < 3:
        before = requests(vm)
        add_edu(vm.l2, vfio)
        del_device(vm, vfio)
        if requests(vm) > before:
            changed += 1
            idle = 0
        elif changed:
            idle += 1
    return changed


def plugging(l1, tap, config):
    """A device comes and goes while the guest converts, without pause."""
    words = f'conv={config.conv} base=16 area=16 rounds=2 mix=2000 chunk=4 pause=1'
    with L2(l1, config, words) as l2:
        vm = VM(l1, l2, config)
        changed = plug_often(vm, config.plugged)
        add_edu(l2, config.plugged)
        tap.result(f'it came and went {changed} times while memory converted',
                   ['too few'] if changed < ENOUGH else [])
        for step in range(2):
            _summary, problems = l2.run_until_pause()
            tap.result(f'the guest has converted, {step}',
                       problems or vm.problems())
            if problems:
                return
            l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def arriving(l1, tap, config):
    """A device comes when memory is in very many pieces."""
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        start = time.monotonic()
        # on one CPU, where one of the two wakes the other without an interrupt
        l1.run('taskset -a -p 2 $(pidof qemu) >/dev/null')
        l1.run(f'taskset 2 /rig/alternate {QTEST} {16 * MIB:#x} {MANY}')
        l1.run('taskset -a -p 3 $(pidof qemu) >/dev/null')
        tap.note(f'{MANY} pieces: {time.monotonic() - start:.1f} s')
        start = time.monotonic()
        add_edu(l2, config.plugged)
        tap.note(f'the device: {time.monotonic() - start:.1f} s')
        tap.result('all of them are mapped', vm.problems() +
                   ([] if extents(vm) == MANY
                    else [f'{extents(vm)} mappings']))
        answer, problems = vm.attempt(16 * MIB, 64 * MIB, False)
        tap.result('some become one', problems + ([answer] if answer else []))
        del_device(vm, config.plugged)
        add_edu(l2, config.plugged)
        # with the piece that follows them
        tap.result('it is back: 64 MiB are one mapping',
                   vm.problems() +
                   ([] if extents(vm) == MANY - 64 * MIB // (2 * PAGE)
                    else [f'{extents(vm)} mappings']))


# Several containers

def all_problems(l1, vm, config, server):
    """No container has anything else mapped than the shared pages."""
    found = []
    runs = vm.runs()
    for device in (EDU, SECOND_EDU):
        found += [f'{device}: {problem}' for problem in iommu.compare_pages(
            iommu.READ[l1.platform](l1, device), runs, config.ram)]
    if server:
        found += [f'vfio-user: {problem}' for problem in
                  iommu.compare_pages(server.maps(), runs, config.ram)]
    return found


def several(l1, tap, config):
    """Three containers of three kinds; one of them dies."""
    server = Server(l1)
    words = f'conv={config.conv} base=16 area=16 rounds=3 mix=600 chunk=4 pause=1'
    with L2(l1, config, words) as l2:
        vm = VM(l1, l2, config)
        l2.qmp.command('device_add', driver='vfio-user-pci', id='dev',
                       bus='rp', socket={'type': 'unix', 'path': SERVER})
        for step in range(3):
            _summary, problems = l2.run_until_pause()
            if not problems:
                problems = all_problems(l1, vm, config, server)
            tap.result(f'all have the shared pages, {step}', problems)
            if problems:
                return
            if step < 2:
                l1.release()
        kinds = sorted(name.split('@')[0] for name in listeners(vm))
        tap.result('they are of three kinds', [f'{kinds}']
                   if set(kinds) != set(LISTENER.values()) else [])

        vm.convert(16 * MIB, 16 * MIB, True)
        vm.convert(20 * MIB, HUGE, False)
        server.kill()
        for offset, size, private in ((24 * MIB, HUGE, False),
                                      (20 * MIB, PAGE, True),
                                      (20 * MIB, HUGE, True)):
            answer = vm.convert(offset, size, private)
            tap.result(f'one has died: {offset:#x}+{size:#x} private={private}',
                       all_problems(l1, vm, config, None) +
                       ([answer] if answer else []))
        del_device(vm, 'user')
        for offset, size, private in ((24 * MIB, HUGE, True),
                                      (20 * MIB, HUGE, False),
                                      (20 * MIB, PAGE, True)):
            answer = vm.convert(offset, size, private)
            tap.result(f'without it: {offset:#x}+{size:#x} private={private}',
                       all_problems(l1, vm, config, None) +
                       ([answer] if answer else []))


PLUGGING = [plug_config(TWO_COPY, vfio, ram=64 * MIB, **PROTECTED)
            for vfio in ('iommufd', 'type1')]
ARRIVING = plug_config(EMULATED, 'iommufd', ram=GIB,
                    extra=['-qtest', f'unix:{QTEST},server=on,wait=off',
                           '-qtest-log', 'none'])
BUDGET = Config('type1', EMULATED, 'type1', ram=64 * MIB,
             extra=['-m', 'slots=1,maxmem=1G'])
NO_ROMS = Config('type1', EMULATED, 'type1', ram=64 * MIB)
NO_DIMMS = Config('type1', EMULATED, 'type1', ram=64 * MIB,
               extra=['-m', f'slots={DIMMS},maxmem=1G'])
LARGE = [Config('4K pages', EMULATED, 'type1', ram=64 * GIB),
         Config('2M pages', EMULATED + PAGES_2M + ',reserve=off', 'type1',
             ram=64 * GIB)]
TOO_MANY = (Config('type1', EMULATED.replace('private', 'shared'), 'type1',
                ram=512 * MIB, split='page'),
            ('cannot map the shared part of', 'No space left on device',
             'it takes 131072 mappings', 'of 65535', 'x-dma-split=auto',
             'vfio_iommu_type1.dma_entry_limit'))
# The second edu with type1; the third container comes while they run
SEVERAL = [Config(f'vfio-user, iommufd, type1{name}', memory, 'iommufd',
               ram=64 * MIB, **dict(more, extra=more.get('extra', []) + PORT + [
                   '-device', f'vfio-pci,host={SECOND_EDU}']))
           for name, memory, more in (('', EMULATED, {}),
                                      (', two-copy', TWO_COPY, PROTECTED))]


def scenarios(platform):
    """(name, function, configuration)"""
    if platform != 'intel':
        return
    yield f'life: limit of mappings, {BUDGET.name}', budget, BUDGET
    yield 'life: no mappings for ROMs', no_room_for_roms, NO_ROMS
    yield 'life: no mappings for DIMMs', no_room_for_dimms, NO_DIMMS
    for config in LARGE:
        yield f'life: 64 GiB, {config.name}', large, config
    yield 'life: more mappings than can be', not_possible, TOO_MANY
    for config in PLUGGING:
        yield f'life: plugging, {config.name}', plugging, config
    yield f'life: arriving late, {ARRIVING.name}', arriving, ARRIVING
    for config in SEVERAL:
        yield f'life: several, {config.name}', several, config
