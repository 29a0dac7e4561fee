#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A second DMA peer comes and goes while a guest converts memory.

Prints TAP.  The guest's vCPU converts (under TCG: with the BQL) while QEMU's main loop
gives the memory to the second device, or takes it away.  After each step the
machine is stopped for a moment, and what the servers have mapped is compared
with QEMU's map.
"""

import os
import sys

sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from harness import (MIB, HarnessError, Machine, Paths, QmpError,
                     compare_maps, exit_on_signals, query_map)

RAM = 512 * MIB
OPS = 100000        # more than it gets to
SEED = os.environ.get('GUEST_SEED', '1')
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
STEPS = 30


class HotplugMachine(Machine):
    """A slot that no guest has powered on is unplugged at once."""

    def __init__(self, paths):
        super().__init__(paths, ram=RAM, timeout=TIMEOUT,
                         devices=['guest-memfd-testdev',
                                  'pcie-root-port,id=rp,chassis=1'],
                         guest=f'ops={OPS} seed={SEED}')

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off']

    def plug(self):
        """The second device comes."""
        self.qmp.command('device_add', driver='vfio-user-pci', id='edu1',
                         bus='rp', socket={'type': 'unix',
                                           'path': self.socket('edu1')})

    def unplug(self, second):
        """It goes, and with it all that it has mapped.

        QEMU does not always tell: a device that firmware's set-up of the slot
        takes away meanwhile has no DEVICE_DELETED.
        """
        self.qmp.command('device_del', id='edu1')
        while second.maps() or any(
                child['name'] == 'edu1' for child in self.qmp.command(
                    'qom-list', path='/machine/peripheral')):
            pass

    def requests(self):
        """How many conversions the guest has asked for."""
        block = self.qmp.command('query-guest-memfd')[0]
        return sum(block[direction]['requests']
                   for direction in ('to-shared', 'to-private'))

    def compare(self, controls):
        """Problems: what a server has mapped is not what is shared."""
        problems = []
        self.qmp.command('stop')
        runs = query_map(self.qmp, 'm0')
        for number, control in enumerate(controls):
            problems += [f'device {number}: {problem}' for problem in
                         compare_maps(runs, control.maps(), RAM)]
        self.qmp.command('cont')
        return problems


def said(machine, word):
    """Whether the guest has said it."""
    return any(line.startswith(word) for line in list(machine.console))


def hotplug(machine, second):
    """Plug and unplug; problems, and how often the guest had converted."""
    both = (machine.control, second)
    steps, problems = 0, []
    while not (requests := machine.requests()) and not said(machine, 'FAIL'):
        pass
    for _ in range(STEPS):
        machine.plug()
        problems += machine.compare(both)
        machine.unplug(second)
        problems += machine.compare(both[:1])
        steps += requests < (requests := machine.requests())
        if said(machine, 'FAIL'):
            problems.append('the guest failed')
        if problems:
            break
    return problems, steps


def main():
    """One machine, one test."""
    exit_on_signals()
    print('TAP version 13')
    print('1..1')
    name = 'a second device comes and goes'
    try:
        with HotplugMachine(Paths()) as machine:
            server, second = machine.start_server('edu1')
            try:
                problems, steps = hotplug(machine, second)
            finally:
                server.kill()
                server.wait()
            print(f'# {machine.requests()} conversions, in {steps} of {STEPS}')
            if not problems and steps < STEPS // 2:
                problems.append('the guest has converted too little')
            if problems:
                problems += machine.console[-10:]
                problems += machine.errors().splitlines()[-10:]
    except (HarnessError, QmpError, EOFError, OSError, KeyError) as err:
        problems = [f'{type(err).__name__}: {err}']
    print(f"{'not ' if problems else ''}ok 1 - {name}")
    for problem in problems:
        print(f'# {problem}')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
