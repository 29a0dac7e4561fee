# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory a VM in L2 holds, and where."""

import copy

from lib.units import MIB
from rig.lib.checks import (GROUPS, limit_huge_pages, memory_used,
                            memory_used_by_nodes, must_refuse)
from rig.lib.l1 import L2, SCHEMES
from rig.lib.configurations import (EMULATED, IN_PLACE, PAGES_2M, PROTECTED, SHARED,
                                    TWO_COPY, Config)

ROUNDS = 3
# Of the VM's size, with room for what is not the guest's memory
MOST = 1.05
BASE_MIB, BOUNCE_MIB = 16, 46
NODE_1 = ',policy=bind,host-nodes=1'
BOUND = ',prealloc=on' + NODE_1

# (vm, KiB of one conversion, the least of its size). Half a huge page at a
# time: the other copy goes when both halves have gone. Huge pages that were
# preallocated would stay; without, what nobody touches is not there.
STEADY = (
    (Config('4K pages', TWO_COPY + ',prealloc=on', None, ram=64 * MIB,
            **PROTECTED), 2048, 0.98),
    (Config('2M pages', TWO_COPY + ',reserve=off' + PAGES_2M, None, ram=64 * MIB,
            **PROTECTED), 1024, BOUNCE_MIB / 64),
)
PREALLOCATED = (
    Config('shared', TWO_COPY + BOUND, None, **PROTECTED),
    Config('shared 2M pages', TWO_COPY + BOUND + PAGES_2M, None, **PROTECTED),
    Config('mapped guest_memfd', SHARED + BOUND, None, conv='none'),
    Config('private', TWO_COPY.replace('shared', 'private') + BOUND, None,
           **PROTECTED),
)
# Without prealloc, it is the DMA mapping that allocates what is shared.
MAPPED = (
    Config('iommufd', EMULATED + PAGES_2M + NODE_1, 'iommufd', ram=64 * MIB),
    Config('type1', EMULATED + PAGES_2M + NODE_1, 'type1', ram=64 * MIB),
    Config('iommufd, two copies', TWO_COPY.replace('shared', 'private') +
           PAGES_2M + NODE_1, 'iommufd', ram=64 * MIB, **PROTECTED),
)
GROUP = f'{GROUPS}/vm'
# Of a memfd and of a guest_memfd: what is preallocated, or only reserved
IN_GROUP = {
    'intel': [Config(name, EMULATED + PAGES_2M + more, None, ram=64 * MIB)
              for name, more in (('preallocated', ',prealloc=on'),
                                 ('reserved', ''))],
    SCHEMES[-1]: [Config('in place', IN_PLACE + PAGES_2M, None, ram=64 * MIB,
                         **PROTECTED)],
}
NO_LOG = {
    'intel': Config('two copies', TWO_COPY, None, ram=64 * MIB, **PROTECTED),
    'in-place': Config('in place', IN_PLACE, None, ram=64 * MIB, **PROTECTED),
}


def steady(l1, tap, rounds):
    """Both copies of a page are never there for long."""
    config, chunk, least = rounds
    before = memory_used(l1)
    words = (f'conv={config.conv} base={BASE_MIB} area={BOUNCE_MIB} '
             f'rounds={ROUNDS} chunk={chunk} touch=1 pause=1')
    ratios = []
    with L2(l1, config, words) as l2:
        problems = []
        while len(ratios) < 2 * ROUNDS and not problems:
            problems = l2.run_until_pause()[1]
            ratios.append((memory_used(l1) - before) / config.ram)
            l1.release()
        problems = problems or l2.bad_end()
    tap.result(f'the guest wrote to all of its memory {2 * ROUNDS} times',
               problems)
    tap.result(f'{min(ratios):.3f} to {max(ratios):.3f} of its size is held',
               [f'expected {least} to {MOST}']
               if min(ratios) < least or max(ratios) > MOST else [])
    left = memory_used(l1) - before
    tap.result('nothing is held after its end',
               [f'{left} bytes'] if left > MIB else [])


def preallocated(l1, tap, config):
    """All memory is there from the start, on the node that was requested."""
    before = memory_used_by_nodes(l1)
    with L2(l1, config) as l2:
        says = l2.qmp.command('query-memdev')[0]['prealloc']
        there = [now - was for now, was in zip(memory_used_by_nodes(l1), before)]
    wrong = abs(there[1] - config.ram) > MIB * 4 or there[0] > MIB * 4
    tap.result('the memory is there, on node 1',
               [f'bytes on nodes 0 and 1: {there}'] if wrong else [])
    tap.result('query-memdev says so', [] if says else ['prealloc: false'])


def mapped(l1, tap, config):
    """What is mapped for DMA comes from the node that was asked for."""
    before = memory_used_by_nodes(l1)
    with L2(l1, config) as l2:
        l2.qmp.command('x-guest-memfd-convert', id='m0', offset=16 * MIB,
                       size=32 * MIB, private=False)
        there = [now - was for now, was in zip(memory_used_by_nodes(l1), before)]
    wrong = abs(there[1] - 32 * MIB) > MIB * 4 or abs(there[0]) > MIB * 4
    tap.result('shared memory is on node 1',
               [f'bytes on nodes 0 and 1: {there}'] if wrong else [])


def no_dirty_log(l1, tap, config):
    """KVM has none of memory that can be private: a request for it is not an error."""
    words = f'conv={config.conv} base={BASE_MIB} area={BOUNCE_MIB} ' \
        'rounds=1 pause=1'
    with L2(l1, config, words) as l2:
        problems = l2.run_until_pause()[1]
        l2.qmp.command('calc-dirty-rate', mode='dirty-bitmap',
                       **{'calc-time': 1})
        while l2.qmp.command('query-dirty-rate')['status'] != 'measured':
            pass
        l1.release()
        problems = problems or l2.run_until_pause()[1]
        l1.release()
        tap.result('the VM goes on', problems or l2.bad_end())


def with_limit(config, counter, pages):
    """The same vm in a group below GROUP, which may have so many huge pages."""
    clone = copy.copy(config)
    clone.prefix = ['sh', '-c', f'echo {pages * 2 * MIB} '
                    f'>{GROUP}/hugetlb.2MB.{counter} && '
                    f'echo 0 >{GROUP}/below/cgroup.procs && exec "$@"', 'sh']
    return clone


def control_group(l1, tap, config):
    """A VM whose control group allows fewer huge pages than it needs."""
    limit_huge_pages(l1)
    l1.run(f'mkdir {GROUP} && echo +hugetlb >{GROUP}/cgroup.subtree_control && '
           f'mkdir {GROUP}/below')
    for counter in ('rsvd.max', 'max'):
        tap.result(f'too low: {counter}', must_refuse(
            l1, with_limit(config, counter, 31), [
                'not enough huge pages of 2 MiB in the control group of QEMU: 32 '
                'needed, 31 free, limit 31;',
                f'raise {GROUP}/hugetlb.2MB.{counter}, or']))
        with L2(l1, with_limit(config, counter, 32)):
            charged = int(l1.run(f'cat {GROUP}/hugetlb.2MB.rsvd.current')[0])
        tap.result(f'enough: {counter}', [] if charged == config.ram else
                   [f'{charged} bytes are charged'])
    l1.run(f'rmdir {GROUP}/below {GROUP}')


def scenarios(platform):
    """(name, function, configuration)"""
    if platform in NO_LOG:
        yield f'dirty log, {NO_LOG[platform].name}', no_dirty_log, NO_LOG[platform]
    for config in IN_GROUP.get(platform, ()):
        yield f'control group, {config.name}', control_group, config
    if platform != 'intel':
        return
    for rounds in STEADY:
        yield f'steady memory, {rounds[0].name}', steady, rounds
    for config in PREALLOCATED:
        yield f'preallocated, {config.name}', preallocated, config
    for config in MAPPED:
        yield f'mapped huge pages, {config.name}', mapped, config
