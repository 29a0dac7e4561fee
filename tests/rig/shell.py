# SPDX-License-Identifier: GPL-2.0-or-later
"""A prompt in L1: the rig's kernel, with KVM, VFIO and an emulated IOMMU.

Each line is run by busybox's shell in L1; cd and variables stay. /rig has our
QEMU, its firmware, the guest and the programs of tests/rig/probes. End with
"exit" or Ctrl-D.
"""

import argparse
import contextlib
import os
import readline
import sys

from lib.error import HarnessError
from lib.paths import find_firmware
from lib.process import exit_on_signals
from rig.lib.l1 import IOMMUS, L1, L1Error
from rig.lib.prepare import KERNEL, LOGS, QEMU, prepare


def prompt(l1):
    """Lines of the user, until there are no more."""
    readline.set_auto_history(True)
    while True:
        try:
            line = input(f'L1 ({l1.platform})# ')
        except EOFError:
            print()
            return
        if line.strip() == 'exit':
            return
        code, lines = l1.shell(line)
        for text in lines:
            print(text)
        if code:
            print(f'[exit code {code}]')


def main():
    """Boot L1, and let the user have it."""
    parser = argparse.ArgumentParser(
        prog='make rig-shell', description=__doc__.split('\n', 1)[0])
    parser.add_argument('platform', nargs='?', default='intel',
                        choices=sorted(IOMMUS), help='the IOMMU of L1')
    parser.add_argument('--gdb', action='store_true',
                        help="wait for gdb's \"target remote :1234\"")
    args = parser.parse_args()
    exit_on_signals()
    try:
        archive = prepare('shell.cpio')
        log = os.path.join(LOGS, 'shell.log')
        print(f'booting; the log of the kernel is {os.path.relpath(log)}',
              flush=True)
        with L1(args.platform, QEMU, find_firmware(QEMU), KERNEL, archive, log,
                options=['-s', '-S'] if args.gdb else []) as l1:
            l1.wait_ready()
            with contextlib.suppress(KeyboardInterrupt):
                prompt(l1)
    except (HarnessError, L1Error, OSError) as err:
        print(f'rig-shell: {err}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
