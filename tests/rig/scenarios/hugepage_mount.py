# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs whose memory comes from where a mounted filesystem has its pages.

For an L1 whose kernel has a switch for this interface (tests/rig/kernel), which is
on for as long as such a VM starts.
"""

import contextlib

from lib.units import MIB
from rig.lib.checks import VM, must_refuse, takes_mounts
from rig.lib.configurations import IN_PLACE, PAGES_2M, PROTECTED, Config
from rig.lib.l1 import L2, SCHEMES

RAM = 64 * MIB
MOUNT = '/tmp/pages'
HUGETLBFS = '-t hugetlbfs -o pagesize=2M,size=64M'
TMPFS = '-t tmpfs -o size=0,huge=always'


def backed_by(resource, name='', more='', **kwargs):
    """A VM with an option x-resource."""
    return Config(name, f'{IN_PLACE},x-resource={resource}{more}', 'iommufd', ram=RAM,
                  **{**PROTECTED, **kwargs})


# What is mounted, of which provider that is, and how QEMU gets it
RUNS = (
    (HUGETLBFS, 'hugetlb', backed_by(MOUNT, 'hugetlbfs', ',prealloc=on')),
    (HUGETLBFS, 'hugetlb',
     backed_by('/dev/fdset/3', 'hugetlbfs, file descriptor', prefix=[
         'sh', '-c', f'exec "$@" 9<{MOUNT}', 'sh'],
         extra=PROTECTED['extra'] + ['-add-fd', 'fd=9,set=3'])),
    (TMPFS, 'thp', backed_by(MOUNT, 'tmpfs')),
)
# What is mounted, the options of the memory, and what QEMU says
REFUSED = (
    ('-t hugetlbfs -o pagesize=2M,size=32M', backed_by(MOUNT, 'a limit'),
     ('cannot create a guest_memfd of 32 huge pages of 2 MiB', 'the mount')),
    ('-t hugetlbfs -o pagesize=2M,min_size=2M', backed_by(MOUNT, 'a reservation'),
     ('leave out min_size=',)),
    ('-t tmpfs', backed_by(MOUNT, 'a tmpfs with a limit'), ('size=0',)),
    (TMPFS, backed_by(MOUNT + '/sub', 'not a root'),
     ('not the root directory of a mount',)),
    (HUGETLBFS, backed_by(MOUNT, 'another page size', ',hugetlbsize=1G'),
     ('hugetlbsize=1073741824 contradicts', 'of 2 MiB')),
    (HUGETLBFS, Config('a pool by its page size', IN_PLACE + PAGES_2M, None, ram=RAM,
                       **PROTECTED), ('use x-resource=DIR',)),
)


@contextlib.contextmanager
def mounted(l1, what):
    """A filesystem is mounted; what is mounted there at the end goes."""
    l1.run(f'mkdir -p {MOUNT} && mount {what} none {MOUNT} && mkdir {MOUNT}/sub')
    try:
        yield
    finally:
        l1.run(f'! grep -q {MOUNT} /proc/mounts || umount {MOUNT}')


def runs(l1, tap, row):
    """A guest with DMA; the mount may go while it runs."""
    what, provider, config = row
    with mounted(l1, what), contextlib.ExitStack() as stack:
        with takes_mounts(l1):
            l2 = stack.enter_context(L2(l1, config, config.guest))
        _summary, problems = l2.run_until_pause()
        tap.result('the guest verified DMA', problems)
        if problems:
            return
        tap.result('QEMU and the IOMMU agree', VM(l1, l2, config).problems())
        have = l2.qmp.command('query-guest-memfd')[0]['provider']
        tap.result(f'its provider: {provider}', [have] if have != provider else [])
        if not config.prefix:
            l1.run(f'umount {MOUNT}')
        l1.release()
        tap.result('QEMU ended well', l2.bad_end())


def refusals(l1, tap, _config):
    """What the kernel or QEMU does not take"""
    for what, config, words in REFUSED:
        with mounted(l1, what), takes_mounts(l1):
            tap.result(config.name, must_refuse(l1, config, words))
    with mounted(l1, HUGETLBFS):
        tap.result('a kernel with page sizes', must_refuse(
            l1, RUNS[0][-1], ['use hugetlb=on,hugetlbsize=']))


def scenarios(platform):
    """(name, function, configuration)"""
    if platform != SCHEMES[-1]:
        return
    for row in RUNS:
        yield f'huge pages of a mount, {row[-1].name}', runs, row
    yield 'huge pages of a mount, refused', refusals, None
