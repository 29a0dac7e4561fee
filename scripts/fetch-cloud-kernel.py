#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch and unpack the kernel that tests/guest/check-linux.py boots.

It is Debian's kernel for clouds, as it is: the package on which
linux-image-cloud-amd64 depends, in whatever version the archive has.
build/cloud-kernel gets the image (vmlinuz) and the drivers of disks, virtio-mem and
virtiofs; those that are modules are in the file "modules", in the order in which they
can be loaded.
The exit status is 2 if no archive delivers a package, and 1 if one is broken.
"""

import contextlib
import lzma
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import debian_package
from debian_package import FetchError, NotDelivered, digests, shown

NAME = 'linux-image-cloud-amd64'
FILES = 'linux-image-*-cloud-amd64_*_amd64.deb'
WANTED = debian_package.DebianPackage(
    NAME, FILES, ('trixie', 'sid'), re.compile(r'\d'),
    'put %s into %%s' % FILES, depends=True)
DRIVERS = ('virtio_pci', 'virtio_blk', 'virtio_mem', 'nvme', 'virtiofs')
PLACES = ('/kernel/drivers/', '/kernel/fs/fuse/')
NOT_DELIVERED = 2
DEPENDS = re.compile(rb'\0depends=([^\0]*)\0')


def module_name(path):
    """nvme_core is in nvme-core.ko."""
    return Path(path).name.split('.')[0].replace('-', '_')


class Modules:
    """The modules of a package: name, and what is in the file."""

    def __init__(self):
        self._found = {}
        self._builtin = set()

    def add(self, path, data):
        """One of the files."""
        if path.endswith('/modules.builtin'):
            self._builtin |= {module_name(line)
                              for line in data.decode().splitlines()}
        elif path.endswith('.ko'):
            self._found[module_name(path)] = data
        elif path.endswith('.ko.xz'):
            self._found[module_name(path)] = lzma.decompress(data)

    def closure(self, names, seen=()):
        """All that these need, each after what it needs itself."""
        ordered = {}
        for name in names:
            if name in self._builtin or name in ordered or name in seen:
                continue
            if name not in self._found:
                raise FetchError('this kernel has no driver %s.' % name)
            depends = DEPENDS.search(self._found[name])
            words = depends.group(1).decode().split(',') if depends else []
            ordered.update(self.closure(
                [word.replace('-', '_') for word in words if word],
                (*seen, name)))
            ordered[name] = self._found[name]
        return ordered


def unpack(debs, directory):
    """Write the image and the modules."""
    deb, = debs
    modules = Modules()
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', deb],
                          stdout=subprocess.PIPE) as unpacker:
        with contextlib.suppress(tarfile.TarError), \
                tarfile.open(fileobj=unpacker.stdout, mode='r|') as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if '/boot/vmlinuz-' in member.name:
                    (directory / 'vmlinuz').write_bytes(
                        archive.extractfile(member).read())
                elif any(place in member.name for place in PLACES) or \
                        member.name.endswith('/modules.builtin'):
                    modules.add(member.name,
                                archive.extractfile(member).read())
    if unpacker.returncode or not (directory / 'vmlinuz').is_file():
        raise FetchError('%s could not be unpacked, or holds no kernel: '
                         'remove it.' % shown(deb))
    order = modules.closure(DRIVERS)
    for name, data in order.items():
        (directory / (name + '.ko')).write_bytes(data)
    (directory / 'modules').write_text(''.join(name + '\n' for name in order))


def contents(debs):
    """What the directory is made of."""
    return digests([*debs, __file__])


def main():
    """Fetch and unpack, unless it is there already."""
    build = debian_package.build_directory(__doc__)
    try:
        debian_package.keep_unpacked(build, 'cloud-kernel', [WANTED], contents,
                                     unpack)
    except (FetchError, OSError) as error:
        print('fetch-cloud-kernel: %s' % error, file=sys.stderr)
        return NOT_DELIVERED if isinstance(error, NotDelivered) else 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
