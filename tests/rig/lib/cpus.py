# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the CPUs of L1 are, and which known fault that is.

The names of faults are those of known-faults.toml.
"""

import collections
import re

HALTED = re.compile(r'\bHLT=1\b')
FLAGS = re.compile(r'\bRFL=([0-9a-f]+)')
INTERRUPTS_ON = 0x200
RIP = re.compile(r'\b[ER]IP=([0-9a-f]+)')
RING_3 = re.compile(r'\bCPL=3\b')
# The local APIC's register that starts its timer, at the address of another device
STRAY_WRITE = 'vtd_mem_write: MMIO over range: addr=0x380 size=0x4'
# The guest of tests/guest, and its firmware, have none
PAGING = re.compile(r'\bCR0=[89a-f][0-9a-f]{7}\b')

# @halted; @waits: it can be interrupted as well; @user, @kernel: of L1, else it
# runs L2; @rip, @text: for people
Look = collections.namedtuple(
    'Look', 'halted waits in_service user kernel rip text')


def look(qmp):
    """A Look at each CPU."""
    def query(line):
        return qmp.command('human-monitor-command', **{'command-line': line})

    looks = []
    for number, cpu in enumerate(re.split(r'^CPU#', query('info registers -a'),
                                          flags=re.MULTILINE)[1:]):
        flags = FLAGS.search(cpu)
        halted = bool(HALTED.search(cpu))
        rip = RIP.search(cpu)
        apic = dict(re.findall(r'^(ISR|IRR)\s+(.*?)\s*$',
                               query(f'info lapic {number}'), re.MULTILINE))
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
    read one after the other, but not twice; one that does not respond to them still
    wakes for interrupts of a higher priority.
    """
    return (sum(cpu.waits for cpu in history) >= 2 and
            all(cpu.in_service not in ('', '(none)') and
                cpu.in_service == history[0].in_service for cpu in history))


def is_in_kernel(history):
    """Whether it runs, mostly in the kernel, and never in user space."""
    return (not any(cpu.halted or cpu.user for cpu in history) and
            2 * sum(cpu.kernel for cpu in history) > len(history))


def known_hang(looks, expired, said):
    """The name of the known fault that hangs L1, and what shows it; or ('', '').

    @looks are of some seconds. An L1 that is not @expired, but still does what it
    is told, may have a CPU in the kernel for that long. @said: by L1's QEMU
    """
    for history in zip(*looks):
        if STRAY_WRITE in said and all(cpu.halted for cpu in history):
            return 'lost-timer', STRAY_WRITE
        if is_unresponsive(history):
            return 'lost-interrupt', f'in service: {history[0].in_service}'
        if expired and is_in_kernel(history):
            return 'cpu-in-kernel', 'at ' + \
                ' '.join(sorted({cpu.rip for cpu in history}))
    return '', ''


def known_end(exit_code, said):
    """The name of the known fault that has ended QEMU in L1; '' if it is none.

    No guest of the rig resets its VM, so that only a triple fault does.
    @said: the last lines of the guest, and the last events of QMP
    """
    if exit_code == 0 and any('"guest-reset"' in line for line in said):
        return 'triple-fault'
    return ''
