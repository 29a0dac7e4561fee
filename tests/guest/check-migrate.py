#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest_memfd that nobody converts is ordinary RAM: it can be migrated.

A guest under KVM goes from one QEMU to the next, and writes all
over its memory meanwhile.  Each time both sides are stopped, and their memory
is compared byte by byte.  At its end the guest compares each page with what it
remembers.  Memory that can become private is no source and no destination.
"""

import contextlib
import os
import queue
import socket
import subprocess
import tempfile
import unittest

from lib import TOP, tap
from lib.dma_map import LEGACY
from lib.error import HarnessError
from lib.guest import key_values
from lib.kvm import MMAP_AND_INIT_SHARED, kvm_problem, protected_preload
from lib.qmp import QmpError
from lib.units import MIB
from lib.vm import VM, VMTest

RAM = 32 * MIB
GUEST = 'base=16 area=2 write=1 conv=none'
NONE = f'memory-backend-guest-memfd,id=m0,size={RAM},conversion=none'
MEMFD = f'memory-backend-memfd,id=m0,size={RAM},share=on'
X_GUEST_MEMFD = f'{MEMFD},x-guest-memfd=on'
PRIVATE = (f'memory-backend-guest-memfd,id=m0,size={RAM},driver=emulated,'
           'init=private')
CONVERTIBLE = PRIVATE.replace('private', 'shared')
TWO_COPY = (f'memory-backend-guest-memfd,id=m0,size={RAM},'
            'conversion=two-copy,init=private')
NO_SOURCE = ("Memory 'm0' is guest_memfd memory, whose private pages cannot be "
             'migrated')
NO_DESTINATION = ("'m0' is memory that can become private, and cannot be the "
                  'destination of a migration, which carries no private pages; '
                  'leave out -incoming')
NOT_LOADED = ("no snapshot can be loaded: 'm0' is memory that can become "
              'private, and a snapshot carries no private pages')
QEMU_IMG = os.environ.get('QEMU_IMG', os.path.join(TOP, 'build/qemu/qemu-img'))
# Bytes in a second: each pass takes longer than the guest needs to write to as
# many pages, so migration goes on until more are allowed
SLOWLY = MIB
PASSES = 3
PROBLEM = kvm_problem(MMAP_AND_INIT_SHARED)


class Side(VM):
    """A VM that migration starts or ends in; @words: more of them."""

    def __init__(self, memory, *words, fds=(), protected=False):
        super().__init__(accel='kvm', ram=RAM, memory=memory,
                         devices=[], guest=GUEST, server=False,
                         protected=protected,
                         preload=protected_preload() if protected else None)
        self._words = list(words)
        self._more_fds = list(fds)

    def command_line(self, fds):
        # cpr-transfer asks for shared memory, wherever it is
        fds += self._more_fds
        return super().command_line(fds) + [
            '-machine', 'aux-ram-share=on', *self._words]

    def next_writes(self):
        """How often the guest has written, as it next says."""
        return key_values(self.said_until('progress')[-1])['writes']

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


def channels(paths):
    """Of migration, to sockets: {type: path}."""
    return [{'channel-type': name,
             'addr': {'transport': 'socket', 'type': 'unix', 'path': path}}
            for name, path in paths.items()]


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
    print(f"{ram['dirty-sync-count']} passes, {ram['normal']} pages")
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


def run_job(vm, command, **args):
    """Run it to its end."""
    vm.qmp.command(command, **{'job-id': command}, **args)
    vm.qmp.wait(lambda e: e['event'] == 'JOB_STATUS_CHANGE' and
                     e['data'] == {'id': command, 'status': 'concluded'})
    job, = [job for job in vm.qmp.command('query-jobs')
            if job['id'] == command]
    vm.qmp.command('job-dismiss', id=command)
    if 'error' in job:
        raise QmpError(f"{command}: {job['error']}")


def add_image(vm):
    """An image that can hold snapshots."""
    path = vm.socket('image')
    with open(path, 'wb'):
        pass
    vm.qmp.command('blockdev-add', driver='file', filename=path,
                        **{'node-name': 'file0'})
    run_job(vm, 'blockdev-create', options={
        'driver': 'qcow2', 'file': 'file0', 'size': MIB})
    vm.qmp.command('blockdev-add', driver='qcow2', file='file0',
                        **{'node-name': 'image0'})


@unittest.skipIf(PROBLEM, str(PROBLEM))
class Journey(VMTest):
    """A guest goes from one QEMU to the next, and sees none of it."""

    @classmethod
    def setUpClass(cls):
        cls.start_for_all(Side(MEMFD, '-only-migratable')).next_writes()
        cls.good = True

    def setUp(self):
        self.assertTrue(self.good, 'the guest has not come so far')
        type(self).good = False

    def run(self, result=None):
        failures = len(result.failures) + len(result.errors)
        super().run(result)
        type(self).good = failures == len(result.failures) + len(result.errors)

    def arrive(self, destination, before):
        """It goes on there."""
        self.assert_none(compare(self.vm, destination))
        self.vm.close()             # nobody needs it any more
        type(self).vm = destination
        destination.qmp.command('cont')
        self.assertGreater(destination.next_writes(), before)

    @tap.cases({'from memory-backend-memfd': (NONE, False),
                'from guest_memfd to guest_memfd': (NONE, False),
                'to memory-backend-memfd,x-guest-memfd=on':
                    (X_GUEST_MEMFD, False),
                'from there': (NONE, False)})
    def test_live_migration(self, memory, file):
        self.migrate(memory, file)

    def migrate(self, memory, file):
        """Through a socket or a file."""
        destination = self.enterClassContext(
            Side(memory, '-only-migratable', '-S', '-incoming', 'defer'))
        uri = f"{'file' if file else 'unix'}:{destination.socket('here')}"
        before = self.vm.next_writes()
        if not file:
            destination.listen(uri)
        self.assert_none(migrate(self.vm, uri))
        if file:
            destination.listen(uri)
        destination.end_of_migration()
        self.arrive(destination, before)

    def test_cpr_transfer(self):
        """cpr-transfer: a new QEMU takes the memory over, as it is"""
        source = self.vm
        here, cpr = source.socket('here'), source.socket('cpr')
        listener = self.enterContext(socket.socket(socket.AF_UNIX))
        listener.bind(cpr)
        listener.listen()
        before = source.next_writes()
        source.events_on()
        source.set(mode='cpr-transfer')
        source.qmp.command('migrate', channels=channels(
            {'main': here, 'cpr': cpr}))
        # it has no monitor before the state of CPR is there
        destination = self.enterClassContext(Side(
            NONE, '-S', '-global', 'migration.x-events=on',
            '-incoming', f'unix:{here}', '-incoming',
            'cpr,addr.transport=socket,addr.type=fd,'
            f'addr.str={listener.fileno()}', fds=[listener.fileno()]))
        source.end_of_migration()
        destination.end_of_migration()
        self.arrive(destination, before)

    def test_dirty_rate(self):
        """calc-dirty-rate finds that the guest writes"""
        info = {'status': 'unstarted', 'dirty-rate': 0}
        # less than a MiB is 0
        while not info.get('dirty-rate'):
            if info['status'] != 'measuring':
                self.vm.qmp.command('calc-dirty-rate', mode='dirty-bitmap',
                                    **{'calc-time': 1})
            self.vm.writes_from_now()
            info = self.vm.qmp.command('query-dirty-rate')
        print(f"{info['dirty-rate']} MiB/s")

    def test_snapshot(self):
        """a snapshot: the guest goes back to what it was"""
        args = {'tag': 'then', 'vmstate': 'image0', 'devices': ['image0']}
        add_image(self.vm)
        run_job(self.vm, 'snapshot-save', **args)
        last = self.vm.writes_from_now()
        run_job(self.vm, 'snapshot-load', **args)
        while (writes := self.vm.next_writes()) > last:
            last = writes

    def test_file(self):
        """to memory-backend-memfd, through a file"""
        self.migrate(MEMFD, True)

    def test_the_guest_finds_all_memory_as_it_was(self):
        self.vm.resume()
        self.vm.assert_good_end()


@unittest.skipIf(PROBLEM, str(PROBLEM))
class Literal(VMTest):
    """What people type, for memory that nobody converts."""

    @classmethod
    def setUpClass(cls):
        cls.dir = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.image = os.path.join(cls.dir, 'image')
        subprocess.run([QEMU_IMG, 'create', '-q', '-f', 'qcow2', cls.image,
                        '1M'], check=True)

    def side(self, *words):
        """A VM with a disk for snapshots."""
        return self.start(Side(NONE, '-drive', 'if=none,format=qcow2,file=' +
                               self.image, *words))

    def hmp(self, line):
        """The human monitor has nothing to say about it."""
        self.assertEqual(self.vm.qmp.human(line), '')

    def test_savevm_loadvm(self):
        """savevm and loadvm; qemu-system-x86_64 ... -loadvm"""
        vm = self.side()
        vm.next_writes()
        self.hmp('stop')
        self.hmp('savevm then')
        then = vm.memory_bytes()
        self.hmp('cont')
        vm.writes_from_now()
        self.hmp('stop')
        self.assertNotEqual(vm.memory_bytes(), then)
        self.hmp('loadvm then')
        self.assertEqual(vm.memory_bytes(), then)
        vm.close()
        vm = self.side('-loadvm', 'then', '-S')
        self.assertEqual(vm.memory_bytes(), then)
        self.hmp('cont')
        vm.next_writes()

    @tap.cases({'exec': ('exec:cat >{}', 'exec:cat {}'),
                'file': ('file:{}', 'file:{}')})
    def test_incoming(self, there, here):
        """migrate; qemu-system-x86_64 ... -incoming"""
        path = os.path.join(self.dir, 'stream')
        source = self.side()
        source.next_writes()
        source.events_on()
        self.hmp('stop')
        self.hmp('migrate -d "' + there.format(path) + '"')
        source.end_of_migration()
        then = source.memory_bytes()
        source.close()
        destination = self.side('-incoming', here.format(path), '-S',
                                '-global', 'migration.x-events=on')
        destination.qmp.poll(lambda: destination.qmp.command('query-status')[
            'status'] not in ('inmigrate', 'finish-migrate'))
        self.assertEqual(destination.memory_bytes(), then)
        self.hmp('cont')
        destination.next_writes()


class Refused(VMTest):
    """Memory that can become private."""

    options = {}
    private = PRIVATE
    convertible = CONVERTIBLE

    def side(self, memory, *words):
        """A VM whose guest does nothing."""
        return self.start(Side(memory, '-S', *words, **self.options))

    def assert_refused(self, reason, *words, memory=None):
        """QEMU does not start, and says why."""
        with self.assertRaisesRegex(HarnessError, reason):
            self.side(memory or self.private, *words)

    @tap.cases({mode: mode for mode in
                ('normal', 'cpr-reboot', 'cpr-transfer', 'cpr-exec')})
    def test_it_is_no_source(self, mode):
        """memory that can become private is no source"""
        source = self.side(self.convertible)
        source.set(mode=mode)
        names = ('main', 'cpr') if mode == 'cpr-transfer' else ('main',)
        with self.assertRaisesRegex(QmpError, NO_SOURCE):
            source.qmp.command('migrate', channels=channels(
                {name: source.socket(name) for name in names}))
        self.assertRegex(
            str(source.qmp.command('query-migrate')['blocked-reasons']),
            NO_SOURCE)
        self.assertEqual(source.qmp.command('query-status')['status'],
                         'prelaunch')

    def test_no_snapshot_is_made_of_it(self):
        """no snapshot is made of memory that can become private"""
        vm = self.side(self.convertible)
        add_image(vm)
        self.assertRegex(vm.qmp.human('savevm then'), NO_SOURCE)
        with self.assertRaisesRegex(QmpError, NO_SOURCE):
            run_job(vm, 'snapshot-save', tag='then', vmstate='image0',
                    devices=['image0'])
        node, = [node for node in vm.qmp.command('query-named-block-nodes')
                 if node['node-name'] == 'image0']
        self.assertNotIn('snapshots', node['image'])

    @tap.cases({'defer': 'defer', 'tcp': 'tcp:127.0.0.1:0',
                'exec': 'exec:cat /dev/null', 'file': 'file:/dev/null'})
    def test_it_is_no_destination(self, uri):
        """memory that can become private is no destination"""
        self.assert_refused(NO_DESTINATION, '-incoming', uri)

    def test_no_incoming(self):
        """migrate-incoming, without -incoming"""
        vm = self.side(self.private)
        with self.assertRaisesRegex(QmpError, "'-incoming' was not specified"):
            vm.listen('unix:' + vm.socket('no'))

    def test_only_migratable(self):
        """-only-migratable"""
        self.assert_refused('--only-migratable.*' + NO_SOURCE,
                            '-only-migratable')

    def test_no_snapshot_is_loaded_into_it(self):
        """no snapshot is loaded into memory that can become private"""
        vm = self.side(self.convertible)
        add_image(vm)
        self.assertRegex(vm.qmp.human('loadvm then'), NOT_LOADED)
        with self.assertRaisesRegex(QmpError, NOT_LOADED):
            run_job(vm, 'snapshot-load', tag='then', vmstate='image0',
                    devices=['image0'])
        self.assert_refused(NOT_LOADED, '-loadvm', 'then')


@unittest.skipIf(PROBLEM, str(PROBLEM))
class RefusedEmulated(Refused):
    """driver=emulated."""

    def test_an_object_that_comes_while_qemu_waits(self):
        """an object that comes while QEMU waits for a migration"""
        vm = self.start(Side(NONE, '-incoming', 'defer'))
        with self.assertRaisesRegex(QmpError, "'m1' is memory that can become "
                                              'private, and cannot be'):
            vm.qmp.command('object-add', id='m1', size=MIB, driver='emulated',
                           **{'qom-type': 'memory-backend-guest-memfd'})
        # nothing is left of it that is in the way
        vm.listen('unix:' + vm.socket('here'))

    def test_migration_is_possible_when_it_is_gone(self):
        """migration is possible when such memory has been unplugged"""
        vm = self.side(NONE)
        vm.qmp.command('object-add', id='m1', size=MIB, driver='emulated',
                       **{'qom-type': 'memory-backend-guest-memfd'})
        uri = 'file:' + vm.socket('stream')
        with self.assertRaisesRegex(QmpError, "'m1' is guest_memfd memory"):
            vm.qmp.command('migrate', uri=uri)
        vm.qmp.command('object-del', id='m1')
        vm.events_on()
        vm.qmp.command('migrate', uri=uri)
        vm.end_of_migration()


@unittest.skipIf(PROBLEM, str(PROBLEM))
class RefusedTwoCopy(Refused):
    """A VM of KVM with private memory."""

    options = {'protected': True}
    private = TWO_COPY
    convertible = TWO_COPY.replace('private', 'shared')


del Refused     # it has no memory of its own


if __name__ == '__main__':
    tap.main()
