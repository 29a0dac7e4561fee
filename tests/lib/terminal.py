# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal with few words, and what a program has drawn on it."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

# Only against a hang
PATIENCE = 60
# Bytes read at once: few, so that who looks before all is drawn sees that each
# time, not once in a thousand runs
BITE = 48
# ncurses knows no other way to move than "cup", so this is all there is to
# understand
DESCRIPTION = r'''gmem-test|a terminal for tests,
    cols#80, lines#24, colors#8, pairs#64,
    cup=\E[%i%p1%d;%p2%dH, clear=\E[H\E[2J,
    setaf=\E[3%p1%dm, setab=\E[4%p1%dm, op=\E[39;49m, sgr0=\E[m, bold=\E[1m,
    smcup=\E[?1049h, rmcup=\E[?1049l, civis=\E[?25l, cnorm=\E[?25h,
    kcuu1=\E[A, kcud1=\E[B, knp=\E[6~, kpp=\E[5~,
gmem-mono|the same without colours,
    colors@, pairs@, setaf@, setab@, op@, use=gmem-test,
'''
SEQUENCE = re.compile(r'\x1b\[(\??[\d;]*)([A-Za-z])|\x1b(?:\[[\d;?]*)?$')


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, directory, args, size=(80, 24), **env):
        source = directory / 'test.terminfo'
        if not source.exists():
            source.write_text(DESCRIPTION)
            subprocess.run(['tic', '-x', '-o', directory, source], check=True)
        self.master, slave = pty.openpty()
        self.size = size
        self.seen = ''              # everything
        self._rest = ''
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
        self._cells, self._x, self._y = {}, 0, 0
        self._set_size()
        self.modes = termios.tcgetattr(self.master)

        def prepare():
            """In the child: take the terminal, and let ^C reach it."""
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        kept = {name: value for name, value in os.environ.items()
                if name in ('PATH', 'QEMU_TREE')}
        self.process = subprocess.Popen(
            [str(arg) for arg in args], stdin=slave, stdout=slave,
            stderr=slave, preexec_fn=prepare,
            env={'TERM': 'gmem-test', 'TERMINFO': str(directory),
                 'LC_ALL': 'C.UTF-8', **kept, **env})
        os.close(slave)

    def _set_size(self):
        columns, lines = self.size
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', lines, columns, 0, 0))

    def resize(self, columns, lines):
        """As when a user drags a corner; the program has to draw again."""
        self.size = (columns, lines)
        self._cells = {}
        self._set_size()

    def _put(self, char):
        if char == '\r':
            self._x = 0
        elif char == '\n':
            self._y += 1
        elif char >= ' ':
            self._cells[self._x, self._y] = char
            self._x = min(self._x + 1, self.size[0] - 1)

    def _feed(self, text):
        """Draw."""
        text, self._rest = self._rest + text, ''
        while text:
            found = SEQUENCE.match(text)
            if not found:
                self._put(text[0])
                text = text[1:]
                continue
            text = text[found.end():]
            if not found.group(2):
                self._rest = found.group()
            elif found.group(2) == 'H':
                y, x = (found.group(1) or '1;1').split(';')
                self._x, self._y = int(x) - 1, int(y) - 1
            elif found.group(2) == 'J':
                self._cells = {}

    def read(self):
        """More of what it writes; False if it has ended."""
        assert select.select([self.master], [], [], PATIENCE)[0], self.text()
        try:
            data = os.read(self.master, BITE)
        except OSError:
            data = b''
        text = self._decoder.decode(data)
        self.seen += text
        self._feed(text)
        return bool(data)

    def lines(self):
        """The screen."""
        columns, lines = self.size
        return [''.join(self._cells.get((x, y), ' ') for x in range(columns))
                .rstrip() for y in range(lines)]

    def text(self):
        """The same as one string."""
        return '\n'.join(self.lines())

    def until(self, *words):
        """Until all these words are on the screen."""
        end = time.monotonic() + PATIENCE   # there is a clock, which ticks
        while not all(word in self.text() for word in words):
            assert time.monotonic() < end and self.read(), \
                'no %s on: %s' % (words, self.text())

    def type(self, keys):
        """Press keys."""
        os.write(self.master, keys.encode())

    def hang_up(self):
        """As when ssh loses its connection; the exit status."""
        os.close(self.master)
        return self.process.wait(PATIENCE)

    def end(self):
        """The exit status, when it has ended by itself."""
        end = time.monotonic() + PATIENCE
        while self.read():
            assert time.monotonic() < end, 'it goes on: ' + self.text()
        return self.process.wait(PATIENCE)

    def restored(self):
        """Whether it has left the terminal as it was; what it said then.

        The kernel sends SIGINT before it looks whether to echo the key: by
        then the program may have turned echo on again, and have ended.
        """
        assert termios.tcgetattr(self.master) == self.modes
        drawn, left, said = self.seen.rpartition('\x1b[?1049l')
        assert left and drawn.count('\x1b[?1049h') == 1
        assert self.seen.rfind('\x1b[?25h') > self.seen.rfind('\x1b[?25l')
        said = re.sub(r'\x1b\[[?\d;]*[A-Za-z]', '', said)
        return said.replace('^C', '', 1).strip()
