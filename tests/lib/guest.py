# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest of tests/guest says."""

EXIT_PASS = 33
# It waits for a byte on its serial port: pause=1
PAUSED = 'PAUSED'


def key_values(line):
    """The key=value words of a line; numbers where they are numbers."""
    pairs = (word.split('=', 1) for word in line.split() if '=' in word)
    return {key: int(value) if value.isdigit() else value
            for key, value in pairs}
