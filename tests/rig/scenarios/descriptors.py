# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU gets the file descriptors of iommufd and of devices, as from libvirt 12.

It opens neither, so these descriptors are all that it needs. A device that goes and
comes back has another one then: QEMU has closed the first.
"""

import json

from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.checks import VM, listeners, missing
from rig.lib.configurations import EMULATED, IN_PLACE, PORT, PROTECTED, Config
from rig.lib.l1 import EDU, L2, SECOND_EDU

HUGE = 2 * MIB
RAM = 64 * MIB
IOMMUFD, FIRST, SECOND, AGAIN = 6, 7, 8, 9
# L1's kernel gives each device a number
OPENED = ('device() { set -- /sys/bus/pci/devices/$1/vfio-dev/*; '
          'echo /dev/vfio/devices/${1##*/}; }; '
          f'first=$(device {EDU}) second=$(device {SECOND_EDU}); '
          f'exec "$@" {IOMMUFD}<>/dev/iommu {FIRST}<>$first {SECOND}<>$second '
          f'{AGAIN}<>$second')


def device(name, fd, split, **more):
    """The device behind a descriptor."""
    return {'driver': 'vfio-pci', 'id': name, 'iommufd': 'iommufd0', 'fd': str(fd),
            'x-dma-split': split, **more}


def given(memory, split, **more):
    """A VM whose process inherits the descriptors."""
    extra = more.pop('extra', []) + PORT + [
        '-object', json.dumps({'qom-type': 'iommufd', 'id': 'iommufd0',
                               'fd': str(IOMMUFD)}),
        '-device', json.dumps(device('edu0', FIRST, split))]
    return Config(split, memory, None, ram=RAM, split=split, extra=extra,
                  prefix=['sh', '-c', OPENED, 'sh'], **more)


def mapped(vm):
    """(mappings, bytes) of the device."""
    infos = listeners(vm).values()
    return (sum(info['extents'] for info in infos),
            sum(info['mapped-bytes'] for info in infos))


def converted(vm, split):
    """Problems with a page that is taken out of 2 MiB."""
    before = mapped(vm)
    problems = []
    for offset, size, private in ((48 * MIB, HUGE, True), (48 * MIB, HUGE, False),
                                  (49 * MIB, PAGE, True)):
        answer, wrong = vm.attempt(offset, size, private)
        problems += wrong + ([answer] if answer else [])
    count, size = mapped(vm)
    if split == 'page' and size != count * PAGE:
        problems.append(f'{count} mappings of {size} bytes')
    # 2 MiB that lost one page in the middle; the memory before it keeps its mappings
    if split == 'cut' and count > before[0] + 3:
        problems.append(f'{before[0]} mappings became {count}')
    answer, wrong = vm.attempt(49 * MIB, PAGE, False)
    return problems + wrong + ([answer] if answer else [])


def plugged(l1, vm, fd, split):
    """Problems with a second device that comes by a descriptor, and goes."""
    qmp = vm.l2.qmp
    qmp.command('device_add', **device('edu1', fd, split, bus='rp'))
    entries = iommu.READ[l1.platform](l1, SECOND_EDU)
    problems = iommu.compare_pages(entries, vm.runs(), RAM)
    problems += converted(vm, split)
    qmp.command('device_del', id='edu1')
    qmp.wait(lambda event: event['event'] == 'DEVICE_DELETED' and
             event['data'].get('device') == 'edu1')
    return problems + vm.problems()


def runs(l1, tap, config):
    """The guest's DMA, conversions, and a second device that comes and goes."""
    with L2(l1, config, config.guest) as l2:
        vm = VM(l1, l2, config)
        _summary, problems = l2.run_until_pause()
        tap.result('the guest verified DMA', problems)
        if problems:
            return
        tap.result('QEMU and the IOMMU agree', vm.problems())
        tap.result('conversions beside it', converted(vm, config.split))
        for fd in (SECOND, AGAIN):
            tap.result(f'a second device comes by descriptor {fd}',
                       plugged(l1, vm, fd, config.split))
            tap.result('QEMU has closed it', missing(
                ' '.join(l1.run(f'[ -e /proc/{vm.pid}/fd/{fd} ] || echo closed')),
                ['closed']))
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


CONFIGS = {
    'intel': [given(EMULATED, split) for split in ('page', 'cut')],
    'in-place': [given(IN_PLACE, 'auto', **PROTECTED)],
}


def scenarios(platform):
    """(name, function, configuration)"""
    for config in CONFIGS.get(platform, ()):
        yield f'file descriptors, {config.name}', runs, config
