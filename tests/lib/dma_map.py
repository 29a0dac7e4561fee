# SPDX-License-Identifier: GPL-2.0-or-later
"""Which memory is shared, and what of it a device has mapped."""

from lib.error import HarnessError

# Between the end of base memory and 1 MiB: VGA, option ROMs, BIOS
LEGACY = (0xa0000, 0x100000)


def query_map(qmp, block, limit=None):
    """All runs of a block, asking for pages of @limit runs."""
    runs = []
    offset = 0
    while offset is not None:
        args = {'id': block, 'offset': offset}
        if limit:
            args['limit'] = limit
        answer = qmp.command('query-guest-memfd-map', **args)
        if limit and len(answer['runs']) > limit:
            raise HarnessError(f'asked for {limit} runs, got '
                               f"{len(answer['runs'])}")
        runs += answer['runs']
        following = answer.get('next-offset')
        if following is not None and following <= offset:
            raise HarnessError(f'next-offset {following} after {offset}')
        offset = following
    return merge_runs(runs)


def all_shared(size):
    """The map of memory that nobody converts."""
    return [{'offset': 0, 'size': size, 'private': False}]


def merge_runs(runs):
    """Join neighbours of one state: a page of an answer may end anywhere."""
    merged = []
    for run in runs:
        if (merged and merged[-1]['private'] == run['private'] and
                merged[-1]['offset'] + merged[-1]['size'] == run['offset']):
            merged[-1]['size'] += run['size']
        else:
            merged.append(dict(run))
    return merged


def cut(ranges, hole):
    """[(start, end)] without what lies in the hole."""
    for start, end in ranges:
        if start < hole[0]:
            yield start, min(end, hole[0])
        if end > hole[1]:
            yield max(start, hole[1]), end


def join(ranges):
    """Sorted [(start, end)] with touching neighbours joined."""
    joined = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if joined and start < joined[-1][1]:
            raise HarnessError(f'{start:#x} is there twice')
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def mapped_ranges(maps, ram):
    """What the server has mapped of guest RAM, as joined ranges."""
    return join(cut(((m.iova, min(m.iova + m.size, ram))
                     for m in maps if m.iova < ram), LEGACY))


def compare_maps(runs, maps, ram):
    """Problems (a list of sentences) if DMA mappings differ from the map.

    RAM below 4 GiB is where it is in the block; the legacy area below 1 MiB
    belongs to other memory as well and is left out.
    """
    problems = []
    end = 0
    for run in runs:
        if run['offset'] != end or run['size'] <= 0:
            problems.append(f"run at {run['offset']:#x} follows {end:#x}")
        end = run['offset'] + run['size']
    if end != ram:
        problems.append(f'runs end at {end:#x}, the block at {ram:#x}')

    shared = join(cut(((r['offset'], r['offset'] + r['size'])
                       for r in runs if not r['private']), LEGACY))
    mapped = mapped_ranges(maps, ram)
    for m in maps:
        if m.iova < ram and not LEGACY[0] <= m.iova < LEGACY[1]:
            if not m.fd:
                problems.append(f'{m.iova:#x} is mapped without memory')
            if m.prot != 'rw':
                problems.append(f'{m.iova:#x} is mapped {m.prot}')
    for start, end in sorted(set(mapped) - set(shared))[:5]:
        problems.append(f'mapped [{start:#x}, {end:#x}) is no shared run')
    for start, end in sorted(set(shared) - set(mapped))[:5]:
        problems.append(f'shared [{start:#x}, {end:#x}) is no mapped range')
    return problems
