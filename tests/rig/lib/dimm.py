# SPDX-License-Identifier: GPL-2.0-or-later
"""DIMMs that come and go."""

import time

from lib.error import HarnessError
from lib.qmp import QmpError
from rig.lib.checks import VM

# Ports of ACPI, by which a guest gives a DIMM back
SLOT, FLAGS, EJECT = 0xa00, 0xa14, 8
# Against hangs, in seconds
PATIENCE = 60


def add_object(l2, memory, size):
    """What QEMU answers to the object d0; @memory is that of a Config."""
    return l2.qmp.human(f'object_add {memory},id=d0,size={size}').strip()


def plug(l1, l2, config, memory, size, number=0):
    """A DIMM of such memory; one is there at a time."""
    answer = add_object(l2, memory, size)
    # a warning is not an error
    if 'Error: ' in answer:
        raise HarnessError(answer)
    l2.qmp.command('device_add', driver='pc-dimm', id=f'dimm{number}',
                   memdev='d0')
    base = next(dimm['data']['addr']
                for dimm in l2.qmp.command('query-memory-devices')
                if dimm['data']['id'] == f'dimm{number}')
    return VM(l1, l2, config, 'd0', base, size)


def deleted(l2, device):
    """A device has gone."""
    l2.qmp.command('query-status')
    return any(event['event'] == 'DEVICE_DELETED' and
               event['data'].get('device') == device
               for event in l2.qmp.events)


def unplug(l2, number=0):
    """Ask for it, and be the guest that agrees."""
    l2.qmp.command('device_del', id=f'dimm{number}')
    problems = ['it went at once'] if deleted(l2, f'dimm{number}') else []
    for size, port, value in (('w', SLOT, 0), ('b', FLAGS, EJECT)):
        l2.qmp.human(f'o /{size} {port:#x} {value}')
    return problems + ([] if deleted(l2, f'dimm{number}')
                       else ['it has not gone'])


def delete_object(l2):
    """Problems if d0 stays; RCU may keep it for a moment."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            l2.qmp.command('object-del', id='d0')
            return []
        except QmpError as err:
            if time.monotonic() > end:
                return [str(err)]
