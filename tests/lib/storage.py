# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's storage daemon, the backend of a vhost-user-blk device."""

import os
import socket
import subprocess

from lib import TOP
from lib.process import die_with_parent

STORAGE_DAEMON = os.environ.get(
    'QEMU_STORAGE_DAEMON', os.path.join(TOP, 'build/qemu-storage-daemon'))


def start_daemon(disk, path):
    """Its process, which serves a disk on the socket @path.

    It can be connected to as soon as this returns, as long as the process lives.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(str(path))
        listener.listen(1)
        return subprocess.Popen(
            [STORAGE_DAEMON,
             '--blockdev', f'file,node-name=f,filename={disk}',
             '--export', 'vhost-user-blk,id=e,node-name=f,writable=on,'
                         f'addr.type=fd,addr.str={listener.fileno()}'],
            stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()],
            preexec_fn=die_with_parent)
