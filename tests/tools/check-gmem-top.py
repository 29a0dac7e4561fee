#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-top: with QEMU.  Environment: QEMU."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import zlib
from xml.etree import ElementTree


from lib import TOP, tap
from lib.process import die_with_parent
from lib.qmp import Qmp
from lib.terminal import PATIENCE, Terminal

QEMU = os.environ.get('QEMU', str(TOP / 'build/qemu-system-x86_64'))
GMEM_TOP = TOP / 'tools/gmem-top'
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
COLOURS = {'#56b4e9': 'shared', '#d55e00': 'private', '#f0e442': 'mixed',
           '#bbbbbb': 'unknown'}


class Vm:
    """QEMU without a machine, but with memory, and two QMP sockets."""

    def __init__(self, directory, *blocks):
        self.path = directory / 'qmp'
        self.busy = directory / 'busy'
        ours, theirs = socket.socketpair()
        args = [QEMU, '-machine', 'none', '-accel', 'qtest', '-nodefaults',
                '-display', 'none', '-name', 'a & b', '-qmp',
                'unix:%s,server=on,wait=off' % self.path, '-monitor',
                'unix:%s,server=on,wait=off' % self.busy,
                '-chardev', 'socket,id=ours,fd=%d' % theirs.fileno(),
                '-mon', 'chardev=ours,mode=control']
        for block in blocks:
            args += ['-object', self.memory(*block)]
        with theirs:
            self.process = subprocess.Popen(
                args, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], preexec_fn=die_with_parent)
        self.qmp = Qmp(ours)

    @staticmethod
    def memory(name, size):
        """The option of a block."""
        return ('memory-backend-guest-memfd,id=%s,size=%d,driver=emulated,'
                'reserve=off' % (name, size))

    def private(self, name, offset, size):
        """Convert."""
        self.qmp.command('x-guest-memfd-convert', id=name, offset=offset,
                         size=size, private=True)

    def end(self, how=signal.SIGKILL):
        """It does not exist any more."""
        self.process.send_signal(how)
        self.process.wait()


@contextlib.contextmanager
def vm(directory, *blocks):
    """A VM that does not outlive the test."""
    machine = Vm(directory, *blocks)
    try:
        yield machine
    finally:
        machine.end()


def patterned(machine):
    """Give m0 (1 GiB) some of everything; the state of each 2 MiB."""
    machine.private('m0', 256 * MIB, 512 * MIB)
    machine.private('m0', 0, 2 * MIB)
    machine.private('m0', 64 * MIB + 4 * KIB, 4 * KIB)
    machine.private('m0', 1023 * MIB, MIB)
    states = ['shared'] * 128 + ['private'] * 256 + ['shared'] * 128
    states[0], states[32], states[511] = 'private', 'mixed', 'mixed'
    return states


def gmem_top(*args, **env):
    """Run it to its end."""
    return subprocess.run(
        [str(arg) for arg in (GMEM_TOP,) + args], check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=PATIENCE,
        stderr=subprocess.PIPE, env={**os.environ, **env})


def said(done):
    """What it printed, when it succeeded."""
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.decode()


def complaint(done, status=1):
    """The one line with which it failed."""
    assert done.returncode == status, done
    assert done.stderr.count(b'\n') == 1 and not done.stdout, done
    return done.stderr.decode()


def read_png(data):
    """Rows of (red, green, blue)."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    at, chunks = 8, {}
    while at < len(data):
        length, name = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        crc, = struct.unpack('>I', data[at + 8 + length:at + 12 + length])
        assert crc == zlib.crc32(name + body)
        chunks[name] = chunks.get(name, b'') + body
        at += 12 + length
    width, height, depth, kind = struct.unpack('>IIBB', chunks[b'IHDR'][:10])
    assert (depth, kind) == (8, 3)
    palette = ['#%02x%02x%02x' % rgb for rgb in
               struct.iter_unpack('BBB', chunks[b'PLTE'])]
    raw = zlib.decompress(chunks[b'IDAT'])
    assert len(raw) == (width + 1) * height
    rows = [raw[y * (width + 1):(y + 1) * (width + 1)] for y in range(height)]
    assert all(row[0] == 0 for row in rows)
    return [[palette[value] for value in row[1:]] for row in rows]


def read_svg(data):
    """Its texts, and the rectangles behind the legend's."""
    root = ElementTree.fromstring(data)
    space = '{http://www.w3.org/2000/svg}'
    rects = [([int(rect.get(key)) for key in ('x', 'y', 'width', 'height')],
              rect.get('fill')) for rect in root.iter(space + 'rect')
             if rect.get('x')]
    texts = [text.text for text in root.iter(space + 'text')]
    assert [COLOURS[fill] for _, fill in rects[:4]] == texts[2:6]
    return texts, rects[4:]


def same_picture(rects, rows):
    """All pixels of the rectangles have their colours."""
    for (x, y, width, height), fill in rects:
        for row in rows[y:y + height]:
            assert set(row[x:x + width]) == {fill}, (x, y, fill)


def pictures(directory, machine, *args):
    """The texts and rectangles, after both formats were compared."""
    png, svg = directory / 'map.png', directory / 'map.svg'
    said(gmem_top('--png', png, '--svg', svg, *args, machine.path))
    texts, rects = read_svg(svg.read_bytes())
    same_picture(rects, read_png(png.read_bytes()))
    return texts, rects


class GmemTop(tap.TestCase):
    """What gmem-top shows of a VM."""

    def test_the_report_shows_the_map(self):
        with vm(self.path, ('m0', GIB)) as machine:
            states = patterned(machine)
            text = said(gmem_top('--once', '--ascii', machine.path))
        assert 'm0: 1 GiB in pages of 4 KiB, driver=emulated' in text
        drawn = re.findall(r'^ *(\d+) MiB ([.#+?]{64})$', text, re.M)
        assert [int(offset) for offset, _ in drawn] == list(range(0, 1024, 128))
        names = {'.': 'shared', '#': 'private', '+': 'mixed', '?': 'unknown'}
        assert [names[c] for _, row in drawn for c in row] == states
        assert re.search(r'^to private +4 .* 515 MiB', text, re.M)
        assert re.search(r'^2 MiB +253 +257 +2$', text, re.M)

    def test_the_words_are_those_of_the_monitor(self):
        # And so are the sizes
        sizes = (4 * KIB, 1020 * KIB, 999 * MIB, 1000 * MIB,
                 1023 * MIB + 4 * KIB,
                 3 * GIB + 4 * KIB, 12345 * MIB, TIB - GIB)
        with vm(self.path, *(('m%d' % n, size)
                             for n, size in enumerate(sizes))) as machine:
            for number in (0, 4, 6):
                machine.private('m%d' % number, 0, 4 * KIB)
            real = machine.qmp.command('human-monitor-command', **{
                'command-line': 'info guest-memfd'})
            text = said(gmem_top('--once', machine.path))
        lines = [' '.join(line.split()) for line in text.splitlines()]
        # gmem-top also has rates, and nothing has one in a single report
        lines += [line.replace(' /s', '').replace(' - ', ' ') for line in lines]
        for line in map(str.split, real.splitlines()):
            assert ' '.join(line) in lines, (line, text)

    def test_json_has_the_map(self):
        with vm(self.path, ('m0', GIB), ('m1', 3 * MIB)) as machine:
            states = patterned(machine)
            answer = json.loads(said(gmem_top('--once', '--json',
                                              machine.path)))
            real = machine.qmp.command('query-guest-memfd')
        assert answer['name'] == 'a & b' and answer['version']
        for block, info in zip(answer['blocks'], real):
            assert {key: block[key] for key in info} == info
        found = []
        for run in answer['blocks'][0]['map']['runs']:
            assert run['offset'] == len(found) * 2 * MIB
            found += [run['state']] * (run['size'] // (2 * MIB))
        assert found == states
        assert answer['blocks'][1]['map']['runs'] == [
            {'offset': 0, 'size': 3 * MIB, 'state': 'shared'}]

    def test_pictures_show_the_map(self):
        with vm(self.path, ('m0', GIB)) as machine:
            states = patterned(machine)
            texts, rects = pictures(self.path, machine)
        assert texts[0].startswith('m0  1 GiB  a & b  20')
        assert [COLOURS[fill] for _, fill in rects] == states
        assert len({rect[0] for rect, _ in rects}) == 32

    def test_pictures_of_a_terabyte(self):
        with vm(self.path, ('m0', TIB)) as machine:
            machine.private('m0', 256 * GIB, 512 * GIB)
            machine.private('m0', TIB - 4 * KIB, 4 * KIB)
            texts, rects = pictures(self.path, machine)
        assert '16 MiB per cell' in texts[1]
        area = dict.fromkeys(COLOURS.values(), 0)
        for (_, _, width, height), fill in rects:
            area[COLOURS[fill]] += width * height
        assert area == {'shared': 512 * 1024 - 16, 'private': 512 * 1024,
                        'mixed': 16, 'unknown': 0}
        left, top = rects[0][0][:2]
        assert rects[-1] == ([left + 1020, top + 1020, 4, 4], '#f0e442')
        assert next(rect for rect, fill in rects if fill == '#d55e00')[1] == \
            top + 256

    def test_one_block_of_several(self):
        with vm(self.path, ('m0', GIB), ('m1', 4 * GIB)) as machine:
            texts, rects = pictures(self.path, machine, '--block', 'm1')
            both, _ = read_svg(gmem_top('--svg', '-', machine.path).stdout)
            error = complaint(gmem_top('--once', '--block', 'm2', machine.path))
        assert texts[0].startswith('m1  4 GiB') and len(rects) == 2048
        assert [text[:2] for text in both if ' GiB  a & b' in text] == ['m0',
                                                                        'm1']
        assert 'm2: no such block' in error

    def test_no_blocks(self):
        with vm(self.path) as machine:
            assert said(gmem_top('--once', machine.path)) == \
                'this VM has no guest_memfd memory\n'
            assert json.loads(said(gmem_top('--json', machine.path)))[
                'blocks'] == []
            error = complaint(gmem_top('--png', self.path / 'png',
                                       machine.path))
            assert 'no guest_memfd memory' in error
            assert not (self.path / 'png').exists()

    def test_a_terminal_of_any_size(self):
        with vm(self.path, ('m0', GIB)) as machine:
            patterned(machine)
            terminal = Terminal(self.path, [GMEM_TOP, machine.path])
            terminal.until('2 MiB per cell', 'up to date', 'q quit',
                           '\n    0 MiB █' + 31 * '░' + '▒' + 31 * '░' + '\n',
                           '\n  256 MiB ' + 64 * '█' + '\n')
            for size, words in (((20, 5), ['> m0', 'map: 32 MiB']),
                                ((1, 1), ['>']), ((200, 60), ['q quit', '▒']),
                                ((11, 3), ['> m0']), ((300, 2), ['> m0']),
                                ((2, 50), ['gm', '▒░']),
                                ((80, 24), ['2 MiB per cell', 'no listeners'])):
                terminal.resize(*size)
                terminal.until(*words)
            terminal.type('q')
            assert terminal.end() == 0
            assert terminal.restored() == ''

    def test_the_live_view_follows(self):
        with vm(self.path, ('m0', GIB), ('m1', 2 * GIB)) as machine:
            terminal = Terminal(self.path, [GMEM_TOP, '--interval', '0.1',
                                            machine.path])
            terminal.until('> m0', '  m1', ' 512        0      0', 'up to date')
            machine.private('m0', 0, 4 * MIB)
            terminal.until(' 510        2      0', '0 MiB ██░░')
            terminal.type('\x1b[B')
            terminal.until('> m1', '1024        0      0')
            machine.private('m1', 2 * GIB - 4 * KIB, 4 * KIB)
            terminal.until('1023        0      1', '░▒')
            terminal.type('---')
            terminal.until('32 MiB per cell')
            terminal.type('++++')
            terminal.until('2 MiB per cell', 'row 1 of 16')
            terminal.type('\x1b[6~')
            terminal.until('row 6 of 16', '1920 MiB')
            machine.qmp.command('object-del', id='m1')
            terminal.until('> m0', ' 510        2      0')
            machine.qmp.command('object-del', id='m0')
            terminal.until('this VM has no guest_memfd memory')
            machine.qmp.command('object-add', **{
                'qom-type': 'memory-backend-guest-memfd', 'id': 'new',
                'size': 8 * MIB, 'driver': 'emulated'})
            terminal.until('> new', '0 MiB ░░░░')
            terminal.type('q')
            assert terminal.end() == 0

    def test_signals_and_a_vm_that_dies(self):
        with vm(self.path, ('m0', GIB)) as machine:
            def live():
                terminal = Terminal(self.path, [GMEM_TOP, '--interval', '3600',
                                                machine.path])
                terminal.until('up to date')
                return terminal

            terminal = live()
            terminal.type('\x03')
            assert terminal.end() == 130
            assert terminal.restored() == 'gmem-top: interrupted'
            terminal = live()
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.end() == 143
            assert terminal.restored() == 'gmem-top: terminated'
            assert live().hang_up() == 129
            terminal = live()
            machine.end()
            assert terminal.end() == 3
            assert terminal.restored().endswith('qmp: the VM is gone')
        assert 'is the VM running?' in complaint(
            gmem_top('--once', machine.path))

    def test_terminals_without_colour(self):
        with vm(self.path, ('m0', GIB)) as machine:
            patterned(machine)
            colour = re.compile(r'\x1b\[3\dm')
            for colours, env in ((True, {}), (False, {'NO_COLOR': '1'}),
                                 (False, {'TERM': 'gmem-mono'})):
                terminal = Terminal(self.path, [GMEM_TOP, machine.path], **env)
                terminal.until('up to date', '█')
                terminal.type('q')
                assert terminal.end() == 0
                assert bool(colour.search(terminal.seen)) == colours, env
            terminal = Terminal(self.path, [GMEM_TOP, machine.path], LC_ALL='C')
            terminal.until('up to date', '0 MiB #....')
            terminal.type('q')
            assert terminal.end() == 0 and terminal.seen.isascii()

    def test_no_terminal_to_speak_of(self):
        with vm(self.path, ('m0', GIB)) as machine:
            machine.private('m0', 0, 4 * KIB)
            for term in ('dumb', 'no-such-terminal'):
                terminal = Terminal(self.path, [GMEM_TOP, '--interval', '0.1',
                                                machine.path], TERM=term)
                terminal.until('m0  shared 1 GiB  private 4 KiB')
                while '2 MiB mixed 1' not in terminal.seen:
                    assert terminal.read()
                assert '\x1b' not in terminal.seen
                terminal.process.send_signal(signal.SIGTERM)
                assert terminal.end() == 143
            with subprocess.Popen([GMEM_TOP, machine.path],
                                  stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) as piped:
                assert b'2 MiB mixed 1' in piped.stdout.readline()
                piped.terminate()
                assert piped.stderr.read() == b'gmem-top: terminated\n'
                assert piped.wait() == 143

    def test_sockets_that_are_no_use(self):
        with vm(self.path, ('m0', GIB)) as machine:
            live = Terminal(self.path, [GMEM_TOP, machine.path])
            live.until('up to date')
            waiting = []
            for _ in range(4):          # until the backlog is full, too
                error = complaint(gmem_top('--once', '--timeout', '0.5',
                                           machine.path))
                assert 'another client holds this socket' in error
                assert 'second -qmp' in error
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting[-1].connect(str(machine.path))
            live.type('q')
            assert live.end() == 0
            for sock in waiting:
                sock.close()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)       # until QEMU has seen all that
                sock.connect(str(machine.path))
                assert sock.recv(1)
            assert 'm0: 1 GiB' in said(gmem_top('--once', machine.path))
            assert 'not a QMP socket' in complaint(
                gmem_top('--once', machine.busy))
        with socket.socket() as sock:       # nobody listens
            sock.bind(('127.0.0.1', 0))
            error = complaint(gmem_top('--once', '127.0.0.1:%d' %
                                       sock.getsockname()[1]))
        assert ': Connection refused; is the VM running?' in error, error
        missing = self.path / 'missing'
        assert 'No such file' in complaint(gmem_top('--once', missing))
        assert 'is the VM running?' in complaint(
            gmem_top('--once', self.path / ('x' * 200)))
        assert gmem_top('--once', '--svg', '-', missing).returncode == 2
        assert gmem_top('--json', '--svg', '-', missing).returncode == 2
        assert gmem_top('--interval', '0', missing).returncode == 2


if __name__ == '__main__':
    tap.main()
