# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP server that says what a test wants, and remembers what it heard."""

import json
import socket
import threading

GREETING = {'QMP': {'version': {'qemu': {'major': 10, 'minor': 2, 'micro': 2},
                                'package': ''}, 'capabilities': []}}
GIB = 1 << 30
QUERIES = ('query_name', 'query_guest_memfd', 'query_guest_memfd_map')


def block(**changes):
    """An entry of query-guest-memfd."""
    direction = {'requests': 0, 'bytes': 0, 'failures': 0, 'retries': 0,
                 'rollbacks': 0}
    return {'id': 'm0', 'size': GIB, 'page-size': 4096,
            'provider': 'pages', 'driver': 'emulated',
            'conversion': 'in-place', 'init': 'shared', 'shared-bytes': GIB,
            'private-bytes': 0, 'to-private': direction,
            'to-shared': direction, 'metadata-bytes': 1, 'mapped': True,
            'huge-pages': [{'size': 2 << 20, 'shared': 512, 'private': 0,
                            'mixed': 0}], 'listeners': [], **changes}


def runs(*sizes, end=None):
    """An answer of query-guest-memfd-map: shared, private, shared, ..."""
    answer, offset = {'id': 'm0', 'runs': []}, 0
    for number, size in enumerate(sizes):
        answer['runs'].append({'offset': offset, 'size': size,
                               'private': bool(number % 2)})
        offset += size
    if end is not None:
        answer['next-offset'] = end
    return answer


class FakeQmp:
    """Answers one client after another.

    An answer is bytes that are sent as they are, something to return, or a
    function of the arguments that makes one; without any the command is
    unknown.
    """

    def __init__(self, path, greeting=None, **answers):
        self.heard = []
        self.answers = {'qmp_capabilities': {}, 'query-name': {},
                        'query-guest-memfd': [block()],
                        'query-guest-memfd-map': runs(GIB)}
        self.answers.update((name.replace('_', '-') if name in QUERIES
                             else name, answer)
                            for name, answer in answers.items())
        self._greeting = GREETING if greeting is None else greeting
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self._server.accept()
            try:
                self._talk(client)
            except (ConnectionError, ValueError):
                pass
            client.close()

    def _talk(self, client):
        """One client; an answer b'' hangs up."""
        self._send(client, self._greeting)
        for request in self._requests(client):
            name = request['execute']
            self.heard.append((name, request.get('arguments')))
            answer = self.answers.get(name)
            if callable(answer):
                answer = answer(request.get('arguments'))
            if answer == b'':
                return
            if answer is None:
                answer = {'error': {'class': 'CommandNotFound',
                                    'desc': 'no\x1b[31m such\r\ncommand'}}
            elif not isinstance(answer, bytes):
                answer = {'return': answer}
            if isinstance(answer, dict) and 'id' in request:
                answer['id'] = request['id']
            self._send(client, answer)

    @staticmethod
    def _requests(client):
        """qemu.qmp does not end them with a newline."""
        text = ''
        while True:
            data = client.recv(65536)
            if not data:
                return
            text = (text + data.decode()).lstrip()
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                continue            # there is more to come
            text = text[end:]
            yield request

    @staticmethod
    def _send(client, what):
        if not isinstance(what, bytes):
            what = json.dumps(what).encode() + b'\r\n'
        client.sendall(what)
