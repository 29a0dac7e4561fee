#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make install and make uninstall: what is installed runs from there."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pc
from lib import TOP, tap
from lib.scripts import assert_done, assert_refused, run_script, write

PREFIX = '/opt/guest-memfd'
NAME = 'qemu-system-x86_64-guest-memfd'
TOOLS = {'gmem-top', 'gmem-xml'}
COMPLETION = 'share/bash-completion/completions'
MEMORY = ('-object', 'memory-backend-guest-memfd,id=m0,size=1G,driver=emulated',
          '-machine', 'pc,memory-backend=m0')
SPHINX = 'no sphinx-build: run tests/build/install-packages.sh'


def install(verb, directory, **env):
    """Run install.sh for a directory that stands for the root of a system."""
    env = {'DESTDIR': directory, 'PREFIX': PREFIX, **env}
    return run_script('install.sh', verb, **env)


def run(program, *args):
    """Run an installed program, which finds nothing through its environment."""
    env = {name: value for name, value in os.environ.items()
           if name not in ('QEMU_TREE', 'PYTHONPATH')}
    return subprocess.run([program, *args], check=True, env=env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          universal_newlines=True).stdout


def below(directory):
    """The files of a directory, as relative paths."""
    return {str(path.relative_to(directory)) for path in directory.rglob('*')
            if not path.is_dir()}


class Install(tap.TestCase):
    """What make build has built, in a place of its own."""

    @classmethod
    def setUpClass(cls):
        if not shutil.which('sphinx-build'):
            raise tap.Skip(SPHINX)
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.system = Path(cls.directory.name)
        cls.root = cls.system / PREFIX.lstrip('/')
        assert_done(install('install', cls.system))

    def test_the_files_are_named_apart_from_those_of_another_qemu(self):
        files = below(self.root)
        assert {name for name in files if name.startswith('bin/')} == \
            {'bin/' + name for name in TOOLS | {NAME}}, files
        assert {name for name in files if name.startswith('share/man/')} == \
            {'share/man/man1/%s.1' % name for name in TOOLS | {NAME}}, files
        assert {name for name in files if name.startswith(COMPLETION)} == \
            {'%s/%s' % (COMPLETION, name) for name in TOOLS}, files
        rest = {name for name in files if not name.startswith(
            ('bin/', 'share/man/', COMPLETION, 'share/qemu-guest-memfd/'))}
        assert not rest, rest
        assert below(self.system) == {PREFIX.lstrip('/') + '/' + name
                                      for name in files}

    def test_the_modules_are_those_of_the_tools(self):
        files = below(self.root / 'share/qemu-guest-memfd')
        tools = {str(path.relative_to(TOP / 'tools'))
                 for path in (TOP / 'tools').glob('gmem*/**/*.py')}
        assert len(tools) > 10, tools
        assert tools | TOOLS <= files, (tools | TOOLS) - files
        assert all(name.startswith('qemu/qmp/')
                   for name in files - tools - TOOLS), files

    def test_qemu_finds_its_firmware(self):
        with pc.bios(*pc.QUIET, *MEMORY,
                     program=[self.root / 'bin' / NAME]) as qemu:
            qemu.read_until(b'Running option rom at', times=2)
            qemu.assert_running()

    def test_the_tools_run(self):
        # gmem-top with QEMU's Python module for QMP
        before = below(self.root)
        qmp = self.path / 'qmp'
        with pc.Qemu('-S', *pc.QUIET, *MEMORY,
                     '-qmp', 'unix:%s,server=on,wait=off' % qmp, text=(),
                     program=[self.root / 'bin' / NAME]):
            report = run(self.root / 'bin/gmem-top', '--once', qmp)
        assert 'm0' in report, report
        for tool in TOOLS:
            assert run(self.root / 'bin' / tool, '--version').startswith(tool)
        assert below(self.root) == before, below(self.root) - before

    def test_qemu_needs_no_library_of_the_build_directory(self):
        listed = run('ldd', self.root / 'bin' / NAME)
        assert 'libc.so' in listed and str(TOP) not in listed, listed
        assert 'not found' not in listed, listed

    def test_what_an_earlier_version_had_goes(self):
        stale = write(self.root / 'share/qemu-guest-memfd/gmem/old.py', '')
        assert_done(install('install', self.system))
        assert not stale.exists()

    def test_uninstall_removes_all_of_it_and_nothing_else(self):
        # The last one
        others = {str(write(self.root / name, '').relative_to(self.system))
                  for name in ('bin/qemu-system-x86_64', 'share/qemu/bios.bin',
                               'share/man/man1/qemu-system-x86_64.1')}
        assert_done(install('uninstall', self.system))
        assert below(self.system) == others, below(self.system) ^ others
        assert not (self.root / 'share/qemu-guest-memfd').exists()


class Refused(tap.TestCase):
    """What cannot be installed."""

    def test_a_relative_prefix_is_refused(self):
        assert_refused(install('install', self.path, PREFIX='usr'),
                       'PREFIX is usr', 'absolute')

    def test_a_directory_that_cannot_be_written_is_refused(self):
        # Not even by root
        assert_refused(install('uninstall', '/proc/none'),
                       '/proc/none' + PREFIX, 'as root', 'PREFIX')

    def test_what_was_not_built_is_refused(self):
        shutil.copytree(TOP / 'scripts', self.path / 'scripts')
        (self.path / 'tools').mkdir()
        for script, args in (('install.sh', ['install']),
                             ('build-deb.sh', [self.path])):
            done = subprocess.run(
                [self.path / 'scripts' / script, *args], check=False,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                universal_newlines=True)
            assert_refused(done, 'qemu-system-x86_64', 'make build')


if __name__ == '__main__':
    tap.main()
