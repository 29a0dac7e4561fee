#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch and unpack the profiles of AppArmor that tests/rig gives QEMU.

They are those that Debian 12 has for libvirt's domains, with what they include and the
program that compiles them, and go to build/apparmor. Nothing of them is installed:
the packages start services.
"""

import re
import subprocess
import sys

import debian_package
from debian_package import FetchError, digests, shown

# Of one release, whose parser runs with the C library of a later one as well
WANTED = [debian_package.DebianPackage(
    name, name + '_*_amd64.deb', ('bookworm',), re.compile(version),
    'put Debian 12\'s %s_*_amd64.deb into %%s' % name)
          for name, version in (('apparmor', r'3\.0\.'),
                                ('libvirt-daemon-system', r'9\.0\.'))]


def unpack(debs, directory):
    """Have all files of the packages."""
    for deb in debs:
        if subprocess.run(['dpkg-deb', '-x', deb, directory], check=False,
                          stdin=subprocess.DEVNULL).returncode:
            raise FetchError('%s could not be unpacked (see above): remove it.'
                             % shown(deb))


def contents(debs):
    """What the directory is made of."""
    return digests([*debs, __file__])


def main():
    """Fetch and unpack, unless it is there already."""
    build = debian_package.build_directory(__doc__)
    try:
        debian_package.keep_unpacked(build, 'apparmor', WANTED, contents, unpack)
    except (FetchError, OSError) as error:
        print('fetch-apparmor: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
