#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU for Arm: it compiles with our files, and converts memory.

It is built in build/aarch64, with no more devices than these tests need, on a host
of any kind: so the guest runs under TCG, and the host's pages are what they are.
"""

import functools
import os
import re
import shutil
import subprocess

from lib import TOP, tap
from lib.dma_map import join, query_map
from lib.paths import Paths
from lib.units import MIB
from lib.vm import VM, VMTest

QEMU = os.path.join(TOP, 'build/aarch64/qemu-system-aarch64')
QTESTS = os.path.join(TOP, 'build/qemu/tests/qtest')
GUEST = os.path.join(os.path.dirname(os.path.realpath(__file__)),
                     'aarch64/guest.c')
CLANG, LINKER = 'clang-19', 'ld.lld-19'         # see install-packages.sh
FLAGS = ('--target=aarch64-none-elf -O2 -Wall -Wextra -Werror -ffreestanding '
         '-nostdlib -static -fno-pic -fno-stack-protector '
         '-mgeneral-regs-only -mstrict-align '
         '-Wl,--image-base=0x40200000').split()

RAM_BASE, RAM = 1024 * MIB, 512 * MIB
# What the guest converts
AREA, AREA_SIZE = 0x4000000, 64 * 4096


@functools.lru_cache(None)
def build():
    """Build QEMU once; what was printed if that failed."""
    done = subprocess.run([os.path.join(TOP, 'scripts/build-qemu.sh'),
                           'aarch64'], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout[-3000:] if done.returncode else ''


def need_build():
    """Skip the test if there is no QEMU to test: another one has failed."""
    if build():
        raise tap.Skip('QEMU for Arm does not compile')


class ArmVM(VM):
    """A VM whose machine is virt, with a guest of its own."""

    def command_line(self, fds):
        args = super().command_line(fds)
        # A PC's machine, processor and devices are of no use.
        devices = args[args.index('-chardev'):args.index('-kernel')]
        pc = [i for i, arg in enumerate(devices) if arg.startswith('isa-')]
        devices = [arg for i, arg in enumerate(devices)
                   if i not in pc and i + 1 not in pc]
        return [self.paths.qemu, '-nodefaults', '-display', 'none',
                '-accel', 'tcg', '-cpu', 'cortex-a57',
                '-machine', 'virt,highmem=off,memory-backend=m0',
                '-m', f'{self.ram // MIB}M', '-object', self.memory,
                '-serial', 'chardev:console',
                *devices, '-kernel', self.paths.guest]


class Arm(VMTest):
    """An Arm machine under TCG."""

    def test_qemu_for_arm_compiles_with_our_files(self):
        self.assertEqual(build(), '')

    @tap.cases({name: (name, least) for name, least in (
        ('guest-memfd-test', 6), ('guest-memfd-options-test', 6),
        ('guest-memfd-pools-test', 3))})
    def test_qtests_pass_that_need_no_pc(self, name, least):
        need_build()
        done = subprocess.run([os.path.join(QTESTS, name), '--tap', '-k'],
                              env={**os.environ, 'QTEST_QEMU_BINARY': QEMU},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        passed = re.findall(r'^ok .*/aarch64/', done.stdout, re.MULTILINE)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertGreaterEqual(len(passed), least, done.stdout)

    def test_a_guest_converts_memory_while_a_device_does_dma(self):
        need_build()
        if not shutil.which(CLANG) or not shutil.which(LINKER):
            self.skipTest(f'no {CLANG}, or no {LINKER}, to compile the guest')
        paths = Paths()
        paths.qemu = QEMU
        paths.guest = str(self.path / 'guest.elf')
        subprocess.run([CLANG, *FLAGS, '--ld-path=' + shutil.which(LINKER),
                        '-o', paths.guest, GUEST], check=True)
        vm = self.start(ArmVM(paths, ram=RAM, init='shared'))
        said = vm.said_until('PASS')

        runs = query_map(vm.qmp, 'm0')
        private = sum(run['size'] for run in runs if run['private'])
        self.assertIn(f'private {private // 4096}', said)
        self.assertTrue(0 < private < AREA_SIZE)
        self.assertEqual(runs[0]['private'], False)
        self.assertLessEqual(AREA, runs[0]['size'])
        shared = join((RAM_BASE + run['offset'],
                       RAM_BASE + run['offset'] + run['size'])
                      for run in runs if not run['private'])
        mapped = join((m.iova, m.iova + m.size) for m in vm.control.maps()
                      if RAM_BASE <= m.iova < RAM_BASE + RAM)
        self.assertEqual(mapped, shared)


if __name__ == '__main__':
    tap.main()
