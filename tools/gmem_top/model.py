# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a VM's memory: checked, bounded, without any I/O."""

import collections

from gmem.command import GmemError

UNKNOWN, SHARED, PRIVATE = 0, 1, 2
MIXED = SHARED | PRIVATE
STATES = ('unknown', 'shared', 'private', 'mixed')

MIB = 1 << 20
MAX_CELLS = 1 << 20
MAX_SIZE = (1 << 64) - 1
NAME_LENGTH = 64

DIRECTIONS = ('to-private', 'to-shared')
DIRECTION = ('requests', 'bytes', 'failures', 'retries', 'rollbacks')
HUGE_PAGE = ('size', 'shared', 'private', 'mixed')
LISTENER = ('extents', 'mapped-bytes', 'map-calls', 'unmap-calls', 'splits')
SIZES = ('size', 'page-size', 'shared-bytes', 'private-bytes',
         'metadata-bytes')
NAMES = ('provider', 'driver', 'conversion', 'init')


class BadReply(GmemError):
    """The other side is not a QEMU that we know."""


def printable(text, length=4 * NAME_LENGTH):
    """Text from elsewhere, without anything that a terminal would obey."""
    text = ''.join(c if ' ' <= c <= '~' else '?' for c in text)
    return text if len(text) <= length else text[:length - 1] + '~'


def member(thing, key, kind):
    """A member of an answer, which must be of just this type."""
    value = thing.get(key) if isinstance(thing, dict) else None
    # isinstance() would take true for a number
    if type(value) is not kind or kind is int and not 0 <= value <= MAX_SIZE:
        raise BadReply(f"bad answer from QEMU: no valid '{key}'")
    return value


def numbers(thing, keys):
    """These members, all numbers."""
    return {key: member(thing, key, int) for key in keys}


def clean(info):
    """A GuestMemfdInfo with just what we know."""
    block = {'id': member(info, 'id', str)}
    block.update(numbers(info, SIZES))
    block.update((key, printable(member(info, key, str), NAME_LENGTH))
                 for key in NAMES)
    block['mapped'] = member(info, 'mapped', bool)
    if 'vmemmap-bytes' in info:
        block.update(numbers(info, ['vmemmap-bytes']))
    if 'restructure' in info:
        block['restructure'] = printable(member(info, 'restructure', str),
                                         NAME_LENGTH)
    for direction in DIRECTIONS:
        block[direction] = numbers(member(info, direction, dict), DIRECTION)
    block['huge-pages'] = [numbers(page, HUGE_PAGE)
                           for page in member(info, 'huge-pages', list)]
    block['listeners'] = []
    for listener in member(info, 'listeners', list):
        name = printable(member(listener, 'name', str), NAME_LENGTH)
        block['listeners'].append({'name': name,
                                   **numbers(listener, LISTENER)})
    if not block['size']:
        raise BadReply("bad answer from QEMU: no valid 'size'")
    return block


class Map:
    """The state of each cell of a block, a huge page or more.

    It is read in passes, each of several answers; a pass replaces what the
    one before it has found.
    """

    def __init__(self, size, cell):
        self.size = size
        self.cell = cell
        while -(-size // self.cell) > MAX_CELLS:
            self.cell *= 2
        self.states = bytearray(-(-size // self.cell))
        self.position = 0           # where the pass goes on
        self.passes = 0             # those that are complete
        self._old = collections.deque()     # (end, when it was read)
        self._new = collections.deque()     # the same of this pass

    def _paint(self, start, end, state):
        """A run; a cell that began with another one becomes mixed."""
        first, last = start // self.cell, (end - 1) // self.cell
        if start % self.cell:
            self.states[first] |= state
        else:
            self.states[first] = state
        self.states[first + 1:last + 1] = bytes([state]) * (last - first)

    def add(self, answer, now):
        """The next answer; whether the pass is complete."""
        position = self.position
        for run in member(answer, 'runs', list):
            size = member(run, 'size', int)
            if member(run, 'offset', int) != position or \
                    not 0 < size <= self.size - position:
                raise BadReply('bad answer from QEMU: the map has gaps')
            private = member(run, 'private', bool)
            self._paint(position, position + size,
                        PRIVATE if private else SHARED)
            position += size
        end = self.size
        if 'next-offset' in answer:
            end = member(answer, 'next-offset', int)
        if position != end or position == self.position:
            raise BadReply('bad answer from QEMU: the map has gaps')
        self._new.append((position, now))
        while self._old and self._old[0][0] <= position:
            self._old.popleft()
        self.position = position
        self.passes += position == self.size
        return position == self.size

    def restart(self):
        """Begin a pass."""
        if self.passes:
            self._old = self._new
            self._new = collections.deque()
        self.position = 0

    def known(self):
        """How much of the block has been read, 0 to 1."""
        return 1 if self.passes else self.position / self.size

    def read_at(self):
        """When the oldest part was read; None if nothing was."""
        ages = self._old or self._new
        return ages[0][1] if ages else None

    def cells(self, cell):
        """The states of larger cells; what is not known does not count."""
        step = cell // self.cell
        if step == 1:
            return bytes(self.states)
        found = bytearray()
        for start in range(0, len(self.states), step):
            part = self.states[start:start + step]
            state = MIXED if MIXED in part else 0
            state |= (SHARED in part) * SHARED | (PRIVATE in part) * PRIVATE
            found.append(state)
        return bytes(found)

    def runs(self):
        """[(offset, size, state)]: neighbours of the same state are one."""
        found, start = [], 0
        while start < len(self.states):
            state = self.states[start]
            rest = self.states[start:].lstrip(bytes([state]))
            end = len(self.states) - len(rest)
            found.append((start * self.cell, min(end * self.cell, self.size)
                          - start * self.cell, state))
            start = end
        return found


class Block:
    """A block of memory: what QEMU says, the rates, and the map."""

    def __init__(self, info):
        self.info = info
        self.id = info['id']
        self.name = printable(self.id, NAME_LENGTH)
        self.rates = {}             # (part, counter): per second
        self._time = None
        pages = [page['size'] for page in info['huge-pages']
                 if page['size'] >= 1 << 16
                 and not page['size'] & (page['size'] - 1)]
        self.map = Map(info['size'], min(pages, default=2 * MIB))
        self._mapped = None         # what the last pass has seen

    def _counters(self):
        """All that only grows."""
        parts = [(key, self.info[key]) for key in DIRECTIONS]
        parts += enumerate(self.info['listeners'])
        return {(part, key): value for part, counters in parts
                for key, value in counters.items() if key != 'name'}

    def update(self, info, now):
        """A new answer; False if it is of another block of this name."""
        old, before = self._counters(), self._time
        if any(info[key] != self.info[key] for key in ('size',) + NAMES):
            return False
        same = [x['name'] for x in info['listeners']] == \
            [x['name'] for x in self.info['listeners']]
        self.info, self._time, self.rates = info, now, {}
        for key, value in self._counters().items():
            direction = isinstance(key[0], str)
            if direction and value < old[key]:
                return False
            if before is not None and now > before and (direction or same):
                self.rates[key] = max(value - old[key], 0) / (now - before)
        return True

    def _signature(self):
        """Changes whenever the map may have changed."""
        info = self.info
        return (info['shared-bytes'], *(info[d][key] for d in DIRECTIONS
                                        for key in ('bytes', 'failures')))

    def begin_pass(self):
        """Whether there is something new to read."""
        if self.map.position not in (0, self.map.size):
            return True             # it goes on
        if self.current():
            return False
        self._mapped = self._signature()
        self.map.restart()
        return True

    def current(self):
        """Whether the map is as old as what else is shown."""
        return bool(self.map.passes) and \
            self.map.position == self.map.size and \
            self._mapped == self._signature()

    def failures(self):
        """Conversions that failed."""
        return sum(self.info[d]['failures'] for d in DIRECTIONS)


class VM:
    """All blocks, in QEMU's order."""

    def __init__(self, name=''):
        self.name = printable(name, NAME_LENGTH)
        self.version = ''
        self.blocks = None          # None: not queried yet
        self.failure = ''           # the last one that QEMU reported

    def update(self, answer, now):
        """An answer of query-guest-memfd."""
        if not isinstance(answer, list):
            raise BadReply('bad answer from QEMU: no list of blocks')
        old = {block.id: block for block in self.blocks or ()}
        self.blocks = []
        for info in map(clean, answer):
            block = old.pop(info['id'], None)
            if block is None or not block.update(info, now):
                block = Block(info)
                block.update(info, now)
            self.blocks.append(block)
        if len({block.id for block in self.blocks}) != len(self.blocks):
            raise BadReply('bad answer from QEMU: two blocks of one name')

    def event(self, event, clock):
        """Remember failures."""
        data = event.get('data')
        if event.get('event') != 'GUEST_MEMFD_CONVERSION_FAILED':
            return
        name = printable(member(data, 'id', str), NAME_LENGTH)
        state = 'private' if member(data, 'private', bool) else 'shared'
        self.failure = (f"{clock} {name} to {state}: "
                        f"{printable(member(data, 'error', str))} (offset "
                        f"{member(data, 'offset', int):#x}, size "
                        f"{member(data, 'size', int):#x})")
