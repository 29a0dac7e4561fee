# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig: real KVM, VFIO, iommufd and IOMMU drivers under our QEMU.

Boots Linux 7.3 (L1) under TCG with an emulated IOMMU, and in it runs QEMU (L2)
under KVM with the edu device passed through. Two L1s run side by side, as far as
the host has memory for both. Prints TAP: a test for each scenario; the last line is
"N passed, N failed, N skipped". Logs are build/vm/*.log.

Environment: CHECK_VM=skip (do nothing), QUICK=1 (one configuration of each kind),
CONVERSIONS (random ones, in place), KERNEL_SRC, QEMU_DL_DIR, JOBS.
"""

import argparse
import os
import subprocess
import sys

from lib.error import HarnessError
from lib.paths import find_firmware
from lib.process import exit_on_signals
from rig.lib.prepare import QEMU, prepare
from rig.lib.runner import Rig, select
from rig.lib.tap import Tap


def main():
    """Build what is missing, run everything."""
    parser = argparse.ArgumentParser(
        prog='make check-vm', description=__doc__.split('\n', 1)[0])
    parser.add_argument('tests', nargs='*', metavar='TEST',
                        help='run only scenarios whose name, like "intel: guest, '
                        '4K", has all of these')
    args = parser.parse_args()
    exit_on_signals()
    tap = Tap()
    if os.environ.get('CHECK_VM') == 'skip':
        tap.plan(1)
        tap.skip('the rig', 'CHECK_VM=skip')
        return tap.end()
    reason = 'the rig ended before it'
    try:
        rig = Rig(tap, select(args.tests, bool(os.environ.get('QUICK'))))
    except HarnessError as err:
        parser.error(str(err))
    tap.plan(rig.tests())
    try:
        rig.run_all(find_firmware(QEMU), prepare('initramfs.cpio'))
        rig.note_slowest()
    except (HarnessError, OSError, subprocess.CalledProcessError) as err:
        reason = str(err)
    rig.finish(reason)
    tap.note('done')
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
