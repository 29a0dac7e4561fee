# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's own selftests that concern guest_memfd: the kernel alone, without QEMU.

The source of the rig's kernel has them; tests/rig/kernel/build.sh compiles them.
set_memory_region_test is not among them, because it takes 106 s under TCG: before it
comes to guest_memfd it adds all of the 32764 slots that a VM can have. What it does
after that fails if a vCPU needs more than two seconds.
"""

from rig.lib.initramfs import SELFTESTS

# kselftest.h
SKIPPED = 4
# Where a guest_memfd converts in place, its VM has no attribute that makes memory
# private: to set it is EINVAL (KVM_SET_MEMORY_ATTRIBUTES), and a new file is private.
# The other programs set it, or expect that memory is shared until then; inplace-test
# and restructure convert there.
IN_PLACE = ('guest_memfd_test',)
PROGRAMS = {'intel': tuple(SELFTESTS), 'in-place': IN_PLACE, 'log': IN_PLACE}


def passes(l1, tap, program):
    """It ends with 0; L1 has all that it asks for, so it must not skip."""
    code, lines = l1.shell(f'/rig/{program}')
    what = f'{code} (skipped)' if code == SKIPPED else f'{code}'
    tap.result('exit code', [what, *lines[-20:]] if code else [])


def scenarios(platform):
    """(name, function, configuration)"""
    for program in PROGRAMS.get(platform, ()):
        yield f'selftests of KVM, {program}', passes, program
