#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A second DMA peer, or a DIMM, comes and goes while a guest converts memory.

Prints TAP.  The guest's vCPU converts (under TCG: with the BQL) while QEMU's main loop
gives the memory to the second device, or takes it away.  After each step the
machine is stopped for a moment, and what the servers have mapped is compared
with QEMU's map.

The DIMM is converted by all vCPUs (under KVM: without the BQL) while one of them
ejects it.  Nothing of it may be left, and the next DIMM has its name and address.
"""

import os
import sys

from lib.dma_map import compare_maps, query_map
from lib.error import HarnessError
from lib.kvm import kvm_problem
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB
from lib.vm import Machine

RAM = 512 * MIB
OPS = 100000        # more than it gets to
SEED = os.environ.get('GUEST_SEED', '1')
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
STEPS = 30
DIMM = 64 * MIB
DIMM_BASE = 1 << 32
ROUNDS = 20
# Under KVM two are enough to meet, and a host may have no more.
CPUS = {'tcg': 4, 'kvm': 2}


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


class DimmMachine(Machine):
    """The guest ejects a DIMM that is to be unplugged when it gets a byte."""

    def __init__(self, paths, accel):
        super().__init__(paths, accel=accel, ram=RAM, timeout=TIMEOUT,
                         smp=CPUS[accel],
                         devices=['guest-memfd-testdev'] * CPUS[accel],
                         guest=f'dimm={DIMM // MIB} cpus={CPUS[accel]} '
                               f'seed={SEED}')

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-m', f'slots=1,maxmem={2 * RAM // MIB}M']

    def plug(self):
        """The memory comes; the guest has found it when this returns."""
        self.qmp.command('object-add', id='d0', size=DIMM, driver='emulated',
                         init='private',
                         **{'qom-type': 'memory-backend-guest-memfd'})
        self.qmp.command('device_add', driver='pc-dimm', id='dimm0',
                         memdev='d0', addr=DIMM_BASE)
        self.release()
        self.await_line('dimm there ')

    def unplug(self):
        """The guest has found that the memory is gone when this returns."""
        self.qmp.events.clear()
        self.qmp.command('device_del', id='dimm0')
        self.release()
        self.qmp.wait(lambda event: event['event'] == 'DEVICE_DELETED' and
                      event['data'].get('device') == 'dimm0')
        self.await_line('dimm gone ')

    def await_line(self, start):
        """The guest says it, or fails."""
        while not (line := self.lines.get() or 'the guest has ended'
                   ).startswith(start):
            if line.startswith(('FAIL', 'the guest has')):
                raise HarnessError(line)

    def mapped(self):
        """What the peer has of the DIMM, by offset."""
        return [m._replace(iova=m.iova - DIMM_BASE)
                for m in self.control.maps() if m.iova >= DIMM_BASE]

    def compare(self):
        """Problems: what the peer has mapped is not what is shared."""
        self.qmp.command('stop')
        problems = compare_maps(query_map(self.qmp, 'd0'), self.mapped(), DIMM)
        self.qmp.command('cont')
        return problems

    def delete(self):
        """The memory goes an RCU grace period after its last user."""
        self.qmp.command('object-del', id='d0')
        while any(block['id'] == 'd0' for block in
                  self.qmp.command('query-guest-memfd')):
            pass


def dimm_rounds(machine):
    """Plug and unplug; problems."""
    for _ in range(ROUNDS):
        machine.plug()
        problems = machine.compare()
        machine.unplug()
        problems += [f'{m} is still mapped' for m in machine.mapped()[:5]]
        machine.delete()
        if problems:
            return problems
    # The other memory is as it was.
    return compare_maps(query_map(machine.qmp, 'm0'), [
        m for m in machine.control.maps() if m.iova < DIMM_BASE], RAM)


def run_dimm(accel):
    """One machine; problems."""
    try:
        with DimmMachine(Paths(), accel) as machine:
            try:
                problems = dimm_rounds(machine)
            except (HarnessError, QmpError, EOFError) as err:
                problems = [f'{type(err).__name__}: {err}']
            if problems:
                problems += machine.console[-10:]
                problems += machine.errors().splitlines()[-10:]
    except (HarnessError, OSError) as err:
        problems = [f'{type(err).__name__}: {err}']
    return problems


def run_peer():
    """One machine; problems."""
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
    return problems


def main():
    """A machine for each test."""
    exit_on_signals()
    print('TAP version 13')
    tests = [('a second device comes and goes', None, run_peer)]
    for accel, reason in ('tcg', None), ('kvm', kvm_problem()):
        tests.append((f'a DIMM goes while {CPUS[accel]} CPUs convert it, '
                      f'{accel}', reason, lambda a=accel: run_dimm(a)))
    print(f'1..{len(tests)}')
    failed = 0
    for number, (name, reason, run) in enumerate(tests, 1):
        problems = [] if reason else run()
        failed += bool(problems)
        skip = f' # SKIP {reason}' if reason else ''
        print(f"{'not ' if problems else ''}ok {number} - {name}{skip}")
        for problem in problems:
            print(f'# {problem}')
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
