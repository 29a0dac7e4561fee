#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of a block do not wait for a conversion of it.

Prints TAP.  The DMA peer is stopped while it has nothing to do; then the guest
converts memory, and its vCPU waits, without the BQL, for the peer's answer.
The kernel says that the peer has not read the request: so no conversion of the
machine's memory can end, and each reader has to answer meanwhile.  One that
waits for the conversion makes the machine reach its time limit, which is
shorter than that of the request.

It takes KVM: a vCPU of TCG holds the BQL while it is in the registers of any
device, so that there the monitor waits for each conversion.
"""

import ctypes
import os
import select
import signal
import socket
import struct
import sys

from lib.dma_map import compare_maps, query_map
from lib.error import HarnessError
from lib.guest import EXIT_PASS, key_values
from lib.kvm import kvm_problem
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from lib.vm import Machine

RAM = 64 * MIB
WINDOW = (16 * MIB, 32 * MIB)
CHUNK = 2 * MIB
OTHER = 16 * MIB
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))

# The guest's image begins with this, in memory that stays shared
IMAGE = 1 * MIB
MULTIBOOT_MAGIC = struct.pack('<I', 0x1badb002)

# vfio-user: id, command, size, flags, error
HEADER = struct.Struct('<HHIII')
COMMANDS = {'shared': 2, 'private': 3}      # DMA_MAP, DMA_UNMAP
SYS_PIDFD_GETFD = 438

DIRECTIONS = ('shared', 'private')


def sockets_of(pid):
    """Duplicates of all sockets of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f'/proc/{pid}/fd'):
            if not os.readlink(f'/proc/{pid}/fd/{name}').startswith('socket:'):
                continue
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
            if fd < 0:
                error = ctypes.get_errno()
                raise OSError(error, f'pidfd_getfd: {os.strerror(error)}')
            found.append(socket.socket(fileno=fd))
    finally:
        os.close(pidfd)
    return found


class Peer:
    """The vfio-user server, stopped; what it has not read stays in sight."""

    def __init__(self, process):
        self._pid = process.pid
        os.kill(self._pid, signal.SIGSTOP)
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise HarnessError(f'the server has ended: {status}')
        self._sockets = sockets_of(self._pid)

    def unread(self, wait):
        """The header of the request that it has not read, or None."""
        ready, _, _ = select.select(self._sockets, [], [],
                                    None if wait else 0)
        if not ready:
            return None
        header = ready[0].recv(HEADER.size,
                               socket.MSG_PEEK | socket.MSG_DONTWAIT)
        if len(header) < HEADER.size:
            raise EOFError('QEMU has hung up on the server')
        return HEADER.unpack(header)

    def go_on(self):
        """It answers again."""
        for sock in self._sockets:
            sock.close()
        os.kill(self._pid, signal.SIGCONT)


class ReadersMachine(Machine):
    """Another block, which no device follows; nobody gives up on the peer."""

    def __init__(self, paths):
        start, end = WINDOW
        super().__init__(paths, accel='kvm', ram=RAM, init='shared',
                         timeout=TIMEOUT,
                         guest=f'base={start // MIB} rounds=2 hold=1 '
                               f'window={(end - start) // MIB} '
                               f'chunk={CHUNK // 1024}')

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-global', f'vfio-user-pci.x-msg-timeout={int(TIMEOUT * 2000)}',
            '-object', f'memory-backend-guest-memfd,id=m1,size={OTHER},'
                       'driver=emulated,init=shared']

    def block(self, name):
        """What query-guest-memfd shows of it."""
        return next(block for block in self.qmp.command('query-guest-memfd')
                    if block['id'] == name)

    def hmp(self, line):
        """What the human monitor answers."""
        return self.qmp.command('human-monitor-command',
                                **{'command-line': line})


def run_until_hold(machine):
    """What the guest has said before it waits for the host."""
    said = []
    while (line := machine.lines.get()) != 'HOLD':
        if line is None or line.startswith('FAIL'):
            raise HarnessError(f'the guest ended: {line}')
        said.append(line)
    return said


def read_block(machine, before):
    """query-guest-memfd: a conversion that waits is not counted."""
    block = machine.block('m0')
    keys = ('shared-bytes', 'private-bytes', 'to-shared', 'to-private')
    return [f'{key}: {before.block[key]} has become {block[key]}'
            for key in keys if block[key] != before.block[key]]


def read_map(machine, before):
    """query-guest-memfd-map: the map is the last to change."""
    return [] if query_map(machine.qmp, 'm0') == before.runs else [
        'the map has changed']


def read_human(machine, _before):
    """info guest-memfd."""
    answer = machine.hmp('info guest-memfd')
    return [] if 'm0' in answer and 'm1' in answer else [answer]


def read_memory(machine, _before):
    """pmemsave, of shared memory."""
    path = machine.socket('memory')
    machine.qmp.command('pmemsave', val=IMAGE, size=PAGE, filename=path)
    with open(path, 'rb') as f:
        memory = f.read()
    return [] if MULTIBOOT_MAGIC in memory else ['the guest is not there']


def read_address(machine, _before):
    """gpa2hva, of shared memory and of what is converted."""
    answers = [machine.hmp(f'gpa2hva {gpa:#x}') for gpa in (IMAGE, WINDOW[0])]
    return [answer for answer in answers if '(m0) is 0x' not in answer]


def convert_other(machine, _before):
    """x-guest-memfd-convert, of a block that no device follows."""
    for private in (True, False):
        machine.qmp.command('x-guest-memfd-convert', id='m1', offset=0,
                            size=OTHER, private=private)
        block = machine.block('m1')
        if block['private-bytes'] != private * OTHER:
            return [f'private-bytes: {block["private-bytes"]}']
    return []


READERS = {
    'query-guest-memfd': read_block,
    'query-guest-memfd-map': read_map,
    'info guest-memfd': read_human,
    'pmemsave': read_memory,
    'gpa2hva': read_address,
    'another block is converted': convert_other,
}


class Before:
    """What there is before the conversion."""

    def __init__(self, machine):
        self.block = machine.block('m0')
        self.runs = query_map(machine.qmp, 'm0')


def ask_readers(machine, peer, to):
    """Problems; the guest waits for the host, and the peer is stopped."""
    if peer.unread(wait=False):
        return ['the server has something to do before the guest converts']
    before = Before(machine)
    machine.release()
    request = peer.unread(wait=True)
    if request[1] != COMMANDS[to]:
        return [f'the request that waits is {request}']
    for name, read in READERS.items():
        try:
            problems = read(machine, before)
        except EOFError:
            problems = ['no answer']
        if problems:
            return [f'{name}: {problem}' for problem in problems]
    if peer.unread(wait=False) != request:
        return ['the server has read the request meanwhile']
    return []


def check_converted(machine, to):
    """Problems; the guest has converted all of its window."""
    said = [key_values(line) for line in run_until_hold(machine)
            if line.startswith('end ')]
    runs = query_map(machine.qmp, 'm0')
    problems = compare_maps(runs, machine.control.maps(), RAM)
    private = sum(run['size'] for run in runs if run['private'])
    if [words['to'] for words in said] != [to]:
        problems.append(f'the guest has said {said}')
    if private != (WINDOW[1] - WINDOW[0]) * (to == 'private'):
        problems.append(f'{private} bytes are private')
    return problems


def check_direction(machine, to):
    """Problems of one direction; the guest waits for the host, twice."""
    peer = Peer(machine.server)
    try:
        problems = ask_readers(machine, peer, to)
    finally:
        peer.go_on()
    return problems or check_converted(machine, to)


def check_end(machine):
    """The guest is released for the last time."""
    machine.release()
    run_until_hold(machine)
    machine.release()
    qemu, server = machine.wait()
    problems = []
    if qemu != EXIT_PASS or 'PASS' not in machine.console:
        problems.append(f'QEMU exited with {qemu}')
    if server:
        problems.append(f'the server exited with {server}')
    return problems


def check_machine(machine):
    """Yields the problems of each step."""
    # The first round begins with memory that is private already.
    run_until_hold(machine)
    for to in DIRECTIONS:
        yield check_direction(machine, to)
    yield check_end(machine)


def main():
    """One machine, one test for each step."""
    exit_on_signals()
    steps = [f'a conversion to {to} waits, and readers answer'
             for to in DIRECTIONS] + ['the guest ends well']
    results = []
    skip = kvm_problem()
    print('TAP version 13')
    print(f'1..{len(steps)}')
    try:
        if not skip:
            with ReadersMachine(Paths()) as machine:
                for problems in check_machine(machine):
                    results.append(problems)
                    if problems:
                        problems += machine.console[-10:]
                        problems += machine.errors().splitlines()[-10:]
                        break
    except (HarnessError, QmpError, EOFError, OSError, KeyError) as err:
        results.append([f'{type(err).__name__}: {err}'])
    results += [['not reached']] * (len(steps) - len(results))
    for number, (step, problems) in enumerate(zip(steps, results), 1):
        if skip:
            print(f'ok {number} - {step} # SKIP {skip}')
            continue
        print(f"{'not ' if problems else ''}ok {number} - {step}")
        for problem in problems:
            print(f'# {problem}')
    return 1 if not skip and any(results) else 0


if __name__ == '__main__':
    sys.exit(main())
