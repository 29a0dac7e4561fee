# SPDX-License-Identifier: GPL-2.0-or-later
"""What several scenarios query, and compare."""

import contextlib
import time

from lib.dma_map import query_map
from lib.error import HarnessError
from lib.guest import PAUSED, key_values
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from rig.lib import iommu
from rig.lib.l1 import EDU, L2

LISTENER = {'iommufd': 'vfio-iommu-iommufd', 'type1': 'vfio-iommu-legacy',
            'user': 'vfio-iommu-user'}
GROUPS = '/sys/fs/cgroup'


class VM:
    """A running L2: the map of a block is compared with the IOMMU.

    The block has @size bytes, and starts at guest physical address @base.
    """

    def __init__(self, l1, l2, config, block='m0', base=0, size=0):
        self._l1 = l1
        self._block = block
        self.base = base
        self._size = size or config.ram
        self.l2 = l2
        self.pid = l1.run('pidof qemu')[0]

    def convert(self, offset, size, private):
        """None, or what QEMU answered to a conversion that failed."""
        try:
            self.l2.qmp.command('x-guest-memfd-convert', id=self._block,
                                offset=offset, size=size, private=private)
        except QmpError as err:
            return str(err)
        return None

    def runs(self):
        """The map."""
        return query_map(self.l2.qmp, self._block)

    def problems(self, runs=None):
        """Not exactly the shared pages are in the IOMMU; @runs: the map."""
        # first, as this waits for a reset that was requested
        runs = runs or self.runs()
        return iommu.compare_pages(iommu.READ[self._l1.platform](self._l1, EDU),
                                   runs, self._size, self.base)

    def attempt(self, offset, size, private):
        """Convert: what QEMU answered, problems of either outcome."""
        before = self.runs()
        answer = self.convert(offset, size, private)
        runs = self.runs()
        problems = self.problems(runs)
        if answer and runs != before:
            problems.append(f'refused, but the map has changed: {answer}')
        elif not answer and not covers(runs, offset, size, private):
            problems.append('granted, but the map does not say so')
        return answer, problems

    def said(self):
        """The messages of QEMU up to now."""
        return '\n'.join(self._l1.run('cat /tmp/l2.log'))


def covers(runs, offset, size, private):
    """A range is in one state."""
    return any(run['private'] == private and run['offset'] <= offset and
               offset + size <= run['offset'] + run['size'] for run in runs)


def missing(text, words):
    """Problems if words are not in a text."""
    lost = [word for word in words if word not in (text or '')]
    return [f'{lost} not in: {text}'] if lost else []


def refused(l1, config, words):
    """Problems if QEMU ends with other words than these; None if it starts."""
    l2 = L2(l1, config)
    try:
        with l2:
            return None
    except HarnessError:
        text = '\n'.join(l2.errors)
    return [f'exit code {l2.exit_code}: {text}'] if l2.exit_code != 1 \
        else missing(text, words)


def run_batch(l1):
    """Read what the guest says up to its pause: its figures, seconds, problems."""
    end, seconds, said = {}, 0, []
    while not said or said[-1] != PAUSED:
        said.append(l1.console.readline().rstrip('\r\n'))
        if said[-1].startswith('FAIL') or l1.console.ended:
            return end, seconds, said[-10:]
        if said[-1].startswith('begin '):
            start = time.monotonic()
        elif said[-1].startswith('end '):
            seconds = time.monotonic() - start
            end = key_values(said[-1])
    return end, seconds, []


def differences(figures):
    """Problems of (what, what it is, what it has to be)."""
    return [f'{what}: {have}, expected {wanted}'
            for what, have, wanted in figures if have != wanted]


def other_figures(summary, wanted):
    """Problems if the figures of a guest's summary are others."""
    return differences((key, summary.get(key), value)
                       for key, value in wanted.items())


def states_agree(l1, l2, config, shared_pages, area):
    """Problems if guest, QEMU and IOMMU differ.

    So many pages are shared of the @area bytes that the guest converts.
    """
    block = l2.qmp.command('query-guest-memfd')[0]
    return (VM(l1, l2, config).problems() if config.vfio else []) + differences([
        ('bytes shared', block['shared-bytes'],
         config.ram - area + shared_pages * PAGE)])


def agree(l1, l2, config, end, area):
    """The same, with what was requested.

    @end: figures of a guest that keeps what it did, and has made no bad request
    """
    block = l2.qmp.command('query-guest-memfd')[0]

    def both(name):
        return block['to-shared'][name] + block['to-private'][name]

    return states_agree(l1, l2, config, end['shared-pages'], area) + differences([
        ('requests', both('requests'), end['conversions']),
        ('failures', both('failures'), 0)])


def failed_conversions(l2):
    """The reasons that events gave."""
    return [event['data']['error'] for event in l2.qmp.events
            if event['event'] == 'GUEST_MEMFD_CONVERSION_FAILED']


def must_refuse(l1, config, words):
    """Problems unless QEMU ends with these words."""
    problems = refused(l1, config, words)
    return ['it was not refused'] if problems is None else problems


def not_possible(l1, tap, config_and_words):
    """A VM that is refused at the start, with the reason."""
    tap.result('refused with the reason', must_refuse(l1, *config_and_words))


@contextlib.contextmanager
def setting(l1, path, value):
    """A file of L1's kernel has another value, and its own one again afterwards."""
    before = l1.run(f'cat {path}')[0]
    l1.run(f'echo {value} >{path}')
    try:
        yield
    finally:
        l1.run(f'echo {before} >{path}')


def takes_mounts(l1):
    """L1's kernel takes the mount that a guest_memfd's pages are from, not their size."""
    return setting(l1, '/sys/module/kvm/parameters/gmem_resource', 'Y')


def limit_huge_pages(l1):
    """Control groups of L1, in GROUPS, can have limits of huge pages from now on."""
    l1.run(f'grep -q " {GROUPS} " /proc/mounts || mount -t cgroup2 none {GROUPS}')
    l1.run(f'echo +hugetlb >{GROUPS}/cgroup.subtree_control')


def listeners(vm):
    """What QEMU says of each, by name."""
    block = vm.l2.qmp.command('query-guest-memfd')[0]
    return {listener['name']: listener for listener in block['listeners']}


def del_device(vm, kind):
    """Take "dev" away: it has gone when nothing of its kind is mapped."""
    vm.l2.qmp.command('device_del', id='dev')
    while any(name.startswith(LISTENER[kind]) for name in listeners(vm)):
        pass


def memory_used_by_nodes(l1, pools=True):
    """Bytes of files and huge pages: guests' memory is all of these.

    @pools: not if all pages that are taken from pools are in a guest_memfd, where
    they are pages of a file
    """
    nodes = []
    for node in range(2):
        path = f'/sys/devices/system/node/node{node}'
        info = dict(line.split(':', 1) for line in l1.run(
            f'cut -d" " -f3- {path}/meminfo'))
        total, free = (int(l1.run(
            f'cat {path}/hugepages/hugepages-2048kB/{name}_hugepages')[0])
            for name in ('nr', 'free'))
        nodes.append(int(info['FilePages'].split()[0]) * 1024 +
                     (total - free) * 2 * MIB * pools)
    return nodes


def memory_used(l1, pools=True):
    """The same of all of L1."""
    return sum(memory_used_by_nodes(l1, pools))
