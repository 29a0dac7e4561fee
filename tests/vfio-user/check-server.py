#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The edu server alone, as a vfio-user client sees it.

Environment: EDU_SERVER.
"""

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import tempfile

from lib import TOP, tap
from lib.hugepages import huge_pages
from lib.process import die_with_parent
from lib.server import Control, Mapping
from lib.units import MIB, PAGE

ENOENT, EACCES, EINVAL = 2, 13, 22

VERSION, DMA_MAP, DMA_UNMAP, REGION_READ, REGION_WRITE = 1, 2, 3, 9, 10
DMA_READ, DMA_WRITE = 11, 12
FLAG_ERROR = 1 << 5
BUFFER = 0x40000
SRC, DST, COUNT, COMMAND, ERROR = 0x80, 0x88, 0x90, 0x98, 0xa0
TO_RAM = 2
ALL_ONES = (1 << 64) - 1

# each needs an open file; 4096 is the least hard limit that is common
MANY = min(10000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 96)
FEW = 128
MFD_CLOEXEC, MFD_HUGETLB, MFD_HUGE_2MB = 1, 4, 21 << 26


class RequestError(Exception):
    """An error reply."""


class Client:
    """A vfio-user client, as far as a test needs one."""

    def __init__(self, path):
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(path)
        self._id = 0
        self.ram = bytearray()      # without a file, from address 0 on
        said = self.request(VERSION, struct.pack('<HH', 0, 1))[4:]
        self.offer = json.loads(said.rstrip(b'\0'))['capabilities']

    def close(self):
        """Disconnect."""
        self._sock.close()

    def _receive(self, size):
        data = b''
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            if not part:
                raise EOFError('the server has disconnected')
            data += part
        return data

    def request(self, command, body, fd=None):
        """Send and wait for the reply; its body."""
        self._id = (self._id + 1) & 0xffff
        message = struct.pack('<HHIII', self._id, command, 16 + len(body), 0,
                              0) + body
        if fd is None:
            self._sock.sendall(message)
        else:
            socket.send_fds(self._sock, [message], [fd])
        while True:
            ident, asked, size, flags, error = struct.unpack('<HHIII',
                                                             self._receive(16))
            reply = self._receive(size - 16)
            if flags & 0xf:
                break
            self._serve(ident, asked, reply)
        assert ident == self._id
        if flags & FLAG_ERROR:
            raise RequestError(os.strerror(error))
        return reply

    def _serve(self, ident, command, body):
        """DMA that the server does by a message, in self.ram."""
        addr, count = struct.unpack('<QQ', body[:16])
        reply = body[:16]
        if command == DMA_READ:
            reply += self.ram[addr:addr + count]
        else:
            assert command == DMA_WRITE and len(body) == 16 + count
            self.ram[addr:addr + count] = body[16:]
        self._sock.sendall(struct.pack('<HHIII', ident, command,
                                       16 + len(reply), 1, 0) + reply)

    def map(self, iova, size, fd=None, offset=0, writable=True):
        """Map memory for DMA."""
        self.request(DMA_MAP, struct.pack(
            '<IIQQQ', 32, 3 if writable else 1, offset, iova, size), fd)

    def unmap(self, iova, size):
        """The opposite."""
        self.request(DMA_UNMAP, struct.pack('<IIQQ', 24, 0, iova, size))

    def read(self, reg, size=4):
        """A register of BAR 0."""
        reply = self.request(REGION_READ, struct.pack('<QII', reg, 0, size))
        return int.from_bytes(reply[16:], 'little')

    def write(self, reg, value, size=8):
        """A register of BAR 0."""
        self.request(REGION_WRITE, struct.pack('<QII', reg, 0, size) +
                     value.to_bytes(size, 'little'))

    def dma(self, ram, count=PAGE, to_ram=False, dev=BUFFER):
        """One transfer; its error."""
        self.write(SRC, dev if to_ram else ram)
        self.write(DST, ram if to_ram else dev)
        self.write(COUNT, count)
        self.write(COMMAND, 1 | (TO_RAM if to_ram else 0))
        command = self.read(COMMAND)
        assert not command & 1, 'RUN is still set'
        return self.read(ERROR)


class Memory:
    """A file as guest memory has one."""

    def __init__(self, size, flags=0):
        self.fd = os.memfd_create('test', MFD_CLOEXEC | flags)
        os.ftruncate(self.fd, size)
        self.data = mmap.mmap(self.fd, size)

    def close(self):
        """Free it."""
        self.data.close()
        os.close(self.fd)


class Server:
    """The server in a directory of its own."""

    def __init__(self, *options, files=None):
        self._options = options
        self._files = files

    def _in_child(self):
        die_with_parent()
        if self._files:
            resource.setrlimit(resource.RLIMIT_NOFILE,
                               (self._files, self._files))

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix='edu-server-')
        self.path = os.path.join(self.dir.name, 'edu')
        self.control_path = os.path.join(self.dir.name, 'control')
        self.process = subprocess.Popen(
            [SERVER, '--control', self.control_path, *self._options,
             self.path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=self._in_child)
        assert self.process.stdout.readline() == b'ready\n'
        self.control = Control(self.control_path)
        self.client = Client(self.path)
        return self

    def __exit__(self, *exc):
        self.process.kill()
        _, errors = self.process.communicate()
        for line in errors.decode(errors='replace').splitlines()[-9:]:
            print(f'server: {line}')
        self.dir.cleanup()


def same(what, a, b):
    """An assertion that says more."""
    assert a == b, f'{what}: {a!r}, expected {b!r}'


def pattern(n, size=PAGE):
    """Bytes that differ with n."""
    return (n.to_bytes(8, 'little') + bytes(range(n % 7, 56))) \
        .ljust(64, b'#')[:64] * (size // 64)


def expect_end(s):
    """It has exited well, and its sockets are gone."""
    _, errors = s.process.communicate()
    same('exit code', s.process.returncode, 0)
    same('stderr', errors, b'')
    same('files', os.listdir(s.dir.name), [])


SERVER = os.environ.get('EDU_SERVER', os.path.join(
    TOP, 'build/qemu/tests/vfio-user/edu-server'))


class EduServer(tap.TestCase):
    """Each test has a server of its own."""

    def start(self, *options, files=None):
        """Start it; it ends with the test."""
        return self.enterContext(Server(*options, files=files))

    def test_registers(self):
        """it has edu's registers"""
        s = self.start()
        c = s.client
        same('id', c.read(0), 0x010000ed)
        c.write(4, 0x12345678, 4)
        same('liveness', c.read(4), 0xedcba987)
        for n, factorial in ((0, 1), (5, 120), (12, 479001600), (34, 0),
                             (0xffffffff, 0)):
            c.write(8, n, 4)
            same(f'{n}!', c.read(8), factorial)
        same('status', c.read(0x20), 0)
        same('8 bytes below 0x80', c.read(0, 8), ALL_ONES)
        same('2 bytes', c.read(0x80, 2), 0xffff)
        same('no register', c.read(0xffffc), 0xffffffff)
        c.write(0x60, 0x5, 4)
        same('raised', c.read(0x24), 5)
        c.write(0x64, 0x1, 4)
        same('acknowledged', c.read(0x24), 4)
        c.write(SRC, 0x1122334455667788)
        same('8 bytes', c.read(SRC, 8), 0x1122334455667788)
        c.write(SRC, 0x99, 4)
        same('4 bytes', c.read(SRC, 8), 0x99)

    def test_dma(self):
        """DMA reaches mapped memory and nothing else"""
        s = self.start()
        c, m = s.client, Memory(16 * PAGE)
        with contextlib.closing(m):
            c.map(0x10000, 4 * PAGE, m.fd, offset=8 * PAGE)
            m.data[8 * PAGE:9 * PAGE] = pattern(1)
            same('from RAM', c.dma(0x10000), 0)
            same('to RAM', c.dma(0x10000 + PAGE, to_ram=True), 0)
            assert m.data[9 * PAGE:10 * PAGE] == pattern(1)
            before = m.data[:]
            for ram in (0, 0x10000 - PAGE, 0x10000 + 4 * PAGE, 1 << 40,
                        0x10000 - 1, 0x10000 + 3 * PAGE + 1):
                same(f'from {ram:#x}', c.dma(ram), ENOENT)
                same(f'to {ram:#x}', c.dma(ram, to_ram=True), ENOENT)
            assert m.data[:] == before, 'memory has changed'
            same('still', c.dma(0x10000 + 2 * PAGE, to_ram=True), 0)
            assert m.data[10 * PAGE:11 * PAGE] == pattern(1), \
                'buffer has changed'
            c.unmap(0x10000, 4 * PAGE)
            same('unmapped', c.dma(0x10000), ENOENT)

    def test_read_only(self):
        """memory mapped for reading is not written"""
        s = self.start()
        c, m = s.client, Memory(PAGE)
        with contextlib.closing(m):
            m.data[:] = pattern(2)
            c.map(0x10000, PAGE, m.fd, writable=False)
            same('from', c.dma(0x10000), 0)
            m.data[:] = pattern(3)
            same('to', c.dma(0x10000, to_ram=True), EACCES)
            assert m.data[:] == pattern(3)
            same('maps', s.control.maps(),
                 [Mapping(0x10000, PAGE, 'r--', True)])
            c.unmap(0x10000, PAGE)

    def test_no_fd(self):
        """DMA to memory that came without a file goes by messages"""
        s = self.start()
        c = s.client
        for page in (16, 17):
            c.map(page * PAGE, PAGE)
        same('maps', s.control.maps(), [Mapping(page * PAGE, PAGE, 'rw', False)
                                        for page in (16, 17)])
        c.ram = bytearray(pattern(1, 20 * PAGE))
        wanted = c.ram[16 * PAGE + 64:17 * PAGE + 64]
        same('from RAM', c.dma(16 * PAGE + 64), 0)
        c.ram = bytearray(pattern(2, 20 * PAGE))
        same('to RAM', c.dma(16 * PAGE + 64, to_ram=True), 0)
        same('what is there', c.ram[16 * PAGE + 64:17 * PAGE + 64], wanted)
        c.ram[16 * PAGE + 64:17 * PAGE + 64] = pattern(2)
        same('nothing else', c.ram, pattern(2, 20 * PAGE))
        same('not mapped', c.dma(17 * PAGE + 64), ENOENT)
        for page in (16, 17):
            c.unmap(page * PAGE, PAGE)

    def test_hostile(self):
        """no register value does harm"""
        s = self.start()
        c, m = s.client, Memory(2 * PAGE)
        with contextlib.closing(m):
            c.map(0, 2 * PAGE, m.fd)
            bad = [(0, BUFFER), (PAGE + 1, BUFFER), (1 << 32, BUFFER),
                   (ALL_ONES, BUFFER), (1 << 63, BUFFER), (PAGE, BUFFER + 1),
                   (1, BUFFER + PAGE), (1, BUFFER - 1), (1, 0), (1, ALL_ONES),
                   (ALL_ONES, ALL_ONES), (ALL_ONES - BUFFER + 1, BUFFER),
                   (PAGE, BUFFER - PAGE)]
            for count, dev in bad:
                for to_ram in (False, True):
                    same(f'{count:#x} at {dev:#x}',
                         c.dma(0, count, to_ram, dev), EINVAL)
            for ram in (ALL_ONES, ALL_ONES - PAGE + 1, ALL_ONES - 1):
                assert c.dma(ram, PAGE) in (EINVAL, ENOENT)
                assert c.dma(ram, PAGE, True) in (EINVAL, ENOENT)
            same('well', c.dma(1, 1, True, BUFFER + PAGE - 1), 0)
            c.unmap(0, 2 * PAGE)

    def test_many(self):
        """it holds thousands of mappings"""
        s = self.start()
        c, m = s.client, Memory(MANY * PAGE)
        with contextlib.closing(m):
            # every other page, and in no order
            pages = sorted(range(MANY), key=lambda n: n * 7919 % MANY)
            for n in pages:
                c.map(2 * n * PAGE, PAGE, m.fd, offset=n * PAGE)
            same('maps', s.control.maps(),
                 [Mapping(2 * n * PAGE, PAGE, 'rw', True)
                  for n in range(MANY)])
            for n in pages[:50]:
                m.data[n * PAGE:(n + 1) * PAGE] = pattern(n)
                same(f'page {n}', c.dma(2 * n * PAGE), 0)
                same(f'gap {n}', c.dma((2 * n + 1) * PAGE, to_ram=True),
                     ENOENT)
                same(f'half {n}', c.dma(2 * n * PAGE + 64), ENOENT)
            c.map(PAGE, PAGE, m.fd, offset=MIB)
            same('three mappings', c.dma(64, PAGE), 0)
            c.unmap(PAGE, PAGE)
            for n in pages:
                c.unmap(2 * n * PAGE, PAGE)
            same('maps', s.control.maps(), [])

    def test_files(self):
        """it offers as many mappings as it can have files, and refuses more"""
        s = self.start(files=FEW)
        c, m = s.client, Memory(PAGE)
        offer = c.offer.get('max_dma_maps', 65535)
        assert FEW // 4 < offer < FEW, f'{offer} mappings of {FEW} files'
        with contextlib.closing(m):
            for n in range(offer):
                c.map(n * PAGE, PAGE, m.fd)
            # none of these needs more files than before
            for _ in range(FEW):
                c.map(0, PAGE, m.fd)
                try:
                    c.map(offer * PAGE, PAGE, m.fd)
                except RequestError:
                    continue
                raise AssertionError('one more mapping was accepted')
            same('maps', len(s.control.maps()), offer)
            same('dma', c.dma((offer - 1) * PAGE), 0)
            c.unmap(0, PAGE)
            c.map(offer * PAGE, PAGE, m.fd)
            same('dma', c.dma(offer * PAGE), 0)

    def test_client_errors(self):
        """a bad request is an error, and changes nothing"""
        s = self.start()
        c, m = s.client, Memory(4 * PAGE)
        with contextlib.closing(m):
            c.map(0, 4 * PAGE, m.fd)
            for request in (lambda: c.unmap(0, PAGE),
                            lambda: c.unmap(PAGE, PAGE),
                            lambda: c.unmap(0, 8 * PAGE),
                            lambda: c.map(PAGE, PAGE, m.fd),
                            lambda: c.map(3 * PAGE, 2 * PAGE, m.fd)):
                try:
                    request()
                except RequestError:
                    continue
                raise AssertionError('a bad request was accepted')
            same('maps', s.control.maps(), [Mapping(0, 4 * PAGE, 'rw', True)])
            c.unmap(0, 4 * PAGE)

    def test_huge(self):
        """a part of huge pages, not aligned to them, is mapped whole"""
        problem = self.enterContext(huge_pages(4))
        if problem:
            self.skipTest(problem)
        s = self.start()
        c, m = s.client, Memory(8 * MIB, MFD_HUGETLB | MFD_HUGE_2MB)
        start, size = MIB + 5 * PAGE, 4 * MIB
        with contextlib.closing(m):
            c.map(0x40000000, size, m.fd, offset=start)
            for at in (0, MIB, 2 * MIB, size - PAGE):
                m.data[start + at:start + at + PAGE] = pattern(at)
                same(f'from {at:#x}', c.dma(0x40000000 + at), 0)
                m.data[start + at:start + at + PAGE] = bytes(PAGE)
                same(f'to {at:#x}', c.dma(0x40000000 + at, to_ram=True), 0)
                assert m.data[start + at:start + at + PAGE] == pattern(at)
            c.unmap(0x40000000, size)

    def test_control(self):
        """the control socket serves several, and refuses nonsense politely"""
        s = self.start()
        others = [Control(s.control_path) for _ in range(3)]
        before = others[0].stats()
        s.client.dma(0)
        for other in others:
            same('dma-failed', other.stats()['dma-failed'],
                 before['dma-failed'] + 1)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(sock):
            sock.connect(s.control_path)
            sock.sendall(b'no such\nsta')
            with sock.makefile('rb') as f:
                same('answer', f.readline(), b'error unknown command\n')
                same('answer', f.readline(), b'end\n')
            # a line without an end: the server closes, with data unread
            with contextlib.suppress(ConnectionError):
                sock.sendall(b'x' * 1000)
                while sock.recv(100):
                    pass
        same('others', others[0].stats()['mappings'], 0)

    def test_reconnect(self):
        """mappings go with the client, and another one can come"""
        s = self.start()
        m = Memory(PAGE)
        with contextlib.closing(m):
            s.client.map(0, PAGE, m.fd)
            s.client.close()
            s.client = Client(s.path)
            same('maps', s.control.maps(), [])
            s.client.map(0, PAGE, m.fd)
            same('dma', s.client.dma(0), 0)

    def test_quit(self):
        """it exits on quit"""
        s = self.start()
        s.control.quit()
        expect_end(s)

    def test_terminate(self):
        """it exits on SIGTERM"""
        s = self.start()
        s.process.send_signal(signal.SIGTERM)
        expect_end(s)

    def test_once(self):
        """with --once it exits with the client"""
        s = self.start('--once')
        m = Memory(PAGE)
        with contextlib.closing(m):
            s.client.map(0, PAGE, m.fd)
            s.client.close()
            expect_end(s)

    def test_bad_options(self):
        """bad options are explained"""
        for args in ([], ['--nonsense', 'x'], ['--ready-fd', 'x', 'y'],
                     ['/nonexistent/edu'], ['/' + 'x' * 200],
                     ['--control', '/nonexistent/control', 'x']):
            done = subprocess.run([SERVER, *args], stdin=subprocess.DEVNULL,
                                  capture_output=True, check=False)
            same(f'{args}: exit code', done.returncode, 1)
            assert done.stderr, f'{args}: nothing said'
            same(f'{args}: stdout', done.stdout, b'')


if __name__ == '__main__':
    tap.main()
