#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCG delivers an interrupt that a hypervisor injects once.

Prints TAP.  The guest runs a guest of its own, and injects an interrupt, whose
handler stops the machine.  The machine goes on, and the guest counts.
"""

import os
import sys

from lib.error import HarnessError
from lib.guest import EXIT_PASS
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB
from lib.vm import Machine

RAM = 32 * MIB
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))


class PausingMachine(Machine):
    """A guest that says it has panicked stops it."""

    def __init__(self, paths):
        super().__init__(paths, ram=RAM, devices=['pvpanic'], guest='svm=1',
                         memory=f'memory-backend-ram,id=m0,size={RAM}',
                         timeout=TIMEOUT, peer=False)

    def command_line(self, fds):
        # It starts when QMP tells of events.
        return super().command_line(fds) + ['-S', '-action', 'panic=pause']


def run(machine):
    """From the start to the end; problems."""
    try:
        machine.qmp.command('cont')
        machine.qmp.wait(lambda event: event['event'] == 'STOP')
        machine.qmp.command('cont')
    except EOFError:
        pass            # the guest says why
    code, _ = machine.wait()
    if machine.timed_out:
        return [f'no end after {TIMEOUT} s: killed']
    if code != EXIT_PASS or 'PASS' not in machine.console:
        return [f'QEMU exited with {code}', *machine.console[-10:],
                *machine.errors().splitlines()[-10:]]
    return []


def main():
    """One machine, one test."""
    exit_on_signals()
    print('TAP version 13')
    print('1..1')
    try:
        with PausingMachine(Paths()) as machine:
            problems = run(machine)
    except (HarnessError, QmpError, OSError) as err:
        problems = [f'{type(err).__name__}: {err}']
    print(f"{'not ' if problems else ''}ok 1 - "
          'an injected interrupt is delivered once')
    for problem in problems:
        print(f'# {problem}')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
