# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is converted in place: reboot, DIMMs, and a vfio-user server.

For an L1 whose kernel does so (tests/rig/kernel).
"""

import json

from lib.dma_map import query_map
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.checks import VM, memory_used, missing
from rig.lib.dimm import delete_object, plug, unplug
from rig.lib.l1 import EDU, L2
from rig.lib.configurations import IN_PLACE, PAGES_2M, PROTECTED, Config
from rig.lib.pools import pools, wait_for_pools
from rig.lib.server import CONTROL, SERVER, Server

REBOOT = Config('iommufd', IN_PLACE, 'iommufd', ram=64 * MIB,
                machine=PROTECTED['machine'], conv=PROTECTED['conv'],
                extra=PROTECTED['extra'] + ['-action', 'reboot=reset'])
# Below what SeaBIOS uses: a VM that cannot reboot just stops
REBOOT_WORDS = (f'conv={REBOOT.conv} base=16 area=30 rounds=1 mix=200 '
                'touch=1 keep=1 reboot=1 pause=1')

# The DIMM is of the same memory
DIMMS = [Config(name, IN_PLACE + pages, vfio, ram=64 * MIB,
                machine=PROTECTED['machine'], platforms=(platform,),
                extra=REBOOT.extra + ['-m', 'slots=2,maxmem=1G'])
         for name, pages, vfio, platform in (
             ('iommufd', '', 'iommufd', 'in-place'),
             ('type1', '', 'type1', 'in-place'),
             ('huge pages, iommufd', PAGES_2M, 'iommufd', 'log'))]
DIMM_SIZE = 32 * MIB
# (offset, size, private)
DIMM_STEPS = (
    (4 * MIB, 2 * MIB, True),
    (5 * MIB, 3 * PAGE, False),
    (DIMM_SIZE - 7 * PAGE, 7 * PAGE, True),
    (0, 16 * MIB, False),
    (0, DIMM_SIZE, True),
    (PAGE, DIMM_SIZE - 2 * PAGE, False),
)
# A server that has no file of the memory does DMA by messages: then libvfio-user
# takes no other request
USERS = [(share, Config('in-place', IN_PLACE, None, ram=64 * MIB,
                        machine=PROTECTED['machine'], conv=PROTECTED['conv'],
                        extra=PROTECTED['extra'] + ['-device', json.dumps({
                         'driver': 'vfio-user-pci', 'x-share-memory': share,
                         'x-no-posted-writes': True,
                         'socket': {'type': 'unix', 'path': SERVER}})]))
         for share in (False, True)]


def private_runs(vm):
    """Problems if not all is shared."""
    return [f'private: {run}' for run in vm.runs() if run['private']]


def guest_reboots(l1, tap, config):
    """A guest that resets its VM finds it in its initial state."""
    with L2(l1, config, REBOOT_WORDS) as l2:
        vm = VM(l1, l2, config)
        for boot in (1, 2):
            summary, problems = l2.run_until_pause()
            if not problems and summary.get('boot') != boot:
                problems = [f'this is no boot number {boot}: {summary}']
            problems = problems or vm.problems() + private_runs(vm)
            tap.result(f'boot {boot}: all is shared, and in the IOMMU',
                       problems)
            if problems:
                return
            l1.release()
            _summary, problems = l2.run_until_pause()
            if not problems and not private_runs(vm):
                problems = ['nothing is private']
            tap.result(f'boot {boot}: the guest converts',
                       problems or vm.problems())
            if problems:
                return
            l1.release()
        tap.result('QEMU ended well', l2.bad_end())
        # SeaBIOS does it once more, to get rid of its copy in RAM
        reasons = {event['data']['reason'] for event in l2.qmp.events
                   if event['event'] == 'RESET'}
        tap.result('it was the guest that reset',
                   [f'{reasons}'] if reasons != {'guest-reset'} else [])


def dimm(l1, tap, config):
    """A DIMM is plugged in, converted, reset, taken away."""
    with L2(l1, config) as l2:
        other = VM(l1, l2, config)
        other.convert(16 * MIB, MIB, True)
        for number in range(2):
            before, free = memory_used(l1), pools(l1)
            vm = plug(l1, l2, config, config.memory, DIMM_SIZE, number)
            tap.result(f'plugged in, {number}: all is in the IOMMU',
                       vm.problems() + private_runs(vm))
            for step in DIMM_STEPS:
                answer, problems = vm.attempt(*step)
                tap.result('{}: {:#x}+{:#x} private={}'.format(number, *step),
                           problems + ([answer] if answer else []))
            try:
                answer = str(l2.qmp.command('object-del', id='d0'))
            except QmpError as err:
                answer = str(err)
            tap.result(f'{number}: it is in use', missing(answer, ['in use']))
            if number:
                # the other one goes with private pages
                l2.qmp.reset()
                tap.result('a reset makes all shared',
                           vm.problems() + private_runs(vm))
            problems = unplug(l2, number)
            left = [entry for entry in iommu.READ[l1.platform](l1, EDU)
                    if vm.base <= entry[0] < vm.base + DIMM_SIZE]
            if left:
                problems.append(f'in the IOMMU: {left[:5]}')
            problems += delete_object(l2)
            tap.result(f'unplugged, {number}', problems + other.problems())
            tap.result(f'its huge pages are back, {number}',
                       wait_for_pools(l1, free))
            left = memory_used(l1) - before
            tap.result(f'no memory is left of it, {number}',
                       [f'{left} bytes'] if left > MIB else [])


def user(l1, tap, config):
    """A vfio-user server does DMA, with and without the file of the memory."""
    share, config = config
    server = Server(l1)
    with L2(l1, config, config.guest) as l2:
        _summary, problems = l2.run_until_pause()
        tap.result('the guest verified DMA', problems)
        if not problems:
            tap.result('the server has the shared pages', iommu.compare_pages(
                server.maps(), query_map(l2.qmp, 'm0'), config.ram))
            # above the firmware
            files = {' fd' in line
                     for line in l1.run(f'/rig/query {CONTROL} maps')
                     if MIB <= int(line.split()[0], 16) < config.ram}
            tap.result('and their file' if share else 'and no file',
                       [f'{files}'] if files != {share} else [])
            l1.release()
            tap.result('QEMU ended well', l2.bad_end())
    server.kill()


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == 'in-place':
        for share, config in USERS:
            yield (f"vfio-user, {'a' if share else 'no'} file of the memory", user,
                   (share, config))
        yield f'the guest reboots, {REBOOT.name}', guest_reboots, REBOOT
    for config in DIMMS:
        if platform in config.platforms:
            yield f'a DIMM, {config.name}', dimm, config
