#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch and unpack the profiles of AppArmor that tests/rig gives QEMU.

They are those that Debian 12 has for libvirt's domains, with what they include and the
program that compiles them, and go to build/apparmor. Nothing of them is installed:
the packages start services.
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

# Of one release, whose parser runs with the C library of a later one as well
WANTED = [kernel_package.KernelPackage(
    name, name + '_*_amd64.deb', ('bookworm',), re.compile(version),
    'put Debian 12\'s %s_*_amd64.deb into %%s' % name)
          for name, version in (('apparmor', r'3\.0\.'),
                                ('libvirt-daemon-system', r'9\.0\.'))]


def unpack(debs, target):
    """Make the directory TARGET of what the packages have."""
    temporary = target.with_name(target.name + '.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    for deb in debs:
        print('unpacking %s' % shown(deb), flush=True)
        if subprocess.run(['dpkg-deb', '-x', deb, temporary], check=False,
                          stdin=subprocess.DEVNULL).returncode:
            raise FetchError('%s could not be unpacked (see above): remove it.'
                             % shown(deb))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def main():
    """Fetch and unpack, unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--build', type=Path,
                        default=kernel_package.fetch_qemu.TOP / 'build')
    args = parser.parse_args()
    build = args.build.resolve()
    cache = Path(os.environ.get('QEMU_DL_DIR') or build / 'dl').resolve()
    target = build / 'apparmor'
    stamp = build / 'apparmor.stamp'
    try:
        build.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(build / '.apparmor.lock', 'w')
        fcntl.flock(lock, fcntl.LOCK_EX)
        debs = [wanted.get(build, cache) for wanted in WANTED]
        contents = ''.join('%s\n' % digest(path) for path in [*debs, __file__])
        if not (target.is_dir() and stamp.is_file() and
                stamp.read_text() == contents):
            unpack(debs, target)
            stamp.write_text(contents)
    except (FetchError, OSError) as error:
        print('fetch-apparmor: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
