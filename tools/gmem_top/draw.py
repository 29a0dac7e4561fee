# SPDX-License-Identifier: GPL-2.0-or-later
"""Lay out what is known of a VM as lines of text.

A line is a list of (text, style); a style is a state of the map, 'title',
'chosen', 'bad' or ''.
"""

import time

from gmem.size import exact, rounded

from .model import DIRECTIONS, STATES

GLYPHS = {'utf-8': '?\u2591\u2588\u2592', 'ascii': '?.#+'}
LABEL = 10
SHORT = 24                  # narrower: no labels beside the map
NO_BLOCKS = 'this VM has no guest_memfd memory'


class View:
    """What the user has chosen."""

    def __init__(self):
        self.block = None           # its id
        self.zoom = 0               # powers of two, more: smaller cells
        self.scroll = 0             # rows of the map above the first shown
        self.page = 1               # rows that were shown

    def chosen(self, vm):
        """The index of the chosen block, which may be gone; None: none."""
        ids = [block.id for block in vm.blocks or ()]
        if self.block in ids:
            return ids.index(self.block)
        return 0 if ids else None

    def choose(self, vm, step):
        """Another block."""
        index = self.chosen(vm)
        if index is not None:
            self.block = vm.blocks[(index + step) % len(vm.blocks)].id
            self.zoom = self.scroll = 0


def text_of(line):
    """A line without its styles."""
    return ''.join(text for text, _ in line)


def cut(line, width):
    """The first WIDTH columns of a line."""
    found = []
    for text, style in line:
        if width <= 0:
            break
        found.append((text[:width], style))
        width -= len(text)
    return found


def table(rows, width, styles=()):
    """Align columns, the first to the left; leave out those that are too
    far to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    while len(widths) > 1 and sum(widths) + 2 * len(widths) - 2 > width:
        widths.pop()
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:])]
        style = styles[number] if number < len(styles) else ''
        lines.append([('  '.join(cells)[:width], style or
                       ('title' if not number else ''))])
    return lines


def rate(block, key, unit=str):
    """A rate, or nothing as long as there is none."""
    value = block.rates.get(key)
    return '-' if value is None else unit(round(value))


def blocks_table(vm, view, width, height):
    """One row for each block, as many as fit around the chosen one."""
    chosen = view.chosen(vm)
    first = max(0, min(chosen - height // 2, len(vm.blocks) - height))
    rows, styles = [('  block', 'size', 'shared', 'private', 'to private/s',
                     'to shared/s', 'failures', 'driver')], ['title']
    for number in range(first, min(first + height, len(vm.blocks))):
        block = vm.blocks[number]
        info = block.info
        rows.append((
            ('> ' if number == chosen else '  ') + block.name,
            rounded(info['size']), rounded(info['shared-bytes']),
            rounded(info['private-bytes']),
            rate(block, ('to-private', 'bytes'), rounded),
            rate(block, ('to-shared', 'bytes'), rounded),
            str(block.failures()), info['driver']))
        styles.append('bad' if block.failures() else
                      'chosen' if number == chosen else '')
    return table(rows, width, styles)


def details(block, width):
    """Conversions, huge pages, listeners: in the words of the monitor."""
    info = block.info
    rows = [('conversions', 'requests', '/s', 'bytes', '/s', 'failures',
             'retries', 'rollbacks')]
    styles = ['title']
    for key in DIRECTIONS:
        counters = info[key]
        rows.append((key.replace('-', ' '), str(counters['requests']),
                     rate(block, (key, 'requests')),
                     rounded(counters['bytes']),
                     rate(block, (key, 'bytes'), rounded),
                     str(counters['failures']), str(counters['retries']),
                     str(counters['rollbacks'])))
        styles.append('bad' if counters['failures'] else '')
    lines = table(rows, width, styles)

    rows = [('pages of', 'shared', 'private', 'mixed')]
    rows += [(rounded(page['size']), str(page['shared']), str(page['private']),
              str(page['mixed'])) for page in info['huge-pages']]
    lines += table(rows, width)

    rows = [('listener', 'extents', 'mapped', 'maps', '/s', 'unmaps', '/s',
             'splits', '/s')]
    for number, item in enumerate(info['listeners']):
        rows.append((item['name'], str(item['extents']),
                     rounded(item['mapped-bytes']), str(item['map-calls']),
                     rate(block, (number, 'map-calls')),
                     str(item['unmap-calls']),
                     rate(block, (number, 'unmap-calls')),
                     str(item['splits']), rate(block, (number, 'splits'))))
    if len(rows) == 1:
        return lines + [[('no listeners', 'title')]]
    return lines + table(rows, width)


def map_age(block, now):
    """How old the map is, or how much of it there is."""
    if not block.map.passes:
        return f'{int(100 * block.map.known())}% read'
    if block.current():
        return 'up to date'
    return f'read {max(now - block.map.read_at(), 0):.0f} s ago'


def geometry(block, width, height, zoom=0):
    """Columns and cell size with which the map fits, except for the ZOOM."""
    label = LABEL if width >= SHORT else 0
    columns = 1 << max(width - label, 1).bit_length() - 1
    cell = block.map.cell
    while -(-block.info['size'] // cell) > columns * max(height, 1):
        cell *= 2
    if zoom < 0:
        cell = min(cell << -zoom, 1 << (block.info['size'] - 1).bit_length())
    return columns, max(cell >> max(zoom, 0), block.map.cell), label


def map_lines(block, view, size, glyphs, now):
    """The title of the map, then as many rows as fit."""
    width, height = size
    columns, cell, label = geometry(block, width, height - 1, view.zoom)
    states = block.map.cells(cell)
    rows = -(-len(states) // columns)
    view.page = max(height - 1, 1)
    view.scroll = max(0, min(view.scroll, rows - height + 1))
    title = [(f'map: {rounded(cell)} per cell', 'title')]
    for state in (1, 2, 3):
        title += [('  ', ''), (glyphs[state], STATES[state]),
                  (f' {STATES[state]}', '')]
    title.append((f'  {map_age(block, now)}', ''))
    if rows > height - 1:
        title.append((f'  row {view.scroll + 1} of {rows}', ''))
    lines = [title]
    for row in range(view.scroll, min(rows, view.scroll + height - 1)):
        line = []
        if label:
            text = exact(row * columns * cell, columns * cell)
            line.append((text.rjust(label - 1)[:label - 1] + ' ', ''))
        part = states[row * columns:(row + 1) * columns]
        while part:
            rest = part.lstrip(part[:1])
            line.append((glyphs[part[0]] * (len(part) - len(rest)),
                         STATES[part[0]]))
            part = rest
        lines.append(line)
    return lines


def header(vm, source):
    """The first line."""
    name = f'  {vm.name}' if vm.name else ''
    return [(f'gmem-top{name}  {source}  QEMU {vm.version}  '
             f'{time.strftime("%H:%M:%S")}', 'title')]


def screen(vm, view, size, glyphs, now, source='', status=''):
    """As many lines as fit, never more than HEIGHT, none wider than WIDTH."""
    width, height = size
    foot = [[(status, 'bad')]] if status else []
    if vm.failure:
        foot.insert(0, [(f'failed: {vm.failure}', 'bad')])
    foot.append([('q quit  up/down block  +/- cells  PgUp/PgDn map', 'title')])
    head = [header(vm, source)]
    if not vm.blocks:
        text = NO_BLOCKS if vm.blocks is not None else 'waiting for QEMU'
        body = [[(text, '')]]
    else:
        block = vm.blocks[view.chosen(vm)]
        if height < 8:              # what says most is left
            head, foot = [], foot[:len(foot) - 1]
        blocks = blocks_table(vm, view, width, min(len(vm.blocks),
                                                   max(height // 4, 1)))
        if height < 8:
            blocks = blocks[1:]
        room = height - len(head) - len(blocks) - len(foot)
        columns, cell, _ = geometry(block, width, 1 << 20)
        wanted = 1 - (-block.info['size'] // (cell * columns))
        more = details(block, width)
        more = more[:max(room - min(wanted, max(room // 3, 9)), 0)]
        room -= len(more)
        body = blocks + more
        if room > 0:
            body += map_lines(block, view, (width, room), glyphs, now)
    lines = (head + body)[:max(height - len(foot), 0)]
    lines += [[]] * (height - len(foot) - len(lines))
    return [cut(line, width) for line in (lines + foot)[:height]]


def report(vm, blocks, width, glyphs, now, source):
    """Everything about some blocks, for --once."""
    lines = [header(vm, source)]
    for block in blocks:
        info = block.info
        view = View()
        lines += [[], [(f"{block.name}: {rounded(info['size'])} in pages of "
                        f"{rounded(info['page-size'])}, "
                        f"driver={info['driver']} "
                        f"conversion={info['conversion']} "
                        f"init={info['init']}", 'title')]]
        if not info['mapped']:
            lines += [[('mapped nowhere: no machine and no device has it', '')]]
        lines += [[(f"shared {rounded(info['shared-bytes'])}, "
                    f"private {rounded(info['private-bytes'])}, "
                    f"metadata {rounded(info['metadata-bytes'])}" +
                    (f", vmemmap {rounded(info['vmemmap-bytes'])}"
                     if 'vmemmap-bytes' in info else ''), '')]]
        if info['provider'] != 'pages':
            lines += [[(f"provider={info['provider']}" +
                        (f" restructure={info['restructure']}"
                         if 'restructure' in info else ''), '')]]
        lines += details(block, width)
        lines += map_lines(block, view, (width, 17), glyphs, now)
    return [cut(line, width) for line in lines]
