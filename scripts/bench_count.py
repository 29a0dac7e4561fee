# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions of a conversion, counted by valgrind: no noise at all.

A program makes N pairs of conversions, then twice as many: the difference is
what N pairs cost, without set-up.
"""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

PAIRS = 16
REQUESTS = ('4K', '2M', '1G')
QUICK = [('1G', 'uniform', '4K')]
CASES = [(size, layout, request)
         for size, layout in (('1G', 'uniform'), ('1T', 'uniform'),
                              ('16G', 'mixed'))
         for request in REQUESTS]


def missing():
    """None if valgrind is there, maybe installed just now; else why not."""
    if not shutil.which('valgrind'):
        script = Path(__file__).with_name('install-missing.sh')
        subprocess.run(['sh', script, 'make bench', 'valgrind'], check=False)
        if not shutil.which('valgrind'):
            return 'valgrind is missing (package valgrind)'
    return None


def count(program, arguments, pairs):
    """Instructions in all, and the records that the program prints"""
    command = ['valgrind', '--tool=callgrind',
               '--callgrind-out-file=/dev/null', program,
               *arguments, '--ops=%d' % pairs]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    match = re.search(r'Collected : (\d+)', done.stderr)
    if done.returncode or not match:
        raise ValueError('%s failed under valgrind:\n%s'
                         % (program.name, done.stderr))
    return int(match.group(1)), [json.loads(line)
                                 for line in done.stdout.splitlines()]


def count_one(program, group, case):
    """The record of one case"""
    arguments = ['--groups=' + group, '--sizes=' + case[0],
                 '--layouts=' + case[1], '--requests=' + case[2]]
    once = count(program, arguments, PAIRS)[0]
    twice, records = count(program, arguments, 2 * PAIRS)
    record = next(record for record in records if record['metric'] == 'ns')
    return dict(record, metric='instructions',
                value=(twice - once) / (2 * PAIRS))


def count_all(directory, programs, cases):
    """The records of all cases, groups and sides"""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        todo = [pool.submit(count_one, directory / program, group, case)
                for group, sides in programs.items()
                for case in cases
                for program in sides]
        return [each.result() for each in todo]
