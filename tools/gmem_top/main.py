# SPDX-License-Identifier: GPL-2.0-or-later
"""Show the guest_memfd memory of a running VM, live or as a picture.

See docs/tools/gmem-top.rst.
"""

import asyncio

from gmem.command import GmemError, make_parser, run

from . import live
from .connect import Monitor
from .domain import Domain
from .output import Output, forget, glyphs
from .poll import Poller

EPILOG = (
    'A QMP socket serves one client at a time: give QEMU one for gmem-top '
    '(-qmp unix:PATH,server=on,wait=off), or use libvirt\'s. gmem-top sends '
    'only query commands. Keys of the live view: up and down choose a block, + and - '
    'make cells smaller and larger, PgUp, PgDn and Home move the map, q '
    'quits. Exit status: 0 success (or q), 1 an error, 2 wrong arguments, '
    '3 the VM is gone, 129, 130 or 143 ended by SIGHUP, SIGINT or SIGTERM.')


def arguments():
    """The command line."""
    parser = make_parser(
        'gmem-top', description='Show the guest_memfd memory of a running '
        'VM: live, as a report, or as a picture.', epilog=EPILOG)
    add = parser.add_argument
    add('socket', metavar='SOCKET', nargs='?',
        help='QMP socket of the VM: its path, or HOST:PORT')
    add('--domain', metavar='NAME',
        help='query this domain of libvirt, through virsh')
    add('--once', action='store_true',
        help='print one report and exit')
    add('--json', action='store_true',
        help='print one report as a line of JSON and exit; a line in each '
        'interval with --interval')
    add('--openmetrics', metavar='FILE',
        help='write metrics as OpenMetrics text and exit; - is standard '
        'output; again in each interval with --interval')
    add('--png', metavar='FILE',
        help='write a picture of the map as PNG and exit; - is standard '
        'output')
    add('--svg', metavar='FILE',
        help='write a picture of the map as SVG and exit; - is standard '
        'output')
    add('--block', metavar='ID',
        help='show only this block; the live view begins with it')
    add('--interval', type=float, metavar='SECONDS',
        help='time between two refreshes of the live view, or two outputs, '
        '0.1 to 3600 (default: 1)')
    add('--timeout', type=float, default=5, metavar='SECONDS',
        help='how long to wait for the first answer of QEMU, at most 3600 '
        '(default: %(default)s)')
    add('--ascii', action='store_true',
        help='draw the map with ASCII characters only')
    args = parser.parse_args()
    if (args.socket is None) == (args.domain is None):
        parser.error('give either SOCKET or --domain')
    if args.interval is not None and not 0.1 <= args.interval <= 3600:
        parser.error('--interval must be between 0.1 and 3600')
    if not 0 < args.timeout <= 3600:
        parser.error('--timeout must be above 0 and at most 3600')
    if [args.png, args.svg, args.openmetrics].count('-') + \
            (args.json or args.once) > 1:
        parser.error('only one of --once or --json, --png -, --svg - and '
                     '--openmetrics - can go to standard output')
    return args


async def session(args):
    """Connect, show, disconnect."""
    monitor = Domain(args.domain) if args.domain else Monitor(args.socket)
    poller = Poller(monitor)
    try:
        await monitor.connect(args.timeout)
        try:
            await asyncio.wait_for(poller.start(), args.timeout)
        except asyncio.TimeoutError as err:
            raise GmemError(f'{monitor.name}: QEMU does not answer') from err
        if args.once or args.json or args.png or args.svg or args.openmetrics:
            await Output(poller, args).run()
        else:
            args.interval = args.interval or 1
            await live.Live(poller, args, glyphs(args)).run()
    except BaseException:
        forget(args.openmetrics)
        raise
    finally:
        await monitor.close()


def main():
    """The exit status."""
    args = arguments()
    return run('gmem-top', lambda: asyncio.run(session(args)))
