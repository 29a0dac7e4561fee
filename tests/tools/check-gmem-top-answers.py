#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-top: with servers that are no QEMU, or a strange one."""

import json
import os
import re
import subprocess
import time


from lib import TOP, tap
from lib.fakeqmp import GIB, FakeQmp, block, runs
from lib.terminal import PATIENCE, Terminal

GMEM_TOP = TOP / 'tools/gmem-top'
MIB = 1 << 20
PARTS = 64 * MIB
EVIL = 'x\x1b]0;owned\x07\x1b[2J\r\n\t\x9b31m\u202e\x00\ud800<&">'
HARMLESS = 'x?]0;owned??[2J????31m???<&">'


def gmem_top(path, *args):
    """Run it to its end; the exit status, stdout and stderr."""
    done = subprocess.run(
        [str(arg) for arg in (GMEM_TOP, path, '--timeout', '20') + args],
        check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, timeout=PATIENCE, universal_newlines=True,
        env={**os.environ, 'LC_ALL': 'C', 'COLUMNS': '200'})
    assert (done.stdout + done.stderr).isascii()
    assert (done.stdout + done.stderr).replace('\n', '').isprintable()
    return done.returncode, done.stdout, done.stderr


def evil_block():
    """Text wherever there can be some."""
    listener = dict.fromkeys(('extents', 'mapped-bytes', 'map-calls',
                              'unmap-calls', 'splits'), 7)
    return block(id=EVIL, driver=EVIL, conversion=EVIL, init=EVIL,
                 listeners=[{'name': EVIL, **listener}])


def a_page_at_a_time(asked):
    """An answer of 1024 runs of 4 KiB, or the rest."""
    end = min(asked['offset'] + asked['limit'] * 4096, PARTS)
    found = [{'offset': at, 'size': 4096, 'private': bool(at & 4096)}
             for at in range(asked['offset'], end, 4096)]
    return {'id': 'm0', 'runs': found,
            **({'next-offset': end} if end < PARTS else {})}


class Answers(tap.TestCase):
    """What gmem-top makes of what a server says."""

    def test_rubbish_is_refused(self):
        no_qmp = 'is not a QMP socket'
        not_qmp = 'that is not QMP'
        bad = 'bad answer from QEMU'
        deep = b'[' * 100000 + b'\n'
        number = b'{"QMP": ' + b'9' * 10000 + b'}\n'
        answer = {'query_guest_memfd': None}
        cases = [(dict(greeting=greeting), no_qmp) for greeting in
                 (b'rubbish\n', b'\x00\xff\n', b'{}\n', b'[]\n', deep, number,
                  {'QMP': 7}, {'QMP': {'version': 7, 'capabilities': []}},
                  {'QMP': {'version': {}, 'capabilities': 7}},
                  b'x' * (11 * MIB))]
        cases += [(dict(greeting=b''), None),
                  (dict(qmp_capabilities=b''), None),
                  (dict(qmp_capabilities=b'{"error": {}}\n'), no_qmp),
                  (dict(greeting={'QMP': {'version': {}, 'capabilities': []}}),
                   'no known version'),
                  (dict(query_name=[]), bad),
                  (dict(query_name={'name': 7}), bad),
                  (answer, 'has no command query-guest-memfd')]
        cases += [(dict(query_guest_memfd=rubbish), not_qmp) for rubbish in
                  (b'rubbish\n', deep, b'{"error": {}}\n', b'[]\n')]
        cases += [(dict(query_guest_memfd=rubbish), bad) for rubbish in
                  (7, {}, 'x', [7], [{}], [block(), block()],
                   [block(id=7)], [block(driver=None)], [block(listeners=[{}])],
                   [block(**{'to-shared': []})],
                   [block(**{'huge-pages': [7]})])]
        cases += [(dict(query_guest_memfd=[block(size=size)]),
                   "no valid 'size'")
                  for size in (True, 0, -1, 1 << 64, 1e9, '1', None)]
        cases += [(dict(query_guest_memfd_map=rubbish), bad) for rubbish in
                  (7, {}, runs(), runs(GIB - 4096), runs(GIB, 4096),
                   runs(0, GIB),
                   runs(4096, end=0), runs(4096, end=8192), runs(-4096, GIB),
                   runs(1 << 63), {'runs': [{'offset': 0, 'size': GIB,
                                             'private': 1}]})]
        for number, (answers, words) in enumerate(cases):
            path = self.path / ('%d' % number)
            FakeQmp(path, **answers)
            code, out, err = gmem_top(path, '--once')
            assert code in (1, 3) and not out, (answers, code, out)
            assert err.count('\n') == 1 and 'Traceback' not in err, err
            assert (words or '') in err, (str(answers)[:300], err)

    def test_names_cannot_control_the_terminal(self):
        event = {'event': 'GUEST_MEMFD_CONVERSION_FAILED',
                 'timestamp': {'seconds': 1, 'microseconds': 1},
                 'data': {'id': EVIL, 'offset': 1, 'size': 2, 'private': True,
                          'error': EVIL}}
        told = json.dumps(event).encode() + b'\n'
        path = self.path / 'qmp'
        server = FakeQmp(path, query_name={'name': EVIL},
                         query_guest_memfd=[evil_block()])
        code, out, _ = gmem_top(path, '--once')
        assert code == 0 and out.count(HARMLESS) == 6, out
        code, out, _ = gmem_top(path, '--json')
        assert json.loads(out)['blocks'][0]['id'] == EVIL
        # The block is asked for by its real name
        assert server.heard[-1][1]['id'] == EVIL
        code, out, _ = gmem_top(path, '--svg', '-')
        assert code == 0 and 'x?]0;owned??[2J????31m???&lt;&amp;"&gt;' in out

        path = self.path / 'live'
        FakeQmp(path, query_guest_memfd=[evil_block()],
                query_name=told + b'{"return": {}, "id": "__qmp#00000"}\n')
        terminal = Terminal(self.path, [GMEM_TOP, path], size=(120, 24))
        terminal.until('> ' + HARMLESS, HARMLESS + ' ',
                       'to private: ' + HARMLESS)
        terminal.type('q')
        assert terminal.end() == 0
        assert 'owned\x07' not in terminal.seen and '\x9b' not in terminal.seen

    def test_huge_sizes_take_no_memory(self):
        size = (1 << 64) - 4096
        pages = [{'size': 1, 'shared': 0, 'private': 0, 'mixed': 0}]
        path = self.path / 'qmp'
        FakeQmp(path, query_guest_memfd=[block(size=size, **{
            'huge-pages': pages})],
            query_guest_memfd_map=runs(4096, size - 4096))
        code, out, _ = gmem_top(path, '--json')
        block_map = json.loads(out)['blocks'][0]['map']
        assert code == 0 and block_map['cell-size'] == 1 << 44
        assert [run['state'] for run in block_map['runs']] == [
            'mixed', 'private']
        assert gmem_top(path, '--once')[0] == 0
        assert gmem_top(path, '--png', self.path / 'png')[0] == 0

    def test_sizes_have_three_digits(self):
        for number, (size, text) in enumerate((
                (0, '0 B'), (999, '999 B'), (1000, '0.977 KiB'),
                (33856, '33.1 KiB'), (1023487, '999 KiB'),
                (1023488, '0.976 MiB'),
                ((1 << 64) - 1, '16 EiB'))):
            path = self.path / ('%d' % number)
            FakeQmp(path, query_guest_memfd=[block(**{'metadata-bytes': size})])
            code, out, _ = gmem_top(path, '--once')
            assert code == 0 and ', metadata %s\n' % text in out, out

    def test_pictures_show_what_broken_huge_pages_cost(self):
        pages = [{'size': GIB, 'shared': 0, 'private': 1, 'mixed': 2},
                 {'size': 2 * MIB, 'shared': 9, 'private': 8, 'mixed': 7}]
        told = 'pages of 1 GiB: 0 shared, 1 private, 2 mixed, vmemmap 1.48 MiB'
        costs = {'vmemmap-bytes': 1515 << 10}
        # Pages of 4 KiB form no huge page that could break
        for number, (size, known, lines) in enumerate((
                (GIB, costs, [told]), (GIB, {}, [told.rpartition(',')[0]]),
                (4096, {}, []))):
            path = self.path / str(number)
            FakeQmp(path, query_guest_memfd=[block(**{
                'page-size': size, 'size': 3 * GIB, 'huge-pages': pages,
                **known})],
                query_guest_memfd_map=runs(GIB, 2 * GIB))
            code, out, _ = gmem_top(path, '--svg', '-')
            texts = re.findall(r'<text .*? y="(\d+)" .*>(.*)</text>', out)
            shown = [text for _, text in texts]
            assert code == 0 and shown[2:-1][:len(lines) + 1] == \
                lines + ['shared'], shown
            tops = [int(top) for top, _ in texts]
            # No line is drawn over another
            assert sorted(set(tops)) == sorted(tops[:len(lines) + 3] +
                                               tops[len(lines) + 6:]), texts

    def test_the_vm_is_asked_little(self):
        path = self.path / 'qmp'
        server = FakeQmp(path, query_guest_memfd=[block(size=PARTS)],
                         query_guest_memfd_map=a_page_at_a_time)
        terminal = Terminal(self.path, [GMEM_TOP, '--interval', '0.1', path])
        terminal.until('% read', '0 MiB ▒▒▒', '???')
        terminal.until('0 MiB ' + 32 * '▒', 'up to date')
        asked = [name for name, _ in server.heard].count('query-guest-memfd')
        while [name for name, _ in server.heard].count('query-guest-memfd') < \
                asked + 5:
            assert terminal.read()
        terminal.type('q')
        assert terminal.end() == 0
        parts = [args for name, args in server.heard
                 if name == 'query-guest-memfd-map']
        # Once, in small parts: nothing has changed since
        assert [part['offset'] for part in parts] == list(
            range(0, PARTS, 4 * MIB))
        assert {part['limit'] for part in parts} == {1024}
        assert {name for name, _ in server.heard} == {
            'qmp_capabilities', 'query-name', 'query-guest-memfd',
            'query-guest-memfd-map'}

    def test_a_change_is_read_again(self):
        state = {'private': 64 * MIB}

        def info(_):
            """Slower than gmem-top asks."""
            time.sleep(0.15)
            return [block(**{'private-bytes': state['private'],
                             'shared-bytes': GIB - state['private']})]

        def area(_):
            """What is private is at the end."""
            return runs(GIB - state['private'], state['private'])

        path = self.path / 'qmp'
        FakeQmp(path, query_guest_memfd=info, query_guest_memfd_map=area)
        terminal = Terminal(self.path, [GMEM_TOP, '--interval', '0.1', path])
        terminal.until('896 MiB ' + 32 * '░' + 32 * '█')
        state['private'] = 132 * MIB
        terminal.until('768 MiB ' + 62 * '░' + 2 * '█', '896 MiB ' + 64 * '█')
        terminal.type('q')
        assert terminal.end() == 0

    def test_a_vm_that_does_not_answer(self):
        path = self.path / 'qmp'
        FakeQmp(path, query_guest_memfd=b'\n')
        code, _, err = gmem_top(path, '--once')
        assert code in (1, 3), err
        path = self.path / 'silent'
        FakeQmp(path, query_name=b'{"event": "X", "timestamp": {}}\n')
        code, _, err = gmem_top(path, '--once', '--timeout', '5')
        assert code == 1 and 'QEMU does not answer' in err
        path = self.path / 'stuck'
        FakeQmp(path,
                query_guest_memfd_map=b'{"event": "X", "timestamp": {}}\n')
        terminal = Terminal(self.path, [GMEM_TOP, path])
        terminal.until('no answer from QEMU for', '0% read')
        terminal.type('q')
        assert terminal.end() == 0


if __name__ == '__main__':
    tap.main()
