# SPDX-License-Identifier: GPL-2.0-or-later
"""Show the guest_memfd memory of a running VM, live or as a picture.

SOCKET is a QMP socket of QEMU (-qmp unix:PATH,server=on,wait=off) or
HOST:PORT.  It serves one client at a time, so give QEMU one for gmem-top.
Nothing but query commands is sent.  Exit status: 0 as asked for (also by the
key q), 1 an error, 2 wrong arguments, 3 the VM went away, 129, 130 or 143
ended by SIGHUP, SIGINT or SIGTERM.
"""

import argparse
import asyncio
import json
import locale
import os
import shutil
import signal
import sys
import time

from . import draw, live, picture
from .connect import Monitor
from .model import STATES, GmemError, printable
from .poll import Poller

SHORT_PAUSE = 3             # of --once, which somebody waits for


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='gmem-top', description=__doc__.split('\n', 1)[0],
        epilog=' '.join(__doc__.split('\n\n', 1)[1].split()))
    parser.add_argument('socket', metavar='SOCKET')
    parser.add_argument('--once', action='store_true',
                        help='print one report')
    parser.add_argument('--json', action='store_true',
                        help='print one report as JSON')
    parser.add_argument('--png', metavar='FILE',
                        help='write a picture of the map (-: to stdout)')
    parser.add_argument('--svg', metavar='FILE',
                        help='the same, as SVG')
    parser.add_argument('--block', metavar='ID',
                        help='only this one (live: begin with it)')
    parser.add_argument('--interval', type=float, default=1,
                        metavar='SECONDS',
                        help='between two refreshes, 0.1 to 3600 (default: '
                        '%(default)s)')
    parser.add_argument('--timeout', type=float, default=5,
                        metavar='SECONDS',
                        help='for the first answer of QEMU (default: '
                        '%(default)s)')
    parser.add_argument('--ascii', action='store_true',
                        help='draw with ASCII characters only')
    args = parser.parse_args()
    if not 0.1 <= args.interval <= 3600:
        parser.error('--interval must be between 0.1 and 3600')
    if not 0 < args.timeout <= 3600:
        parser.error('--timeout must be between 0 and 3600')
    if [args.png, args.svg].count('-') + args.json + args.once > 1:
        parser.error('only one of --once, --json, --png - and --svg - can '
                     'go to stdout')
    return args


def glyphs(args):
    """The characters of the map."""
    locale.setlocale(locale.LC_ALL, '')
    # In the C locale Python pretends to have UTF-8
    utf8 = locale.nl_langinfo(locale.CODESET).lower() == 'utf-8' and \
        not sys.flags.utf8_mode
    return draw.GLYPHS['utf-8' if utf8 and not args.ascii else 'ascii']


def as_json(vm, blocks, seconds):
    """What --json prints."""
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
                       'blocks': found}, indent=1)


def write(name, data):
    """A file in one go; - is stdout."""
    if name == '-':
        sys.stdout.buffer.write(data)
        return
    try:
        with open(name, 'wb') as file:
            file.write(data)
    except OSError as err:
        raise GmemError(f'{printable(name)}: {err.strerror}') from err


async def once(poller, args):
    """One report, and pictures."""
    vm, seconds = poller.vm, {}
    for block in vm.blocks:
        if args.block in (None, block.id):
            start = time.monotonic()
            if await poller.read_map(block, pause=SHORT_PAUSE):
                seconds[block.id] = time.monotonic() - start
    blocks = [block for block in vm.blocks if block.id in seconds]
    await poller.monitor.close()        # the rest needs no VM
    if args.block and not blocks:
        raise GmemError(f'{printable(args.block)}: no such block of '
                        'guest_memfd memory')
    if args.png or args.svg:
        if not blocks:
            raise GmemError(draw.NO_BLOCKS)
        image = picture.draw(blocks, time.strftime('%Y-%m-%d %H:%M:%S %z'),
                             vm.name)
        if args.png:
            write(args.png, image.png())
        if args.svg:
            write(args.svg, image.svg())
    if args.json:
        print(as_json(vm, blocks, seconds))
    elif args.once and not blocks:
        print(draw.NO_BLOCKS)
    elif args.once:
        width = max(shutil.get_terminal_size().columns, 40)
        for line in draw.report(vm, blocks, width, glyphs(args),
                                time.monotonic(), poller.monitor.name):
            print(draw.text_of(line).rstrip())


async def session(args):
    """Connect, show, disconnect."""
    monitor = Monitor(args.socket)
    poller = Poller(monitor)
    try:
        await monitor.connect(args.timeout)
        try:
            await asyncio.wait_for(poller.start(), args.timeout)
        except asyncio.TimeoutError as err:
            raise GmemError(f'{monitor.name}: QEMU does not answer') from err
        if args.once or args.json or args.png or args.svg:
            await once(poller, args)
        else:
            await live.Live(poller, args, glyphs(args)).run()
    finally:
        await monitor.close()


def main():
    """The exit status."""
    args = arguments()
    status = 0
    try:
        asyncio.run(session(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except OSError as err:
        status = 1
        complain(err.strerror or str(err))
    except GmemError as err:
        status = err.status
        complain(str(err))
    if status:
        # What could not be written must not be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status


def complain(text):
    """On stderr, if there is still somebody to read it."""
    if not text:
        return
    try:
        print(f'gmem-top: {text}', file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
