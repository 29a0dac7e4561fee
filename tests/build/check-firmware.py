#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware that QEMU's defaults need is found, and runs.

QEMU does not start without the ROM of a network card, the BIOS of the machine
or that of its display. Run from its build directory it looks for them in
qemu-bundle only, where build-qemu.sh makes links.
"""

import shutil

import pc
from lib import tap

OVMF = '/usr/share/OVMF/'
# What opens a window, and so needs a desktop
WINDOWS = {'gtk', 'sdl'}


def network_cards():
    """The names of all network cards for PCI."""
    lines = pc.listed('device')
    lines = lines[lines.index('Network devices:') + 1:]
    lines = lines[:lines.index('')]
    return [line.split('"')[1] for line in lines if 'bus PCI' in line]


def uefi(*options):
    """Run OVMF until it looks for something to boot, and finds nothing."""
    with pc.Qemu(*pc.QUIET, '-nodefaults', '-machine', 'q35', *options,
                 text=('-serial', 'chardev:text')) as qemu:
        qemu.read_until(b'BdsDxe')
        qemu.assert_running()


class Firmware(tap.TestCase):
    """QEMU starts, and its firmware runs."""

    def test_qemu_starts_with_its_defaults(self):
        # Nothing but the size of its memory is said; SeaBIOS runs the ROMs
        options = pc.QUIET[:2] if WINDOWS & set(pc.listed('display')) else ()
        with pc.bios(*options) as qemu:
            qemu.assert_running()
            # That of the display, and that of the network card
            qemu.read_until(b'Running option rom at', times=2)

    def test_qemu_starts_with_each_network_card(self):
        # With the ROM that it brings along, if any
        cards = network_cards()
        assert {'e1000', 'virtio-net-pci'} <= set(cards), cards
        for card in cards:
            with pc.bios(*pc.QUIET, '-nodefaults', '-machine', 'q35',
                         '-device', card) as qemu:
                qemu.assert_running()

    def test_ovmf_runs_by_bios(self):
        # QEMU finds the file by its name
        uefi('-bios', 'OVMF.fd')

    def test_ovmf_runs_from_flash(self):
        # Code that is read only, and variables of the VM's own
        variables = shutil.copy(OVMF + 'OVMF_VARS_4M.fd', self.path)
        drive = 'if=pflash,format=raw,unit=%d,readonly=%s,file=%s'
        uefi('-drive', drive % (0, 'on', OVMF + 'OVMF_CODE_4M.fd'),
             '-drive', drive % (1, 'off', variables))


if __name__ == '__main__':
    tap.main()
