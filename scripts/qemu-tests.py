#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own unit tests and qtests, here and in QEMU as it was released.

    scripts/qemu-tests.py [WORD ...]

runs them (those whose names have one of the WORDs) in build/qemu and in
build/released, which is QEMU without our patches and files, built for this. What
passes there and does not pass here is our fault: the exit status says if there is
one. Some pass in neither, as Debian's firmware is not the one that comes with QEMU
(bios-tables-test, pxe-test). Building takes some minutes, the tests a quarter of an
hour for each tree.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / 'build'
SCRIPT = TOP / 'scripts/build-qemu.sh'
SUITES = ('qemu:unit', 'qemu:qtest-x86_64')
OURS = 'guest-memfd'
STDERR = 2          # sys.stderr of a test is not a file
PASSED = ('OK', 'SKIP')
WORSE = ': WORSE'


class QemuTestsError(Exception):
    """A failure that one sentence explains."""


def qemus_own(qemu):
    """The names of QEMU's tests in a build directory."""
    with open(qemu / 'meson-info/intro-tests.json', encoding='utf-8') as file:
        return sorted({test['name'] for test in json.load(file)
                       if set(test['suite']) & set(SUITES) and
                       OURS not in test['name']})


def run(qemu, names):
    """{name: result} of these tests, which are built before."""
    log = qemu / 'meson-logs/testlog.json'
    log.unlink(missing_ok=True)
    subprocess.run([SCRIPT, 'env', 'meson', 'test', '-C', qemu, '--no-suite',
                    'libvfio-user', '--print-errorlogs', *names],
                   check=False, stdin=subprocess.DEVNULL, stdout=STDERR)
    if not log.is_file():
        raise QemuTestsError('meson has run no test in %s: see above' % qemu)
    with open(log, encoding='utf-8') as lines:
        results = map(json.loads, lines)
        return {result['name'].split(' / ')[-1]: result['result']
                for result in results}


def released():
    """The build directory of QEMU without anything of ours."""
    tree = BUILD / 'released'
    if not (tree / 'src').exists():
        given = os.environ.get('QEMU_SRC') or BUILD / 'pristine'
        tree.mkdir(exist_ok=True)
        (tree / 'src').symlink_to(Path(given).resolve())
    done = subprocess.run([SCRIPT, 'tree', tree], check=False,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise QemuTestsError('QEMU as released cannot be built: see above')
    return tree / 'qemu'


def compare(here, there):
    """A line for each test that does not pass in both; worse ones are marked."""
    for name in sorted(here):
        other = there.get(name, 'not there')
        if here[name] not in PASSED or other not in PASSED:
            worse = here[name] not in PASSED and other in PASSED
            yield '%s: %s, released %s%s' % (name, here[name], other,
                                             WORSE if worse else '')


def main():
    """Build, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('words', nargs='*', metavar='WORD')
    words = parser.parse_args().words
    try:
        names = [name for name in qemus_own(BUILD / 'qemu')
                 if not words or any(word in name for word in words)]
        if not names:
            raise QemuTestsError('no test of QEMU has "%s" in its name'
                                 % '" or "'.join(words))
        there = run(released(), names)
        here = run(BUILD / 'qemu', names)
    except (QemuTestsError, OSError) as error:
        print('qemu-tests: %s' % error, file=sys.stderr)
        return 1
    lines = list(compare(here, there))
    print('\n'.join(lines))
    worse = sum(line.endswith(WORSE) for line in lines)
    print('%d tests of QEMU, %d pass here, %d with QEMU as released; %d worse' % (
        len(here), sum(each in PASSED for each in here.values()),
        sum(each in PASSED for each in there.values()), worse))
    return int(worse > 0)


if __name__ == '__main__':
    sys.exit(main())
