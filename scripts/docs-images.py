#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw the pictures of the documentation.

    scripts/build-qemu.sh env scripts/docs-images.py [DIR]

A VM runs, its memory is converted as a guest does it, and gmem-top draws the map
to DIR/map.svg (docs/images).

Environment: QEMU, if it is not where make build puts it.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.process import die_with_parent
from lib.qmp import Qmp

TOP = Path(__file__).resolve().parent.parent
QEMU = os.environ.get('QEMU', str(TOP / 'build/qemu-system-x86_64'))
KIB, MIB = 1 << 10, 1 << 20


def pattern():
    """(offset, size, private) of each conversion: the bounce area that a Linux
    guest shares when it boots, and buffers that come and go."""
    yield 448 * MIB, 64 * MIB, False
    choose = random.Random(2)
    for _ in range(24):                 # buffers of drivers
        yield choose.randrange(256) * 2 * MIB, 64 * KIB, False
    for size in (16, 12, 6, 2):         # devices that were plugged later
        yield choose.randrange(280, 480) * 2 * MIB, size * MIB, False
    for _ in range(6):                  # pages that the guest has taken back
        yield 448 * MIB + choose.randrange(64) * MIB, 4 * KIB, True


def draw_map(directory):
    """The map of a VM of 1 GiB whose memory is private at the start."""
    with tempfile.TemporaryDirectory() as scratch:
        watch = f'{scratch}/watch.sock'
        ours, theirs = socket.socketpair()
        with theirs, subprocess.Popen(
                [QEMU, '-S', '-name', 'vm1', '-accel', 'tcg', '-nodefaults',
                 '-display', 'none', '-m', '1G', '-object',
                 'memory-backend-guest-memfd,id=m0,size=1G,driver=emulated,'
                 'init=private', '-machine', 'q35,memory-backend=m0',
                 '-chardev', f'socket,id=qmp,fd={theirs.fileno()}',
                 '-mon', 'chardev=qmp,mode=control',
                 '-qmp', f'unix:{watch},server=on,wait=off'],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                preexec_fn=die_with_parent) as qemu, ours:
            theirs.close()
            try:
                qmp = Qmp(ours)
                for offset, size, private in pattern():
                    qmp.command('x-guest-memfd-convert', id='m0',
                                offset=offset, size=size, private=private)
                subprocess.run([TOP / 'tools/gmem-top', '--svg',
                                directory / 'map.svg', watch], check=True)
            finally:
                qemu.kill()


if __name__ == '__main__':
    DIRECTORY = Path(sys.argv[1]) if sys.argv[1:] else TOP / 'docs/images'
    DIRECTORY.mkdir(exist_ok=True)
    draw_map(DIRECTORY)
