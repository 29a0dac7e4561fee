# SPDX-License-Identifier: GPL-2.0-or-later
"""The vfio-user server of tests/vfio-user, in L1."""

SERVER = '/tmp/edu'
CONTROL = '/tmp/edu-control'


class Server:
    """The vfio-user server of tests/vfio-user, in L1."""

    def __init__(self, l1, path=SERVER):
        self._l1 = l1
        l1.run(f'rm -f {path} {CONTROL}; /rig/edu-server --control {CONTROL} '
               f'{path} >/tmp/edu.log 2>&1 & '
               f'until [ -S {path} ] && [ -S {CONTROL} ]; do :; done')

    def maps(self):
        """[(iova, size)]"""
        return [tuple(int(word, 16) for word in line.split()[:2])
                for line in self._l1.run(f'/rig/query {CONTROL} maps')]

    def kill(self):
        """At once."""
        self._l1.run('kill -9 $(pidof edu-server)')
