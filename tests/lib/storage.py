# SPDX-License-Identifier: GPL-2.0-or-later
"""The backends of vhost-user-blk devices that QEMU has."""

import os
import socket
import subprocess

from lib import TOP
from lib.process import die_with_parent

STORAGE_DAEMON = os.environ.get(
    'QEMU_STORAGE_DAEMON', os.path.join(TOP, 'build/qemu-storage-daemon'))
# QEMU's example of a backend, which does I/O from and to the guest's memory
EXAMPLE = os.path.join(TOP, 'build/qemu/contrib/vhost-user-blk/vhost-user-blk')


def command_line(program, disk, fd):
    """How @program serves a disk on a socket that listens."""
    if program == EXAMPLE:
        return [program, f'--blk-file={disk}', f'--fd={fd}']
    return [program, '--blockdev', f'file,node-name=f,filename={disk}',
            '--export', 'vhost-user-blk,id=e,node-name=f,writable=on,'
                        f'addr.type=fd,addr.str={fd}']


def start_daemon(disk, path, program=STORAGE_DAEMON):
    """Its process, which serves a disk on the socket @path.

    It can be connected to as soon as this returns, as long as the process lives.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(str(path))
        listener.listen(1)
        return subprocess.Popen(
            command_line(program, disk, listener.fileno()),
            stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()],
            preexec_fn=die_with_parent)
