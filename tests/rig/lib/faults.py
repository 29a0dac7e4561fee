# SPDX-License-Identifier: GPL-2.0-or-later
"""Which faults of L1 are known, and how many of them are tolerated.

They are in known-faults.toml.
"""

import collections
import datetime
import os
import threading
import tomllib

from lib.error import HarnessError

FILE = os.path.join(os.path.dirname(__file__), '../known-faults.toml')
KEYS = {'what': str, 'looks': str, 'reason': str, 'seen': str, 'tolerated': int,
        'expires': datetime.date}


def read_faults(path):
    """{name: {key: value}}; a HarnessError if the file is not as it says."""
    with open(path, 'rb') as f:
        try:
            faults = tomllib.load(f)
        except tomllib.TOMLDecodeError as err:
            raise HarnessError(f'{path}: {err}') from err
    for name, fault in faults.items():
        have = {key: type(value) for key, value in fault.items()}
        if have != KEYS:
            raise HarnessError(f'{path}: [{name}] has not exactly these: '
                               f'{", ".join(KEYS)}')
    return faults


class KnownFaults:
    """How many there were on each platform; for several threads."""

    def __init__(self, path=FILE, today=None):
        self._faults = read_faults(path)
        self._today = today or datetime.date.today()
        self._seen = collections.Counter()
        self._lock = threading.Lock()

    def tolerate(self, platform, name):
        """Whether it is tolerated, this time; what there is to say of it."""
        fault = self._faults.get(name)
        if not fault:
            return False, f'{name} is not in known-faults.toml'
        if self._today >= fault['expires']:
            return False, (f"{fault['what']}: known, but not tolerated since "
                           f"{fault['expires']}")
        with self._lock:
            self._seen[platform] += 1
            seen = self._seen[platform]
        return (seen <= fault['tolerated'],
                f"{fault['what']} (known; number {seen} of "
                f"{fault['tolerated']} on this platform)")
