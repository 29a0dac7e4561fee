#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU has what its users want, and not only what the tests need."""

import socket
import subprocess

import pc
from lib import TOP, tap
from lib.process import die_with_parent
from lib.scripts import write

DEVICES = {'tpm-crb', 'tpm-tis', 'vhost-scsi-pci', 'vhost-user-blk-pci',
           'vhost-user-fs-pci', 'vhost-user-gpio-pci', 'vhost-user-i2c-pci',
           'vhost-user-input-pci', 'vhost-user-rng-pci', 'vhost-user-scsi-pci',
           'vhost-user-snd-pci', 'vhost-user-vsock-pci', 'vhost-vsock-pci',
           'vfio-pci', 'virtio-9p-pci', 'usb-host', 'usb-redir'}
FORMATS = {'bochs', 'cloop', 'dmg', 'luks', 'parallels', 'qcow', 'qcow2',
           'qed', 'raw', 'vdi', 'vhdx', 'vmdk', 'vpc', 'vvfat'}
# It writes this to the port where SeaBIOS writes, and stops
TEXT = b'booted from vhost-user'


def boot_sector():
    """The first 512 bytes of a disk that a PC boots from."""
    code = b'\xba\x02\x04'                              # mov dx, 0x402
    for char in TEXT:
        code += bytes([0xb0, char, 0xee])               # mov al, x; out dx, al
    code += b'\xfa\xf4'                                 # cli; hlt
    return code.ljust(510, b'\0') + b'\x55\xaa'


def started(*options):
    """QEMU with hardly anything but these options."""
    return pc.bios(*pc.QUIET, '-nodefaults', '-machine', 'q35', *options)


class Features(tap.TestCase):
    """What QEMU can do."""

    def test_the_devices_are_there(self):
        # Those that this QEMU's configuration decides about
        found = {line.split('"')[1] for line in pc.listed('device')
                 if line.startswith('name "')}
        assert DEVICES <= found, DEVICES - found

    def test_the_image_formats_are_there(self):
        # QEMU reads what qemu-img does
        done = subprocess.run([TOP / 'build/qemu-img', '--help'], check=True,
                              stdout=subprocess.PIPE, universal_newlines=True)
        found = set(done.stdout.partition('formats:')[2].split())
        assert FORMATS <= found, FORMATS - found

    def test_io_uring_and_native_aio_are_there(self):
        # A kernel may forbid the one, and a file system not have the other
        disk = write(self.path / 'disk', '0' * 4096)
        for aio in 'native', 'io_uring':
            try:
                with started('-drive', 'if=virtio,format=raw,cache=none,aio=%s,'
                             'file=%s' % (aio, disk)) as qemu:
                    qemu.assert_running()
            except AssertionError as error:
                if 'not supported in this build' in str(error):
                    raise
                raise tap.Skip(str(error).strip()) from error

    def test_a_client_sees_the_display_by_vnc(self):
        # With what TLS needs
        path = self.path / 'vnc'
        with pc.bios(*pc.QUIET[2:], '-object', 'tls-creds-anon,id=tls0,'
                     'endpoint=server', '-vnc', 'unix:%s' % path) as qemu, \
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            assert client.recv(12, socket.MSG_WAITALL).startswith(b'RFB 003')
            qemu.assert_running()

    def test_a_guest_runs_in_the_sandbox(self):
        # seccomp forbids most system calls
        with started('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,'
                     'spawn=deny,resourcecontrol=deny') as qemu:
            qemu.read_until(b'SeaBIOS')
            qemu.assert_running()

    def test_a_tpm_emulator_can_be_used(self):
        # QEMU lists the kinds of TPMs that it can talk to
        assert 'emulator' in ' '.join(pc.listed('tpmdev'))

    def test_a_guest_boots_from_the_storage_daemon(self):
        # The disk is served to vhost-user-blk by qemu-storage-daemon
        disk = self.path / 'disk'
        disk.write_bytes(boot_sector().ljust(1 << 20, b'\0'))
        path = str(self.path / 'socket')
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(path)
            server.listen()
            daemon = subprocess.Popen(
                [TOP / 'build/qemu-storage-daemon',
                 '--blockdev', 'file,node-name=disk,filename=%s' % disk,
                 '--export', 'vhost-user-blk,id=export,node-name=disk,'
                 'addr.type=fd,addr.str=%d' % server.fileno()],
                pass_fds=[server.fileno()], preexec_fn=die_with_parent)
        try:
            with started('-object',
                         'memory-backend-memfd,id=m0,size=1G,share=on',
                         '-machine', 'memory-backend=m0',
                         '-chardev', 'socket,id=disk,path=' + path,
                         '-device', 'vhost-user-blk-pci,chardev=disk') as qemu:
                qemu.read_until(TEXT)
        finally:
            daemon.kill()
            daemon.wait()


if __name__ == '__main__':
    tap.main()
