# SPDX-License-Identifier: GPL-2.0-or-later
"""What conversions cost on a real kernel, under emulation: read the ratios.

Boots L1 as the rig does, with conversion in place switched off and on, and
measures VMs in it by turns (cases.py). A line for each step of a guest;
build/bench-vm.json has a record for each figure. "qemu" is QEMU as it was released
(baseline.py), which is built for this.
"""

import argparse
import json
import os
import sys

from lib.error import HarnessError
from lib.paths import find_firmware
from lib.process import exit_on_signals
from rig.bench import baseline
from rig.bench.cases import GROUPS, NAMES, Report
from rig.bench.summary import summary
from rig.lib.l1 import L1, SCHEMES, L1Error
from rig.lib.prepare import (BUILD, KERNEL, LOGS, QEMU, kernel_has,
                             prepare)
from rig.lib.runner import BOOT_LIMIT, NEEDS

# type1 has 65535 mappings unless told otherwise, too few for 'page'. A huge page
# more or less of QEMU's heap would hide what mappings take.
KERNEL_WORDS = 'vfio_iommu_type1.dma_entry_limit=1000000 ' \
    'transparent_hugepage=never'
LIMIT = 1200


def boot_and_measure(platform, archive, report):
    """All groups with one switch of L1's kernel."""
    with L1(platform, QEMU, find_firmware(QEMU), KERNEL, archive,
            os.path.join(LOGS, f'bench-{platform}.log'),
            KERNEL_WORDS) as l1:
        with l1.bounded(BOOT_LIMIT):
            l1.wait_ready()
        for group in GROUPS[platform]:
            with l1.bounded(LIMIT):
                group(l1, report)


def main():
    """Measure, print, write build/bench-vm.json."""
    parser = argparse.ArgumentParser(
        prog='rig.bench', description=__doc__.split('\n', 1)[0])
    parser.add_argument('groups', nargs='*', metavar='GROUP',
                        help='only VMs that have all of these in group, device '
                        'and side, like "dma type1 log"')
    words = parser.parse_args().groups
    exit_on_signals()
    report = Report(words, int(os.environ.get('REPEATS') or 3))
    wanted = [platform for platform in GROUPS
              if any(report.wanted(*names) for names in NAMES[platform])]
    try:
        released = None if set(wanted) <= set(SCHEMES) else baseline.build()
        archive = prepare('bench.cpio', released)
        for platform in wanted:
            if platform in NEEDS and not kernel_has(NEEDS[platform]):
                print(f'{platform}: KERNEL_SRC has not the patches of '
                      'tests/rig/kernel')
            else:
                boot_and_measure(platform, archive, report)
        for line in summary(report.records):
            print(f'== {line}')
    except (HarnessError, L1Error) as err:
        print(f'rig.bench: {err}', file=sys.stderr)
        return 1
    with open(os.path.join(BUILD, 'bench-vm.json'), 'w',
              encoding='utf-8') as f:
        json.dump(report.records, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
