#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the test suites with meson and count every single test.

The last line is "N passed, N failed, N skipped"; before it comes the output
of each program that failed and the reason for each skip.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

from lib.hugepages import grown_pool
from lib.process import exit_on_signals

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / 'build'
LOG = BUILD / 'meson-logs/testlog.json'
MESON = [TOP / 'scripts/build-qemu.sh', 'env', 'meson']
SHOWN_LINES = 200
HUGE_PAGES = {2 << 20: 64, 1 << 30: 2}  # free ones of each size, as root

TAP_LINE = re.compile(
    r'(?P<not>not )?ok\b *(?P<number>\d+)?(?: - | )?(?P<name>[^#]*)'
    r'(?P<skip># *SKIP\S*\s*(?P<reason>.*))?', re.IGNORECASE)


def count(record):
    """Count one test program: passed, failed, and its skips with reasons."""
    passed, failed, skips = 0, 0, []
    for line in record.get('stdout', '').splitlines():
        plan = re.match(r'1\.\.0\s*(?:# *SKIP\S*\s*(.*))?$', line,
                        re.IGNORECASE)
        if plan:
            skips.append((record['name'], plan.group(1) or 'no reason given'))
            continue
        match = TAP_LINE.match(line)
        if not match:
            continue
        if match.group('skip'):
            skips.append(('%s %s' % (record['name'],
                                     match.group('name').strip()),
                          match.group('reason') or 'no reason given'))
        elif match.group('not'):
            failed += 1
        else:
            passed += 1
    if record['result'] not in ('OK', 'SKIP') and not failed:
        failed = 1              # it crashed, hung, or left its plan unfinished
    return passed, failed, skips


def show_failure(record):
    """Print the output of a program that failed, except what passed."""
    print('\n==== %s: %s' % (record['name'], record['result']))
    for stream in ('stdout', 'stderr'):
        lines = [line for line in record.get(stream, '').splitlines()
                 if not line.startswith('ok ')]
        if len(lines) > SHOWN_LINES:
            print('[%d lines of %s left out: see %s]'
                  % (len(lines) - SHOWN_LINES, stream, LOG.relative_to(TOP)))
        print('\n'.join(lines[-SHOWN_LINES:]))


def run_tests(suite):
    """All tests, or a suite, by meson; what ends this ends them."""
    command = MESON + ['test', '-C', BUILD, '--no-rebuild']
    with subprocess.Popen(command + suite) as meson:
        try:
            meson.wait()
        except BaseException:
            meson.terminate()           # it ends its tests
            raise


def main():
    """Register, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--suite', help='run only this one')
    args = parser.parse_args()
    exit_on_signals()

    setup = ['setup', BUILD, TOP]
    if (BUILD / 'build.ninja').is_file():
        setup.insert(1, '--reconfigure')
    done = subprocess.run(MESON + setup, stdout=subprocess.PIPE, check=False,
                          stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode:
        print(done.stdout)
        print('run-checks: meson could not set up the tests (see above).',
              file=sys.stderr)
        return 1

    # Tests that miss these packages skip
    for suite in ('guest', 'build', 'libvirt', 'tools', 'docs', 'style'):
        if args.suite in (None, suite):
            subprocess.run(['sh', TOP / 'tests' / suite /
                            'install-packages.sh'], check=False)
    if args.suite in (None, 'sanitizers'):      # tests that miss it fail
        subprocess.run(MESON[:2] + [TOP / 'tests/sanitizers/build.py'],
                       check=False)
    LOG.unlink(missing_ok=True)
    suite = ['--suite', args.suite] if args.suite else []
    with contextlib.ExitStack() as stack:
        # The tests that find none say so.
        for size, pages in HUGE_PAGES.items():
            stack.enter_context(grown_pool(pages, size))
        run_tests(suite)

    records = [json.loads(line) for line in LOG.read_text().splitlines()] \
        if LOG.is_file() else []
    passed, failed, skips = 0, 0, []
    for record in records:
        counts = count(record)
        passed, failed = passed + counts[0], failed + counts[1]
        skips += counts[2]
        if counts[1]:
            show_failure(record)
    if skips:
        print('\nSkipped:')
        for name, reason in skips:
            print('  %s: %s' % (name, reason))
    if passed + failed == 0:
        print('run-checks: no test was run.', file=sys.stderr)
    sys.stderr.flush()
    print('\n%d passed, %d failed, %d skipped' % (passed, failed, len(skips)))
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
