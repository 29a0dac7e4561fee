#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""install-packages.sh: on a machine that is all pretence."""

import os
import shutil

from lib import tap
from lib.scripts import assert_done, assert_refused, run_script, write

REAL = ('sh', 'sed', 'dpkg', 'env', 'cat', 'dirname', 'grep')


class Machine:
    """A PATH with a package database, an apt and a user of our own."""

    def __init__(self, directory, uid=0, missing=(), meson='1.0.1',
                 offered='1.0.1', unknown='none'):
        self.bin = directory / 'bin'
        self.log = write(directory / 'log', '')
        self.build = directory / 'build'
        self.bin.mkdir()
        for name in REAL:
            (self.bin / name).symlink_to(shutil.which(name))
        self.command('id', 'echo %d' % uid)
        self.command('dpkg-query', '''
            case "$3 $4" in
            *Version*meson) echo %s ;;
            %s) exit 1 ;;
            *) echo "install ok installed" ;;
            esac''' % (meson, ' | '.join('*" %s"' % name for name in missing)
                       or 'none'))
        self.command('apt-cache', '''
            case $2 in
            %s) echo "  Candidate: (none)" ;;
            *) echo "  Candidate: %s" ;;
            esac''' % (unknown, offered))
        self.command('apt-get', 'echo "$*" >>%s' % self.log)

    def command(self, name, text):
        """Put a command on the machine's PATH."""
        path = write(self.bin / name, '#!%s\n%s\n'
                     % (os.path.realpath('/bin/sh'), text))
        path.chmod(0o755)

    def install(self, **env):
        """Run install-packages.sh."""
        return run_script('install-packages.sh', self.build, PATH=self.bin,
                          **env)

    def install_for_bench(self):
        """Run install-missing.sh as make bench does."""
        return run_script('install-missing.sh', 'make bench', 'valgrind',
                          PATH=self.bin)

    def install_for_guest(self, version):
        """Run install-packages.sh of the guest suite on a release of Debian."""
        release = write(self.log.with_name('os-release'),
                        'ID=debian\nVERSION_ID="%s"\n' % version)
        return run_script('../tests/guest/install-packages.sh', PATH=self.bin,
                          OS_RELEASE=release)

    def installed(self):
        """Which packages apt-get was told to install."""
        return [line.split(' install ')[1].split()
                for line in self.log.read_text().splitlines()
                if ' install ' in line]


class Packages(tap.TestCase):
    """What apt-get is told to install."""

    def test_nothing_missing_installs_nothing(self):
        machine = Machine(self.path, meson='1.7.0')
        assert_done(machine.install())
        assert machine.log.read_text() == ''

    def test_only_what_is_missing_is_installed(self):
        machine = Machine(self.path, meson='1.7.0', missing=['flex', 'seabios'])
        assert_done(machine.install())
        assert machine.installed() == [['flex', 'seabios']]

    def test_meson_is_installed_where_it_is_new_enough(self):
        machine = Machine(self.path, offered='1.7.0-1')
        assert_done(machine.install())
        assert machine.installed() == [['meson', 'python3-pycotap']]

    def test_an_old_meson_is_left_alone(self):
        machine = Machine(self.path, missing=['flex'])
        assert_done(machine.install())
        assert machine.installed() == [['flex']]

    def test_benchmarks_have_packages_of_their_own(self):
        machine = Machine(self.path, missing=['flex', 'valgrind'],
                          offered='1.7.0-1')
        assert_done(machine.install_for_bench())
        assert machine.installed() == [['valgrind']]

    def test_nothing_missing_for_benchmarks_installs_nothing(self):
        machine = Machine(self.path, missing=['flex'], offered='1.7.0-1')
        assert_done(machine.install_for_bench())
        assert machine.log.read_text() == ''

    @tap.cases({'Debian 12': ('12', 'qemu-system-common'),
                'Debian 13': ('13', 'virtiofsd')})
    def test_the_guest_suite_gets_virtiofsd(self, version, package):
        machine = Machine(self.path, missing=['qemu-system-common', 'virtiofsd'])
        assert_done(machine.install_for_guest(version))
        assert machine.installed() == [[package]]

    def test_all_features_need_more(self):
        machine = Machine(self.path, meson='1.7.0',
                          missing=['flex', 'libgtk-3-dev', 'libblkio-dev'],
                          unknown='libblkio-dev')
        assert_done(machine.install(FULL=0))
        assert_done(machine.install(FULL=1))
        assert machine.installed() == [['flex'], ['flex', 'libgtk-3-dev']]

    def test_what_no_release_offers_is_not_missed(self):
        machine = Machine(self.path, meson='1.7.0', missing=['libblkio-dev'],
                          unknown='libblkio-dev')
        assert_done(machine.install(FULL=1))
        assert machine.log.read_text() == ''

    def test_what_does_as_well_is_left_alone(self):
        machine = Machine(self.path, meson='1.7.0',
                          missing=['libcurl4-gnutls-dev', 'libjack-dev',
                                   'libjack-jackd2-dev'])
        assert_done(machine.install(FULL=1))
        assert machine.installed() == [['libjack-dev']]

    def test_nothing_is_removed(self):
        machine = Machine(self.path, meson='1.7.0', missing=['flex'])
        assert_done(machine.install())
        assert '--no-remove install flex' in machine.log.read_text()

    def test_neither_root_nor_sudo_is_told_what_to_ask_for(self):
        machine = Machine(self.path, uid=1000, missing=['flex', 'seabios'])
        assert_refused(machine.install(), 'root', 'sudo',
                       'apt-get install flex seabios')
        assert machine.log.read_text() == ''

    def test_sudo_is_used_without_asking_for_a_password(self):
        machine = Machine(self.path, uid=1000, missing=['flex'])
        machine.command('sudo', '[ "$1" = -n ] && shift && exec "$@"')
        assert_done(machine.install())
        assert machine.installed() == [['flex']]

    def test_a_failing_apt_is_explained(self):
        machine = Machine(self.path, missing=['flex'])
        machine.command('apt-get', '[ "$2" = update ]')
        assert_refused(machine.install(), 'apt-get install flex')

    def test_a_disk_that_is_too_small_is_told_before(self):
        assert_done(run_script('check-space.sh', self.path, 1, 'nothing'))
        assert_refused(run_script('check-space.sh', self.path, 10 ** 9, 'all'),
                       'all takes about 1000000000 MiB', str(self.path),
                       'make room')


if __name__ == '__main__':
    tap.main()
