# SPDX-License-Identifier: GPL-2.0-or-later
"""Just enough to write tests of the build scripts that print TAP."""

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


class Skip(Exception):
    """The machine lacks what a test needs."""


def run(script, *args, **env):
    """Run one of scripts/ and return its exit code, stdout and stderr."""
    full = {name: value for name, value in os.environ.items()
            if name not in ('QEMU_SRC', 'QEMU_DL_DIR')}
    full.update((name, str(value)) for name, value in env.items())
    full['LC_ALL'] = 'C'
    return subprocess.run([str(TOP / 'scripts' / script)] +
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


def main(tests):
    """Run each test in a directory of its own; print TAP."""
    print('1..%d' % len(tests))
    failed = 0
    for number, test in enumerate(tests, 1):
        name = test.__name__.replace('_', ' ')
        with tempfile.TemporaryDirectory() as directory:
            try:
                test(Path(directory))
            except Skip as reason:
                print('ok %d - %s # SKIP %s' % (number, name, reason),
                      flush=True)
            except Exception:   # whatever it is, it fails this test only
                failed += 1
                for line in traceback.format_exc().splitlines():
                    print('# ' + line)
                print('not ok %d - %s' % (number, name), flush=True)
            else:
                print('ok %d - %s' % (number, name), flush=True)
    sys.exit(1 if failed else 0)
