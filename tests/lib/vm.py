# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM with the guest of tests/guest, and edu on a vfio-user server.

Everything but the socket of the vfio-user server is connected by socket pairs,
so there is nothing to wait for and nothing to clean up but one directory.
"""

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading

from lib import tap
from lib.error import HarnessError
from lib.guest import EXIT_PASS, PAUSED
from lib.hugepages import huge_pages
from lib.paths import Paths
from lib.process import die_with_parent
from lib.qmp import Qmp
from lib.server import start_server
from lib.units import MIB

# Of a VM: against hangs only, no test is as slow
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
# Milliseconds for a vfio-user server: on a host that has much to do a good one
# does not answer in the five seconds that are the default
MSG_TIMEOUT = int(TIMEOUT * 1000)


class GuestError(HarnessError):
    """The guest has failed, or has ended too soon."""


class VM:
    """The server, QEMU and the guest; a context manager that ends them all.

    Lines of the guest arrive in .lines, a queue that ends with None.  Without
    @server there is no server; @device_options are more of its device.  If the
    guest is @protected, KVM has private memory for it.  @preload is a library that
    QEMU loads before libc.
    """

    def __init__(self, paths=None, accel='tcg', huge=False, ram=512 * MIB,
                 driver='emulated', init='private', memory=None,
                 devices=None, guest='', smp=1, timeout=TIMEOUT, server=True,
                 device_options=(), protected=False, preload=None):
        self.paths = paths or Paths()
        self.has_server = server
        self._device_options = dict(device_options)
        self.accel = accel
        self.ram = ram
        self.smp = smp
        self.protected = protected
        self._env = dict(os.environ, LD_PRELOAD=preload) if preload else None
        self.guest_options = guest
        self.lines = queue.Queue()
        self.console = []
        self.timed_out = False
        self._timeout = timeout
        self._timer = None
        if memory is None:
            memory = (f'memory-backend-guest-memfd,id=m0,size={ram},'
                      f'driver={driver},init={init}')
            if huge:
                memory += ',hugetlb=on,hugetlbsize=2M'
        self.memory = memory
        self.devices = (['guest-memfd-testdev'] if devices is None
                        else devices)
        self.server = self.qemu = self.qmp = self.control = None
        self._dir = self._errors = self._serial = self._reader = None
        self._printed = ''

    def __enter__(self):
        self._dir = tempfile.mkdtemp(prefix='guest-memfd-')
        self._errors = open(os.path.join(self._dir, 'errors'), 'w+',
                            encoding='utf-8', errors='replace')
        try:
            if self.has_server:
                self.server, self.control = self.start_server('edu', '--once')
            self._start_qemu()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def start_server(self, name, *options):
        """A server on the socket @name; its process and its control."""
        return start_server(self.paths.server, self.socket(name), self._errors,
                            *options)

    def socket(self, name):
        """The path of a socket of this VM's."""
        return os.path.join(self._dir, name)

    def command_line(self, fds):
        """QEMU's command line; @fds are those of console, serial and QMP."""
        args = [self.paths.qemu]
        for d in self.paths.firmware:
            args += ['-L', d]
        args += ['-nodefaults', '-display', 'none', '-no-reboot',
                 '-accel', self.accel, '-cpu', 'max', '-smp', str(self.smp),
                 '-m', f'{self.ram // MIB}M', '-object', self.memory,
                 '-machine', 'q35,memory-backend=m0']
        if self.protected:
            args += ['-object', 'x-sw-protected-guest,id=p0',
                     '-machine', 'confidential-guest-support=p0']
        for name, fd in zip(('console', 'serial', 'qmp'), fds):
            args += ['-chardev', f'socket,id={name},fd={fd}']
        args += ['-mon', 'chardev=qmp,mode=control',
                 '-device', 'isa-debugcon,iobase=0xe9,chardev=console',
                 '-device', 'isa-serial,chardev=serial',
                 '-device', 'isa-debug-exit,iobase=0xf4,iosize=4']
        for device in self.devices:
            args += ['-device', device]
        if self.has_server:
            args += ['-device', json.dumps({
                'driver': 'vfio-user-pci', 'id': 'edu0',
                'x-msg-timeout': MSG_TIMEOUT, **self._device_options,
                'socket': {'type': 'unix',
                           'path': self.socket('edu')}})]
        return args + ['-kernel', self.paths.guest,
                       '-append', self.guest_options]

    def _start_qemu(self):
        pairs = [socket.socketpair() for _ in range(3)]
        theirs = [pair[1] for pair in pairs]
        fds = [sock.fileno() for sock in theirs]
        console, self._serial, monitor = [pair[0] for pair in pairs]
        try:
            self.qemu = subprocess.Popen(
                self.command_line(fds), stdin=subprocess.DEVNULL,
                stdout=self._errors, stderr=self._errors, pass_fds=fds,
                env=self._env, preexec_fn=die_with_parent)
        finally:
            for sock in theirs:
                sock.close()
        self._reader = threading.Thread(target=self._read_console,
                                        args=(console,), daemon=True)
        self._reader.start()
        if self._timeout:
            self._timer = threading.Timer(self._timeout, self._expired)
            self._timer.daemon = True
            self._timer.start()
        try:
            self.qmp = Qmp(monitor)
        except (EOFError, ConnectionError) as err:
            self.qemu.wait()
            raise HarnessError(
                f'QEMU did not start:\n{self.errors()}') from err
        finally:
            monitor.close()

    def _read_console(self, sock):
        with sock, sock.makefile('r', encoding='ascii',
                                 errors='replace') as f:
            with contextlib.suppress(OSError):
                for line in f:
                    line = line.rstrip('\r\n')
                    self.console.append(line)
                    self.lines.put(line)
        self.lines.put(None)

    def _expired(self):
        self.timed_out = True
        self.qemu.kill()

    def errors(self):
        """What QEMU and the server printed."""
        if self._errors:
            self._errors.flush()
            with open(self._errors.name, encoding='utf-8',
                      errors='replace') as f:
                self._printed = f.read().rstrip()
        return self._printed

    def explain(self):
        """Lines that help to understand a failure."""
        lines = [f'no end after {self._timeout} s: killed'] \
            if self.timed_out else []
        return lines + [f'guest: {line}' for line in self.console[-20:]] + [
            f'stderr: {line}' for line in self.errors().splitlines()[-20:]]

    def next_line(self):
        """What the guest says next; GuestError if it fails or ends."""
        line = self.lines.get()
        if line is None:
            raise GuestError('the guest ended before it was done')
        if line.startswith('FAIL'):
            raise GuestError(line)
        return line

    def said_until(self, start):
        """What the guest says up to the line that starts like this."""
        said = []
        while not said or not said[-1].startswith(start):
            said.append(self.next_line())
        return said

    def said_until_pause(self):
        """What the guest says before it waits for resume()."""
        return self.said_until(PAUSED)[:-1]

    def resume(self, word=b'g'):
        """Let a guest that has paused go on, and tell it a letter."""
        self._serial.sendall(word)

    def wait(self):
        """The exit codes of QEMU and of the server, which follows it."""
        qemu = self.qemu.wait()
        self._reader.join()
        return qemu, self.server.wait() if self.server else 0

    def assert_good_end(self):
        """Wait for the end, as the guest wants it."""
        qemu, server = self.wait()
        if 'PASS' not in self.console or qemu != EXIT_PASS:
            raise GuestError(f'QEMU exited with {qemu}, expected {EXIT_PASS}; '
                             f'the guest said {self.console[-1:]}')
        if server:
            raise HarnessError(f'the server exited with {server}')

    def close(self):
        """End whatever still runs."""
        if self._timer:
            self._timer.cancel()
        for process in (self.qemu, self.server):
            if process:
                if process.poll() is None:
                    process.kill()
                process.wait()
        if self._reader:
            self._reader.join()
        if self._serial:
            self._serial.close()
        if self._errors:
            self.errors()
            self._errors.close()
            self._errors = None
        if self._dir:
            shutil.rmtree(self._dir, ignore_errors=True)
            self._dir = None


class VMTest(tap.TestCase):
    """A test that says what the VM did, if it fails.

    A VM that several tests look at is started by start_for_all() in
    setUpClass().
    """

    vm = None

    def explain(self):
        """Lines for a test that has failed."""
        return self.vm.explain() if self.vm else []

    def run(self, result=None):
        failures = len(result.errors) + len(result.failures)
        super().run(result)
        if len(result.errors) + len(result.failures) > failures:
            for line in self.explain():
                result.print_raw(f'# {line}\n')

    def start(self, vm):
        """Start a VM that ends with this test."""
        self.vm = vm
        return self.enterContext(vm)

    @classmethod
    def need(cls, problem, pages=0):
        """Skip all tests of the class if this host has a @problem, or not so many
        huge pages for them."""
        problem = problem or cls.enterClassContext(huge_pages(pages))
        if problem:
            raise tap.Skip(problem)

    @classmethod
    def start_for_all(cls, vm):
        """Start a VM that ends with the last test of the class."""
        cls.vm = vm
        return cls.enterClassContext(vm)

    def assert_none(self, problems):
        """There are no problems."""
        self.assertFalse(problems, '\n'.join(map(str, problems)))
