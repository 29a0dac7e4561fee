# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages in a guest_memfd: the kernel alone, by the program of rig/kselftest.

For an L1 whose kernel has them (tests/rig/kernel): one L1 for each scheme, that is,
for each way to break a huge page while parts of it are shared.
"""

import os
import re
import subprocess

from rig.lib.l1 import SCHEMES
from rig.lib.prepare import layout_test

PROGRAM = '/rig/gmem-hugepage-test'
# Options, and which cases, by provider. A new page of 1 GiB takes seconds under TCG,
# so its cases are those where the size of the huge page matters.
RUNS = {
    '2M': '-n 50',
    'thp': '-n 50',
    '1G': "-n 10 create: counters 'folios and vmemmap' 'sizes of mappings' "
          "'storm: alone'",
}
RESULT = re.compile(r'(ok|not ok) \d+ - (.*)')


def add_results(tap, lines, code):
    """A result for each one of a program's TAP; its comments come before it."""
    plan = [line for line in lines if re.fullmatch(r'1\.\.\d+', line)]
    number, comments = 0, []
    for line in lines:
        match = RESULT.fullmatch(line)
        if match:
            number += 1
            tap.result(match.group(2), [] if match.group(1) == 'ok' else
                       comments or ['it does not say why'])
            comments = []
        elif line.startswith('# '):
            comments.append(line[2:])
    if not number or plan != [f'1..{number}']:
        tap.result('all of the cases', [f'{number} results, plan: {plan}'] +
                   lines[-10:])
    if code and not any(line.startswith('not ok') for line in lines):
        tap.result('exit code', [f'{code}'])


def kernel_works(l1, tap, provider):
    """The kernel's own test, for huge pages of a provider."""
    code, lines = l1.shell(f'{PROGRAM} -p {provider} {RUNS[provider]}')
    add_results(tap, lines, code)


def layouts(_l1, tap, _config):
    """The rules that say which folios there are, on this host."""
    done = subprocess.run([os.path.abspath(layout_test())], check=False,
                          stdout=subprocess.PIPE, universal_newlines=True)
    add_results(tap, done.stdout.splitlines(), done.returncode)


def scenarios(platform):
    """(name, function, configuration)"""
    if platform not in SCHEMES:
        return
    if platform == SCHEMES[0]:
        yield 'layouts of huge pages', layouts, None
    for provider in RUNS:
        yield f'huge pages of the kernel, {provider}', kernel_works, provider
