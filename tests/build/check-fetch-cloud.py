#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""fetch-cloud-kernel.py: against a tiny Debian archive made here."""

import hashlib
import lzma
import subprocess

from lib import tap
from lib.scripts import assert_done, assert_refused, run_script, write

KERNEL = 'linux-image-9.9-cloud-amd64'
KERNEL_FILES = 'lib/modules/9.9/kernel/'
DRIVERS = KERNEL_FILES + 'drivers/'


def module(depends):
    """What fetch-cloud-kernel.py reads of one."""
    return b'\x7fELF\0license=GPL\0depends=' + depends + b'\0name=x\0'


FILES = {
    'boot/vmlinuz-9.9': b'the kernel',
    'lib/modules/9.9/modules.builtin':
        b'kernel/drivers/virtio/virtio_pci.ko\n'
        b'kernel/drivers/nvme/host/nvme-core.ko\n',
    DRIVERS + 'block/virtio_blk.ko': module(b'virtio_b,virtio_a'),
    DRIVERS + 'virtio/virtio-a.ko': module(b''),
    DRIVERS + 'virtio/virtio-b.ko.xz': lzma.compress(module(b'virtio_a')),
    DRIVERS + 'virtio/virtio_mem.ko': module(b'virtio_a'),
    DRIVERS + 'nvme/nvme.ko': module(b'nvme-core'),
    DRIVERS + 'net/tulip.ko': module(b''),
    KERNEL_FILES + 'fs/fuse/fuse.ko': module(b''),
    KERNEL_FILES + 'fs/fuse/virtiofs.ko': module(b'fuse'),
    KERNEL_FILES + 'fs/ext4/ext4.ko': module(b''),
}


class Fixture:
    """An archive, and an apt that knows only it."""

    def __init__(self, directory, files=None):
        self.build = directory / 'build'
        self.cache = directory / 'cache'
        self.archive = directory / 'archive'
        index = self.package('linux-image-cloud-amd64', {},
                             'Depends: %s (= 9.9-1), other\n' % KERNEL) + \
            self.package(KERNEL, FILES if files is None else files)
        packages = write(
            self.archive / 'dists/sid/main/binary-amd64/Packages', index)
        write(self.archive / 'dists/sid/Release',
              'Suite: sid\nCodename: sid\nComponents: main\n'
              'Architectures: amd64\nSHA256:\n %s %d '
              'main/binary-amd64/Packages\n'
              % (hashlib.sha256(packages.read_bytes()).hexdigest(),
                 packages.stat().st_size))
        write(directory / 'etc/sources.list',
              'deb [arch=amd64 trusted=yes] file:%s sid main\n'
              % self.archive)
        self.apt = write(
            directory / 'apt.conf',
            'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "%s";\n'
            % (directory / 'etc/sources.list', directory / 'etc/parts'))

    def package(self, name, files, fields=''):
        """Build one; its entry in the index."""
        tree = self.archive / name
        control = ('Package: %s\nVersion: 9.9-1\nArchitecture: amd64\n'
                   'Maintainer: A <a@example.org>\n%sDescription: tiny\n'
                   % (name, fields))
        write(tree / 'DEBIAN/control', control)
        for path, data in files.items():
            write(tree / path, '')
            (tree / path).write_bytes(data)
        deb = self.archive / ('%s_9.9-1_amd64.deb' % name)
        subprocess.run(['dpkg-deb', '-b', tree, deb], check=True,
                       stdout=subprocess.DEVNULL)
        return '%sFilename: %s\nSize: %d\nSHA256: %s\n\n' % (
            control, deb.name, deb.stat().st_size,
            hashlib.sha256(deb.read_bytes()).hexdigest())

    def fetch(self):
        """Run fetch-cloud-kernel.py."""
        return run_script('fetch-cloud-kernel.py', '--build', self.build,
                          APT_CONFIG=self.apt, QEMU_DL_DIR=self.cache)

    @property
    def deb(self):
        """The package that was fetched."""
        return self.cache / ('%s_9.9-1_amd64.deb' % KERNEL)

    def close_archive(self):
        """From now on nothing can be fetched."""
        self.archive.rename(self.archive.with_name('closed'))


class Kernel(tap.TestCase):
    """What is fetched and unpacked, and what is refused."""

    def test_the_kernel_and_the_drivers_it_needs_are_unpacked(self):
        fixture = Fixture(self.path)
        assert_done(fixture.fetch())
        out = fixture.build / 'cloud-kernel'
        assert (out / 'vmlinuz').read_bytes() == b'the kernel'
        order = (out / 'modules').read_text().split()
        assert order == ['virtio_a', 'virtio_b', 'virtio_blk', 'virtio_mem',
                         'nvme', 'fuse', 'virtiofs'], order
        assert sorted(path.name for path in out.iterdir()) == \
            sorted([name + '.ko' for name in order] + ['modules', 'vmlinuz'])
        assert (out / 'virtio_b.ko').read_bytes() == module(b'virtio_a')

    def test_nothing_is_fetched_or_unpacked_twice(self):
        fixture = Fixture(self.path)
        assert_done(fixture.fetch())
        fixture.close_archive()
        kernel = fixture.build / 'cloud-kernel/vmlinuz'
        before = kernel.stat().st_ino
        assert_done(fixture.fetch())
        assert kernel.stat().st_ino == before
        fixture.build = self.path / 'elsewhere'
        assert_done(fixture.fetch())
        assert (fixture.build / 'cloud-kernel/vmlinuz').is_file()

    def test_a_package_that_has_changed_is_refused(self):
        fixture = Fixture(self.path)
        assert_done(fixture.fetch())
        with open(fixture.deb, 'ab') as deb:
            deb.write(b'\n')
        assert_refused(fixture.fetch(), fixture.deb.name, 'changed', 'remove')

    def test_a_file_that_is_not_a_package_is_refused(self):
        fixture = Fixture(self.path)
        fixture.cache.mkdir()
        fixture.deb.write_bytes(b'no package')
        assert_refused(fixture.fetch(), fixture.deb.name, 'remove')

    def test_an_archive_without_it_is_told(self):
        fixture = Fixture(self.path)
        fixture.close_archive()
        assert_refused(fixture.fetch(), 'linux-image-cloud-amd64', 'sid',
                       'apt.log', str(fixture.cache))

    def test_a_kernel_without_a_driver_is_refused(self):
        files = dict(FILES)
        del files[DRIVERS + 'virtio/virtio-a.ko']
        fixture = Fixture(self.path, files)
        assert_refused(fixture.fetch(), 'virtio_a')
        assert not (fixture.build / 'cloud-kernel').exists()


if __name__ == '__main__':
    tap.main()
