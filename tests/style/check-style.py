#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The style of the repository's files and patches, one test for each.

QEMU's own checkpatch.pl goes over C, headers, Python and patches; every
source file names its licence; nothing is left to do, and nothing names a path of
one machine.
"""

import functools
import re

import repo_files
from lib import TOP, checkpatch, tap

CHECKPATCH_SUFFIXES = ('.c', '.h', '.py', '.inc')
LICENSED_SUFFIXES = CHECKPATCH_SUFFIXES + ('.S', '.ld', '.sh', '.json',
                                           '.build', '.conf')
LICENSED_NAMES = ('Makefile', '.ci/run', 'tools/gmem-top', 'tools/gmem-xml',
                  'tools/completion/gmem-top', 'tools/completion/gmem-xml')
# Spelled so that this file does not find itself
UNFINISHED = re.compile(r'\b(TO' r'DO|FIX' r'ME|XX' r'X)\b')
MACHINE = re.compile(r'(?<![\w.~-])/(?:root|home)/')
NAMES = [name for name in repo_files.listed(TOP) if name != 'LICENSE']
PATCHES = [name for name in NAMES
           if name.startswith('patches/') and name.endswith('.patch')]
SOURCES = [name for name in NAMES if name.endswith(CHECKPATCH_SUFFIXES)
           and not name.startswith('patches/')]


@functools.lru_cache(None)
def unclean():
    """{file: what checkpatch.pl says against it}"""
    options = ('--root', checkpatch.TREE)
    return {**checkpatch.unclean(PATCHES, *options),
            **checkpatch.unclean(SOURCES, *options, '-f')}


class Style(tap.TestCase):
    """Files, by name."""

    @tap.cases({name: name for name in NAMES})
    def test_style(self, name):
        text = (TOP / name).read_text(errors='replace')
        if name.endswith(LICENSED_SUFFIXES) or name in LICENSED_NAMES:
            assert 'SPDX-License-Identifier:' in \
                '\n'.join(text.splitlines()[:20]), \
                'no SPDX-License-Identifier in the first 20 lines'
        for number, line in enumerate(text.splitlines(), 1):
            added = line.startswith('+') or not name.endswith('.patch')
            for wrong in (UNFINISHED, MACHINE):
                assert not (added and wrong.search(line)), \
                    'line %d: %s' % (number, line.strip())
        found = unclean().get(name)
        assert not found, found


if __name__ == '__main__':
    tap.main()
