#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What shellcheck and pylint say of the repository's programs, one by one.

They are installed by install-packages.sh beside this file.  A machine that
cannot install them skips; where SKIP_PACKAGES is not set, that is a failure.
"""

import functools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import repo_files
from lib import TOP, tap

NAMES = repo_files.listed(TOP)
SHELLS = ('#!/bin/sh', '#!/bin/bash')
COMPLETION = 'tools/completion/'


def first_line(name):
    """What says in which language a file without suffix is."""
    with open(TOP / name, encoding='utf-8', errors='replace') as file:
        return file.readline()


SHELL = [name for name in NAMES if name.endswith('.sh') or
         name.startswith(COMPLETION) or
         '.' not in os.path.basename(name) and
         first_line(name).startswith(SHELLS)]
PYTHON = [name for name in NAMES if name.endswith('.py') or
          '.' not in os.path.basename(name) and
          'python3' in first_line(name)]


def need(program):
    """Skip without it, if it was not to be installed."""
    if not shutil.which(program):
        why = '%s is missing: run tests/style/install-packages.sh' % program
        assert os.environ.get('SKIP_PACKAGES'), why
        raise tap.Skip(why)


def shellcheck(name):
    """What it says of one file."""
    done = subprocess.run(['shellcheck', '-x', name], cwd=TOP, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    return done.stdout


def pylint(names):
    """What it says of these files: there is a line for each finding."""
    # With the interpreter that has the modules of the tests
    done = subprocess.run(
        ['/usr/bin/python3', '-m', 'pylint', '--rcfile', TOP / '.pylintrc',
         '--msg-template={path}:{line}: {msg} ({symbol})', *names], cwd=TOP,
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True)
    return [line for line in done.stdout.splitlines()
            if not line.startswith('*************')]


@functools.lru_cache(None)
def linted():
    """What pylint says of all files, a share for each CPU."""
    shares = os.cpu_count()
    with ThreadPoolExecutor(shares) as pool:
        return sum(pool.map(pylint, (PYTHON[first::shares]
                                     for first in range(shares))), [])


class Lint(tap.TestCase):
    """Files, by name."""

    @tap.cases({name: name for name in SHELL})
    def test_shellcheck(self, name):
        need('shellcheck')
        said = shellcheck(name)
        assert not said, said

    @tap.cases({name: name for name in PYTHON})
    def test_pylint(self, name):
        need('pylint')
        said = [line for line in linted() if line.startswith(name + ':')]
        assert not said, '\n'.join(said)

    def test_pylint_says_nothing_else(self):
        need('pylint')
        said = [line for line in linted()
                if not re.match('[^ :]+:[0-9]+: ', line)]
        assert not said, '\n'.join(said)

    def test_pylint_finds_a_fault(self):
        need('pylint')
        (self.path / 'fault.py').write_text(
            '"""A module."""\n\nimport os  # pylint: disable=unused-import\n')
        said = '\n'.join(pylint([self.path / 'fault.py']))
        assert 'locally-disabled' in said, said
        (self.path / 'fault.py').write_text('import os\n')
        said = '\n'.join(pylint([self.path / 'fault.py']))
        assert 'unused-import' in said and 'missing-module-docstring' in \
            said, said


if __name__ == '__main__':
    tap.main()
