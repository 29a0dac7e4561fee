# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPUs of an L1 that hangs are doing.

TCG can lose an interrupt: the local APIC has it in service, so that it keeps
back all others of its priority, the timer's among them; but the handler, which
would have ended it, has not run, and the CPU is halted in the idle loop. That
was seen once in some hours of L1. Why is not known; it is not for L1 to cause, and
L1 went on when a debugger took the interrupt out of the APIC.
"""

import collections
import re

HALTED = re.compile(r'\bHLT=1\b')
FLAGS = re.compile(r'\bRFL=([0-9a-f]+)')
INTERRUPTS_ON = 0x200

# @waits: halted, and can be interrupted; @text: for people
Look = collections.namedtuple('Look', 'waits in_service text')


def look(qmp):
    """A Look at each CPU."""
    def ask(line):
        return qmp.command('human-monitor-command', **{'command-line': line})

    looks = []
    for number, cpu in enumerate(re.split(r'^CPU#', ask('info registers -a'),
                                          flags=re.MULTILINE)[1:]):
        flags = FLAGS.search(cpu)
        apic = dict(re.findall(r'^(ISR|IRR)\s+(.*?)\s*$',
                               ask(f'info lapic {number}'), re.MULTILINE))
        looks.append(Look(
            bool(HALTED.search(cpu) and flags and
                 int(flags.group(1), 16) & INTERRUPTS_ON),
            apic.get('ISR', ''),
            f'CPU#{number} {apic} ' + ' '.join(
                line.strip() for line in cpu.splitlines()
                if line.startswith(('RIP=', 'EIP=', 'CR0=')))))
    return looks


def are_deaf(looks):
    """Whether one CPU waits for interrupts, with the same one always in service.

    One that runs could be seen like that by accident, as registers and APIC are
    read one after the other, but not twice; one that is deaf still wakes for
    interrupts of a higher priority.
    """
    return any(sum(cpu.waits for cpu in history) >= 2 and
               all(cpu.in_service not in ('', '(none)') and
                   cpu.in_service == history[0].in_service for cpu in history)
               for history in zip(*looks))
