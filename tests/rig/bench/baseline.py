# SPDX-License-Identifier: GPL-2.0-or-later
"""Build build/baseline: QEMU as it was released, for the benchmark to compare with.

Released QEMU has no VM with private memory that runs in the rig, so it gets
x-sw-protected-guest (baseline-qemu). Its conversions, and what it does for VFIO,
are as they were.
"""

import contextlib
import fcntl
import os
import subprocess

from lib import TOP
from lib.error import HarnessError

BUILD = os.path.join(TOP, 'build')
BASELINE = os.path.join(BUILD, 'baseline')
QEMU = os.path.join(BASELINE, 'qemu/qemu-system-x86_64')
LOG = os.path.join(BUILD, 'baseline.log')


def step(log, *command, cwd=None):
    """One command, with the tools of the build."""
    done = subprocess.run(
        [os.path.join(TOP, 'scripts/build-qemu.sh'), 'env', *command], cwd=cwd,
        check=False, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if done.returncode:
        raise HarnessError(f'no QEMU to compare with: {command[0]} failed; '
                           f'{os.path.relpath(LOG)} says why')


def configuration():
    """The options that our own QEMU was configured with."""
    with open(os.path.join(BUILD, 'configure.stamp'), encoding='utf-8') as f:
        return f.read().partition('\ntools:')[0].split()


def configure(log, directory):
    """Configure it, unless it is already, with the same options."""
    stamp = os.path.join(BASELINE, 'configure.stamp')
    options = configuration()
    with contextlib.suppress(OSError):
        with open(stamp, encoding='utf-8') as f:
            if f.read().split() == options:
                return
        os.unlink(stamp)
    step(log, '../src/configure', '--cc=ccache gcc', *options, cwd=directory)
    with open(stamp, 'w', encoding='utf-8') as f:
        f.write(' '.join(options))


def build():
    """Its path, once it is built."""
    directory = os.path.dirname(QEMU)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(BUILD, '.baseline.lock'), 'w', encoding='ascii') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pristine = os.path.join(BASELINE, 'pristine')
        if not os.path.lexists(pristine):
            os.symlink('../pristine', pristine)
        if not os.path.exists(QEMU):
            print('building a QEMU to compare with (a few minutes the first '
                  'time; output in build/baseline.log)', flush=True)
        with open(LOG, 'w', encoding='utf-8') as log:
            step(log, '/usr/bin/python3',
                 os.path.join(TOP, 'scripts/prepare-qemu.py'), '--repo',
                 os.path.join(TOP, 'tests/rig/bench/baseline-qemu'), '--build', BASELINE)
            configure(log, directory)
            step(log, 'ninja', 'qemu-system-x86_64', cwd=directory)
    return QEMU
