#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What conversions cost on a real kernel, under emulation: read the ratios.

Boots L1 as rig.py does, with conversion in place switched off and on, and
measures machines in it by turns (bench_cases.py). A line for each step of a guest;
build/bench-vm.json has a record for each figure. "qemu" is QEMU as it was released
(peer.py), which is built for this.
"""

import argparse
import json
import os
import sys

sys.dont_write_bytecode = True

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, 'tests/guest')]

# pylint: disable=wrong-import-position
import initramfs
import peer
import rig
from bench_cases import GROUPS, Report
from bench_summary import summary
from harness import HarnessError, exit_on_signals, find_firmware
from l1 import L1, L1Error

# type1 has 65535 mappings unless told otherwise, too few for 'page'. A huge page
# more or less of QEMU's heap would hide what mappings take.
KERNEL_WORDS = 'vfio_iommu_type1.dma_entry_limit=1000000 ' \
    'transparent_hugepage=never'
LIMIT = 1200


def boot_and_measure(config, archive, report):
    """All groups with one switch of L1's kernel."""
    with L1(config, rig.QEMU, find_firmware(rig.QEMU), rig.KERNEL, archive,
            os.path.join(rig.VM, f'bench-{config}.log'),
            KERNEL_WORDS) as l1:
        with l1.bounded(rig.BOOT_LIMIT):
            l1.wait_ready()
        for group in GROUPS[config]:
            with l1.bounded(LIMIT):
                group(l1, report)


def main():
    """Measure, print, write build/bench-vm.json."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('words', nargs='*', help='only machines that have all of '
                        'these in group, device and side, like "dma type1 log"')
    words = parser.parse_args().words
    exit_on_signals()
    report = Report(words, int(os.environ.get('REPEATS') or 3))
    try:
        rig.prepare()
        archive = os.path.join(rig.VM, 'bench.cpio')
        initramfs.build(archive, TOP, rig.QEMU, rig.GUESTS_DIR, peer.build())
        for config in GROUPS:
            if config == 'in-place' and not rig.kernel_is_patched():
                print('no conversion in place: KERNEL_SRC has not the patches '
                      'of tests/vm/kernel')
            elif config == 'intel' or report.wanted(
                    'request', 'iommufd no device', 'in-place'):
                boot_and_measure(config, archive, report)
        for line in summary(report.records):
            print(f'== {line}')
    except (HarnessError, L1Error) as err:
        print(f'bench.py: {err}', file=sys.stderr)
        return 1
    with open(os.path.join(rig.BUILD, 'bench-vm.json'), 'w',
              encoding='utf-8') as f:
        json.dump(report.records, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
