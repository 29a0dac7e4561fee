# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU under Debian's AppArmor profile of a domain of libvirt.

The lines that an administrator has to add are those of the manual, and are read there.
QEMU lacks something without each of them; with all of them it runs, and the kernel
refuses it nothing.
"""

import contextlib
import json
import re

from lib.dma_map import query_map
from lib.error import HarnessError
from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.apparmor import DAEMON, DOMAIN, manual_lines, matches
from rig.lib.checks import (GROUPS, limit_huge_pages, missing, must_refuse, setting,
                            takes_mounts)
from rig.lib.configurations import IN_PLACE, PAGES_2M, PROTECTED, Config
from rig.lib.l1 import CONFINES, EDU, L2, SCHEME
from rig.lib.server import Server

# Where "make install" puts it
QEMU = '/usr/local/bin/qemu-system-x86_64-guest-memfd'
SECURITY = '/sys/kernel/security'
GROUP = f'{GROUPS}/machine'
MOUNT = '/dev/hugepages'
SOCKET = '/run/gmem/edu.sock'
# An administrator's VM is in a control group, and QEMU is where it is installed
SETUP = (
    f'mount -t securityfs none {SECURITY}',
    f'mkdir {GROUP}',
    f'mkdir -p /usr/local/bin /usr/share/qemu /run/gmem {MOUNT}',
    f'ln /rig/qemu {QEMU} && ln /rig/firmware/* /usr/share/qemu',
    f'mount -t hugetlbfs -o pagesize=2M none {MOUNT}',
)
CLEANUP = (
    f'printf {DOMAIN} >{SECURITY}/apparmor/.remove',
    f'printf {DAEMON} >{SECURITY}/apparmor/.remove',
    f'umount {MOUNT}', f'rm -r {QEMU} /usr/share/qemu /run/gmem',
    f'rmdir {GROUP}', f'umount {SECURITY}',
)
RATE = '/proc/sys/kernel/printk_ratelimit'


def confined(profile, command):
    """A line of the shell that executes a command as libvirt does QEMU."""
    return f'echo changeprofile {profile} >/proc/self/attr/apparmor/current && ' \
        f'exec {command}'


def domain(memory, vfio=None, extra=()):
    """A VM of libvirt's, whose QEMU finds its firmware by itself."""
    # "$@" begins with "/rig/qemu -L /rig/firmware"
    line = f'shift 3; echo $$ >{GROUP}/cgroup.procs; ' + confined(DOMAIN, f'{QEMU} "$@"')
    return Config(memory, IN_PLACE + memory, vfio, ram=64 * MIB,
                  machine=PROTECTED['machine'], conv=PROTECTED['conv'],
                  extra=[*PROTECTED['extra'], *extra], prefix=['sh', '-c', line, 'sh'])


USER = ['-device', json.dumps({
    'driver': 'vfio-user-pci', 'x-share-memory': True, 'x-no-posted-writes': True,
    'socket': {'type': 'unix', 'path': SOCKET}})]
BOUND = PAGES_2M + ',policy=bind,host-nodes=0,prealloc=on'
HUGE = domain(BOUND)
NO_SIZE = domain(',hugetlb=on,hugetlbsize=4M')
HUGE_WITH_DEVICE = domain(BOUND, 'iommufd')
MOUNTED = domain(f',x-resource={MOUNT}', extra=USER)
# With the lines that let QEMU start only, and what it says then
REFUSED = (
    ('what says which sizes there are', NO_SIZE,
     ('sizes cannot be read', 'Permission denied')),
    ('a device by iommufd', HUGE_WITH_DEVICE, ('Permission denied',)),
    ('x-resource', MOUNTED, (f"'{MOUNT}'", 'Permission denied')),
)
DENIED = re.compile(r'apparmor="(?:DENIED|ALLOWED)".* profile="(.*?)" '
                    r'(?:name="(.*?)")?(.*)')


def load(l1, name):
    """A variant of a profile replaces the one before."""
    l1.run(f'/rig/apparmor_parser --config-file=/dev/null -K -r -B /rig/profile-{name}')


def denials(l1):
    """What the kernel has refused QEMU since the last call: paths, or other things."""
    # The kernel logs in order, but later: this is the last one
    last = '/rig/query'
    l1.shell(f"sh -c '{confined(DOMAIN, last)}' 2>/dev/null")
    lines = l1.run(f'until dmesg | grep -q \'name="{last}"\'; do :; done; dmesg -c')
    found = [found.groups() for found in map(DENIED.search, lines) if found]
    return {name or rest for profile, name, rest in found
            if profile == DOMAIN and name != last}


def unknown(lines, paths):
    """Problems with paths that no line is about."""
    return [f'no line of the manual for {path}' for path in sorted(paths)
            if not any(matches(line, path) for line in lines)]


def unneeded(lines, paths):
    """Problems with lines that are about none of the paths."""
    return [f'nothing was refused without "{line}"' for line in lines
            if not any(matches(line, path) for path in paths)]


def needed(l1, tap, lines):
    """Without the lines of the manual QEMU is refused what they allow."""
    load(l1, 'none')
    l2 = L2(l1, HUGE)
    with contextlib.suppress(HarnessError), l2:
        pass
    paths = denials(l1)
    tap.result('Debian\'s profile refuses to execute QEMU',
               missing('\n'.join(l2.errors), [f'{QEMU}: Permission denied']) +
               ([f'{paths}'] if paths != {QEMU} else []))
    load(l1, 'program')
    tap.result('it refuses hugetlb=on', must_refuse(
        l1, HUGE, ['hugetlb=on', 'Permission denied', 'security policy']))
    denials(l1)
    load(l1, 'start')
    with L2(l1, HUGE) as l2:
        says = l2.qmp.command('query-guest-memfd')[0]
    tap.result('QEMU does not know how pages are restructured',
               [f'{says}'] if 'restructure' in says else [])
    for what, config, words in REFUSED:
        tap.result(f'it refuses {what}', must_refuse(l1, config, words))
    load(l1, 'complain')
    denials(l1)
    with L2(l1, HUGE_WITH_DEVICE):
        pass
    with takes_mounts(l1), L2(l1, MOUNTED):
        pass
    must_refuse(l1, NO_SIZE, [])
    paths |= denials(l1)
    tap.result('each line is needed', unneeded(lines, paths))
    tap.result('no line is missing', unknown(lines, paths))


def in_huge_pages(l1, l2):
    """Problems unless memory of huge pages has been converted."""
    says = l2.qmp.command('query-guest-memfd')[0]
    return [f'{says}'] if says['provider'] != 'hugetlb' or \
        says.get('restructure') != SCHEME[l1.platform] or \
        not says['to-private']['requests'] else []


def runs(l1, tap):
    """A guest with DMA, which converts."""
    config = HUGE_WITH_DEVICE
    with L2(l1, config, config.guest) as l2:
        _summary, problems = l2.run_until_pause()
        tap.result('the guest verified DMA', problems)
        if problems:
            return
        tap.result('it has converted', in_huge_pages(l1, l2))
        tap.result('its device has the shared pages', iommu.compare_pages(
            iommu.READ[l1.platform](l1, EDU), query_map(l2.qmp, 'm0'), config.ram))
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def starts(l1, tap, server):
    """QEMU has the pages of a mount, and a server maps them."""
    with takes_mounts(l1), L2(l1, MOUNTED) as l2:
        l2.qmp.command('x-guest-memfd-convert', id='m0', offset=16 * MIB, size=PAGE,
                       private=True)
        tap.result('QEMU has converted pages of the mount', in_huge_pages(l1, l2))
        tap.result('the server has the shared pages', iommu.compare_pages(
            server.maps(), query_map(l2.qmp, 'm0'), MOUNTED.ram))


def daemon(l1, tap):
    """libvirtd may ask QEMU what it can do."""
    for name, wanted in (('daemon-none', 126), ('daemon-all', 0)):
        load(l1, name)
        code, lines = l1.shell(f"sh -c '{confined(DAEMON, QEMU)} -version' 2>&1")
        tap.result(f'{name}: QEMU ends with {wanted}',
                   [f'{code}: {lines}'] if code != wanted else [])


def profiles(l1, tap, _config):
    """Both profiles, as Debian has them, and with the lines of the manual."""
    lines = manual_lines()[DOMAIN]
    with contextlib.ExitStack() as stack:
        stack.callback(l1.shell, '; '.join(CLEANUP))
        limit_huge_pages(l1)
        for command in SETUP:
            l1.run(command)
        stack.enter_context(setting(l1, RATE, 0))
        l1.run('dmesg -c >/dev/null')
        server = Server(l1, SOCKET)
        stack.callback(server.kill)
        needed(l1, tap, lines)
        load(l1, 'all')
        runs(l1, tap)
        starts(l1, tap, server)
        tap.result('with the lines QEMU is refused nothing', sorted(denials(l1)))
        daemon(l1, tap)


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == CONFINES:
        yield 'AppArmor, the lines of the manual', profiles, None
