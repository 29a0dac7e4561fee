# SPDX-License-Identifier: GPL-2.0-or-later
"""Backends of vhost-user devices: those of disks that QEMU has, and virtiofsd."""

import os
import re
import socket
import subprocess

from lib import TOP
from lib.process import die_with_parent

STORAGE_DAEMON = os.environ.get(
    'QEMU_STORAGE_DAEMON', os.path.join(TOP, 'build/qemu-storage-daemon'))
# QEMU's example of a backend, which does I/O from and to the guest's memory
EXAMPLE = os.path.join(TOP, 'build/qemu/contrib/vhost-user-blk/vhost-user-blk')
# Debian 12 has the virtiofsd that QEMU had, Debian 13 the one that replaced it.
OLD_VIRTIOFSD = '/usr/lib/qemu/virtiofsd'
VIRTIOFSDS = ('/usr/libexec/virtiofsd', OLD_VIRTIOFSD)
VIRTIOFSD = os.environ.get('VIRTIOFSD') or next(
    filter(os.path.isfile, VIRTIOFSDS), None)
CAP_SYS_CHROOT = 18


def start_backend(path, command_line):
    """The process that command_line(fd) is for, which serves the socket @path.

    It can be connected to as soon as this returns, as long as the process lives.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(str(path))
        listener.listen(1)
        return subprocess.Popen(
            command_line(listener.fileno()), stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()], preexec_fn=die_with_parent)


def start_daemon(disk, path, program=STORAGE_DAEMON):
    """Its process, which serves a disk on the socket @path."""
    def command_line(fd):
        if program == EXAMPLE:
            return [program, f'--blk-file={disk}', f'--fd={fd}']
        return [program, '--blockdev', f'file,node-name=f,filename={disk}',
                '--export', 'vhost-user-blk,id=e,node-name=f,writable=on,'
                            f'addr.type=fd,addr.str={fd}']
    return start_backend(path, command_line)


def may_chroot():
    """Whether this process may call chroot()."""
    with open('/proc/self/status', encoding='ascii') as f:
        caps, = re.findall(r'^CapEff:\s*(\w+)', f.read(), re.MULTILINE)
    return bool(int(caps, 16) & 1 << CAP_SYS_CHROOT)


def virtiofsd_problem():
    """None if virtiofsd can share a directory, else why not."""
    if not VIRTIOFSD:
        return f"none of {', '.join(VIRTIOFSDS)} exists"
    if VIRTIOFSD == OLD_VIRTIOFSD and not may_chroot():
        return f'{VIRTIOFSD} needs root'
    return None


def start_virtiofsd(directory, path):
    """Its process, which shares a directory on the socket @path.

    A container may have no namespaces for its sandbox.  The guest's O_DIRECT counts
    in the guest only: not every file system of a host has it.
    """
    def command_line(fd):
        if VIRTIOFSD == OLD_VIRTIOFSD:
            options = ['-f', '-o', f'source={directory},sandbox=chroot,log_level=warn']
        else:
            sandbox = 'chroot' if may_chroot() else 'none'
            options = [f'--shared-dir={directory}', f'--sandbox={sandbox}',
                       '--log-level=warn']
        return [VIRTIOFSD, f'--fd={fd}', '--rlimit-nofile=0', *options]
    return start_backend(path, command_line)
