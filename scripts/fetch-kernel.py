#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch, unpack and patch the source of the kernel that tests/rig runs.

Debian's package linux-source-7.3, in whatever version the archive has, goes
to build/dl (or QEMU_DL_DIR), is unpacked as build/kernel-src, and gets the
patches of tests/rig/kernel. With KERNEL_SRC set, that tree is looked at and
nothing is fetched, nor patched.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import debian_package
from debian_package import FetchError, digests, shown

PACKAGE = 'linux-source-7.3'
WANTED = debian_package.DebianPackage(
    PACKAGE, PACKAGE + '_*.deb', ('trixie-backports', 'sid', 'testing'),
    re.compile(r'7\.3\.'),
    'put %s_7.3.*_all.deb into %%s, or set KERNEL_SRC to an unpacked Linux '
    '7.3 tree' % PACKAGE)
PATCHES = debian_package.fetch_qemu.TOP / 'tests/rig/kernel'


def unpack(debs, directory):
    """Unpack the tree in the package, and patch it."""
    deb, = debs
    name = './usr/src/%s.tar.xz' % PACKAGE
    pipe = 'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | ' \
        'tar -xO "$2" | tar -xJ -C "$3" --strip-components=1'
    done = subprocess.run(['bash', '-c', pipe, 'sh', deb, name, directory],
                          check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise FetchError('%s could not be unpacked (see above).' % shown(deb))
    for patch in patches():
        apply_patch(patch, directory)


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


def contents(debs):
    """What the tree is made of."""
    versions = [WANTED.version_of(deb) + '\n' for deb in debs]
    return ''.join(versions) + digests(patches())


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
    build = debian_package.build_directory(__doc__)
    try:
        if os.environ.get('KERNEL_SRC'):
            check_tree(os.environ['KERNEL_SRC'])
        else:
            debian_package.keep_unpacked(build, 'kernel-src', [WANTED], contents,
                                         unpack)
    except (FetchError, OSError) as error:
        print('fetch-kernel: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
