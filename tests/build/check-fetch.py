#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""fetch-qemu.py: against a tiny Debian archive made here, without network."""

import hashlib
import os
import subprocess

from lib import tap
from lib.scripts import assert_done, assert_refused, run_script, write

CONF = '''[qemu]
version = 1.0
kind = source
packages = tiny={version}
suites = nowhere sid
sha256 =
{sums}
'''


def codename():
    """The name of this machine's Debian release."""
    with open('/etc/os-release', encoding='utf-8') as lines:
        return dict(line.strip().split('=', 1) for line in lines
                    if '=' in line)['VERSION_CODENAME'].strip('"')


class Fixture:
    """An archive with one source package, and an apt that knows only it."""

    def __init__(self, directory, deb822=False):
        self.build = directory / 'build'
        self.archive = directory / 'archive'
        self.conf = directory / 'conf'
        self.make_package()
        self.publish()
        self.write_conf()
        etc = directory / 'etc'
        uri = 'file:%s' % self.archive
        if deb822:
            write(etc / 'parts/x.sources',
                  '# a comment\nTypes: deb\nURIs: %s\nSuites: other %s\n'
                  'Components: main\nTrusted: yes\n' % (uri, codename()))
        else:
            write(etc / 'sources.list',
                  '# a comment\ndeb [arch=amd64 trusted=yes] %s %s main\n'
                  % (uri, codename()))
        self.apt = write(
            directory / 'apt.conf',
            'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "%s";\n'
            % (etc / 'sources.list', etc / 'parts'))

    def make_package(self):
        """Build tiny_1.0.dsc and tiny_1.0.tar.xz."""
        tree = self.archive / 'tiny-1.0'
        write(tree / 'debian/control',
              'Source: tiny\nMaintainer: A <a@example.org>\n\n'
              'Package: tiny\nArchitecture: all\nDescription: tiny\n')
        write(tree / 'debian/changelog',
              'tiny (1.0) sid; urgency=low\n\n  * Tiny.\n\n'
              ' -- A <a@example.org>  Thu, 01 Jan 2026 00:00:00 +0000\n')
        write(tree / 'debian/source/format', '3.0 (native)\n')
        write(tree / 'VERSION', '1.0\n')
        subprocess.run(['dpkg-source', '-b', 'tiny-1.0'], cwd=self.archive,
                       check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.files = [self.archive / 'tiny_1.0.dsc',
                      self.archive / 'tiny_1.0.tar.xz']

    def publish(self):
        """Write the archive's index of suite sid."""
        sums = ''.join(' %s %d %s\n' % (self.digest(path), path.stat().st_size,
                                        path.name) for path in self.files)
        sources = write(
            self.archive / 'dists/sid/main/source/Sources',
            'Package: tiny\nBinary: tiny\nVersion: 1.0\n'
            'Maintainer: A <a@example.org>\nArchitecture: all\n'
            'Format: 3.0 (native)\nDirectory: .\n'
            'Checksums-Sha256:\n%s\n' % sums)
        write(self.archive / 'dists/sid/Release',
              'Suite: sid\nCodename: sid\nComponents: main\n'
              'Architectures: amd64\nSHA256:\n %s %d main/source/Sources\n'
              % (self.digest(sources), sources.stat().st_size))

    @staticmethod
    def digest(path):
        """The sha256 of a file."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def write_conf(self, version='1.0', wrong=''):
        """Write what to fetch; the checksum of the file WRONG is wrong."""
        sums = ['    %s  %s' % ('0' * 64 if path.name == wrong
                                else self.digest(path), path.name)
                for path in self.files]
        write(self.conf, CONF.format(version=version,
                                     sums='\n'.join(sums)))

    def fetch(self, **env):
        """Run fetch-qemu.py."""
        return run_script('fetch-qemu.py', 'qemu', '--build', self.build,
                          '--conf', self.conf, APT_CONFIG=self.apt, **env)

    def close_archive(self):
        """From now on nothing can be fetched."""
        self.archive.rename(self.archive.with_name('closed'))


class Archive(tap.TestCase):
    """What is fetched and unpacked, and what is refused."""

    def test_a_package_is_fetched_through_the_machines_sources(self):
        for deb822 in (False, True):
            fixture = Fixture(self.path / str(deb822), deb822)
            done = fixture.fetch()
            assert_done(done)
            assert '_apt' not in done.stdout + done.stderr
            assert (fixture.build / 'pristine/VERSION').read_text() == '1.0\n'

    def test_nothing_is_fetched_twice(self):
        fixture = Fixture(self.path)
        assert_done(fixture.fetch())
        fixture.close_archive()
        stamp = (fixture.build / 'pristine.stamp').stat().st_mtime_ns
        assert_done(fixture.fetch())
        assert (fixture.build / 'pristine.stamp').stat().st_mtime_ns == stamp
        fixture.build.joinpath('pristine.stamp').unlink()
        assert_done(fixture.fetch())

    def test_another_clone_uses_the_same_downloads(self):
        fixture = Fixture(self.path)
        cache = self.path / 'cache'
        assert_done(fixture.fetch(QEMU_DL_DIR=cache))
        assert sorted(os.listdir(cache)) == ['tiny_1.0.dsc', 'tiny_1.0.tar.xz']
        fixture.close_archive()
        fixture.build = self.path / 'elsewhere'
        assert_done(fixture.fetch(QEMU_DL_DIR=cache))
        assert (fixture.build / 'pristine/VERSION').is_file()

    def test_a_version_that_has_gone_is_named(self):
        fixture = Fixture(self.path)
        fixture.write_conf(version='0.9')
        assert_refused(fixture.fetch(), 'tiny=0.9', 'QEMU_SRC', 'build/dl',
                       'tiny_1.0.dsc', 'sid')
        assert not (fixture.build / 'pristine').exists()

    def test_a_machine_without_archive_is_told_so(self):
        fixture = Fixture(self.path)
        (self.path / 'etc/sources.list').write_text('')
        assert_refused(fixture.fetch(), 'tiny=1.0', 'QEMU_SRC')

    def test_a_download_with_a_wrong_checksum_is_refused(self):
        fixture = Fixture(self.path)
        fixture.write_conf(wrong='tiny_1.0.tar.xz')
        assert_refused(fixture.fetch(), 'tiny_1.0.tar.xz', 'checksum')
        assert not (fixture.build / 'pristine').exists()
        assert not (fixture.build / 'dl/tiny_1.0.tar.xz').exists()

    def test_a_cached_file_with_a_wrong_checksum_is_refused(self):
        fixture = Fixture(self.path)
        assert_done(fixture.fetch())
        fixture.build.joinpath('pristine.stamp').unlink()
        with open(fixture.build / 'dl/tiny_1.0.dsc', 'ab') as dsc:
            dsc.write(b'\n')
        assert_refused(fixture.fetch(), 'tiny_1.0.dsc', 'checksum', 'remove')


if __name__ == '__main__':
    tap.main()
