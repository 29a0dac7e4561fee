#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of a block do not wait for a conversion of it.

The vfio-user server is stopped while it has nothing to do; then the guest
converts memory, and its vCPU waits, without the BQL, for the server's answer.
The kernel says that the server has not read the request: so no conversion of
the VM's memory can end, and each reader has to answer meanwhile.  One that
waits for the conversion makes the VM reach its time limit, which is shorter
than that of the request.

It takes KVM: a vCPU of TCG holds the BQL while it is in the registers of any
device, so that there the monitor waits for each conversion.
"""

import ctypes
import os
import re
import select
import signal
import socket
import struct
import unittest

from lib import tap
from lib.dma_map import compare_maps, query_map
from lib.error import HarnessError
from lib.guest import key_values
from lib.kvm import kvm_problem
from lib.units import MIB, PAGE
from lib.vm import MSG_TIMEOUT, VM, VMTest

RAM = 64 * MIB
AREA = (16 * MIB, 32 * MIB)
CHUNK = 2 * MIB
OTHER = 16 * MIB

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


class StoppedServer:
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


class ReadersVM(VM):
    """Another block, which no device follows; nobody gives up on the server."""

    def __init__(self):
        start, end = AREA
        super().__init__(accel='kvm', ram=RAM, init='shared',
                         device_options={'x-msg-timeout': 2 * MSG_TIMEOUT},
                         guest=f'base={start // MIB} rounds=2 pause=1 '
                               f'area={(end - start) // MIB} '
                               f'chunk={CHUNK // 1024}')

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-object', f'memory-backend-guest-memfd,id=m1,size={OTHER},'
                       'driver=emulated,init=shared']

    def block(self, name):
        """What query-guest-memfd shows of it."""
        return next(block for block in self.qmp.command('query-guest-memfd')
                    if block['id'] == name)


def read_block(vm, before):
    """query-guest-memfd: a conversion that waits is not counted."""
    block = vm.block('m0')
    keys = ('shared-bytes', 'private-bytes', 'to-shared', 'to-private')
    return [f'{key}: {before.block[key]} has become {block[key]}'
            for key in keys if block[key] != before.block[key]]


def read_map(vm, before):
    """query-guest-memfd-map: the map is the last to change."""
    return [] if query_map(vm.qmp, 'm0') == before.runs else [
        'the map has changed']


def read_human(vm, _before):
    """info guest-memfd."""
    answer = vm.qmp.human('info guest-memfd')
    blocks = re.findall(r'^(\S+): .* driver=', answer, re.MULTILINE)
    return [] if sorted(blocks) == ['m0', 'm1'] else [answer]


def read_memory(vm, _before):
    """pmemsave, of shared memory."""
    path = vm.socket('memory')
    vm.qmp.command('pmemsave', val=IMAGE, size=PAGE, filename=path)
    with open(path, 'rb') as f:
        memory = f.read()
    return [] if MULTIBOOT_MAGIC in memory else ['the guest is not there']


def read_address(vm, _before):
    """gpa2hva, of shared memory and of what is converted."""
    answers = [vm.qmp.human(f'gpa2hva {gpa:#x}') for gpa in (IMAGE, AREA[0])]
    return [answer for answer in answers if '(m0) is 0x' not in answer]


def convert_other(vm, _before):
    """x-guest-memfd-convert, of a block that no device follows."""
    for private in (True, False):
        vm.qmp.command('x-guest-memfd-convert', id='m1', offset=0,
                            size=OTHER, private=private)
        block = vm.block('m1')
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

    def __init__(self, vm):
        self.block = vm.block('m0')
        self.runs = query_map(vm.qmp, 'm0')


@unittest.skipIf(kvm_problem(), str(kvm_problem()))
class Readers(VMTest):
    """One VM, whose guest waits between conversions."""

    @classmethod
    def setUpClass(cls):
        # The first round begins with memory that is private already.
        cls.start_for_all(ReadersVM()).said_until_pause()
        cls.good = True

    def setUp(self):
        self.assertTrue(self.good, 'the guest has not come so far')
        type(self).good = False

    def ask_readers(self, server, to):
        """The guest waits for the host, and the server is stopped."""
        self.assertIsNone(server.unread(wait=False),
                          'it has something to do before the guest converts')
        before = Before(self.vm)
        self.vm.resume()
        request = server.unread(wait=True)
        self.assertEqual(request[1], COMMANDS[to])
        for name, read in READERS.items():
            self.assertEqual(read(self.vm, before), [], name)
        self.assertEqual(server.unread(wait=False), request,
                         'the server has read the request meanwhile')

    @tap.cases({to: to for to in DIRECTIONS})
    def test_a_conversion_waits_and_readers_answer(self, to):
        server = StoppedServer(self.vm.server)
        try:
            self.ask_readers(server, to)
        finally:
            server.go_on()
        said = [key_values(line)['to'] for line in self.vm.said_until_pause()
                if line.startswith('end ')]
        self.assertEqual(said, [to])
        runs = query_map(self.vm.qmp, 'm0')
        self.assert_none(compare_maps(runs, self.vm.control.maps(), RAM))
        self.assertEqual(sum(run['size'] for run in runs if run['private']),
                         (AREA[1] - AREA[0]) * (to == 'private'))
        type(self).good = True

    def test_the_guest_ends_well(self):
        self.vm.resume()
        self.vm.said_until_pause()
        self.vm.resume()
        self.vm.assert_good_end()


if __name__ == '__main__':
    tap.main()
