# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rig needs: where it is, and how it gets there."""

import os
import subprocess

from lib import TOP
from lib.error import HarnessError
from rig.lib import initramfs

RIG = os.path.join(TOP, 'tests/rig')
BUILD = os.path.join(TOP, 'build')
LOGS = os.path.join(BUILD, 'vm')
QEMU = os.path.join(BUILD, 'qemu-system-x86_64')
TESTS = os.path.join(BUILD, 'tests')
KERNEL = os.path.join(BUILD, 'kernel/arch/x86/boot/bzImage')


def kernel_source(path):
    """A file of the kernel that is tested."""
    tree = os.environ.get('KERNEL_SRC') or os.path.join(BUILD, 'kernel-src')
    return os.path.join(tree, path)


def kernel_has(word):
    """Whether guest_memfd does; not if KERNEL_SRC is somebody's own."""
    with open(kernel_source('virt/kvm/guest_memfd.c'), encoding='utf-8') as f:
        return word in f.read()


def layout_test():
    """Compile the test of the kernel's layouts of huge pages; its path."""
    path = os.path.join(LOGS, 'layout-test')
    subprocess.run(
        ['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror',
         '-I', os.path.dirname(kernel_source('virt/kvm/gmem_layout.h')),
         '-o', path, os.path.join(RIG, 'kselftest/layout-test.c')], check=True)
    return path


def prepare(archive, baseline=None):
    """Packages, the kernel, the initramfs; a HarnessError if it fails.

    @archive: the name of the initramfs; @baseline: another QEMU for it. Returns
    its path.
    """
    for command in ('install-packages.sh', 'kernel/build.sh'):
        done = subprocess.run([os.path.join(RIG, command)], check=False,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            raise HarnessError(
                f'the rig has no kernel: tests/rig/{command} failed, see above '
                '(CHECK_VM=skip leaves the rig out)')
    if subprocess.run([os.path.join(TOP, 'scripts/fetch-apparmor.py')],
                      check=False, stdin=subprocess.DEVNULL).returncode:
        raise HarnessError('the rig has no profiles for AppArmor: '
                           'scripts/fetch-apparmor.py failed, see above')
    for path in [initramfs.GEN_INIT_CPIO, *initramfs.SELFTESTS.values()]:
        if not os.path.isfile(path):
            raise HarnessError(f'{os.path.relpath(path)} does not exist: remove '
                               'build/kernel.stamp, so that the kernel is built anew')
    for path in [QEMU,
                 *(os.path.join(TESTS, 'guest', name)
                   for name in initramfs.GUESTS),
                 *(os.path.join(TESTS, name) for name in initramfs.PROGRAMS)]:
        if not os.path.isfile(path):
            raise HarnessError(f'{os.path.relpath(path)} does not exist: run '
                               '"make build" first')
    os.makedirs(LOGS, exist_ok=True)
    path = os.path.join(LOGS, archive)
    initramfs.build(path, QEMU, TESTS, baseline)
    return path
