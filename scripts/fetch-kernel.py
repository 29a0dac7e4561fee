#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch, unpack and patch the source of the kernel that tests/vm runs.

Debian's package linux-source-7.3, in whatever version the archive has, goes
to build/dl (or QEMU_DL_DIR), is unpacked as build/kernel-src, and gets the
patches of tests/vm/kernel. apt verifies
it by the signed index of the archive; its checksum is kept beside it for the
next time. With KERNEL_SRC set, that tree is looked at and nothing is fetched,
nor patched.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(
    'fetch_qemu', Path(__file__).resolve().with_name('fetch-qemu.py'))
fetch_qemu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch_qemu)
FetchError = fetch_qemu.FetchError
shown = fetch_qemu.shown

PACKAGE = 'linux-source-7.3'
SUITES = ('trixie-backports', 'sid', 'testing')
VERSION = re.compile(r'7\.3\.')
PATCHES = fetch_qemu.TOP / 'tests/vm/kernel'


class Wanted:
    """What fetch-qemu.py's download_from() is to deliver: any version."""

    packages = [PACKAGE]
    kind = 'binary'
    sums = {}


def version_of(deb):
    """The version that a package file says it has."""
    done = subprocess.run(['dpkg-deb', '-f', deb, 'Version'], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          universal_newlines=True)
    if done.returncode or not VERSION.match(done.stdout):
        raise FetchError('%s is no package of a 7.3 kernel: remove it.'
                         % shown(deb))
    return done.stdout.strip()


def digest(path):
    """The sha256 of a file, in hexadecimal."""
    value = hashlib.sha256()
    with open(path, 'rb') as data:
        for block in iter(lambda: data.read(1 << 20), b''):
            value.update(block)
    return value.hexdigest()


def cached(cache):
    """The newest package in the cache that is as it was fetched, or None."""
    newest = None
    for deb in cache.glob(PACKAGE + '_*.deb'):
        sums = deb.with_name(deb.name + '.sha256')
        if not sums.is_file():
            print('%s has no checksum beside it: it is taken as it is'
                  % shown(deb), flush=True)
            sums.write_text('%s  %s\n' % (digest(deb), deb.name))
        elif sums.read_text().split()[0] != digest(deb):
            raise FetchError('%s has changed since it was fetched: remove it '
                             'to have it fetched again.' % shown(deb))
        if newest is None or subprocess.run(
                ['dpkg', '--compare-versions', version_of(deb), 'gt',
                 version_of(newest)], check=False).returncode == 0:
            newest = deb
    return newest


def fetch(build, cache):
    """Have apt put the package into the cache."""
    remedy = 'put %s_7.3.*_all.deb into %s, or set KERNEL_SRC to an ' \
        'unpacked Linux 7.3 tree' % (PACKAGE, shown(cache))
    if shutil.which('apt-get') is None:
        raise FetchError('there is no apt-get here to fetch %s with: %s.'
                         % (PACKAGE, remedy))
    candidates = fetch_qemu.archives()
    if not candidates:
        raise FetchError('the apt sources of this machine name no Debian '
                         'archive to look for %s in: %s.' % (PACKAGE, remedy))
    into = cache / 'partial-kernel'
    (build / 'apt').mkdir(parents=True, exist_ok=True)
    (build / 'apt' / 'apt.log').write_bytes(b'')
    if not any(fetch_qemu.download_from(Wanted, archive, suite, build, into)
               for suite in SUITES for archive in candidates):
        raise FetchError(
            "the Debian archive of this machine did not deliver %s (looked "
            "for in %s; apt's own words are in %s): %s."
            % (PACKAGE, ', '.join(SUITES), shown(build / 'apt' / 'apt.log'),
               remedy))
    for deb in into.glob(PACKAGE + '_*.deb'):
        version_of(deb)
        # A copy: from a file: archive apt delivers symbolic links
        shutil.copyfile(deb, into / 'copy')
        cache.joinpath(deb.name + '.sha256').write_text(
            '%s  %s\n' % (digest(into / 'copy'), deb.name))
        os.replace(into / 'copy', cache / deb.name)
    shutil.rmtree(into)


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
    return '\n'.join([version_of(deb)] + [digest(p) for p in patches()])


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
                        default=fetch_qemu.TOP / 'build')
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
        if cached(cache) is None:
            fetch(build, cache)
        # not build-kernel.sh's own, which that has while it calls this
        lock = open(build / '.kernel-src.lock', 'w')
        fcntl.flock(lock, fcntl.LOCK_EX)
        deb = cached(cache)
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
