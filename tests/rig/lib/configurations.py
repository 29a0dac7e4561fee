# SPDX-License-Identifier: GPL-2.0-or-later
"""The configurations of the VMs that run in L2."""

from lib.units import MIB
from rig.lib.l1 import EDU

EMULATED = 'memory-backend-guest-memfd,driver=emulated,init=private'
TWO_COPY = 'memory-backend-guest-memfd,init=shared'
# Ordinary RAM: no block, nobody converts it
SHARED = 'memory-backend-guest-memfd,conversion=none'
IN_PLACE = 'memory-backend-guest-memfd,conversion=in-place,init=shared'
PAGES_2M = ',hugetlb=on,hugetlbsize=2M'
PAGES_1G = ',hugetlb=on,hugetlbsize=1G'
# A VM with private memory, whose guest converts it by hypercall
PROTECTED = {
    'machine': ['confidential-guest-support=p0'],
    'extra': ['-object', 'x-sw-protected-guest,id=p0'],
    'conv': 'hypercall',
}
# The same, as testers of SEV-SNP write it: how memory converts is of the guest
WRITTEN = 'memory-backend-guest-memfd,share=true,reserve=false,init=shared'
PROTECTED_IN_PLACE, PROTECTED_TWO_COPY = (
    {**PROTECTED, 'extra': ['-object', 'x-sw-protected-guest,id=p0,'
                                       f'convert-in-place={value}']}
    for value in ('on', 'off'))
# For a device that comes and goes: a slot whose device no guest powers on lets
# it go at once
PORT = ['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off',
        '-device', 'pcie-root-port,id=rp,chassis=1,addr=0x10']
# The kernel prints no more than three IOMMU faults in five seconds. One DMA to
# memory, one from it.
FAULTS = 2
GUEST_WORDS = 'base=16 area=16 ops=4 pause=1'


class Config:
    """One VM in L2: its memory, and how edu is passed through.

    @memory: -object, without its ID and size
    @machine: more options for -machine
    @extra: more words for the command line
    @conv: how the guest converts memory
    @faults: DMAs of the guest that the IOMMU has to refuse
    @page_size: what the memory is made of
    @platforms: IOMMUs of L1 with which it runs
    @prefix: words before those of QEMU's command line
    @qemu: 'qemu' is ours, 'baseline' as it was released
    @split: x-dma-split of the device
    @device: which one of L1
    """

    def __init__(self, name, memory, vfio, ram=128 * MIB, machine=(),
                 extra=(), conv='testdev', faults=FAULTS, page_size=4096,
                 platforms=('intel',), prefix=(), qemu='qemu', split=None, device=EDU):
        self.name = name
        self.memory = memory
        self.vfio = vfio
        self.ram = ram
        self.machine = tuple(machine)
        self.extra = list(extra)
        self.conv = conv
        self.guest = f'conv={conv} {GUEST_WORDS}'
        self.faults = faults
        self.page_size = page_size
        self.platforms = platforms
        self.prefix = list(prefix)
        self.qemu = qemu
        self.split = split
        self.device = device
