# SPDX-License-Identifier: GPL-2.0-or-later
"""Query QEMU, in small parts with pauses.

Each answer keeps QEMU's main loop busy for a moment, and the query
of a part of the map takes the block's lock, so the guest's conversions wait.
So parts are small, a pause after each is many times as long as it took, and
a map that has not changed is not read again.
"""

import asyncio
import time

from .connect import Refused
from .model import BadReply, VM

RUNS = 1024
PAUSE = 9


class Poller:
    """Keeps a VM up to date."""

    def __init__(self, monitor):
        self.monitor = monitor
        self.vm = VM()
        self.sent_at = None         # when the query that waits was sent

    async def _query(self, command, **arguments):
        """One answer, and when it came."""
        self.sent_at = time.monotonic()
        try:
            answer = await self.monitor.query(command, **arguments)
        finally:
            self.sent_at = None
        return answer, time.monotonic()

    async def start(self):
        """The name of the VM, then all blocks."""
        answer, _ = await self._query('query-name')
        name = answer.get('name', '') if isinstance(answer, dict) else None
        if not isinstance(name, str):
            raise BadReply("bad answer from QEMU: no valid 'name'")
        self.vm = VM(name)
        self.vm.version = self.monitor.version
        await self.update()

    async def update(self):
        """All but the maps."""
        answer, now = await self._query('query-guest-memfd')
        self.vm.update(answer, now)

    async def read_map(self, block, changed=lambda: False,
                       pause=PAUSE):
        """Read on until a pass is complete, or something has CHANGED.

        False: the block is gone.
        """
        if not block.begin_pass():
            return True
        while not changed():
            start = time.monotonic()
            try:
                answer, now = await self._query(
                    'query-guest-memfd-map', id=block.id, limit=RUNS,
                    offset=block.map.position)
            except Refused:
                return False
            if block.map.add(answer, now):
                break
            await asyncio.sleep(pause * (time.monotonic() - start))
        return True
