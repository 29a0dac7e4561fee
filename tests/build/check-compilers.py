#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's C files, as other compilers see them: clang, a newer gcc.

Each file of ours in QEMU's tree, and libvfio-user, with the options of
build/qemu and -Werror.  Clang also checks the annotations of locks.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import qemu_variant
from lib import tap
from lib.scripts import write

CLANG = 'clang-19'              # see install-packages.sh beside this file
LIBVFIO_USER = 'subprojects/libvfio-user/lib/'
NEWEST_GCC = 20
NEIGHBOUR = 'system/memory.c'   # lends its options to what is not compiled

# What QEMU's meson.build adds for clang; the last is for gcc's own options
CLANG_FLAGS = ('-Wno-initializer-overrides -Wno-string-plus-int '
               '-Wno-typedef-redefinition '
               '-Wno-tautological-type-limit-compare '
               '-Wno-gnu-variable-sized-type-not-at-end '
               '-Wthread-safety -Wthread-safety-beta '
               '-Wno-unknown-warning-option').split()

# A lock as in QEMU's block/graph-lock.h, and two that are taken in an order
TOKENS = '''
#include "qemu/osdep.h"
typedef struct TSA_CAPABILITY("mutex") Token { int unused; } Token;
extern Token inner;
extern Token outer TSA(acquired_before(inner));
void lock_inner(void) TSA_ACQUIRE(inner);
void unlock_inner(void) TSA_RELEASE(inner);
void lock_outer(void) TSA_ACQUIRE(outer);
void unlock_outer(void) TSA_RELEASE(outer);
void change(void) TSA_REQUIRES(inner);
void wait_for_others(void) TSA_EXCLUDES(inner);
extern int counter TSA_GUARDED_BY(inner);
void test(void);
void test(void)
{
%s}
'''
RIGHT = ('lock_outer', 'wait_for_others', 'lock_inner', 'change',
         'unlock_inner', 'unlock_outer')


@functools.lru_cache(None)
def built():
    """{file: how build/qemu compiles it}."""
    found = {}
    for entry in qemu_variant.read_commands().values():
        found.setdefault(qemu_variant.source(entry),
                         shlex.split(entry['command']))
    return found


def commands():
    """{file: how build/qemu compiles it}, of ours and libvfio-user."""
    own, _ = qemu_variant.own_files()
    found = {}
    for path, words in built().items():
        if path and (path in own or path.startswith(LIBVFIO_USER)):
            found[path] = words
    for path in own:            # stubs of what this build has
        if path.endswith('.c'):
            found.setdefault(path, built()[NEIGHBOUR][:-1] + ['../src/' + path])
    return found


def with_compiler(words, compiler, flags, path=None):
    """The command for another compiler, which writes nothing."""
    words = list(words)
    at = next(i for i, word in enumerate(words)
              if re.search(r'(^|/)(gcc|cc|clang)(-\d+)?$', word))
    words = [compiler] + words[at + 1:]
    for flag in ('-MQ', '-MF', '-o'):
        at = words.index(flag)
        del words[at:at + 2]
    words.remove('-MD')
    if path:
        words[-1] = str(path)
    return words[:-2] + flags + words[-2:]


def compile_file(words):
    """What the compiler says, or nothing."""
    done = subprocess.run(words, cwd=qemu_variant.QEMU, check=False,
                          env=dict(os.environ, LC_ALL='C'),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    return done.stdout if done.returncode else ''


def newest_gcc():
    """A gcc that is newer than that of the build, or None."""
    ours = int(subprocess.run(['gcc', '-dumpversion'], check=True,
                              stdout=subprocess.PIPE, universal_newlines=True
                              ).stdout.split('.')[0])
    for version in range(NEWEST_GCC, ours, -1):
        if shutil.which('gcc-%d' % version):
            return 'gcc-%d' % version
    return None


def clang():
    """The command, or Skip."""
    if not shutil.which(CLANG):
        raise tap.Skip('%s is not installed' % CLANG)
    return CLANG


def compile_all(compiler, flags):
    """Compile all files; what is said about them is the failure."""
    found = commands()
    assert len(found) > 40, 'too few files: %s' % sorted(found)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = dict(zip(found, pool.map(compile_file, [
            with_compiler(words, compiler, flags)
            for words in found.values()])))
    wrong = '\n'.join(text for text in said.values() if text)
    assert not wrong, wrong


def about_locks(directory, *statements):
    """What clang says of a function with these statements."""
    text = TOKENS % ''.join(
        '    %s;\n' % (word if ' ' in word else word + '()')
        for word in statements)
    return compile_file(with_compiler(
        built()[NEIGHBOUR], clang(), ['-fsyntax-only'] + CLANG_FLAGS,
        write(directory / 'locks.c', text)))


class Compilers(tap.TestCase):
    """What compilers say of our files."""

    def test_clang_compiles_our_files_and_finds_locks_in_order(self):
        compile_all(clang(), ['-fsyntax-only'] + CLANG_FLAGS)

    if newest_gcc():
        def test_a_newer_gcc_compiles_our_files(self):
            compile_all(newest_gcc(), ['-S', '-o', os.devnull])

    def test_clang_takes_locks_that_are_right(self):
        said = about_locks(self.path, *RIGHT)
        assert not said, said

    @tap.cases({
        'a call without its lock': (
            "calling function 'change' requires holding mutex 'inner'",
            *(word for word in RIGHT if 'inner' not in word)),
        'a lock taken out of order': (
            "mutex 'outer' must be acquired before 'inner'",
            'lock_inner', 'lock_outer', 'unlock_outer', 'unlock_inner'),
        'a call that waits with a lock': (
            "cannot call function 'wait_for_others' while mutex 'inner' is "
            'held', 'lock_inner', 'wait_for_others', 'unlock_inner'),
        'a lock that is kept': (
            "mutex 'inner' is still held", 'lock_inner'),
        'guarded data without its lock': (
            "writing variable 'counter' requires holding mutex 'inner'",
            'counter = 1')})
    def test_clang_finds(self, words, *statements):
        said = about_locks(self.path, *statements)
        assert words in said and '-Werror,-Wthread-safety' in said, said


if __name__ == '__main__':
    tap.main()
