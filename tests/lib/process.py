# SPDX-License-Identifier: GPL-2.0-or-later
"""Children that do not outlive this process, and signals."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In a child: not to outlive this process, whatever ends it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def on_signals(leave):
    """Call leave(number) for a signal that ends a program.

    It raises an exception, so that everything is cleaned up.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore(_number, _frame):
        """A second one must not disturb the cleaning up."""

    def handle(number, _frame):
        for each in signals:
            signal.signal(each, ignore)
        leave(number)

    for each in signals:
        signal.signal(each, handle)


def exit_on_signals():
    """End by an exception, and say which signal it was."""
    def leave(number):
        print(f'{os.path.basename(sys.argv[0])}: '
              f'{signal.Signals(number).name}', file=sys.stderr)
        sys.exit(128 + number)

    on_signals(leave)
