# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the programs of scripts/ on files that are made for a test."""

import os
import subprocess

from lib import TOP


def run_script(name, *args, **env):
    """Run one of scripts/ and return its exit code, stdout and stderr."""
    full = {name: value for name, value in os.environ.items()
            if name not in ('QEMU_SRC', 'QEMU_DL_DIR')}
    full.update((name, str(value)) for name, value in env.items())
    full['LC_ALL'] = 'C'
    return subprocess.run([str(TOP / 'scripts' / name)] +
                          [str(arg) for arg in args], env=full, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)


def assert_refused(done, *words):
    """DONE failed with one sentence on stderr that contains all the words."""
    assert done.returncode != 0, 'it succeeded'
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, 'more than one line: %s' % done.stderr
    assert lines[0].endswith('.'), 'no sentence: %s' % lines[0]
    for word in words:
        assert word in lines[0], '"%s" is not in: %s' % (word, lines[0])


def assert_done(done):
    """DONE succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr


def write(path, text):
    """Write a file, and the directories it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
