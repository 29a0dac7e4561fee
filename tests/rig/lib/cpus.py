# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known to go wrong in L1, now and then.

Three faults are known that come and go: the scenario passes when it runs again.

TCG can lose an interrupt: the local APIC has it in service, so that it keeps
back all others of its priority, the timer's among them; but the handler, which
would have ended it, has not run, and the CPU is halted in the idle loop. Why is
not known; L1 went on when a debugger took the interrupt out of the APIC.

A CPU of L1 can stay in the kernel without end, while the other one is idle. It was
seen in KVM, sending itself the interrupt that forces an immediate exit of L2. Why
is not known.

L2 can have a triple fault. It was seen while the guest, with interrupts off, polled a
port or printed its last line. Why is not known.
"""

import collections
import re

HALTED = re.compile(r'\bHLT=1\b')
FLAGS = re.compile(r'\bRFL=([0-9a-f]+)')
INTERRUPTS_ON = 0x200
RIP = re.compile(r'\b[ER]IP=([0-9a-f]+)')
RING_3 = re.compile(r'\bCPL=3\b')
# The guest of tests/guest, and its firmware, have none
PAGING = re.compile(r'\bCR0=[89a-f][0-9a-f]{7}\b')

# @halted; @waits: it can be interrupted as well; @user, @kernel: of L1, else it
# runs L2; @rip, @text: for people
Look = collections.namedtuple(
    'Look', 'halted waits in_service user kernel rip text')


def look(qmp):
    """A Look at each CPU."""
    def ask(line):
        return qmp.command('human-monitor-command', **{'command-line': line})

    looks = []
    for number, cpu in enumerate(re.split(r'^CPU#', ask('info registers -a'),
                                          flags=re.MULTILINE)[1:]):
        flags = FLAGS.search(cpu)
        halted = bool(HALTED.search(cpu))
        rip = RIP.search(cpu)
        apic = dict(re.findall(r'^(ISR|IRR)\s+(.*?)\s*$',
                               ask(f'info lapic {number}'), re.MULTILINE))
        user = bool(RING_3.search(cpu))
        looks.append(Look(
            halted,
            halted and bool(flags and int(flags.group(1), 16) & INTERRUPTS_ON),
            apic.get('ISR', ''),
            user, bool(PAGING.search(cpu)) and not user,
            rip.group(1) if rip else '',
            f'CPU#{number} {apic} ' + ' '.join(
                line.strip() for line in cpu.splitlines()
                if line.startswith(('RIP=', 'EIP=', 'CR0=')))))
    return looks


def is_unresponsive(history):
    """Whether it waits for interrupts, with the same one always in service.

    One that runs could be seen like that by accident, as registers and APIC are
    read one after the other, but not twice; one that is unresponsive still wakes for
    interrupts of a higher priority.
    """
    return (sum(cpu.waits for cpu in history) >= 2 and
            all(cpu.in_service not in ('', '(none)') and
                cpu.in_service == history[0].in_service for cpu in history))


def is_in_kernel(history):
    """Whether it runs, mostly in the kernel, and never in user space."""
    return (not any(cpu.halted or cpu.user for cpu in history) and
            2 * sum(cpu.kernel for cpu in history) > len(history))


def known_hang(looks, expired):
    """What is known to hang L1; '' if it is not that.

    @looks are of some seconds. An L1 that is not @expired, but still does what it
    is told, may have a CPU in the kernel for that long.
    """
    for history in zip(*looks):
        if is_unresponsive(history):
            return 'TCG has lost an interrupt'
        if expired and is_in_kernel(history):
            return 'a CPU never leaves the kernel, at ' + \
                ' '.join(sorted({cpu.rip for cpu in history}))
    return ''


def known_end(exit_code, said):
    """What is known to end QEMU in L1; '' if it is not that.

    No guest of the rig resets its VM, so that only a triple fault does.
    @said: the last lines of the guest, and the last events of QMP
    """
    if exit_code == 0 and any('"guest-reset"' in line for line in said):
        return 'L2 had a triple fault'
    return ''
