#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCG delivers an interrupt that a hypervisor injects once.

The guest runs a guest of its own, and injects an interrupt, whose handler
stops the VM.  The VM goes on, and the guest counts.
"""

from lib import tap
from lib.units import MIB
from lib.vm import VM, VMTest

RAM = 32 * MIB


class PausingVM(VM):
    """A guest that says it has panicked stops it."""

    def __init__(self):
        super().__init__(ram=RAM, devices=['pvpanic'], guest='svm=1',
                         memory=f'memory-backend-ram,id=m0,size={RAM}',
                         server=False)

    def command_line(self, fds):
        # It starts when QMP tells of events.
        return super().command_line(fds) + ['-S', '-action', 'panic=pause']


class Svm(VMTest):
    """One VM, one test."""

    def test_an_injected_interrupt_is_delivered_once(self):
        vm = self.start(PausingVM())
        vm.qmp.command('cont')
        vm.qmp.wait(lambda event: event['event'] == 'STOP')
        vm.qmp.command('cont')
        vm.assert_good_end()


if __name__ == '__main__':
    tap.main()
