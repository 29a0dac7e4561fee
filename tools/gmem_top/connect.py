# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP socket of a VM, through QEMU's own qemu.qmp; only query-*."""

import asyncio
import importlib
import logging
import os
import socket
import sys
from pathlib import Path

from gmem.command import GmemError

from .model import printable

TOP = Path(__file__).resolve().parent.parent.parent
CLOSE_SECONDS = 1


class Refused(GmemError):
    """QEMU answered a query with an error."""


class Gone(GmemError):
    """The VM, or its socket, is gone."""
    status = 3


def import_qmp():
    """qemu.qmp of the QEMU tree, else the installed one."""
    trees = [os.environ.get('QEMU_TREE'), TOP / 'build/src',
             TOP / 'build/pristine']
    for tree in trees:
        if tree and (Path(tree) / 'python/qemu/qmp').is_dir():
            sys.path.insert(0, str(Path(tree) / 'python'))
            break
    try:
        qmp = importlib.import_module('qemu.qmp')
    except ImportError as err:
        raise GmemError('qemu.qmp is missing: run make build, or set '
                        'QEMU_TREE to a QEMU source tree') from err
    logging.getLogger('qemu.qmp').setLevel(logging.CRITICAL + 1)
    return qmp


def make_client(qmp):
    """A QMPClient that does not format each message for a log."""
    class Client(qmp.QMPClient):
        """Hooks that qemu.qmp has for that."""
        def _cb_inbound(self, msg):
            return msg

        def _cb_outbound(self, msg):
            return msg

    return Client()


def reason(err):
    """Why a connection failed; asyncio's own text is not that of the errno."""
    if isinstance(err, OSError) and err.errno and err.errno > 0:
        return os.strerror(err.errno)
    return getattr(err, 'strerror', None) or err


def parse_address(text):
    """A path, or HOST:PORT if it looks like that and is not a file."""
    host, colon, port = text.rpartition(':')
    if colon and port.isdigit() and '/' not in text \
            and not os.path.exists(text):
        return (host, int(port))
    return text


class Monitor:
    """A connection; it excludes other clients of the socket."""

    def __init__(self, address):
        self.name = printable(address)
        self.address = parse_address(address)
        self.module = import_qmp()
        self.client = make_client(self.module)
        self.version = ''
        self.end = None             # a task that finds out why it ended

    def _busy(self):
        return GmemError(f'{self.name}: no greeting: another client holds '
                         'this socket, which serves one at a time (give QEMU '
                         'a second -qmp), or QEMU does not run')

    def _socket(self):
        """Connected; QMPClient would treat a full backlog as a connection."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(self.address)
        except BlockingIOError as err:
            sock.close()
            raise self._busy() from err
        except OSError:
            sock.close()
            raise
        return sock

    async def connect(self, timeout):
        """Until QMP's capabilities are negotiated."""
        try:
            address = self.address
            if not isinstance(address, tuple):
                address = self._socket()
            await asyncio.wait_for(self.client.connect(address), timeout)
            version = self.client.greeting.QMP.version['qemu']
            self.version = '.'.join(str(int(version[key])) for key in
                                    ('major', 'minor', 'micro'))
        except asyncio.TimeoutError as err:
            raise self._busy() from err
        except (OSError, OverflowError, UnicodeError) as err:
            raise GmemError(f'{self.name}: {reason(err)}; is the VM '
                            'running?') from err
        except self.module.ConnectError as err:
            if isinstance(err.exc, EOFError):
                raise GmemError(f'{self.name}: closed by the other '
                                'side before it said anything') from err
            if isinstance(err.exc, OSError):
                raise GmemError(f'{self.name}: {reason(err.exc)}; is the VM '
                                'running?') from err
            raise GmemError(f'{self.name}: this is not a QMP socket') from err
        except (LookupError, TypeError, ValueError, AttributeError) as err:
            raise GmemError(f'{self.name}: QMP of no known version') from err

    async def query(self, command, **arguments):
        """The answer of a command that changes nothing."""
        assert command.startswith('query-')
        try:
            return await self.client.execute(command, arguments)
        except self.module.ExecuteError as err:
            if err.error_class == 'CommandNotFound':
                raise GmemError(f'{self.name}: this QEMU has no command '
                                f'{command}: it was built without '
                                'guest_memfd memory') from err
            raise Refused(printable(str(err))) from err
        except (self.module.QMPError, EOFError, OSError) as err:
            raise await self._gone() from err

    async def gone(self):
        """Until the connection ends."""
        await self.client.runstate_changed()
        raise await self._gone()

    async def _gone(self):
        """Why the connection ended; several callers may await it."""
        if self.end is None:
            self.end = asyncio.ensure_future(self._reason())
        return await asyncio.shield(self.end)

    async def _reason(self):
        """The same, once."""
        try:
            await self.client.disconnect()
        except (EOFError, ConnectionError):
            pass
        except Exception:       # whatever it sent, the connection is useless
            return GmemError(f'{self.name}: the other side sent something '
                             'that is not QMP')
        return Gone(f'{self.name}: the VM is gone')

    async def events(self):
        """QMP events as they come; they must be taken, or they pile up."""
        async for event in self.client.events:
            yield dict(event)

    async def close(self):
        """Leave the socket to others."""
        try:
            await asyncio.wait_for(self.client.disconnect(), CLOSE_SECONDS)
        except Exception:       # it is over in any case
            pass
