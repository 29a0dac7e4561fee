# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's checkpatch.pl on many files: some by each process, on all CPUs."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lib import TOP

TREE = TOP / 'build/src'
SCRIPT = TREE / 'scripts/checkpatch.pl'
AT_ONCE = 8                     # files that one process reads


def _run(options, names):
    """What it says against the files; nothing if they are clean."""
    # The names stay relative: checkpatch has rules of its own for tests/.
    done = subprocess.run(
        ['perl', SCRIPT, '--no-color', '-q', '--no-summary', *options, *names],
        cwd=TOP, check=False, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True)
    return done.stdout.strip() if done.returncode else ''


def unclean(names, *options):
    """{file: what is wrong with it}, of these files."""
    def run(group):
        # One by one only where something is: what it says names no patch.
        return {name: _run(options, [name]) for name in group} \
            if _run(options, group) else {}

    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for each in pool.map(run, (names[first:first + AT_ONCE] for first in
                                   range(0, len(names), AT_ONCE))):
            found.update(each)
    return {name: said for name, said in found.items() if said}
