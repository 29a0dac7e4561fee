#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""install-packages.sh: on a machine that is all pretence."""

import os
import shutil

import tap

REAL = ('sh', 'sed', 'dpkg', 'env', 'cat')


class Machine:
    """A PATH with a package database, an apt and a user of our own."""

    def __init__(self, directory, uid=0, missing=(), meson='1.0.1',
                 offered='1.0.1', unknown='none'):
        self.bin = directory / 'bin'
        self.log = tap.write(directory / 'log', '')
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
        path = tap.write(self.bin / name, '#!%s\n%s\n'
                         % (os.path.realpath('/bin/sh'), text))
        path.chmod(0o755)

    def install(self, **env):
        """Run install-packages.sh."""
        return tap.run('install-packages.sh', self.build, PATH=self.bin,
                       **env)

    def install_for_bench(self):
        """Run install-missing.sh as make bench does."""
        return tap.run('install-missing.sh', 'make bench', 'valgrind',
                       PATH=self.bin)

    def installed(self):
        """Which packages apt-get was told to install."""
        return [line.split(' install ')[1].split()
                for line in self.log.read_text().splitlines()
                if ' install ' in line]


def nothing_missing_installs_nothing(directory):
    machine = Machine(directory, meson='1.7.0')
    tap.assert_done(machine.install())
    assert machine.log.read_text() == ''


def only_what_is_missing_is_installed(directory):
    machine = Machine(directory, meson='1.7.0', missing=['flex', 'seabios'])
    tap.assert_done(machine.install())
    assert machine.installed() == [['flex', 'seabios']]


def meson_is_installed_where_it_is_new_enough(directory):
    machine = Machine(directory, offered='1.7.0-1')
    tap.assert_done(machine.install())
    assert machine.installed() == [['meson', 'python3-pycotap']]


def an_old_meson_is_left_alone(directory):
    machine = Machine(directory, missing=['flex'])
    tap.assert_done(machine.install())
    assert machine.installed() == [['flex']]


def benchmarks_have_packages_of_their_own(directory):
    machine = Machine(directory, missing=['flex', 'valgrind'],
                      offered='1.7.0-1')
    tap.assert_done(machine.install_for_bench())
    assert machine.installed() == [['valgrind']]


def nothing_missing_for_benchmarks_installs_nothing(directory):
    machine = Machine(directory, missing=['flex'], offered='1.7.0-1')
    tap.assert_done(machine.install_for_bench())
    assert machine.log.read_text() == ''


def all_features_need_more(directory):
    machine = Machine(directory, meson='1.7.0',
                      missing=['flex', 'libgtk-3-dev', 'libblkio-dev'],
                      unknown='libblkio-dev')
    tap.assert_done(machine.install(FULL=0))
    tap.assert_done(machine.install(FULL=1))
    assert machine.installed() == [['flex'], ['flex', 'libgtk-3-dev']]


def what_no_release_offers_is_not_missed(directory):
    machine = Machine(directory, meson='1.7.0', missing=['libblkio-dev'],
                      unknown='libblkio-dev')
    tap.assert_done(machine.install(FULL=1))
    assert machine.log.read_text() == ''


def what_does_as_well_is_left_alone(directory):
    machine = Machine(directory, meson='1.7.0',
                      missing=['libcurl4-gnutls-dev', 'libjack-dev',
                               'libjack-jackd2-dev'])
    tap.assert_done(machine.install(FULL=1))
    assert machine.installed() == [['libjack-dev']]


def nothing_is_removed(directory):
    machine = Machine(directory, meson='1.7.0', missing=['flex'])
    tap.assert_done(machine.install())
    assert '--no-remove install flex' in machine.log.read_text()


def neither_root_nor_sudo_is_told_what_to_ask_for(directory):
    machine = Machine(directory, uid=1000, missing=['flex', 'seabios'])
    tap.assert_refused(machine.install(), 'root', 'sudo',
                       'apt-get install flex seabios')
    assert machine.log.read_text() == ''


def sudo_is_used_without_asking_for_a_password(directory):
    machine = Machine(directory, uid=1000, missing=['flex'])
    machine.command('sudo', '[ "$1" = -n ] && shift && exec "$@"')
    tap.assert_done(machine.install())
    assert machine.installed() == [['flex']]


def a_failing_apt_is_explained(directory):
    machine = Machine(directory, missing=['flex'])
    machine.command('apt-get', '[ "$2" = update ]')
    tap.assert_refused(machine.install(), 'apt-get install flex')


def a_disk_that_is_too_small_is_told_before(directory):
    tap.assert_done(tap.run('check-space.sh', directory, 1, 'nothing'))
    tap.assert_refused(tap.run('check-space.sh', directory, 10 ** 9, 'all'),
                       'all takes about 1000000000 MiB', str(directory),
                       'make room')



if __name__ == '__main__':
    tap.main([nothing_missing_installs_nothing,
              only_what_is_missing_is_installed,
              meson_is_installed_where_it_is_new_enough,
              an_old_meson_is_left_alone,
              benchmarks_have_packages_of_their_own,
              nothing_missing_for_benchmarks_installs_nothing,
              all_features_need_more, what_no_release_offers_is_not_missed,
              what_does_as_well_is_left_alone, nothing_is_removed,
              neither_root_nor_sudo_is_told_what_to_ask_for,
              sudo_is_used_without_asking_for_a_password,
              a_failing_apt_is_explained,
              a_disk_that_is_too_small_is_told_before])
