# SPDX-License-Identifier: GPL-2.0-or-later
"""What an IOMMU holds, and what it should hold."""

from lib.dma_map import LEGACY, cut, join
from lib.units import PAGE
from rig.lib.l1 import IOMMUS

HUGE = 2 << 20
GIANT = 1 << 30
# Where a PC without VGA has no RAM before its firmware has run
ROMS = (0xc0000, 0x100000)
SIZES = (PAGE, HUGE, GIANT)     # of an entry


def dump(l1, kind, table, levels):
    """[(iova, size)] of the entries in a page table."""
    entries = []
    for line in l1.run(f'/rig/iommu-dump {kind} {table:x} {levels}'):
        iova, size, count = (int(word, 16) for word in line.split())
        entries += [(iova + i * size, size) for i in range(count)]
    return entries


def read_intel(l1, device):
    """[(iova, size)] of the entries in the page table of a device."""
    path = '/sys/kernel/debug/iommu/intel/dmar_translation_struct'
    for line in l1.run(f'cat {path}'):
        # B.D.F, root entry, context entry (upper and lower half), PASID, ...
        words = line.split()
        if words and device.endswith(f':{words[0]}'):
            high, low = (int(half, 16) for half in words[2].split(':'))
            # Translation Type: 2 lets all through; Address Width: levels - 2
            return [] if low >> 2 & 3 == 2 else dump(l1, 'intel', low,
                                                     (high & 7) + 2)
    return []


def read_amd(l1, device):
    """The same with an AMD IOMMU."""
    debug = '/sys/kernel/debug/iommu/amd'
    l1.run(f'echo {device} >{debug}/devid')
    line = l1.run(f'cat {debug}/devtbl')[-1]
    # after the name of the device: quadwords 3 to 0
    entry = int(line.split()[4], 16)
    return dump(l1, 'amd', entry, entry >> 9 & 7)


AMD = [platform for platform, (device, _words) in IOMMUS.items()
       if device.startswith('amd')]
READ = {platform: read_amd if platform in AMD else read_intel
        for platform in IOMMUS}
# For AMD's, the kernel is told to make no others (l1.py)
LARGEST = {platform: PAGE if platform in AMD else GIANT for platform in IOMMUS}


def compare_pages(entries, runs, ram, base=0):
    """Problems if not exactly the shared pages have an entry.

    The block of these runs has @ram bytes and starts at @base.
    """
    end = base + ram
    shared = join(cut(((base + run['offset'], base + run['offset'] + run['size'])
                       for run in runs if not run['private']), LEGACY))
    mapped = join(cut(((max(iova, base), min(iova + size, end))
                       for iova, size in entries
                       if iova < end and iova + size > base), LEGACY))
    if mapped == shared:
        return []
    problems = []
    for start, end in subtract(mapped, shared)[:5]:
        problems.append(f'private, but in the IOMMU: [{start:#x}, {end:#x})')
    for start, end in subtract(shared, mapped)[:5]:
        problems.append(f'shared, but not in the IOMMU: [{start:#x}, {end:#x})')
    return problems


def subtract(ranges, holes):
    """Sorted [(start, end)] without all of the holes."""
    for hole in holes:
        ranges = list(cut(ranges, hole))
    return [(start, end) for start, end in ranges if start < end]


class Extents:
    """What VFIO should have mapped: the policy "log", in the plainest way.

    For a VM that was never started.
    """

    def __init__(self):
        self.extents = []

    def share(self, start, end):
        """Map what is not mapped yet, never across a 1 GiB boundary."""
        for low, high in subtract([(start, end)], self.extents + [ROMS]):
            while low < high:
                border = min(high, (low // GIANT + 1) * GIANT)
                self.extents.append((low, border))
                low = border
        self.extents.sort()

    def take(self, start, end):
        """Unmap; the rest of extents is mapped as aligned powers of two."""
        kept = []
        for low, high in self.extents:
            if high <= start or low >= end:
                kept.append((low, high))
                continue
            for rest in cut([(low, high)], (start, end)):
                kept += pieces(*rest)
        self.extents = sorted(kept)

    def entries(self, page_size):
        """[(iova, size)] that an IOMMU has for memory of such pages."""
        found = []
        for start, end in self.extents:
            while start < end:
                size = max(size for size in SIZES
                           if size <= max(page_size, PAGE) and
                           start % size == 0 and start + size <= end)
                found.append((start, size))
                start += size
        return found


class CutExtents(Extents):
    """The policy "cut": what is left stays as it is, in entries of 4 KiB."""

    def take(self, start, end):
        self.extents = subtract(self.extents, [(start, end)])

    def entries(self, page_size):
        return super().entries(PAGE)


def pieces(start, end):
    """Naturally aligned powers of two, the largest that fit, from the start."""
    while start < end:
        size = 1 << ((end - start).bit_length() - 1)
        if start:
            size = min(size, start & -start)
        yield start, start + size
        start += size


def compare_entries(entries, expected, ram):
    """Problems if entries have other sizes than expected."""
    have = {entry for entry in entries
            if entry[0] < ram and not ROMS[0] <= entry[0] < ROMS[1]}
    want = set(expected)
    problems = []
    for iova, size in sorted(want - have)[:5]:
        problems.append(f'no entry of {size >> 10} KiB at {iova:#x}')
    for iova, size in sorted(have - want)[:5]:
        problems.append(f'an entry of {size >> 10} KiB at {iova:#x}')
    return problems
