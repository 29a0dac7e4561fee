#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands of the monitor, and gdb, do with a private page.

docs/system/guest-memfd/conversion.rst has the table, of which each row is a
test here; tests/rig has those of memory that is converted in place.  The vCPU
does not run: its virtual addresses are physical ones.
"""

import os

from lib import tap
from lib.gdb import Gdb
from lib.kvm import MMAP_AND_INIT_SHARED, kvm_problem, protected_preload
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from lib.vm import VM, VMTest

RAM = 64 * MIB
PRIVATE = 16 * MIB
SHARED = PRIVATE - PAGE         # the page before it
MARK = os.urandom(256)          # is written to both
OTHER = os.urandom(256)
NO_MEMORY = 'E14'               # EFAULT
NO_BREAKPOINT = 'E22'           # EINVAL


def words(data):
    """What x and xp show of its beginning."""
    return f"0x{int.from_bytes(data[:4], 'little'):08x}"


class StoppedVM(VM):
    """It has a gdb stub, and no vCPU runs."""

    def __init__(self, **options):
        super().__init__(ram=RAM, server=False, devices=[], **options)

    def command_line(self, fds):
        return super().command_line(fds) + [
            '-S', '-gdb', f"unix:{self.socket('gdb')},server=on,wait=off"]

    def convert(self, private):
        """The page becomes private or shared."""
        self.qmp.command('x-guest-memfd-convert', id='m0', offset=PRIVATE,
                         size=PAGE, private=private)


class Rows(VMTest):
    """One row of the table is one test, for each column a class."""

    name = None
    problem = None
    readable = None         # whether QEMU reads and writes a private page
    options = {}

    @classmethod
    def setUpClass(cls):
        cls.need(cls.problem)
        cls.start_for_all(StoppedVM(**cls.options))
        cls.gdb = cls.enterClassContext(Gdb(cls.vm.socket('gdb')))

    def id(self):
        return f'{self.name}: {super().id()}'

    def setUp(self):
        self.vm.convert(False)
        for address in (SHARED, PRIVATE):
            self.assertEqual(self.gdb.write(address, MARK), 'OK')
        self.vm.convert(True)

    def expect(self, answer, readable, refused):
        """One or the other."""
        wanted = readable if self.readable else refused
        self.assertIn(wanted, answer)

    def shared_again(self):
        """The bytes of the page, after it has become shared."""
        self.vm.convert(False)
        return self.gdb.read(PRIVATE, len(MARK))

    def save(self, command, address, size):
        """The error of pmemsave or memsave, or "", and the file."""
        path = self.path / 'saved'
        error = ''
        try:
            self.vm.qmp.command(command, val=address, size=size,
                                filename=str(path))
        except QmpError as err:
            error = str(err)
        return error, path.read_bytes() if path.exists() else b''

    def dump(self, **args):
        """The error of dump-guest-memory, or "", and the file."""
        path = self.path / 'dump'
        error = ''
        try:
            self.vm.qmp.command('dump-guest-memory', paging=False,
                                protocol=f'file:{path}', **args)
        except QmpError as err:
            error = str(err)
        return error, path.read_bytes() if path.exists() else b''

    @tap.cases({'x': 'x', 'xp': 'xp'})
    def test_monitor(self, command):
        self.assertIn(words(MARK),
                      self.vm.qmp.human(f'{command} /1xw {SHARED:#x}'))
        self.expect(self.vm.qmp.human(f'{command} /1xw {PRIVATE:#x}'),
                    words(MARK), 'Cannot access memory')

    def test_memsave(self):
        """memsave; what is before the private page stays in the file"""
        error, data = self.save('memsave', SHARED, PAGE + len(MARK))
        self.assertEqual(data[:len(MARK)], MARK)
        if self.readable:
            self.assertEqual((error, data[PAGE:]), ('', MARK))
        else:
            self.assertIn('Invalid addr', error)
            self.assertEqual(len(data), PAGE)

    def test_pmemsave(self):
        """pmemsave, which writes no file"""
        error, data = self.save('pmemsave', SHARED, PAGE + 1)
        self.assertIn("offset 0x1000000 of 'm0' is private", error)
        self.assertEqual(data, b'')
        self.assertEqual(self.save('pmemsave', SHARED, len(MARK)), ('', MARK))

    @tap.cases({'all memory': {}, 'kdump': {'format': 'kdump-zlib'},
                'a range with a private page': {'begin': SHARED,
                                                'length': PAGE + 1}})
    def test_dump_is_refused(self, args):
        """dump-guest-memory is refused"""
        self.assertIn("offset 0x1000000 of 'm0' is private",
                      self.dump(**args)[0])

    @tap.cases({'before': (SHARED, PAGE, True),
                'behind': (PRIVATE + PAGE, RAM - PRIVATE - PAGE, False)})
    def test_dump_of_a_range(self, begin, length, mark):
        """dump-guest-memory of what is shared, beside a private page"""
        error, data = self.dump(begin=begin, length=length)
        self.assertEqual(error, '')
        self.assertEqual(MARK in data, mark)
        self.assertGreater(len(data), length)

    def test_gdb_reads(self):
        """gdb reads"""
        self.assertEqual(self.gdb.read(SHARED, len(MARK)), MARK)
        self.assertEqual(self.gdb.read(PRIVATE, len(MARK)),
                         MARK if self.readable else NO_MEMORY)
        self.assertEqual(self.gdb.read(PRIVATE - 1, 2),
                         b'\0' + MARK[:1] if self.readable else NO_MEMORY)

    def test_gdb_writes(self):
        """gdb writes"""
        self.assertEqual(self.gdb.write(PRIVATE, OTHER),
                         'OK' if self.readable else NO_MEMORY)
        data = self.shared_again()
        self.assertEqual(data, OTHER if self.readable else bytes(len(OTHER)))

    def test_gdb_reads_physical_memory(self):
        """gdb reads in its physical mode, and is told of no error"""
        self.addCleanup(self.gdb.physical, False)
        self.assertEqual(self.gdb.physical(True), 'OK')
        self.assertEqual(self.gdb.read(SHARED, len(MARK)), MARK)
        self.assertEqual(self.gdb.read(PRIVATE, len(MARK)),
                         MARK if self.readable else bytes(len(MARK)))

    def test_gdb_writes_physical_memory(self):
        """gdb writes in its physical mode, and is told of no error"""
        self.addCleanup(self.gdb.physical, False)
        self.gdb.physical(True)
        self.assertEqual(self.gdb.write(PRIVATE, OTHER), 'OK')
        data = self.shared_again()
        self.assertEqual(data, OTHER if self.readable else bytes(len(OTHER)))

    def test_gdb_breakpoint(self):
        """a software breakpoint of gdb, and a hardware breakpoint"""
        for kind, answer in (
                (0, 'OK' if self.readable else NO_BREAKPOINT), (1, 'OK')):
            self.assertEqual(self.gdb.command(f'Z{kind},{PRIVATE:x},1'), answer)
            if answer == 'OK':
                self.gdb.command(f'z{kind},{PRIVATE:x},1')

    def test_gpa2hva(self):
        """gpa2hva shows where it is mapped"""
        self.assertIn('(m0) is 0x', self.vm.qmp.human(f'gpa2hva {PRIVATE:#x}'))


class Emulated(Rows):
    """driver=emulated, under TCG: nothing is protected."""

    name = 'emulated'
    readable = True
    options = {'init': 'shared'}


class TwoCopy(Rows):
    """A VM of KVM with private memory."""

    name = 'two-copy'
    problem = kvm_problem(MMAP_AND_INIT_SHARED)
    readable = False
    options = {
        'accel': 'kvm', 'protected': True, 'preload': protected_preload(),
        'memory': f'memory-backend-guest-memfd,id=m0,size={RAM},'
                  'conversion=two-copy,init=shared'}


del Rows        # it is not a column


if __name__ == '__main__':
    tap.main()
