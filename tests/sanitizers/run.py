#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a test program that was built with a sanitizer; print its TAP.

One more test says whether the program, or any process that it started, was
reported by the sanitizer: a test that expects QEMU to fail must not hide that
it failed for this reason.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
ASAN = TOP / 'build/asan'
LAST_TEST = 'no sanitizer has reported anything'

# QEMU's coroutines tell ASan of each switch, but it warns nevertheless.
NO_REPORT = "ASan doesn't fully support makecontext/swapcontext functions"


def options(log):
    """Environment variables for the sanitizers, which write to LOG.PID."""
    common = 'log_path=%s:' % log
    return {
        'ASAN_OPTIONS': common + 'detect_leaks=1:' +
                        os.environ.get('ASAN_OPTIONS', ''),
        'UBSAN_OPTIONS': common + 'print_stacktrace=1',
        'TSAN_OPTIONS': common + 'second_deadlock_stack=1',
        # glib must not keep what was freed for the next thread
        'G_SLICE': 'always-malloc',
    }


def pass_through(stream):
    """Print the TAP of the program, one test longer; return how many it has."""
    planned, seen = None, 0
    for line in stream:
        plan = re.match(r'1\.\.(\d+)\s*$', line)
        if plan:
            planned = int(plan.group(1))
            line = '1..%d\n' % (planned + 1)
        seen += bool(re.match(r'(not )?ok\b', line))
        print(line, end='', flush=True)
    return seen if planned is None else planned


def read_reports(directory):
    """All lines that the sanitizers have written, but for NO_REPORT."""
    return [line for report in sorted(directory.iterdir())
            for line in report.read_text(errors='replace').splitlines()
            if NO_REPORT not in line]


def main():
    """Run sys.argv[1:]."""
    with tempfile.TemporaryDirectory() as directory:
        env = dict(os.environ, **options(Path(directory) / 'report'))
        env['QTEST_QEMU_BINARY'] = str(ASAN / 'qemu-system-x86_64')
        with subprocess.Popen(sys.argv[1:], env=env, stdout=subprocess.PIPE,
                              universal_newlines=True) as program:
            number = pass_through(program.stdout) + 1
        reported = read_reports(Path(directory))
        for line in reported:
            print('# ' + line)
        print('%sok %d - %s' % ('not ' if reported else '', number, LAST_TEST))
    return 1 if reported else program.returncode


if __name__ == '__main__':
    sys.exit(main())
