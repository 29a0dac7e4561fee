#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Put faults into the code, one after the other: do the tests notice them?

    scripts/build-qemu.sh env tests/mutants/run.py [--list FILE] [WORD ...]

runs the mutants whose names have all the WORDs, of all lists or of one, on what
"make build" has left in build/.  A list is TOML; each [[mutant]] has

    name    what is wrong with it
    file    where, in the repository
    old     text that the file has once
    new     what stands there instead
    tests   optional: test programs that may notice it, as in "test-guest-memfd"
            or "guest-memfd-dma-test" (a qtest: QEMU is linked, too), or only one
            test, "guest-memfd-server-test:/x86_64/guest-memfd-server/twice";
            if this is left out: the unit tests that contain the file

Prints TAP, and at the end how many were noticed.  A mutant that does not apply
or does not compile is an error of the list, and fails as one that survives.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import qemu_variant
from lib import TOP, tap
from qemu_variant import Variant, VariantError

HERE = Path(__file__).resolve().parent
QEMU = 'qemu-system-x86_64'
SERVER = 'tests/vfio-user/edu-server'
# What programs look for beside themselves, and is not changed
BESIDE = ('qemu-bundle', 'subprojects',
          'tests/guest-memfd/libguest-memfd-fake-clock.so',
          'tests/guest-memfd/libguest-memfd-fake-kvm.so')
TIMEOUT = 120                   # seconds; a test that hangs has noticed
DIR = qemu_variant.BUILD / 'mutants'
FLAGS = '-O0 -Wno-error -iquote ../mutants/src -iquote ../mutants/src/include'
KEYS = {'name', 'file', 'old', 'new', 'tests'}


class MutantError(Exception):
    """A mutant that is not as it should be."""


class Tests:
    """Test programs made of copies of our files, in build/mutants."""

    def __init__(self):
        self.own, _ = qemu_variant.own_files()
        self.unit = qemu_variant.test_programs('unit')
        self.all = self.unit + qemu_variant.test_programs('qtest')
        self.restore()
        self.add_headers()
        self.variant = Variant('mutants', FLAGS)
        self.variant.replaced = {
            '-c ../src/%s' % name: '-c ../mutants/src/%s' % name
            for name in self.own if name.endswith('.c')}
        self.variant.choose(lambda path: path in self.own)
        for program in self.all + [QEMU, SERVER]:
            if program in self.variant.edges:
                self.variant.link(program)
        self.variant.write()
        for name in BESIDE:
            link = DIR / name
            if not link.is_symlink() and (qemu_variant.QEMU / name).exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(qemu_variant.QEMU / name)

    def add_headers(self):
        """Have QEMU's headers beside the copies that include them."""
        near = {parent for name in self.own if name.endswith('.c')
                for parent in list(Path(name).parents)[:2]}
        for header in (header for parent in near
                       for header in (qemu_variant.SRC / parent).glob('*.h')):
            name = header.relative_to(qemu_variant.SRC)
            copy = DIR / 'src' / name
            if str(name) not in self.own and not copy.is_symlink():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(header)

    def restore(self):
        """Have the copies as the repository has the files."""
        for name in self.own:
            self.put(name, (TOP / name).read_bytes())

    @staticmethod
    def put(name, data):
        """Make a copy what it should be, and leave it alone if it is."""
        path = DIR / 'src' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)

    def named(self, names):
        """The programs with these names, and what is to run of them."""
        found = []
        for name in names:
            program, colon, case = name.partition(':')
            paths = [path + colon + case for path in self.all
                     if Path(path).name == program]
            if not paths:
                raise MutantError("there is no test program '%s'" % name)
            found += paths
        return found

    def containing(self, file):
        """The unit tests that a file is part of."""
        if not file.endswith('.c'):
            return self.unit
        return [program for program in self.unit if any(
            self.variant.commands[name]['file'] == '../src/' + file
            for name in self.variant.edges[program].inputs
            if name in self.variant.commands)]

    def make(self, programs):
        """Compile and link what is needed to run the programs."""
        needed = [program.partition(':')[0] for program in programs]
        if any(program not in self.unit for program in needed):
            needed += [name for name in (QEMU, SERVER)
                       if name in self.variant.edges]
        self.variant.make(needed)

    def run(self, program):
        """Nothing if the program is content, else what it noticed first."""
        env = dict(os.environ, QTEST_QEMU_BINARY=str(DIR / QEMU), LC_ALL='C')
        program, _, case = program.partition(':')
        with subprocess.Popen([DIR / program, '--tap'] +
                              (['-p', case] if case else []), env=env,
                              cwd=qemu_variant.QEMU, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, errors='replace',
                              start_new_session=True) as process:
            try:
                said = process.communicate(timeout=TIMEOUT)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return 'it hangs'
        if process.returncode == 0:
            return None
        match = re.search(r'^(?:not ok|Bail out!) (.*)', said, re.M)
        return match.group(1) if match else \
            'exit status %d' % process.returncode


def mutated(mutant):
    """The text of the file with the fault."""
    text = (TOP / mutant['file']).read_text()
    times = text.count(mutant['old'])
    if times != 1:
        raise MutantError('%s has the old text %d times, not once'
                          % (mutant['file'], times))
    return text.replace(mutant['old'], mutant['new'])


def try_mutant(tests, mutant):
    """Which program noticed what, or None."""
    programs = programs_for(tests, mutant)
    if not programs:
        raise MutantError('no unit test contains %s: name tests'
                          % mutant['file'])
    text = mutated(mutant)
    try:
        tests.put(mutant['file'], text.encode())
        tests.make(programs)
        for program in programs:
            noticed = tests.run(program)
            if noticed:
                return '%s: %s' % (Path(program).name, noticed)
    finally:
        tests.restore()
    return None


def programs_for(tests, mutant):
    """The test programs that may notice a mutant."""
    if 'tests' in mutant:
        return tests.named(mutant['tests'])
    return tests.containing(mutant['file'])


def read_list(path):
    """The mutants of a list."""
    with open(path, 'rb') as file:
        mutants = tomllib.load(file)['mutant']
    for mutant in mutants:
        if set(mutant) | {'tests'} != KEYS:
            raise MutantError('%s: a mutant has %s' % (path, sorted(mutant)))
    return mutants


def prepared(mutants):
    """The test programs, none of which fails without a mutant."""
    tests = Tests()
    programs = sorted({program for mutant in mutants
                       for program in programs_for(tests, mutant)})
    tests.make(programs)
    for program in programs:
        failed = tests.run(program)
        if failed:
            raise MutantError('%s fails without a mutant: %s'
                              % (program, failed))
    return tests


def run_mutants(mutants):
    """Print TAP; how many were noticed, and whether all were."""
    tests = prepared(mutants)
    counts = {'noticed': 0, 'SURVIVED': 0, 'wrong': 0}

    class Mutants(tap.TestCase):
        """Each of them has to be noticed."""

        @tap.cases({mutant['name']: mutant for mutant in mutants})
        def test_noticed(self, mutant):
            result = 'wrong'
            try:
                noticed = try_mutant(tests, mutant)
                result = 'noticed' if noticed else 'SURVIVED'
            finally:
                counts[result] += 1
            assert noticed, 'it SURVIVED'
            print('by ' + noticed)

    passed = tap.run_class(Mutants)
    print('# ' + ', '.join('%d %s' % (count, result)
                           for result, count in counts.items()))
    return passed


def main():
    """Run the mutants that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--list', type=Path, action='append',
                        help='a list (all in tests/mutants)')
    parser.add_argument('words', nargs='*', metavar='WORD')
    args = parser.parse_args()
    try:
        mutants = [mutant for path in args.list or sorted(HERE.glob('*.toml'))
                   for mutant in read_list(path)
                   if all(word in mutant['name'] for word in args.words)]
        names = [mutant['name'] for mutant in mutants]
        if not names or len(set(names)) < len(names):
            raise MutantError('two have one name' if names else 'there is no '
                              'mutant with these words')
        return 0 if run_mutants(mutants) else 1
    except (MutantError, VariantError, OSError, KeyError) as error:
        print('mutants: %s' % error, file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
