# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes to files and pipes: reports, JSON, metrics and pictures."""

import asyncio
import contextlib
import json
import locale
import os
import shutil
import stat
import sys
import time

from gmem.command import GmemError

from . import draw, live, metrics, picture
from .model import STATES, printable

SHORT_PAUSE = 3             # of one report, whose user waits


def glyphs(args):
    """The characters of the map."""
    locale.setlocale(locale.LC_ALL, '')
    # In the C locale Python pretends to have UTF-8
    utf8 = locale.nl_langinfo(locale.CODESET).lower() == 'utf-8' and \
        not sys.flags.utf8_mode
    return draw.GLYPHS['utf-8' if utf8 and not args.ascii else 'ascii']


def as_json(vm, blocks, seconds):
    """What --json prints: one line, as tools/monitoring/gmem-top.schema.json
    describes it."""
    found = []
    for block in blocks:
        runs = [{'offset': offset, 'size': size, 'state': STATES[state]}
                for offset, size, state in block.map.runs()]
        found.append({**block.info, 'map': {'cell-size': block.map.cell,
                                            'read-seconds':
                                            round(seconds[block.id], 3),
                                            'runs': runs}})
    return json.dumps({'name': vm.name, 'version': vm.version,
                       'time': time.strftime('%Y-%m-%dT%H:%M:%SZ',
                                             time.gmtime()),
                       'blocks': found})


def is_plain(name):
    """Whether a file is there, or can be there, that can be replaced."""
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except FileNotFoundError:
        return True


def write(name, data):
    """A file, which readers see whole or not at all; - is stdout."""
    if name == '-':
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        if not is_plain(name):
            with open(name, 'wb') as file:
                file.write(data)
            return
        path = os.path.realpath(name)
        new = os.path.join(os.path.dirname(path),
                           f'.{os.path.basename(path)}.{os.getpid()}')
        try:
            with open(new, 'xb') as file:
                file.write(data)
            os.rename(new, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise
    except OSError as err:
        raise GmemError(f'{printable(name)}: {err.strerror}') from err


def forget(name):
    """No metrics are better than old ones; a file of others stays."""
    with contextlib.suppress(OSError):
        if name not in (None, '-') and is_plain(name):
            with open(name, 'rb') as file:
                ours = file.read(len(metrics.START)) == metrics.START
            if ours:
                os.unlink(name)


class Output:
    """What the options ask for, once or again and again."""

    def __init__(self, poller, args):
        self.poller, self.args = poller, args
        self.seconds = {}       # to read the map, by block

    def is_stream(self):
        """Whether it is wanted again and again."""
        return self.args.interval is not None and not self.args.once

    async def read(self):
        """The maps, if anything shows them; the blocks that are shown."""
        args, vm = self.args, self.poller.vm
        wanted = [block for block in vm.blocks
                  if args.block in (None, block.id)]
        if args.once or args.json or args.png or args.svg:
            found = []
            for block in wanted:
                start = time.monotonic()
                if await self.poller.read_map(block, pause=SHORT_PAUSE):
                    self.seconds[block.id] = time.monotonic() - start
                    found.append(block)
            wanted = found
        if args.block and not wanted:
            raise GmemError(f'{printable(args.block)}: no such block of '
                            'guest_memfd memory')
        return wanted

    def write(self, blocks):
        """All of it."""
        args, vm = self.args, self.poller.vm
        source = self.poller.monitor.name
        if args.png or args.svg:
            if not blocks:
                raise GmemError(draw.NO_BLOCKS)
            image = picture.draw(blocks, time.strftime('%Y-%m-%d %H:%M:%S %z'),
                                 vm.name)
            if args.png:
                write(args.png, image.png())
            if args.svg:
                write(args.svg, image.svg())
        if args.openmetrics:
            write(args.openmetrics, metrics.text(vm, blocks, source).encode())
        if args.json:
            print(as_json(vm, blocks, self.seconds), flush=True)
        elif args.once and not blocks:
            print(draw.NO_BLOCKS)
        elif args.once:
            width = max(shutil.get_terminal_size().columns, 40)
            for line in draw.report(vm, blocks, width, glyphs(args),
                                    time.monotonic(), source):
                print(draw.text_of(line).rstrip())

    async def _again(self):
        """In each interval, or as fast as QEMU answers."""
        while True:
            start = time.monotonic()
            self.write(await self.read())
            await asyncio.sleep(start + self.args.interval - time.monotonic())
            await self.poller.update()

    async def _events(self):
        """They must be taken, or they pile up."""
        async for event in self.poller.monitor.events():
            self.poller.vm.event(event, '')

    async def run(self):
        """Once, or until the VM is gone or a signal comes."""
        if self.is_stream():
            stop = asyncio.get_running_loop().create_future()
            live.on_signals(lambda why: stop.done() or stop.set_exception(why))
            await live.first_of([self._again(), self._events(),
                                 self.poller.monitor.gone()], stop)
        blocks = await self.read()
        await self.poller.monitor.close()       # the rest does not need the VM
        self.write(blocks)
