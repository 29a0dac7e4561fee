# SPDX-License-Identifier: GPL-2.0-or-later
"""L1's root file system: our QEMU, what it needs, busybox and test programs."""

import os
import re
import shutil
import stat
import subprocess

from lib import TOP
from lib.cpio import Archive
from lib.error import HarnessError
from lib.paths import find_firmware

PROBES = os.path.join(TOP, 'tests/rig/probes')
FIRMWARE_FILES = ('bios-256k.bin', 'bios.bin', 'kvmvapic.bin',
                  'multiboot.bin', 'multiboot_dma.bin', 'linuxboot.bin',
                  'linuxboot_dma.bin')

GUESTS = ('guest.elf', 'launch.bin')

# Test programs of several C files; every other C file there is one of its own
PROGRAMS = {
    'inplace-test': ('inplace-test.c', 'inplace-guest.c', 'result.c'),
    'kvm-caps': ('kvm-caps.c', 'result.c'),
}
# For LD_PRELOAD
LIBRARY = ('calls-preload.so', 'calls-preload.c')


def libraries(program):
    """(name in the archive, path here) of what a program is linked with."""
    out = subprocess.run(['ldd', program], check=True, stdout=subprocess.PIPE,
                         universal_newlines=True).stdout
    for line in out.splitlines():
        match = re.search(r'(?:=> )?(/\S+) \(0x', line)
        if match:
            yield match.group(1).lstrip('/'), os.path.realpath(match.group(1))
        elif 'not found' in line:
            raise HarnessError(f'{program}: {line.strip()}')


def programs():
    """(name, paths of the C files) of all test programs."""
    found = dict(PROGRAMS)
    parts = sum(PROGRAMS.values(), LIBRARY)
    for name in os.listdir(PROBES):
        if name.endswith('.c') and name not in parts:
            found[name[:-2]] = (name,)
    for name, sources in sorted(found.items()):
        yield name, [os.path.join(PROBES, source) for source in sources]


def compile_program(sources, output, top, kind=('-static',)):
    """A static program out of C files, with QEMU's kernel headers."""
    command = ['gcc', *kind, '-std=gnu11', '-O2', '-Wall', '-Wextra',
               '-Werror', '-I', os.path.join(top, 'build/src/linux-headers'),
               '-I', os.path.join(top, 'build/qemu/linux-headers'),
               '-o', output, *sources]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode:
        name = os.path.basename(output)
        raise HarnessError(f'{name} does not compile:\n{done.stdout}')


def add_program(archive, name, program, work, top):
    """A program, and what it is linked with that is not there already."""
    stripped = os.path.join(work, name)
    subprocess.run(['strip', '-o', stripped, program], check=True)
    archive.add_file('rig/' + name, stripped)
    for library, path in sorted(set(libraries(program))):
        # one of our own is where any other is
        archive.add_once(f'lib/{os.path.basename(library)}'
                         if path.startswith(str(top)) else library, path)


def build(path, top, qemu, guests, baseline=None):
    """Write the archive to @path; @guests is where tests/guest is built.

    @baseline is another QEMU.
    """
    work = os.path.dirname(path)
    busybox = shutil.which('busybox')
    if not busybox:
        raise HarnessError('busybox is missing: install the package '
                           'busybox-static')
    archive = Archive(path + '.tmp')
    archive.add('dev/console', stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add('dev/null', stat.S_IFCHR | 0o666, device=(1, 3))
    archive.add_file('init', os.path.join(PROBES, 'init'))
    archive.add_file('bin/busybox', busybox)
    server = os.path.join(top, 'build/qemu/tests/vfio-user/edu-server')
    for name, program in (('qemu', qemu), ('baseline', baseline),
                          ('edu-server', server)):
        if program:
            add_program(archive, name, os.path.realpath(program), work, top)
    for name in GUESTS:
        archive.add_file(f'rig/{name}', os.path.join(guests, name), 0o644)
    for name, sources in programs():
        program = os.path.join(work, name)
        compile_program(sources, program, top)
        archive.add_file('rig/' + name, program)
    name, source = LIBRARY
    library = os.path.join(work, name)
    compile_program([os.path.join(PROBES, source)], library, top,
                    ('-shared', '-fPIC'))
    archive.add_file('rig/' + name, library)
    dirs = find_firmware(qemu)
    for name in FIRMWARE_FILES:
        for directory in dirs:
            if os.path.exists(os.path.join(directory, name)):
                archive.add_file('rig/firmware/' + name,
                                 os.path.join(directory, name), 0o644)
                break
    archive.close()
    os.replace(path + '.tmp', path)
