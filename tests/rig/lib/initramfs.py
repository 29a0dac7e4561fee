# SPDX-License-Identifier: GPL-2.0-or-later
"""L1's root file system: our QEMU, what it needs, busybox and test programs.

The kernel's own program makes the archive, from a list.
"""

import os
import re
import shutil
import subprocess

from lib import TOP
from lib.error import HarnessError
from lib.paths import find_firmware
from lib.storage import VIRTIOFSD
from rig.lib import apparmor

BUILD = os.path.join(TOP, 'build')
# As the build of the kernel leaves it
GEN_INIT_CPIO = os.path.join(BUILD, 'kernel/usr/gen_init_cpio')
INIT = os.path.join(TOP, 'tests/rig/probes/init')
FIRMWARE_FILES = ('bios-256k.bin', 'bios.bin', 'kvmvapic.bin',
                  'multiboot.bin', 'multiboot_dma.bin', 'linuxboot.bin',
                  'linuxboot_dma.bin')
GUESTS = ('guest.elf', 'launch.bin')
PROBES = ('alternate', 'calls', 'calls-preload.so', 'hold-page', 'inplace-test',
          'iommu-dump', 'kvm-caps', 'limited', 'no-seccomp.so', 'poison', 'query',
          'restructure')
# By tests/rig/probes/meson.build and tests/rig/kselftest/meson.build
PROGRAMS = tuple(f'rig/probes/{name}' for name in PROBES) + \
    ('rig/kselftest/gmem-hugepage-test',)
# KVM's, by tests/rig/kernel/build.sh
SELFTESTS = {os.path.basename(path): os.path.join(BUILD, 'selftests', path) for path in (
    'guest_memfd_test', 'pre_fault_memory_test', 'x86/private_mem_conversions_test',
    'x86/private_mem_kvm_exits_test')}
NODES = ('nod /dev/console 0600 0 0 c 5 1', 'nod /dev/null 0666 0 0 c 1 3')


class FileList:
    """What the archive has, as gen_init_cpio reads it."""

    def __init__(self):
        self._dirs = {'/dev'}
        self._files = {}

    def add(self, name, path, mode='0755'):
        """A file, with the directories it is in; the first of a name stays."""
        parent = os.path.dirname(name)
        while parent != '/':
            self._dirs.add(parent)
            parent = os.path.dirname(parent)
        self._files.setdefault(name, f'file {name} {path} {mode} 0 0')

    def lines(self):
        """Directories before what is in them."""
        return [f'dir {name} 0755 0 0' for name in sorted(self._dirs)] + \
            [*NODES, *self._files.values()]


def libraries(program):
    """(name in the archive, path here) of what a program is linked with."""
    out = subprocess.run(['ldd', program], check=True, stdout=subprocess.PIPE,
                         universal_newlines=True).stdout
    for line in out.splitlines():
        match = re.search(r'(?:=> )?(/\S+) \(0x', line)
        if match:
            yield match.group(1), os.path.realpath(match.group(1))
        elif 'not found' in line:
            raise HarnessError(f'{program}: {line.strip()}')


def add_program(files, name, program, work):
    """A program, and what it is linked with that is not there already."""
    stripped = os.path.join(work, name)
    subprocess.run(['strip', '-o', stripped, program], check=True)
    files.add('/rig/' + name, stripped)
    for library, path in sorted(set(libraries(program))):
        # one of our own is where any other is
        files.add('/lib/' + os.path.basename(library)
                  if path.startswith(str(TOP)) else library, path)


def add_firmware(files, qemu):
    """What QEMU loads, of the first directory that has it."""
    for name in FIRMWARE_FILES:
        for directory in find_firmware(qemu):
            path = os.path.join(directory, name)
            if os.path.exists(path):
                files.add('/rig/firmware/' + name, os.path.realpath(path), '0644')
                break


def add_apparmor(files, work):
    """Profiles, and the program that loads them."""
    add_program(files, 'apparmor_parser', apparmor.PARSER, work)
    for name, path in apparmor.compile_profiles(work):
        files.add(f'/rig/profile-{name}', path, '0644')


def build(path, qemu, tests, baseline=None):
    """Write the archive to @path; @tests is where meson builds tests/.

    @baseline is another QEMU.
    """
    work = os.path.dirname(path)
    busybox = shutil.which('busybox')
    if not busybox:
        raise HarnessError('busybox is missing: install the package '
                           'busybox-static')
    files = FileList()
    files.add('/init', INIT)
    files.add('/bin/busybox', os.path.realpath(busybox))
    server = os.path.join(BUILD, 'qemu/tests/vfio-user/edu-server')
    daemon = os.path.join(BUILD, 'qemu-storage-daemon')
    for name, program in (('qemu', qemu), ('baseline', baseline),
                          ('edu-server', server), ('qemu-storage-daemon', daemon),
                          ('virtiofsd', VIRTIOFSD)):
        if program:
            add_program(files, name, os.path.realpath(program), work)
    for name in GUESTS:
        files.add('/rig/' + name, os.path.join(tests, 'guest', name), '0644')
    for name in PROGRAMS:
        files.add('/rig/' + os.path.basename(name), os.path.join(tests, name))
    for name, program in SELFTESTS.items():
        files.add('/rig/' + name, program)
    add_firmware(files, qemu)
    add_apparmor(files, work)
    with open(path + '.list', 'w', encoding='utf-8') as f:
        f.writelines(line + '\n' for line in files.lines())
    with open(path + '.tmp', 'wb') as f:
        subprocess.run([GEN_INIT_CPIO, path + '.list'], check=True, stdout=f)
    os.replace(path + '.tmp', path)
