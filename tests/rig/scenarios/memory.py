# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory a machine in L2 holds, and where."""

from lib.units import MIB
from rig.lib.checks import memory_used, memory_used_by_nodes
from rig.lib.l1 import L2
from rig.lib.machines import (EMULATED, IN_PLACE, PAGES_2M, PROTECTED, SHARED,
                              TWO_COPY, Row)

ROUNDS = 3
# Of the machine's size, with room for what is not the guest's memory
MOST = 1.05
BASE_MIB, WINDOW_MIB = 16, 46
NODE_1 = ',policy=bind,host-nodes=1'
BOUND = ',prealloc=on' + NODE_1

# (machine, KiB of one conversion, the least of its size). Half a huge page at a
# time: the other copy goes when both halves have gone. Huge pages that were
# preallocated would stay; without, what nobody touches is not there.
STEADY = (
    (Row('4K pages', TWO_COPY + ',prealloc=on', None, ram=64 * MIB,
         **PROTECTED), 2048, 0.98),
    (Row('2M pages', TWO_COPY + ',reserve=off' + PAGES_2M, None, ram=64 * MIB,
         **PROTECTED), 1024, WINDOW_MIB / 64),
)
PREALLOCATED = (
    Row('shared', TWO_COPY + BOUND, None, **PROTECTED),
    Row('shared 2M pages', TWO_COPY + BOUND + PAGES_2M, None, **PROTECTED),
    Row('mapped guest_memfd', SHARED + BOUND, None, conv='none'),
    Row('private', TWO_COPY.replace('shared', 'private') + BOUND, None,
        **PROTECTED),
)
# Without prealloc, it is the DMA mapping that allocates what is shared.
MAPPED = (
    Row('iommufd', EMULATED + PAGES_2M + NODE_1, 'iommufd', ram=64 * MIB),
    Row('type1', EMULATED + PAGES_2M + NODE_1, 'type1', ram=64 * MIB),
    Row('iommufd, two copies', TWO_COPY.replace('shared', 'private') +
        PAGES_2M + NODE_1, 'iommufd', ram=64 * MIB, **PROTECTED),
)
NO_LOG = {
    'intel': Row('two copies', TWO_COPY, None, ram=64 * MIB, **PROTECTED),
    'in-place': Row('in place', IN_PLACE, None, ram=64 * MIB, **PROTECTED),
}


def steady(l1, tap, rounds):
    """Both copies of a page are never there for long."""
    row, chunk, least = rounds
    before = memory_used(l1)
    words = (f'conv={row.conv} base={BASE_MIB} window={WINDOW_MIB} '
             f'rounds={ROUNDS} chunk={chunk} touch=1 pause=1')
    ratios = []
    with L2(l1, row, words) as l2:
        problems = []
        while len(ratios) < 2 * ROUNDS and not problems:
            problems = l2.run_until_hold()[1]
            ratios.append((memory_used(l1) - before) / row.ram)
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


def preallocated(l1, tap, row):
    """All memory is there from the start, on the node that was asked for."""
    before = memory_used_by_nodes(l1)
    with L2(l1, row) as l2:
        says = l2.qmp.command('query-memdev')[0]['prealloc']
        there = [now - was for now, was in zip(memory_used_by_nodes(l1), before)]
    wrong = abs(there[1] - row.ram) > MIB * 4 or there[0] > MIB * 4
    tap.result('the memory is there, on node 1',
               [f'bytes on nodes 0 and 1: {there}'] if wrong else [])
    tap.result('query-memdev says so', [] if says else ['prealloc: false'])


def mapped(l1, tap, row):
    """What is mapped for DMA comes from the node that was asked for."""
    before = memory_used_by_nodes(l1)
    with L2(l1, row) as l2:
        l2.qmp.command('x-guest-memfd-convert', id='m0', offset=16 * MIB,
                       size=32 * MIB, private=False)
        there = [now - was for now, was in zip(memory_used_by_nodes(l1), before)]
    wrong = abs(there[1] - 32 * MIB) > MIB * 4 or abs(there[0]) > MIB * 4
    tap.result('shared memory is on node 1',
               [f'bytes on nodes 0 and 1: {there}'] if wrong else [])


def no_dirty_log(l1, tap, row):
    """KVM has none of memory that can be private: to ask for it is no error."""
    words = f'conv={row.conv} base={BASE_MIB} window={WINDOW_MIB} ' \
        'rounds=1 pause=1'
    with L2(l1, row, words) as l2:
        problems = l2.run_until_hold()[1]
        l2.qmp.command('calc-dirty-rate', mode='dirty-bitmap',
                       **{'calc-time': 1})
        while l2.qmp.command('query-dirty-rate')['status'] != 'measured':
            pass
        l1.release()
        problems = problems or l2.run_until_hold()[1]
        l1.release()
        tap.result('the VM goes on', problems or l2.bad_end())


def scenarios(config):
    """(name, function, row)"""
    if config in NO_LOG:
        yield f'dirty log, {NO_LOG[config].name}', no_dirty_log, NO_LOG[config]
    if config != 'intel':
        return
    for rounds in STEADY:
        yield f'steady memory, {rounds[0].name}', steady, rounds
    for row in PREALLOCATED:
        yield f'preallocated, {row.name}', preallocated, row
    for row in MAPPED:
        yield f'mapped huge pages, {row.name}', mapped, row
