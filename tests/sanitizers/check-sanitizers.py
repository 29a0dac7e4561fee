#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""run.py: what a sanitizer reports fails the test, and is printed.

Programs with one fault each, compiled with the flags of build.py.
"""

import subprocess

import build
from lib import TOP, tap
from lib.scripts import write

PROGRAM = '''
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int counter;

static void *count(void *opaque)
{
    counter++;
    return opaque;
}

int main(int argc, char **argv)
{
    (void)argv;
    (void)count;
    (void)counter;
    puts("1..1");
    fflush(stdout);
    %s
    puts("ok 1 - all is well");
    return 0;
}
'''
# The compiler must not know what p points to: UBSan of gcc 14 would be first.
OVERFLOW = '''
    volatile char *volatile p = malloc(argc);
    p[argc] = 1;
    free((char *)p);
'''
# As a test that expects QEMU to refuse something
CHILD = '''
    int status;
    if (fork() == 0) {
        %s
        _exit(1);
    }
    wait(&status);
    if (!WIFEXITED(status)) {
        return 1;
    }
''' % OVERFLOW
LEAK = 'void *volatile p = strdup("lost"); p = NULL;'
SHIFT = 'counter = argc << (31 + argc);'
RACE = '''
    pthread_t a, b;
    pthread_create(&a, NULL, count, NULL);
    pthread_create(&b, NULL, count, NULL);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
'''


def run(directory, flags, statements):
    """Compile a program, and run it by run.py."""
    source = write(directory / 'program.c', PROGRAM % statements)
    subprocess.run(['gcc', *build.COMMON.split(), *flags.split(), '-g', '-o',
                    directory / 'program', source], check=True)
    return subprocess.run([TOP / 'tests/sanitizers/run.py',
                           directory / 'program'], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)


class Reports(tap.TestCase):
    """Programs with one fault each, and one without."""

    def test_a_program_without_fault_passes(self):
        for flags in (build.ASAN_LINK, build.TSAN):
            done = run(self.path, flags, '(void)argc;')
            assert done.returncode == 0, done.stdout
            assert done.stdout.splitlines() == [
                '1..2', 'ok 1 - all is well',
                'ok 2 - no sanitizer has reported anything'], done.stdout

    @tap.cases({
        'memory beyond the end': (
            build.ASAN_LINK, OVERFLOW, 'heap-buffer-overflow', 'program.c'),
        'a fault of a child that is expected to fail': (
            build.ASAN_LINK, CHILD, 'heap-buffer-overflow'),
        'memory that is lost': (
            build.ASAN_LINK, LEAK, 'detected memory leaks', 'program.c'),
        'behaviour that is undefined': (
            build.ASAN_LINK, SHIFT, 'shift exponent 32'),
        'threads that race': (build.TSAN, RACE, 'data race', 'program.c')})
    def test_reported_is(self, flags, statements, *words):
        done = run(self.path, flags, statements)
        assert done.returncode != 0, done.stdout
        assert '1..2' in done.stdout, done.stdout
        assert 'not ok' in done.stdout, done.stdout
        for word in words:
            assert any(word in line for line in done.stdout.splitlines()
                       if line.startswith('# ')), done.stdout


if __name__ == '__main__':
    tap.main()
