#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A second device, or a DIMM, comes and goes while a guest converts memory.

Conversions and the main loop, which gives the memory to the second device or takes
it away, have turns: a vCPU of TCG has the BQL while it is in a register.  (They
meet in the rig, under KVM.)  After each step the VM is stopped for a moment, and
what the servers have mapped is compared with QEMU's map.

The DIMM is converted by all vCPUs, under KVM without the BQL, while one of them
ejects it.  Nothing of it may be left, and the next DIMM has its name and address.
"""

import os

from lib import tap
from lib.dma_map import compare_maps, query_map
from lib.kvm import kvm_problem
from lib.units import MIB
from lib.vm import MSG_TIMEOUT, VM, VMTest

RAM = 256 * MIB
OPS = 100000        # more than it gets to
SEED = os.environ.get('GUEST_SEED', '1')
STEPS = 20
DIMM = 64 * MIB
DIMM_BASE = 1 << 32
ROUNDS = {'tcg': 10, 'kvm': 5}
# Under KVM two are enough to meet, and a host may have no more.
CPUS = {'tcg': 4, 'kvm': 2}


class HotplugVM(VM):
    """A slot that no guest has powered on is unplugged at once."""

    def __init__(self):
        super().__init__(ram=RAM,
                         devices=['guest-memfd-testdev',
                                  'pcie-root-port,id=rp,chassis=1'],
                         guest=f'ops={OPS} seed={SEED} progress=1')

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off']

    def plug(self):
        """The second device comes."""
        self.qmp.command('device_add', driver='vfio-user-pci', id='edu1',
                         bus='rp', **{'x-msg-timeout': MSG_TIMEOUT},
                         socket={'type': 'unix',
                                 'path': self.socket('edu1')})

    def unplug(self, second):
        """It goes, and with it all that it has mapped.

        QEMU does not always tell: a device that firmware's set-up of the slot
        takes away meanwhile has no DEVICE_DELETED.
        """
        self.qmp.command('device_del', id='edu1')
        self.qmp.poll(lambda: not second.maps() and all(
            child['name'] != 'edu1' for child in self.qmp.command(
                'qom-list', path='/machine/peripheral')))

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


class DimmVM(VM):
    """The guest ejects a DIMM that is to be unplugged when it gets a byte."""

    def __init__(self, accel):
        super().__init__(accel=accel, ram=RAM, smp=CPUS[accel],
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
        self.resume()
        self.said_until('dimm there ')

    def unplug(self):
        """The guest has found that the memory is gone when this returns."""
        self.qmp.events.clear()
        self.qmp.command('device_del', id='dimm0')
        self.resume()
        self.qmp.wait(lambda event: event['event'] == 'DEVICE_DELETED' and
                      event['data'].get('device') == 'dimm0')
        self.said_until('dimm gone ')

    def mapped(self):
        """What the server has of the DIMM, by offset."""
        return [m._replace(iova=m.iova - DIMM_BASE)
                for m in self.control.maps() if m.iova >= DIMM_BASE]

    def compare(self):
        """Problems: what the server has mapped is not what is shared."""
        self.qmp.command('stop')
        problems = compare_maps(query_map(self.qmp, 'd0'), self.mapped(), DIMM)
        self.qmp.command('cont')
        return problems

    def delete(self):
        """The memory goes an RCU grace period after its last user."""
        self.qmp.command('object-del', id='d0')
        self.qmp.poll(lambda: all(
            block['id'] != 'd0' for block in
            self.qmp.command('query-guest-memfd')))


class Hotplug(VMTest):
    """A VM for each test."""

    def test_a_second_device_comes_and_goes(self):
        vm = self.start(HotplugVM())
        server, second = vm.start_server('edu1')
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        vm.said_until('progress ')
        both, busy, requests = (vm.control, second), 0, vm.requests()
        for _ in range(STEPS):
            vm.plug()
            self.assert_none(vm.compare(both))
            vm.unplug(second)
            self.assert_none(vm.compare(both[:1]))
            busy += requests < (requests := vm.requests())
            self.assertFalse([line for line in list(vm.console)
                              if line.startswith('FAIL')])
        print(f'{requests} conversions, in {busy} of {STEPS} steps')
        self.assertGreaterEqual(busy, STEPS // 2,
                                'the guest has converted too little')

    @tap.cases({accel: accel for accel in CPUS})
    def test_a_dimm_goes_while_cpus_convert_it(self, accel):
        """a DIMM goes while CPUs convert it"""
        if accel == 'kvm' and kvm_problem():
            self.skipTest(kvm_problem())
        vm = self.start(DimmVM(accel))
        for _ in range(ROUNDS[accel]):
            vm.plug()
            self.assert_none(vm.compare())
            vm.unplug()
            self.assertEqual(vm.mapped(), [])
            vm.delete()
        # The other memory is as it was.
        self.assert_none(compare_maps(query_map(vm.qmp, 'm0'), [
            m for m in vm.control.maps() if m.iova < DIMM_BASE], RAM))


if __name__ == '__main__':
    tap.main()
