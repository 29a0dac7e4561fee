# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of QEMU's gdb stub, for what it does with memory."""

import socket


class Gdb:
    """The remote serial protocol, on the socket of "-gdb unix:..."."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile('rb')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()
        self._socket.close()

    def _byte(self):
        byte = self._file.read(1)
        if not byte:
            raise EOFError('QEMU has closed the connection')
        return byte

    def command(self, text):
        """The answer to a packet; QEMU confirms it, as this does."""
        data = text.encode('ascii')
        self._socket.sendall(b'$%s#%02x' % (data, sum(data) & 0xff))
        while self._byte() != b'$':
            pass
        answer = b''
        while (byte := self._byte()) != b'#':
            answer += byte
        self._file.read(2)
        self._socket.sendall(b'+')
        return answer.decode('ascii')

    def read(self, address, size):
        """Bytes, or the error."""
        answer = self.command(f'm{address:x},{size:x}')
        return answer if answer.startswith('E') else bytes.fromhex(answer)

    def write(self, address, data):
        """OK, or the error."""
        return self.command(f'M{address:x},{len(data):x}:{data.hex()}')

    def physical(self, on):
        """Whether addresses are physical from now on."""
        return self.command(f'Qqemu.PhyMemMode:{int(on)}')
