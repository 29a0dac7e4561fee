#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest_memfd that nobody converts is ordinary RAM: it can be migrated.

Prints TAP.  A guest under KVM goes from one QEMU to the next, and writes all
over its memory meanwhile.  Each time both sides are stopped, and their memory
is compared byte by byte.  At its end the guest compares each page with what it
remembers.  Memory that can become private is no source and no destination.
"""

import contextlib
import os
import queue
import socket
import sys

from lib.dma_map import LEGACY
from lib.error import HarnessError
from lib.guest import EXIT_PASS, key_values
from lib.kvm import kvm_problem
from lib.paths import Paths
from lib.process import exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB
from lib.vm import Machine

RAM = 32 * MIB
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
GUEST = 'base=16 window=2 write=1 conv=none'
NONE = f'memory-backend-guest-memfd,id=m0,size={RAM},conversion=none'
MEMFD = f'memory-backend-memfd,id=m0,size={RAM},share=on'
PRIVATE = (f'memory-backend-guest-memfd,id=m0,size={RAM},driver=emulated,'
           'init=private')
# Bytes in a second: each pass takes longer than the guest needs to write to as
# many pages, so migration goes on until more are allowed
SLOWLY = MIB
PASSES = 3
SHARED_FILES = 3        # GUEST_MEMFD_FLAG_MMAP and _INIT_SHARED


class Side(Machine):
    """A machine that migration starts or ends in; @words: more of them."""

    def __init__(self, paths, memory, *words, fds=()):
        super().__init__(paths, accel='kvm', ram=RAM, memory=memory,
                         devices=[], guest=GUEST, timeout=TIMEOUT, peer=False)
        self._words = list(words)
        self._more_fds = list(fds)

    def command_line(self, fds):
        # cpr-transfer asks for shared memory, wherever it is
        fds += self._more_fds
        return super().command_line(fds) + [
            '-machine', 'aux-ram-share=on', *self._words]

    def next_writes(self):
        """How often the guest has written, as it next says."""
        while True:
            line = self.lines.get()
            if line is None:
                raise HarnessError('the guest has ended: ' +
                                   ' '.join(self.console[-1:]))
            if line.startswith('FAIL'):
                raise HarnessError(line)
            if line.startswith('progress'):
                return key_values(line)['writes']

    def writes_from_now(self):
        """The same, but surely later than this call."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.lines.get_nowait()
        self.next_writes()      # may have been on its way
        return self.next_writes()

    def set(self, **parameters):
        """Parameters of migration, with - for _."""
        self.qmp.command('migrate-set-parameters', **{
            name.replace('_', '-'): value
            for name, value in parameters.items()})

    def listen(self, uri):
        """Begin to wait for migration."""
        self.events_on()
        self.qmp.command('migrate-incoming', uri=uri)

    def events_on(self):
        """Have an event for each step of migration that begins now."""
        self.qmp.events.clear()
        self.qmp.command('migrate-set-capabilities', capabilities=[
            {'capability': 'events', 'state': True}])

    def end_of_migration(self):
        """Wait for it; an error if it failed."""
        event = self.qmp.wait(
            lambda e: e['event'] == 'MIGRATION' and
            e['data']['status'] in ('completed', 'failed'))
        if event['data']['status'] != 'completed':
            info = self.qmp.command('query-migrate')
            raise HarnessError(f'migration failed: {info}')

    def memory_bytes(self):
        """All RAM that the guest sees."""
        data = b''
        for start, end in ((0, LEGACY[0]), (LEGACY[1], RAM)):
            name = self.socket('memory')
            self.qmp.command('pmemsave', val=start, size=end - start,
                             filename=name)
            with open(name, 'rb') as file:
                data += file.read()
            os.unlink(name)
        return data

    def finish(self):
        """The guest compares all of its memory; problems."""
        self.release()
        code, _ = self.wait()
        if self.timed_out:
            return [f'no end after {TIMEOUT} s: killed']
        if code != EXIT_PASS or 'PASS' not in self.console:
            return [f'QEMU exited with {code}, the guest said: '
                    f'{self.console[-1:]}']
        return []


def migrate(source, uri):
    """Migrate while the guest writes; problems."""
    source.events_on()
    source.set(max_bandwidth=SLOWLY, downtime_limit=1)
    source.qmp.command('migrate', uri=uri)
    source.writes_from_now()
    source.qmp.wait(
        lambda e: (e['event'] == 'MIGRATION_PASS' and
                   e['data']['pass'] >= PASSES) or
        (e['event'] == 'MIGRATION' and
         e['data']['status'] in ('completed', 'failed')))
    source.set(max_bandwidth=1 << 40, downtime_limit=2000000)
    source.end_of_migration()
    ram = source.qmp.command('query-migrate')['ram']
    print(f"# {ram['dirty-sync-count']} passes, {ram['normal']} pages")
    return [] if ram['dirty-sync-count'] >= PASSES else [
        'the guest has not written meanwhile']


def compare(source, destination):
    """The first byte that differs, if one does."""
    ours, theirs = source.memory_bytes(), destination.memory_bytes()
    if ours == theirs:
        return []
    at = [n for n in range(0, len(ours), 4096)
          if ours[n:n + 4096] != theirs[n:n + 4096]]
    return [f'{len(at)} pages differ, the first at {at[0]:#x}']


class Journey:
    """A guest, and the QEMU in which it is."""

    def __init__(self, paths, stack):
        self._paths = paths
        self._stack = stack
        self.machine = stack.enter_context(
            Side(paths, MEMFD, '-only-migratable'))

    def _arrive(self, destination, before):
        """It goes on there; problems."""
        problems = compare(self.machine, destination)
        self.machine.close()        # nobody needs it any more
        self.machine = destination
        destination.qmp.command('cont')
        writes = destination.next_writes()
        if writes <= before:
            problems.append(f'{writes} writes, {before} at the source')
        return problems

    def migrate(self, memory, file=False):
        """Through a socket or a file."""
        destination = self._stack.enter_context(
            Side(self._paths, memory, '-only-migratable', '-S', '-incoming',
                 'defer'))
        uri = f"{'file' if file else 'unix'}:{destination.socket('here')}"
        before = self.machine.next_writes()
        if not file:
            destination.listen(uri)
        problems = migrate(self.machine, uri)
        if file:
            destination.listen(uri)
        destination.end_of_migration()
        return problems + self._arrive(destination, before)

    def transfer(self, memory):
        """A new QEMU takes the memory over, as it is."""
        source = self.machine
        here, cpr = source.socket('here'), source.socket('cpr')
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(cpr)
        listener.listen()
        before = source.next_writes()
        source.events_on()
        source.set(mode='cpr-transfer')
        source.qmp.command('migrate', channels=[
            {'channel-type': name,
             'addr': {'transport': 'socket', 'type': 'unix', 'path': path}}
            for name, path in (('main', here), ('cpr', cpr))])
        # it has no monitor before the state of CPR is there
        destination = self._stack.enter_context(Side(
            self._paths, memory, '-S', '-global', 'migration.x-events=on',
            '-incoming', f'unix:{here}', '-incoming',
            'cpr,addr.transport=socket,addr.type=fd,'
            f'addr.str={listener.fileno()}', fds=[listener.fileno()]))
        source.end_of_migration()
        destination.end_of_migration()
        return self._arrive(destination, before)

    def dirty_rate(self):
        """calc-dirty-rate finds that the guest writes."""
        machine = self.machine
        info = {'status': 'unstarted', 'dirty-rate': 0}
        # less than a MiB is 0
        while not info.get('dirty-rate'):
            if info['status'] != 'measuring':
                machine.qmp.command('calc-dirty-rate', mode='dirty-bitmap',
                                    **{'calc-time': 1})
            machine.writes_from_now()
            info = machine.qmp.command('query-dirty-rate')
        print(f"# {info['dirty-rate']} MiB/s")
        return []

    def snapshot(self):
        """The guest goes back to what it was."""
        args = {'tag': 'then', 'vmstate': 'image0', 'devices': ['image0']}
        machine = self.machine
        add_image(machine)
        run_job(machine, 'snapshot-save', **args)
        last = machine.writes_from_now()
        run_job(machine, 'snapshot-load', **args)
        while (writes := machine.next_writes()) > last:
            last = writes
        return []

    def end(self):
        """The guest compares all of its memory."""
        return self.machine.finish()


def run_job(machine, command, **args):
    """Run it to its end."""
    machine.qmp.command(command, **{'job-id': command}, **args)
    machine.qmp.wait(lambda e: e['event'] == 'JOB_STATUS_CHANGE' and
                     e['data'] == {'id': command, 'status': 'concluded'})
    job, = [job for job in machine.qmp.command('query-jobs')
            if job['id'] == command]
    machine.qmp.command('job-dismiss', id=command)
    if 'error' in job:
        raise QmpError(f"{command}: {job['error']}")


def add_image(machine):
    """An image that can hold snapshots."""
    path = machine.socket('image')
    with open(path, 'wb'):
        pass
    machine.qmp.command('blockdev-add', driver='file', filename=path,
                        **{'node-name': 'file0'})
    run_job(machine, 'blockdev-create', options={
        'driver': 'qcow2', 'file': 'file0', 'size': MIB})
    machine.qmp.command('blockdev-add', driver='qcow2', file='file0',
                        **{'node-name': 'image0'})


def refused_source(paths):
    """Memory that can become private is not sent."""
    with Side(paths, PRIVATE.replace('private', 'shared')) as source:
        try:
            source.qmp.command('migrate', uri='unix:' + source.socket('no'))
        except QmpError as err:
            return [] if 'cannot be migrated' in str(err) else [str(err)]
        return ['it was accepted']


def refused_snapshot(paths):
    """No snapshot is loaded into it."""
    with Side(paths, PRIVATE.replace('private', 'shared')) as machine:
        add_image(machine)
        try:
            run_job(machine, 'snapshot-load', tag='then', vmstate='image0',
                    devices=['image0'])
        except QmpError as err:
            return [] if 'can become private' in str(err) else [str(err)]
        return ['it was accepted']


def refused_destination(paths):
    """It does not wait for migration either."""
    try:
        with Side(paths, PRIVATE, '-incoming', 'defer'):
            return ['it was accepted']
    except HarnessError as err:
        wanted = "'m0' is memory that can become private, and cannot be the " \
                 "destination of a migration"
        return [] if wanted in str(err) else [str(err)]


STEPS = (
    ('from memory-backend-memfd', lambda trip: trip.migrate(NONE)),
    ('live migration', lambda trip: trip.migrate(NONE)),
    ('cpr-transfer', lambda trip: trip.transfer(NONE)),
    ('calc-dirty-rate', Journey.dirty_rate),
    ('a snapshot', Journey.snapshot),
    ('to memory-backend-memfd, through a file',
     lambda trip: trip.migrate(MEMFD, file=True)),
    ('the guest finds all memory as it was', Journey.end),
)
REFUSED = (
    ('it is no source', refused_source),
    ('it is no destination', refused_destination),
    ('no snapshot is loaded into it', refused_snapshot),
)
ERRORS = (HarnessError, QmpError, EOFError, OSError, KeyError)


class Tap:
    """Numbered results."""

    def __init__(self):
        self.number = self.failed = 0

    def result(self, name, problems):
        """One test; without problems it is ok."""
        self.number += 1
        self.failed += bool(problems)
        print(f"{'not ' if problems else ''}ok {self.number} - {name}")
        for problem in problems:
            for line in str(problem).splitlines():
                print(f'# {line}')
        sys.stdout.flush()

    def run(self, name, function, *args):
        """One test; whether it is ok."""
        try:
            problems = function(*args)
        except ERRORS as err:
            problems = [f'{type(err).__name__}: {err}']
        self.result(name, problems)
        return not problems


def travel(tap, paths):
    """All steps, as long as they are ok."""
    with contextlib.ExitStack() as stack:
        trip, there = None, True
        for name, step in STEPS:
            if trip is None:
                trip = Journey(paths, stack)
                trip.machine.next_writes()
            if there:
                there = tap.run(name, step, trip)
            else:
                tap.result(name, ['not reached'])


def main():
    """All tests, or none."""
    exit_on_signals()
    tap = Tap()
    print('TAP version 13')
    print(f'1..{len(STEPS) + len(REFUSED)}')
    skip = kvm_problem(SHARED_FILES)
    if skip:
        for name, _ in STEPS + REFUSED:
            tap.number += 1
            print(f'ok {tap.number} - {name} # SKIP {skip}')
        return 0
    try:
        paths = Paths()
        travel(tap, paths)
    except ERRORS as err:
        print(f'Bail out! {type(err).__name__}: {err}')
        return 1
    for name, test in REFUSED:
        tap.run(f'memory that can become private: {name}', test, paths)
    return 1 if tap.failed else 0


if __name__ == '__main__':
    sys.exit(main())
