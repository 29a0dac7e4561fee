# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor of a domain, through virsh: libvirt keeps its only connection.

A class with the interface of connect.Monitor.  Each query is a process of
virsh, which finds libvirt as it always does (LIBVIRT_DEFAULT_URI).
"""

import asyncio
import contextlib
import json
import os
import re

from gmem.command import GmemError

from .connect import Gone, Refused
from .model import BadReply, member, printable

# What virsh says when there is nothing to query, in LC_ALL=C
GONE = re.compile(r'domain is not running|failed to get domain'
                  r'|Domain not found')
LARGEST = 64 << 20              # of an answer
EVENT = 'GUEST_MEMFD_CONVERSION_FAILED'


class Domain:
    """A domain of libvirt that runs."""

    def __init__(self, domain):
        self.domain = domain
        self.name = f'domain {printable(domain)}'
        self.version = ''
        self._connected = False

    @contextlib.asynccontextmanager
    async def _virsh(self, command, *args):
        """A process of virsh, which does not outlive its user."""
        try:
            process = await asyncio.create_subprocess_exec(
                'virsh', '-q', command, '--domain', self.domain, *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, limit=LARGEST,
                env={**os.environ, 'LC_ALL': 'C'},
                start_new_session=True)     # Ctrl-C is not for virsh
        except FileNotFoundError as err:
            raise GmemError(f'{self.name}: virsh is missing: install the '
                            'clients of libvirt') from err
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def connect(self, timeout):
        """Until QEMU has said its version."""
        try:
            answer = await asyncio.wait_for(self.query('query-version'),
                                            timeout)
        except asyncio.TimeoutError as err:
            raise GmemError(f'{self.name}: no answer from libvirt') from err
        version = member(answer, 'qemu', dict)
        self.version = '.'.join(str(member(version, key, int)) for key in
                                ('major', 'minor', 'micro'))
        self._connected = True

    async def query(self, command, **arguments):
        """The answer of a command that changes nothing."""
        assert command.startswith('query-')
        async with self._virsh('qemu-monitor-command', '--cmd', json.dumps(
                {'execute': command, 'arguments': arguments})) as process:
            out, said = await process.communicate()
        if process.returncode:
            said = said.decode(errors='replace').strip()
            said = printable(said.removeprefix('error: ').replace('\n', '; '))
            if GONE.search(said):
                if self._connected:
                    raise Gone(f'{self.name}: the VM is gone')
                raise GmemError(f'{self.name}: {said}; is the VM running?')
            raise GmemError(f'{self.name}: {said or "virsh failed"}')
        try:
            answer = json.loads(out)
        except (ValueError, RecursionError) as err:
            raise BadReply(f'{self.name}: bad answer from virsh') from err
        if isinstance(answer, dict) and 'return' in answer:
            return answer['return']
        error = member(answer, 'error', dict)
        if error.get('class') == 'CommandNotFound':
            raise GmemError(f'{self.name}: this QEMU has no command '
                            f'{command}: it was built without '
                            'guest_memfd memory')
        raise Refused(printable(member(error, 'desc', str)))

    async def gone(self):
        """Never: the next query finds out."""
        await asyncio.get_running_loop().create_future()

    async def events(self):
        """Conversions that failed, as they come; they may be missing."""
        async with self._virsh('qemu-monitor-event', '--loop', '--event',
                               EVENT) as process:
            async for line in process.stdout:
                found = re.search(rb': (\{.*\})$', line.rstrip())
                with contextlib.suppress(ValueError, RecursionError):
                    yield {'event': EVENT,
                           'data': json.loads(found.group(1) if found else '')}
            await self.gone()

    async def close(self):
        """Nothing is open."""
