# SPDX-License-Identifier: GPL-2.0-or-later
"""Show the guest_memfd memory of a running VM, live or as a picture.

See docs/tools/gmem-top.rst.
"""

import asyncio
import json
import locale
import shutil
import sys
import time

from gmem.command import GmemError, make_parser, run

from . import draw, live, picture
from .connect import Monitor
from .model import STATES, printable
from .poll import Poller

SHORT_PAUSE = 3             # of --once, whose user waits
EPILOG = (
    'A QMP socket serves one client at a time: give QEMU one for gmem-top '
    '(-qmp unix:PATH,server=on,wait=off). gmem-top sends only query '
    'commands. Keys of the live view: up and down choose a block, + and - '
    'make cells smaller and larger, PgUp, PgDn and Home move the map, q '
    'quits. Exit status: 0 success (or q), 1 an error, 2 wrong arguments, '
    '3 the VM is gone, 129, 130 or 143 ended by SIGHUP, SIGINT or SIGTERM.')


def arguments():
    """The command line."""
    parser = make_parser(
        'gmem-top', description='Show the guest_memfd memory of a running '
        'VM: live, as a report, or as a picture.', epilog=EPILOG)
    add = parser.add_argument
    add('socket', metavar='SOCKET',
        help='QMP socket of the VM: its path, or HOST:PORT')
    add('--once', action='store_true',
        help='print one report and exit')
    add('--json', action='store_true',
        help='print one report as JSON and exit')
    add('--png', metavar='FILE',
        help='write a picture of the map as PNG and exit; - is standard '
        'output')
    add('--svg', metavar='FILE',
        help='write a picture of the map as SVG and exit; - is standard '
        'output')
    add('--block', metavar='ID',
        help='show only this block; the live view begins with it')
    add('--interval', type=float, default=1, metavar='SECONDS',
        help='time between two refreshes of the live view, 0.1 to 3600 '
        '(default: %(default)s)')
    add('--timeout', type=float, default=5, metavar='SECONDS',
        help='how long to wait for the first answer of QEMU, at most 3600 '
        '(default: %(default)s)')
    add('--ascii', action='store_true',
        help='draw the map with ASCII characters only')
    args = parser.parse_args()
    if not 0.1 <= args.interval <= 3600:
        parser.error('--interval must be between 0.1 and 3600')
    if not 0 < args.timeout <= 3600:
        parser.error('--timeout must be above 0 and at most 3600')
    if [args.png, args.svg].count('-') + (args.json or args.once) > 1:
        parser.error('only one of --once or --json, --png - and --svg - can '
                     'go to standard output')
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
    await poller.monitor.close()        # the rest does not need the VM
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
    return run('gmem-top', lambda: asyncio.run(session(args)))
