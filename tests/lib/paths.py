# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are."""

import os

from lib import TOP
from lib.error import HarnessError

FIRMWARE = ('/usr/share/seabios', '/usr/share/qemu')
FIRMWARE_FILES = ('bios-256k.bin', 'multiboot_dma.bin', 'kvmvapic.bin')


class Paths:
    """What is needed, from the environment or from the build directory."""

    def __init__(self):
        self.qemu = os.environ.get(
            'QEMU', os.path.join(TOP, 'build/qemu-system-x86_64'))
        self.server = os.environ.get(
            'EDU_SERVER',
            os.path.join(TOP, 'build/qemu/tests/vfio-user/edu-server'))
        self.guest = os.environ.get(
            'GUEST_ELF', os.path.join(TOP, 'build/tests/guest/guest.elf'))
        for name, path in (('QEMU', self.qemu), ('EDU_SERVER', self.server),
                           ('GUEST_ELF', self.guest)):
            if not os.path.isfile(path):
                raise HarnessError(f'{path} does not exist: run "make build" '
                                   f'first, or set {name}')
        self.firmware = find_firmware(self.qemu)


def find_firmware(qemu):
    """The directories for -L that hold what a PC and -kernel need."""
    dirs = os.environ.get('QEMU_FIRMWARE')
    dirs = dirs.split(':') if dirs else list(FIRMWARE)
    bundle = os.path.dirname(os.path.realpath(qemu))
    dirs += [os.path.join(bundle, 'pc-bios'),
             os.path.join(bundle, 'qemu-bundle/usr/local/share/qemu')]
    dirs = [d for d in dirs if os.path.isdir(d)]
    for name in FIRMWARE_FILES:
        if not any(os.path.exists(os.path.join(d, name)) for d in dirs):
            raise HarnessError(
                f'{name} is not in {" ".join(dirs) or "any directory"}. '
                f'Install the packages seabios and qemu-system-data, or set '
                f'QEMU_FIRMWARE')
    return dirs
