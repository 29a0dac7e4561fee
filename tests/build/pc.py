# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that was built, as a user starts it: a PC with its firmware."""

import os
import queue
import socket
import subprocess
import threading

from lib import TOP
from lib.process import die_with_parent
from lib.qmp import Qmp

QEMU = os.environ.get('QEMU', str(TOP / 'build/qemu-system-x86_64'))
# What every test but that of the defaults says
QUIET = ('-display', 'none', '-accel', 'tcg')


class Qemu:
    """QEMU with these options, a monitor, and a channel that text comes from.

    PROGRAM is QEMU, or what starts it, with its first arguments.
    """

    def __init__(self, *options, text, program=(QEMU,)):
        pairs = [socket.socketpair() for _ in range(2)]
        (monitor, text_socket), theirs = zip(*pairs)
        self._said = queue.Queue()
        args = [*program, '-m', '1G', *options,
                '-mon', 'chardev=qmp,mode=control', *text]
        for name, sock in zip(('qmp', 'text'), theirs):
            args += ['-chardev', 'socket,id=%s,fd=%d' % (name, sock.fileno())]
        self._process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, universal_newlines=True,
            pass_fds=[sock.fileno() for sock in theirs],
            preexec_fn=die_with_parent)
        for sock in theirs:
            sock.close()
        threading.Thread(target=self._listen, args=(text_socket,),
                         daemon=True).start()
        with monitor:
            try:
                self.qmp = Qmp(monitor)
            except EOFError:
                raise AssertionError(self._process.communicate()[1]) from None

    def _listen(self, text):
        """Read all that the guest says.

        Some hundred bytes fill the socket, and QEMU then waits with a lock that its
        monitor needs.
        """
        with text:
            while some := text.recv(4096):
                self._said.put(some)
        self._said.put(b'')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._process.kill()
        self._process.communicate()

    def assert_running(self):
        """The VM runs."""
        status = self.qmp.command('query-status')['status']
        assert status == 'running', status

    def read_until(self, words, times=1):
        """Read text from the guest until these words are in it so often."""
        seen = b''
        while seen.count(words) < times:
            some = self._said.get()
            assert some, 'QEMU ended after %r' % seen
            seen += some


def bios(*options, program=(QEMU,)):
    """QEMU whose text is what SeaBIOS says of its work."""
    return Qemu(*options, program=program,
                text=('-device', 'isa-debugcon,iobase=0x402,chardev=text'))


def listed(kind):
    """The lines of what QEMU offers of a kind."""
    return subprocess.run(
        [QEMU, '-' + kind, 'help'], check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True).stdout.splitlines()
