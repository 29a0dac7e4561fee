#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch, unpack and patch the source of the kernel that tests/rig runs.

Debian's package linux-source-7.3, in whatever version the archive has, goes
to build/dl (or QEMU_DL_DIR), is unpacked as build/kernel-src, and gets the
patches of tests/rig/kernel. With KERNEL_SRC set, that tree is looked at and
nothing is fetched, nor patched.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_package
from kernel_package import FetchError, digest, shown

PACKAGE = 'linux-source-7.3'
WANTED = kernel_package.KernelPackage(
    PACKAGE, PACKAGE + '_*.deb', ('trixie-backports', 'sid', 'testing'),
    re.compile(r'7\.3\.'),
    'put %s_7.3.*_all.deb into %%s, or set KERNEL_SRC to an unpacked Linux '
    '7.3 tree' % PACKAGE)
PATCHES = kernel_package.fetch_qemu.TOP / 'tests/rig/kernel'


def unpack(deb, target):
    """Unpack the tree in the package as the directory TARGET."""
    print('unpacking %s' % shown(deb), flush=True)
    temporary = target.with_name(target.name + '.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    name = './usr/src/%s.tar.xz' % PACKAGE
    pipe = 'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | ' \
        'tar -xO "$2" | tar -xJ -C "$3" --strip-components=1'
    done = subprocess.run(['bash', '-c', pipe, 'sh', deb, name, temporary],
                          check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise FetchError('%s could not be unpacked (see above).' % shown(deb))
    for patch in patches():
        apply_patch(patch, temporary)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def patches():
    """The files, in the order in which they are applied."""
    return sorted(PATCHES.glob('*.patch'))


def apply_patch(patch, tree):
    """Any 7.3 will do, so lines may have moved."""
    done = subprocess.run(['patch', '-p1', '--batch', '--forward',
                           '--no-backup-if-mismatch', '-i', patch],
                          cwd=tree, check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise FetchError('%s does not apply to this kernel (see above): set '
                         'KERNEL_SRC to an unpacked Linux 7.3.4 tree, patched '
                         'if it is to convert in place.' % shown(patch))


def contents(deb):
    """What the tree is made of: equal if there is nothing to do."""
    return '\n'.join([WANTED.version_of(deb)] + [digest(p) for p in patches()])


def check_tree(path):
    """Raise FetchError unless this is a tree that can be built."""
    tree = Path(path).resolve()
    if not (tree / 'virt/kvm/guest_memfd.c').is_file():
        raise FetchError('KERNEL_SRC (%s) is no Linux tree with guest_memfd.'
                         % path)
    if (tree / '.config').exists():
        raise FetchError('KERNEL_SRC (%s) is not clean: it was built in; run '
                         '"make mrproper" there.' % path)


def main():
    """Fetch and unpack, unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--build', type=Path,
                        default=kernel_package.fetch_qemu.TOP / 'build')
    args = parser.parse_args()
    build = args.build.resolve()
    cache = Path(os.environ.get('QEMU_DL_DIR') or build / 'dl').resolve()
    target = build / 'kernel-src'
    stamp = build / 'kernel-src.stamp'
    try:
        if os.environ.get('KERNEL_SRC'):
            check_tree(os.environ['KERNEL_SRC'])
            return 0
        build.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        # not kernel/build.sh's own, which that has while it calls this
        lock = open(build / '.kernel-src.lock', 'w')
        fcntl.flock(lock, fcntl.LOCK_EX)
        deb = WANTED.get(build, cache)
        if not (target.is_dir() and stamp.is_file() and
                stamp.read_text() == contents(deb)):
            unpack(deb, target)
            stamp.write_text(contents(deb))
    except (FetchError, OSError) as error:
        print('fetch-kernel: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
