#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains of a real libvirt with what gmem-xml adds to them.

The guest of tests/guest converts memory under a vfio-user device; it is
looked at, converted, reset, and destroyed through virsh.
"""

import contextlib
import os
import re
import select
import subprocess
import unittest

from lib import TOP, libvirtd, tap
from lib.dma_map import all_shared, compare_maps, query_map
from lib.error import HarnessError
from lib.guest import PAUSED
from lib.kvm import MMAP_AND_INIT_SHARED, kvm_problem
from lib.paths import Paths
from lib.qmp import QmpError
from lib.server import start_server
from lib.units import MIB
from lib.vm import VMTest

GMEM_XML = os.path.join(TOP, 'tools/gmem-xml')
GMEM_TOP = os.path.join(TOP, 'tools/gmem-top')
# What the guest leaves alone: its bounce area is from 16 to 32 MiB
OFFSET, LENGTH = 64 * MIB, 2 * MIB
OTHER = 'dimm-memory'
LOST = 'VFIO_USER_LOST'         # an event

DOMAIN = '''\
<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>gmem</name>
  <memory unit='KiB'>{kib}</memory>
  <vcpu>1</vcpu>
  {extra}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest}</kernel>
    <cmdline>window=16 base=16 ops=100 conv={conv} {options}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=console,path={dir}/console'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='isa-debugcon,iobase=0xe9,chardev=console'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='isa-debug-exit,iobase=0xf4,iosize=4'/>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='null,id=serial'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='isa-serial,chardev=serial'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='guest-memfd-testdev'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='{{"driver":"vfio-user-pci","id":"edu0",{device}}}'/>
  </qemu:commandline>
</domain>
'''
DEVICE = '"socket":{{"type":"unix","path":"{dir}/edu"}}'
IOMMUFD = """<hostdev mode='subsystem' type='pci' managed='yes'>
  <driver name='vfio' iommufd='yes'/>
  <source><address domain='0' bus='1' slot='0' function='0'/></source>
</hostdev>"""
BARE = re.compile(r'  <qemu:commandline>.*</qemu:commandline>\n', re.DOTALL)


def gmem_xml(text, *args):
    """What gmem-xml makes of a domain; HarnessError if it is refused."""
    done = subprocess.run([GMEM_XML, *args], input=text, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    if done.returncode:
        raise HarnessError(f'gmem-xml {" ".join(args)}: {done.stderr}')
    return done.stdout


def gmem_top(session, *args):
    """What gmem-top says of the domain; HarnessError if it cannot."""
    done = subprocess.run(
        libvirtd.as_user([GMEM_TOP, '--domain', 'gmem', '--timeout', '300',
                          *args]), check=False,
        env={**session.env, 'LIBVIRT_DEFAULT_URI': 'qemu:///session'},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        raise HarnessError(f'gmem-top {" ".join(args)}: {done.stderr}')
    return done.stdout


def same(what, found, wanted):
    """Fail unless they are the same."""
    if found != wanted:
        raise HarnessError(f'{what}: {found!r}, expected {wanted!r}')


def refused(function, *words):
    """Fail unless that fails, with all these words."""
    try:
        function()
    except (HarnessError, QmpError) as err:
        for word in words:
            if word not in str(err):
                raise HarnessError(f'"{word}" is not in: {err}') from err
        print(str(err).splitlines()[-1])
    else:
        raise HarnessError(f'it was not refused ({words[0]})')


class Case:
    """A domain: what it is, and what gmem-xml is asked for."""

    def __init__(self, name, kind, options, extra='', kib=128 * 1024,
                 guest='pause=1', **expected):
        self.name, self.kind, self.options = name, kind, options
        self.extra, self.kib, self.expected = extra, kib, expected
        self.guest = guest
        self.size = -(-kib // 1024) * MIB

    def ordinary(self):
        """Whether nobody can convert its memory."""
        return self.expected['conversion'] == 'none'

    def huge(self):
        """How many huge pages it needs: the DIMM has none."""
        return self.size // LENGTH if 'hugepages' in self.extra else 0

    def problem(self):
        """Why it cannot be here."""
        if self.kind == 'kvm':
            return kvm_problem(MMAP_AND_INIT_SHARED)
        return None


CASES = (
    Case('TCG, preallocated', 'qemu', ['--init', 'private'], kib=131073,
         extra="<memoryBacking><source type='memfd'/><access mode='shared'/>"
               "<allocation mode='immediate'/></memoryBacking>",
         driver='emulated', conversion='in-place', init='private'),
    Case('TCG, 2 MiB pages', 'qemu', ['--init', 'private'],
         extra="<memoryBacking><hugepages><page size='2048' unit='KiB'/>"
               '</hugepages></memoryBacking>',
         driver='emulated', conversion='in-place', init='private'),
    Case('KVM, one NUMA cell', 'kvm', [],
         extra="<cpu mode='host-passthrough'><numa><cell id='0' cpus='0' "
               "memory='128' unit='MiB'/></numa></cpu>",
         driver='kvm', conversion='none', init='shared'),
)


class Scenario:
    """The steps of a case, in this order; each is a test."""

    def __init__(self, session, paths, case):
        self.session, self.paths, self.case = session, paths, case
        self.monitor = libvirtd.Monitor(session, 'gmem')
        self.errors = open(session.path('errors'), 'a+', encoding='utf-8')
        self.console = libvirtd.Listener(session.path('console'))
        self.before = self.server = self.control = None

    def close(self):
        """Whatever is left."""
        self.session.virsh('destroy', 'gmem', check=False)
        self.session.virsh('undefine', 'gmem', check=False)
        self._stop_server()
        self.console.close()
        os.unlink(self.console.path)
        self.errors.close()

    def _stop_server(self):
        if self.server:
            if self.server.poll() is None:
                self.server.kill()
            self.server.wait()
            self.server = None
        for name in ('edu', 'edu.control'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.session.path(name))

    def _xml(self):
        directory = self.session.dir
        return DOMAIN.format(
            kind=self.case.kind, kib=self.case.kib, extra=self.case.extra,
            dir=directory, qemu=os.path.realpath(self.paths.qemu),
            guest=self.paths.guest, options=self.case.guest,
            conv='none' if self.case.kind == 'kvm' else 'testdev',
            device=DEVICE.format(dir=directory))

    def libvirt_accepts_what_gmem_xml_writes(self):
        """Define it before, then with the memory."""
        self.session.define(self._xml())
        self.before = self.session.dump('gmem')
        same('what virsh has printed, after add and remove',
             gmem_xml(gmem_xml(self.before, 'add'), 'remove'), self.before)
        self.session.define(gmem_xml(
            self.before, 'add', *self.case.options, '--slots', '2',
            '--max-memory', '1G', '--firmware-dirs',
            ':'.join(self.paths.firmware)))

    def launch(self):
        """Start it, with a device."""
        self.server, self.control = start_server(
            self.paths.server, os.path.join(self.session.dir, 'edu'),
            self.errors, '--once')
        self.session.virsh('start', 'gmem')
        self.console.accept()

    def the_guest_starts_and_verifies_dma(self):
        """It holds when all went well."""
        self.launch()
        self.console.wait_for(PAUSED)

    def _block(self):
        blocks = self.monitor.command('query-guest-memfd')
        return {block['id']: block for block in blocks}

    def _compare(self):
        runs = (all_shared(self.case.size) if self.case.ordinary() else
                query_map(self.monitor, 'gmem0'))
        problems = compare_maps(runs, self.control.maps(), self.case.size)
        same('DMA mappings', problems, [])

    def the_monitor_shows_the_memory(self):
        """The block, its DMA mappings, and that libvirt's own takes none."""
        if self.case.ordinary():
            same('blocks', self._block(), {})
        else:
            block = self._block()['gmem0']
            expected = dict(self.case.expected, size=self.case.size)
            expected['page-size'] = LENGTH if self.case.huge() else 4096
            same('block', {key: block[key] for key in expected}, expected)
        same('options', {key: self.monitor.command(
            'qom-get', path='/objects/gmem0', property=key)
                         for key in self.case.expected}, self.case.expected)
        self._compare()
        memdev = {each['id']: each for each in
                  self.monitor.command('query-memdev')}
        same('prealloc', memdev['gmem0']['prealloc'],
             'immediate' in self.case.extra)
        same("prealloc of libvirt's", memdev['pc.ram']['prealloc'], False)
        with open(f"/proc/{self.session.pid('gmem')}/smaps",
                  encoding='utf-8', errors='replace') as file:
            sizes = re.findall(r'^Size: +(\d+) kB(?:\n.*?)*?^Rss: +(\d+) kB',
                               file.read(), re.MULTILINE)
        whole = [int(rss) for size, rss in sizes
                 if int(size) * 1024 == self.case.size]
        print(f'resident KiB of mappings as large as the memory: {whole}')
        if 'immediate' in self.case.extra:
            same('preallocated mappings', [rss for rss in whole if rss],
                 [self.case.size // 1024])

    def gmem_top_needs_no_second_socket(self):
        """It asks libvirt, as virsh does."""
        hmp = self.session.virsh('qemu-monitor-command', 'gmem', '--hmp',
                                 'info guest-memfd')
        shown = gmem_top(self.session, '--once')
        metrics = gmem_top(self.session, '--openmetrics', '-')
        if self.case.ordinary():
            same('gmem-top', shown, 'this VM has no guest_memfd memory\n')
            return
        same('blocks of the monitor', re.findall(r'^(\w+):', hmp,
                                                 re.MULTILINE), ['gmem0'])
        same('blocks of gmem-top', re.findall(r'^(\w+): .* in pages of ',
                                              shown, re.MULTILINE), ['gmem0'])
        same('size', re.findall(r'^guest_memfd_size_bytes{vm="gmem",'
                                r'block="gmem0"} (\d+)$', metrics,
                                re.MULTILINE), [str(self.case.size)])

    def _convert(self, private, block='gmem0', offset=OFFSET):
        self.monitor.command('x-guest-memfd-convert', id=block, offset=offset,
                             size=LENGTH, private=private)

    def _shared_at_offset(self):
        runs = query_map(self.monitor, 'gmem0')
        return next(not run['private'] for run in runs
                    if run['offset'] <= OFFSET < run['offset'] + run['size'])

    def virsh_converts_memory(self):
        """There and back and there, with the DMA mappings."""
        if self.case.ordinary():
            refused(lambda: self._convert(True), 'ordinary memory')
            return
        for private in (False, True, False):
            self._convert(private)
            same('shared', self._shared_at_offset(), not private)
            self._compare()

    def a_dimm_is_plugged_through_the_monitor(self):
        """libvirt would only plug memory of its own."""
        self.monitor.command(
            'object-add', **{'qom-type': 'memory-backend-guest-memfd',
                             'id': OTHER, 'size': 128 * MIB})
        self.monitor.command('device_add', driver='pc-dimm', id='dimm-x',
                             memdev=OTHER)
        if self.case.ordinary():
            same('blocks', self._block(), {})
        else:
            same('blocks', sorted(self._block()), [OTHER, 'gmem0'])
            self._convert(True, OTHER, 0)
            same('private', self._block()[OTHER]['private-bytes'], LENGTH)

    def after_a_reset_the_guest_verifies_dma_again(self):
        """And memory is as at the start."""
        self.session.virsh('reset', 'gmem')
        self.console.wait_for(PAUSED)
        if not self.case.ordinary():
            same('shared', self._shared_at_offset(),
                 self.case.expected['init'] == 'shared')
        self._compare()

    def what_cannot_be_saved_says_why(self):
        """virsh save is a migration: the memory blocks it, or the device."""
        why = 'vfio-user-pci' if self.case.ordinary() else \
            "'gmem0' is guest_memfd memory"
        refused(lambda: self.session.virsh(
            'save', 'gmem', self.session.path('saved')),
            'cannot migrate domain', why)
        same('state', self.session.virsh('domstate', 'gmem').strip(),
             'running')

    def it_is_destroyed_and_starts_again(self):
        """The server ends with QEMU."""
        self.session.virsh('destroy', 'gmem')
        same('the server', self.server.wait(libvirtd.CONSOLE_TIMEOUT), 0)
        self._stop_server()
        self.launch()
        self.console.wait_for(PAUSED)
        same('blocks', sorted(self._block()),
             [] if self.case.ordinary() else ['gmem0'])

    def events_of_qemu_reach_virsh_and_the_log(self):
        """Here: that the server is gone."""
        def logged():
            return self.session.logged(
                rf'QEMU_MONITOR_RECV_EVENT: .*"event": "({LOST})"')

        before = logged()
        with subprocess.Popen(
                libvirtd.as_user(['virsh', '-q', '-c', 'qemu:///session',
                                  'qemu-monitor-event', '--domain', 'gmem',
                                  '--loop']),
                env=self.session.env, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                universal_newlines=True) as virsh:
            try:
                # It listens once it prints something
                while not select.select([virsh.stdout], [], [], 0)[0]:
                    self.session.virsh('suspend', 'gmem')
                    self.session.virsh('resume', 'gmem')
                self.server.kill()
                said = next((line for line in virsh.stdout if LOST in line),
                            '')
            finally:
                virsh.kill()
        if '"device":"edu0"' not in said:
            raise HarnessError(f'virsh printed {said!r}')
        same('events in the log', logged(), before + [LOST])
        self.session.virsh('destroy', 'gmem')
        self._stop_server()

    def gmem_xml_takes_it_back(self):
        """libvirt then has what it had, byte for byte."""
        self.session.virsh('edit', 'gmem',
                           EDITOR=f'{GMEM_XML} remove --in-place')
        same('definition', self.session.dump('gmem'), self.before)
        self.session.virsh('undefine', 'gmem')

    steps = (libvirt_accepts_what_gmem_xml_writes,
             the_guest_starts_and_verifies_dma,
             the_monitor_shows_the_memory,
             gmem_top_needs_no_second_socket,
             virsh_converts_memory,
             a_dimm_is_plugged_through_the_monitor,
             after_a_reset_the_guest_verifies_dma_again,
             what_cannot_be_saved_says_why,
             it_is_destroyed_and_starts_again,
             events_of_qemu_reach_virsh_and_the_log,
             gmem_xml_takes_it_back)


def bare(paths, extra=''):
    """A domain that is only started, with guest_memfd memory."""
    return BARE.sub('', DOMAIN.format(
        kind='qemu', kib=64 * 1024, extra=extra, dir='', device='', conv='none',
        options='', guest=paths.guest, qemu=os.path.realpath(paths.qemu)))


def start(session, text):
    """Define and start it, and leave nothing."""
    session.define(text)
    try:
        session.virsh('start', 'gmem')
        return libvirtd.Monitor(session, 'gmem').command('query-memdev')
    finally:
        session.virsh('destroy', 'gmem', check=False)
        session.virsh('undefine', 'gmem', check=False)


def what_the_object_refuses_reaches_the_user(session, paths):
    """libvirt passes on what QEMU said."""
    text = gmem_xml(bare(paths), 'add', '--driver', 'emulated')
    refused(lambda: start(session, text.replace('driver=emulated',
                                                'driver=kvm')),
            'driver=kvm needs the KVM accelerator', 'use driver=emulated')


def the_size_of_the_memory_is_that_of_the_object(session, paths):
    """After a change of the memory gmem-xml has to run again."""
    text = gmem_xml(bare(paths), 'add')
    session.define(text)
    session.virsh('setmaxmem', 'gmem', '96M', '--config')
    changed = session.dump('gmem')
    refused(lambda: start(session, changed), 'does not match the size')
    start(session, gmem_xml(changed, 'add'))


def numatune_holds_for_the_object(session, paths):
    """libvirt's policy is for its own memory."""
    memory = start(session, gmem_xml(bare(
        paths, "<numatune><memory mode='strict' nodeset='0'/></numatune>"),
        'add'))
    for name in ('gmem0', 'pc.ram'):
        found = next(each for each in memory if each['id'] == name)
        same(name, (found['host-nodes'], found['policy']), ([0], 'bind'))


def numa_nodes_by_hand_are_refused_by_qemu(session, paths):
    """Why gmem-xml refuses domains with several cells: should QEMU or libvirt
    learn to do without this, it can learn it too."""
    refused(lambda: gmem_xml(bare(
        paths, "<cpu><numa><cell id='0' cpus='0' memory='32768'/>"
               "<cell id='1' memory='32768'/></numa></cpu>"), 'add'),
            '<cpu><numa>', '2 cells')
    text = gmem_xml(bare(paths), 'add')
    refused(lambda: start(session, text.replace(
        "value='-machine'/>", "value='-numa'/>").replace(
            "value='memory-backend=gmem0'", "value='node,memdev=gmem0'")),
            "'-machine memory-backend' and '-numa memdev' properties are "
            'mutually exclusive')


def a_guest_reboots_itself(session, paths):
    """It verifies DMA before and after, and that memory is shared again."""
    scenario = Scenario(session, paths, Case('reboot', 'qemu', [],
                                             guest='reboot=1'))
    try:
        scenario.libvirt_accepts_what_gmem_xml_writes()
        scenario.launch()
        lines = scenario.console.wait_for('PASS')
    finally:
        scenario.close()
    same('boots', [line.split()[1] for line in lines
                   if line.startswith('summary boot=')], ['boot=1', 'boot=2'])


def without_acpi_it_does_not_start(session, paths):
    """What gmem-xml warns of."""
    text = gmem_xml(bare(paths), 'add').replace('<acpi/>', '')
    version = session.virsh('--version').strip()
    if not version.startswith('9.0.'):
        raise unittest.SkipTest(f'libvirt {version} knows that -no-acpi is '
                                'gone')
    refused(lambda: start(session, text), '-no-acpi')


def a_libvirt_before_12_1_forgets_iommufd(session, paths):
    """What gmem-xml warns of, and that later ones keep it."""
    version = tuple(map(int, session.virsh('--version').split('.')))
    session.virsh('define', session.write('define.xml', gmem_xml(
        bare(paths).replace('</devices>', IOMMUFD + '</devices>'), 'add')))
    try:
        same(f'libvirt {version} keeps it',
             "iommufd='yes'" in session.dump('gmem'), version >= (12, 1))
    finally:
        session.virsh('undefine', 'gmem')


class Session:
    """The libvirtd of all tests."""

    daemon = None


def setUpModule():
    """Start it."""
    problem = libvirtd.problem()
    if problem:
        raise unittest.SkipTest(problem)
    daemon = libvirtd.Daemon()
    unittest.addModuleCleanup(daemon.__exit__)
    Session.daemon = daemon.__enter__()


def domain_test(case):
    """The steps of a case, each a test; after one that fails all do."""

    class DomainTest(VMTest):
        """One domain."""

        @classmethod
        def setUpClass(cls):
            cls.need(case.problem(), case.huge())
            cls.scenario = Scenario(Session.daemon, Paths(), case)
            cls.addClassCleanup(cls.scenario.close)
            cls.good = True

        def id(self):
            return f'{case.name}: ' + super().id()

        def explain(self):
            return [f'guest: {line}' for line in
                    self.scenario.console.lines[-10:]] + (
                        Session.daemon.errors() +
                        Session.daemon.qemu_log('gmem')).splitlines()

        @tap.cases({step.__name__.replace('_', ' '): step
                    for step in Scenario.steps})
        def test_step(self, step):
            """domain"""
            self.assertTrue(self.good, 'the domain has not come so far')
            type(self).good = False
            step(self.scenario)
            type(self).good = True

    return DomainTest


Preallocated, HugePages, NumaCell = map(domain_test, CASES)


class Single(tap.TestCase):
    """Domains for one question each."""

    @tap.cases({test.__name__.replace('_', ' '): test for test in (
        what_the_object_refuses_reaches_the_user,
        the_size_of_the_memory_is_that_of_the_object,
        numatune_holds_for_the_object,
        numa_nodes_by_hand_are_refused_by_qemu,
        a_guest_reboots_itself,
        a_libvirt_before_12_1_forgets_iommufd,
        without_acpi_it_does_not_start)})
    def test_single(self, test):
        """domain"""
        test(Session.daemon, Paths())


if __name__ == '__main__':
    tap.main()
