#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the programs of the suite "sanitizers", below build/asan and build/tsan.

ASan and UBSan: QEMU, the vfio-user server, the unit tests and the qtests.  TSan: the
unit tests.  What is compiled for that is written in docs/devel/guest-memfd/testing.rst.
"""

import re
import sys

import qemu_variant
from qemu_variant import Variant, VariantError

QEMU = 'qemu-system-x86_64'
SERVER = 'tests/vfio-user/edu-server'

COMMON = '-O1 -fno-omit-frame-pointer -w'
ASAN = '-fsanitize=address,undefined -fno-sanitize-recover=all'
# Linked statically, both write to the log that run.py reads.
ASAN_LINK = ASAN + ' -static-libasan -static-libubsan'
TSAN = '-fsanitize=thread'

# Beside our own files and those that we patch: what these call and are called by
NEIGHBOURS = re.compile(
    r'(hw/vfio|hw/vfio-user|accel/kvm|backends|subprojects/libvfio-user/lib)'
    r'/[^/]+\.c|system/(memory|memory_mapping|physmem|ram-block-attributes)\.c')


def wanted(own, patched):
    """A function that says if a source is compiled with ASan and UBSan."""
    def predicate(path):
        return path in own or path in patched or \
            bool(NEIGHBOURS.fullmatch(path))
    return predicate


def build_asan():
    """QEMU and all test programs."""
    variant = Variant('asan', COMMON + ' ' + ASAN, ASAN_LINK)
    variant.choose(wanted(*qemu_variant.own_files()))
    unit = qemu_variant.test_programs('unit')
    for program in unit:
        variant.choose_all_of(program)
    for program in [QEMU, SERVER] + unit + qemu_variant.test_programs('qtest'):
        if program != SERVER or program in variant.edges:
            variant.link(program)
    variant.write()
    bundle = variant.dir / 'qemu-bundle'
    if not bundle.is_symlink():
        bundle.symlink_to('../qemu/qemu-bundle')
    variant.make()


def has_threads(program):
    """Does a test start threads?  scripts/list-tests.sh asks the same."""
    source = qemu_variant.TOP / (program + '.c')
    return 'qemu_thread_create' in source.read_text()


def build_tsan():
    """The unit tests that have threads, all of each."""
    variant = Variant('tsan', COMMON + ' -Wno-tsan ' + TSAN, TSAN)
    for program in filter(has_threads, qemu_variant.test_programs('unit')):
        variant.choose_all_of(program)
        variant.link(program)
    variant.write()
    variant.make()


def main():
    """Build both."""
    try:
        build_asan()
        build_tsan()
    except VariantError as error:
        print('sanitizers: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
