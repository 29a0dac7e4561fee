#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make deb: the package, and a clean Debian of this release that gets it."""

import functools
import importlib
import os
import shutil
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path

import pc
from lib import TOP, tap
from lib.scripts import assert_done, run_script

PACKAGE = 'qemu-system-x86-guest-memfd'
QEMU = 'qemu-system-x86_64-guest-memfd'
MEMORY = ('-object', 'memory-backend-guest-memfd,id=m0,size=1G,driver=emulated',
          '-machine', 'pc,memory-backend=m0')
DOMAIN = '''<domain type='qemu'><name>vm</name><memory unit='MiB'>512</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>'''
AUTHOR = 'A Name & Co <name@debian.org>'
DEPENDS = ('libc6', 'libglib2.0-0', 'python3', 'qemu-system-data', 'seabios',
           'ipxe-qemu')
INSTALL = 'run tests/build/install-packages.sh'
# A file system of its own for the process, which goes with it
INSIDE = ('unshare', '--mount', 'sh', '-c',
          'mount -t proc proc "$1/proc" && exec chroot "$@"', 'sh')


def make_package(directory):
    """Run build-deb.sh; the path of the package."""
    done = run_script('build-deb.sh', directory, AUTHOR=AUTHOR)
    assert_done(done)
    assert not done.stderr, done.stderr
    path = Path(done.stdout.strip())
    assert list(directory.glob('*')) == [path], done.stdout
    return path


@functools.lru_cache(None)
def package():
    """A package that all tests look at."""
    if not shutil.which('sphinx-build'):
        raise tap.Skip('no sphinx-build: ' + INSTALL)
    directory = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(directory.cleanup)
    return make_package(Path(directory.name))


def output(*command, **options):
    """What a command prints when it succeeds."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True,
                          **options)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def os_release(name):
    """A value of /etc/os-release; '' if it has none."""
    lines = Path('/etc/os-release').read_text().splitlines()
    return dict(line.split('=', 1) for line in lines
                if '=' in line).get(name, '').strip('"')


class Package(tap.TestCase):
    """A package, as a file."""

    def setUp(self):
        self.package = package()

    def field(self, name):
        """A field of the package's control file."""
        return output('dpkg-deb', '--field', self.package, name).strip()

    def test_the_version_is_that_of_qemu_the_commit_and_the_release(self):
        version = self.field('Version')
        qemu = (TOP / 'build/src/VERSION').read_text().strip()
        assert version.startswith(qemu), version
        if (TOP / '.git').exists():
            commit = output('git', '-c', 'safe.directory=*', '-C', TOP,
                            'rev-parse', '--short=8', 'HEAD').strip()
            assert '+git20' in version and '.' + commit in version, version
        if os_release('ID') == 'debian' and os_release('VERSION_ID'):
            assert version.endswith('~deb' + os_release('VERSION_ID')), version

    def test_it_depends_on_what_it_uses(self):
        depends = self.field('Depends')
        for name in DEPENDS:
            assert name in depends, depends

    def test_the_same_input_gives_the_same_package(self):
        # In place of an earlier one
        (self.path / (PACKAGE + '_1_amd64.deb')).touch()
        again = make_package(self.path)
        assert again.name == self.package.name
        assert again.read_bytes() == self.package.read_bytes()

    def test_the_maintainer_is_the_one_that_is_given(self):
        assert self.field('Maintainer') == AUTHOR, self.field('Maintainer')

    def test_lintian_finds_no_errors(self):
        if not shutil.which('lintian'):
            self.skipTest('no lintian: ' + INSTALL)
        output('lintian', '--fail-on', 'error', self.package)


class CleanDebian(tap.TestCase):
    """The package in a Debian of this release that has nothing else."""

    @classmethod
    def setUpClass(cls):
        if os_release('ID') != 'debian':
            raise tap.Skip('this is not Debian')
        if os.geteuid():
            raise tap.Skip('only root can make a Debian to install it in')
        if not shutil.which('mmdebstrap'):
            raise tap.Skip('no mmdebstrap: ' + INSTALL)
        # A container may forbid it, and a chroot has to be a mount itself
        done = subprocess.run([*INSIDE[:2], 'true'], check=False,
                              stderr=subprocess.PIPE, universal_newlines=True)
        if done.returncode:
            raise tap.Skip('no file system of its own: ' + done.stderr)
        path = package()
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        directory = Path(cls.directory.name)
        sources = cls.write_sources(directory / 'host.sources')
        cls.debian = directory / 'debian'
        output('mmdebstrap', '--mode=root', '--variant=apt', '--quiet',
               '--aptopt=Acquire::Languages "none"',
               '--aptopt=APT::Install-Recommends "false"',
               '--skip=cleanup/apt', os_release('VERSION_CODENAME'),
               cls.debian, sources)
        shutil.copy(path, cls.debian / 'tmp')
        # Without Debian's own, which needs some of the same packages
        cls.inside('apt-get', '-q', '-y', 'install', '/tmp/' + path.name)
        cls.files = cls.inside('dpkg', '-L', PACKAGE).split()

    @staticmethod
    def write_sources(path):
        """The archive that this host has its packages from, if it answers."""
        fetch = importlib.import_module('fetch-qemu')
        codename = os_release('VERSION_CODENAME')
        for archive in fetch.archives():
            fields = {'Types': 'deb', 'Suites': codename, 'Components': 'main'}
            fields.update((name, archive[name]) for name in fetch.KEPT_FIELDS
                          if name in archive)
            uri = fields['URIs'].split()[0]
            try:
                with urllib.request.urlopen('%s/dists/%s/Release' % (
                        uri.rstrip('/'), codename), timeout=30):
                    pass
            except (OSError, ValueError) as err:
                reason = '%s: %s' % (uri, err)
                continue
            path.write_text(''.join('%s: %s\n' % field
                                    for field in fields.items()))
            return path
        raise tap.Skip('no Debian archive answers: ' + reason)

    @classmethod
    def inside(cls, *command, **options):
        """What a command prints that is run inside."""
        env = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL': 'C.UTF-8',
               'DEBIAN_FRONTEND': 'noninteractive', 'HOME': '/tmp'}
        env.update((name, value) for name, value in os.environ.items()
                   if name.lower().endswith('_proxy'))
        return output(*INSIDE, cls.debian, *command, env=env, **options)

    def test_qemu_finds_its_firmware(self):
        with pc.bios(*pc.QUIET, *MEMORY,
                     program=(*INSIDE, self.debian, QEMU)) as qemu:
            qemu.read_until(b'Running option rom at', times=2)
            qemu.assert_running()

    def test_gmem_top_shows_a_vm(self):
        with pc.Qemu('-S', *pc.QUIET, *MEMORY,
                     '-qmp', 'unix:/tmp/qmp,server=on,wait=off', text=(),
                     program=(*INSIDE, self.debian, QEMU)):
            report = self.inside('gmem-top', '--once', '/tmp/qmp')
        assert 'm0' in report, report

    def test_gmem_xml_changes_a_domain(self):
        changed = self.inside('gmem-xml', 'add', '--driver', 'emulated',
                              '--emulator', '/usr/bin/' + QEMU, input=DOMAIN)
        assert 'memory-backend-guest-memfd' in changed, changed
        assert '/usr/bin/%s<' % QEMU in changed, changed

    def test_bash_completes_and_man_has_pages(self):
        for tool in ('gmem-top', 'gmem-xml'):
            path = '/usr/share/bash-completion/completions/' + tool
            said = self.inside('bash', '-c', '. "$1" && complete -p "$2"',
                               'bash', path, tool)
            assert said.endswith(' %s\n' % tool), said
            assert path in self.files, self.files
        for name in ('gmem-top', 'gmem-xml', QEMU):
            assert '/usr/share/man/man1/%s.1.gz' % name in self.files, name

    def test_it_stands_beside_debians_own(self):
        self.inside('apt-get', '-q', '-y', 'install', 'qemu-system-x86')
        ours, debians = (self.inside(name, '--version')
                         for name in (QEMU, 'qemu-system-x86_64'))
        assert 'QEMU emulator' in ours and 'QEMU emulator' in debians
        assert ours != debians, ours

    def test_it_is_removed_with_all_its_files(self):
        # The last one
        self.inside('apt-get', '-q', '-y', 'purge', PACKAGE)
        assert '/usr/bin/' + QEMU in self.files, self.files
        left = [name for name in self.files
                if os.path.lexists(str(self.debian) + name) and
                not (self.debian / name[1:]).is_dir()]
        assert not left, left
        assert not (self.debian / 'usr/share/qemu-guest-memfd').exists()
        assert self.inside('dpkg', '--audit') == ''
        # Debian's own is still there.
        self.inside('qemu-system-x86_64', '--version')


if __name__ == '__main__':
    tap.main()
