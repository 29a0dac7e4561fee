#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make run: a VM that converts its memory under DMA, shown live.

Starts a vfio-user server (an edu device in a process of its own), QEMU with
memory-backend-guest-memfd, and the guest of tests/guest; shows what QEMU
reports while the guest converts memory and verifies DMA; compares QEMU's map
with what the server has mapped; prints a summary.

Environment: ACCEL (tcg or kvm), and QEMU, EDU_SERVER, GUEST_ELF,
QEMU_FIRMWARE if they are not where make build puts them.
"""

import argparse
import contextlib
import os
import queue
import sys
import time

from lib.dma_map import compare_maps, query_map
from lib.error import HarnessError
from lib.guest import EXIT_PASS, PAUSED, key_values
from lib.hugepages import huge_pages_free
from lib.kvm import kvm_problem
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB
from lib.vm import VM

RAM = 512 * MIB
HUGE_PAGES = RAM // (2 * MIB)
# A KVM that has to emulate code without paging is slower than TCG
OPS = {'tcg': 3000, 'kvm': 1200}
REDRAW = 0.2
PLAIN = 2.0
# Only against a hang: the run takes a fraction of it
TIMEOUT = 300

PHASES = {
    'boot': 'the firmware starts',
    'private': 'the bounce area is private',
    'share': 'the bounce area is shared in 2 MiB requests',
    'dma': 'DMA both ways to every 2 MiB piece',
    'take-back': 'pieces are taken back and shared again',
    'random': 'random conversions against a model',
    'sweep': 'DMA all over the bounce area',
    'fragments': 'every other page is taken back',
    'bad-requests': 'bad requests are refused',
    'done': 'done',
}


def mib(size):
    """Bytes as MiB."""
    return f'{size / MIB:.1f} MiB'


class View:
    """What is known at one moment, as rows of a table or as one line."""

    def __init__(self, plain):
        self.plain = plain
        self.block = None
        self.phase = 'boot'
        self.guest = {}
        self.start = time.monotonic()
        self._height = 0
        self._last = 0.0

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.start

    def dma(self, key):
        """The sum over all listeners."""
        return sum(listener[key] for listener in self.block['listeners'])

    def rows(self):
        """[(name, value)]"""
        rows = [('phase', PHASES.get(self.phase, self.phase))]
        if self.guest.get('total', 0) > 1:
            rows[0] = (rows[0][0], f"{rows[0][1]} "
                       f"({self.guest['done']}/{self.guest['total']})")
        if not self.block:
            return rows
        block = self.block
        for direction, name in (('to-shared', 'to shared'),
                                ('to-private', 'to private')):
            c = block[direction]
            rows.append((f'conversions {name}',
                         f"{c['requests']} requests, {mib(c['bytes'])}, "
                         f"{c['failures']} failed, {c['rollbacks']} rolled "
                         f"back"))
        rows.append(('memory', f"{mib(block['shared-bytes'])} shared, "
                     f"{mib(block['private-bytes'])} private"))
        for level in block['huge-pages']:
            rows.append((f"pages of {mib(level['size'])}",
                         f"{level['shared']} shared, {level['private']} "
                         f"private, {level['mixed']} mixed"))
        rows.append(('DMA mappings', f"{self.dma('extents')} extents, "
                     f"{mib(self.dma('mapped-bytes'))}"))
        rows.append(('DMA calls', f"{self.dma('map-calls')} map, "
                     f"{self.dma('unmap-calls')} unmap, "
                     f"{self.dma('splits')} splits"))
        rows.append(('DMA by the device',
                     f"{self.guest.get('dma-ok', 0)} right, "
                     f"{self.guest.get('dma-failed', 0)} refused as they "
                     f"must be"))
        return rows

    def line(self):
        """The same, short."""
        block = self.block
        text = f'{self.elapsed():5.1f} s  {self.phase:<12}'
        if not block:
            return text
        requests = (block['to-shared']['requests'] +
                    block['to-private']['requests'])
        mixed = sum(level['mixed'] for level in block['huge-pages']
                    if level['size'] == 2 * MIB)
        return (f"{text} conversions {requests:6}  "
                f"shared {mib(block['shared-bytes']):>10}  "
                f"private {mib(block['private-bytes']):>10}  "
                f"2M mixed {mixed:3}  extents {self.dma('extents'):5}  "
                f"map {self.dma('map-calls'):6}  "
                f"unmap {self.dma('unmap-calls'):6}  "
                f"splits {self.dma('splits'):5}")

    def show(self, force=False):
        """On a terminal in place; else a line from time to time."""
        now = time.monotonic()
        if not force and now - self._last < (PLAIN if self.plain else REDRAW):
            return
        self._last = now
        if self.plain:
            print(self.line(), flush=True)
            return
        rows = self.rows()
        up = f'\x1b[{self._height}A' if self._height else ''
        body = ''.join(f'\x1b[2K  {name:<24} {value}\n'
                       for name, value in rows)
        self._height = max(self._height, len(rows))
        body += '\x1b[2K\n' * (self._height - len(rows))
        sys.stdout.write(up + body)
        sys.stdout.flush()


def update(view, vm):
    """Query QEMU, if it is still there: the guest's last lines say why not."""
    with contextlib.suppress(EOFError):
        blocks = vm.qmp.command('query-guest-memfd')
        if blocks:
            view.block = blocks[0]


def follow(view, vm):
    """Until the guest waits for us; its summary."""
    summary = {}
    while True:
        try:
            line = vm.lines.get(timeout=REDRAW)
        except queue.Empty:
            line = ''
        if line is None:
            raise HarnessError('the guest ended before it was done')
        if line.startswith('progress '):
            view.guest = key_values(line)
            view.phase = view.guest['phase']
        elif line.startswith('summary '):
            summary = key_values(line)
            view.guest.update(summary)
        elif line.startswith('FAIL'):
            raise HarnessError(f'the guest says: {line}')
        elif line == PAUSED:
            view.phase = 'done'
            view.guest.pop('total', None)
            update(view, vm)
            view.show(force=True)
            return summary
        update(view, vm)
        view.show()


def run(args, paths):
    """The demonstration; the exit code."""
    huge = huge_pages_free() >= HUGE_PAGES
    if huge:
        pages = '2 MiB huge pages'
    else:
        pages = '4 KiB pages'
        print(f'No {HUGE_PAGES} free huge pages, so 4 KiB pages are used. To '
              f'reserve them: sudo sysctl vm.nr_hugepages={HUGE_PAGES}')
    print(f'{RAM // MIB} MiB of guest memory in {pages}, all private at the '
          f'start; accelerator {args.accel}.')
    print('The device: edu in a process of its own, over vfio-user.',
          flush=True)

    plain = args.plain or not sys.stdout.isatty()
    view = View(plain)
    options = f'progress=1 pause=1 ops={args.ops} seed={args.seed}'
    with VM(paths, accel=args.accel, huge=huge, ram=RAM, guest=options,
                 timeout=TIMEOUT) as vm:
        try:
            summary = follow(view, vm)
            maps = vm.control.maps()
            stats = vm.control.stats()
            runs = query_map(vm.qmp, view.block['id'])
            problems = compare_maps(runs, maps, RAM)
            vm.resume()
            qemu, server = vm.wait()
        except (HarnessError, QmpError, EOFError) as err:
            for line in vm.console[-8:]:
                print(f'guest: {line}', file=sys.stderr)
            if vm.errors():
                print(vm.errors(), file=sys.stderr)
            if vm.timed_out:
                raise HarnessError(f'no end after {TIMEOUT} s') from err
            raise
    if qemu != EXIT_PASS:
        problems.append(f'QEMU exited with {qemu} instead of {EXIT_PASS}')
    if server != 0:
        problems.append(f'the vfio-user server exited with {server}')
    if problems:
        raise HarnessError('\n'.join(problems))

    print(f"""
The guest made {summary['conversions']} conversions \
({summary['to-shared-kib'] // 1024} MiB to shared, \
{summary['to-private-kib'] // 1024} MiB to private) \
in {view.elapsed():.1f} s.
It verified {summary['dma-ok']} DMA transfers to and from shared memory, and \
that {summary['dma-failed']} to
private memory failed and changed nothing; \
{summary['refused']} bad requests were refused.
The device saw {stats['map']} mappings come and {stats['unmap']} go, at most \
{stats['mappings-max']} at a time.
At the end QEMU's map ({len(runs)} runs) and the mappings of the device \
({len(maps)}) were the same:
all shared memory was mapped, and nothing private.""")
    return 0


def main():
    """Parse, check, run."""
    parser = argparse.ArgumentParser(
        description='Show a VM that converts memory under real DMA.')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        default=os.environ.get('ACCEL') or 'tcg',
                        help='also by the variable ACCEL (default: tcg)')
    parser.add_argument('--ops', type=int,
                        help='random conversions (default: '
                        f"{OPS['tcg']}, with KVM {OPS['kvm']})")
    parser.add_argument('--seed', type=int, default=1,
                        help='of the random mix (default: %(default)s)')
    parser.add_argument('--plain', action='store_true',
                        help='lines instead of a table')
    args = parser.parse_args()
    if args.accel not in ('tcg', 'kvm'):
        parser.error(f'ACCEL={args.accel}: must be tcg or kvm')

    if args.ops is None:
        args.ops = OPS[args.accel]

    exit_on_signals()
    try:
        if args.accel == 'kvm' and kvm_problem():
            raise HarnessError(f'{kvm_problem()}. Use ACCEL=tcg')
        return run(args, Paths())
    except (HarnessError, QmpError, EOFError) as err:
        print(f'demo: {err}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
