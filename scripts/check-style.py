#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the style of the repository's files and patches; print TAP.

QEMU's own checkpatch.pl goes over C, headers, Python and patches; every
source file names its licence; nothing is left to do.
"""

import re
import subprocess
import sys
from pathlib import Path

import repo_files

TOP = Path(__file__).resolve().parent.parent
TREE = TOP / 'build/src'

CHECKPATCH_SUFFIXES = ('.c', '.h', '.py', '.inc')
LICENSED_SUFFIXES = CHECKPATCH_SUFFIXES + ('.S', '.ld', '.sh', '.json',
                                           '.build', '.conf')
LICENSED_NAMES = ('Makefile', '.ci/run', 'tools/gmem-top', 'tools/gmem-xml',
                  'tools/completion/gmem-top', 'tools/completion/gmem-xml')
# Spelled so that this file does not find itself
UNFINISHED = re.compile(r'\b(TO' r'DO|FIX' r'ME|XX' r'X)\b')


def checkpatch(name, options):
    """What checkpatch.pl says against the file; nothing if it is clean."""
    # The name stays relative: checkpatch has rules of its own for tests/.
    done = subprocess.run(
        ['perl', TREE / 'scripts/checkpatch.pl', '--root', TREE, '--no-color',
         '-q', '--no-summary', *options, name], cwd=TOP, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True)
    return done.stdout.strip() if done.returncode else ''


def problems(name):
    """Everything that is wrong with one file, as text."""
    found = []
    text = (TOP / name).read_text(errors='replace')
    if name.startswith('patches/'):
        if name.endswith('.patch'):
            found.append(checkpatch(name, []))
    elif name.endswith(CHECKPATCH_SUFFIXES):
        found.append(checkpatch(name, ['-f']))
    if name.endswith(LICENSED_SUFFIXES) or name in LICENSED_NAMES:
        if 'SPDX-License-Identifier:' not in '\n'.join(
                text.splitlines()[:20]):
            found.append('no SPDX-License-Identifier in the first 20 lines')
    for number, line in enumerate(text.splitlines(), 1):
        added = line.startswith('+') or not name.endswith('.patch')
        if added and UNFINISHED.search(line):
            found.append('line %d: %s' % (number, line.strip()))
    return '\n'.join(text for text in found if text)


def main():
    """One TAP test for each file."""
    if not (TREE / 'scripts/checkpatch.pl').is_file():
        print('Bail out! build/src is missing: run make build')
        return 1
    names = [name for name in repo_files.listed(TOP)
             if name != 'LICENSE']
    print('1..%d' % len(names))
    failed = 0
    for number, name in enumerate(names, 1):
        found = problems(name)
        failed += bool(found)
        for line in found.splitlines():
            print('# ' + line)
        print('%s %d - %s' % ('not ok' if found else 'ok', number, name))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
