#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""build-qemu.sh: which options QEMU is configured with, and when anew.

A copy of the script prepares a tree whose configure writes down its options.
"""

import os
import shutil
import subprocess

from lib import TOP, tap
from lib.scripts import assert_done, assert_refused, write

CONFIGURE = '''#!/bin/sh
for option; do printf '%s ' "$option"; done >>../configured
echo >>../configured
touch build.ninja
if [ -e ../broken ]; then echo no such option; exit 1; fi
'''
PACKAGES = 'echo "$@" ${FULL+FULL=$FULL} >>${0%/*}/../packages\n'


class Repository:
    """The scripts of a build, and a tree that is prepared already."""

    def __init__(self, directory):
        self.top = directory
        scripts = directory / 'scripts'
        for name in ('fetch-qemu.py', 'prepare-qemu.py', 'check-space.sh'):
            write(scripts / name, '')
        write(scripts / 'install-packages.sh', PACKAGES)
        self.script = shutil.copy(TOP / 'scripts/build-qemu.sh', scripts)
        write(directory / 'build/src/VERSION', '10.2.2\n')
        write(directory / 'build/src/configure', CONFIGURE).chmod(0o755)

    def prepare(self, **env):
        """Run the script with these options."""
        full = {name: value for name, value in os.environ.items()
                if name not in ('FULL', 'QEMU_CONFIGURE', 'SKIP_PACKAGES')}
        return subprocess.run(
            [self.script, 'prepare'], env={**full, **env}, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)

    def configured(self, **env):
        """The options of all runs of configure so far, with the one for ENV."""
        assert_done(self.prepare(**env))
        return [line.split() for line in
                (self.top / 'build/configured').read_text().splitlines()]


class Options(tap.TestCase):
    """Which options QEMU's configure gets."""

    def test_the_same_options_are_configured_once(self):
        repository = Repository(self.path)
        repository.configured()
        runs = repository.configured()
        assert len(runs) == 1, runs
        assert '--without-default-features' in runs[0], runs
        assert '--enable-vhost-user' in runs[0], runs

    def test_options_hold_until_others_are_given(self):
        repository = Repository(self.path)
        repository.configured()
        runs = repository.configured(
            QEMU_CONFIGURE='--enable-curl --disable-vnc')
        assert len(runs) == 2 and \
            runs[1][-2:] == ['--enable-curl', '--disable-vnc'], runs
        assert repository.configured() == runs
        last = repository.configured(QEMU_CONFIGURE='')
        assert len(last) == 3 and last[2] == last[0], last

    def test_all_features_are_what_configure_finds(self):
        repository = Repository(self.path)
        runs = repository.configured(FULL='1')
        assert '--without-default-features' not in runs[0], runs
        packages = self.path / 'packages'
        assert ' FULL=1\n' in packages.read_text(), packages.read_text()
        assert repository.configured() == runs
        packages.unlink()
        runs = repository.configured(FULL='0')
        assert '--without-default-features' in runs[1], runs
        assert 'FULL=1' not in packages.read_text(), packages.read_text()

    def test_what_full_cannot_be_is_refused(self):
        repository = Repository(self.path)
        assert_refused(repository.prepare(FULL='yes'), 'FULL', 'yes', '1', '0')
        assert len(repository.configured()) == 1

    def test_a_failed_configure_is_tried_again(self):
        # What it left behind is not what the options say
        repository = Repository(self.path)
        repository.configured()
        broken = write(self.path / 'build/broken', '')
        done = repository.prepare(QEMU_CONFIGURE='--enable-curl')
        assert done.returncode and 'no such option' in done.stderr, done.stderr
        broken.unlink()
        assert len(repository.configured(QEMU_CONFIGURE='')) == 3


if __name__ == '__main__':
    tap.main()
