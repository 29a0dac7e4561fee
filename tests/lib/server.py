# SPDX-License-Identifier: GPL-2.0-or-later
"""The vfio-user server with the edu device."""

import collections
import os
import socket
import subprocess

from lib.error import HarnessError
from lib.process import die_with_parent

Mapping = collections.namedtuple('Mapping', 'iova size prot fd')


class Control:
    """The control socket of the vfio-user server."""

    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        self._file = sock.makefile('rw', encoding='ascii', newline='\n')
        sock.close()

    def _query(self, command):
        self._file.write(command + '\n')
        self._file.flush()
        lines = []
        while True:
            line = self._file.readline()
            if not line:
                raise EOFError('the vfio-user server is gone')
            line = line.rstrip('\n')
            if line == 'end':
                return lines
            lines.append(line)

    def maps(self):
        """The mappings, sorted by address."""
        maps = []
        for line in self._query('maps'):
            iova, size, prot, fd = line.split()
            maps.append(Mapping(int(iova, 16), int(size, 16), prot,
                                fd == 'fd'))
        return maps

    def stats(self):
        """The counters as a dictionary."""
        return {key: int(value) for key, value in
                (line.split() for line in self._query('stats'))}

    def quit(self):
        """Ask the server to exit."""
        self._query('quit')


def start_server(server, path, errors, *options):
    """The vfio-user server on the socket @path: its process, and its control."""
    ready, ready_write = os.pipe()
    try:
        process = subprocess.Popen(
            [server, *options, '--control', path + '.control',
             '--ready-fd', str(ready_write), path],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            pass_fds=[ready_write], preexec_fn=die_with_parent)
    finally:
        os.close(ready_write)
    with os.fdopen(ready) as f:
        if f.readline() != 'ready\n':
            process.kill()
            process.wait()
            with open(errors.name, encoding='utf-8', errors='replace') as log:
                raise HarnessError(f'{server} did not start:\n{log.read()}')
    return process, Control(path + '.control')
