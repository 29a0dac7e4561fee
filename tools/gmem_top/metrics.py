# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a VM as OpenMetrics text, without the map.

node_exporter's textfile collector reads it, too: no timestamps, no types that
are not those of Prometheus, and "# EOF" is a comment there.
"""

from .model import DIRECTION, DIRECTIONS, HUGE_PAGE, LISTENER

PREFIX = 'guest_memfd_'
START = f'# TYPE {PREFIX}'.encode()     # of what text() returns
STATES = HUGE_PAGE[1:]
INFO = ('driver', 'provider', 'conversion', 'init', 'restructure')
# (member of a block, what it is)
SIZES = (
    ('size', 'Size of the block.'),
    ('page-size', 'Size of the pages that back its shared memory.'),
    ('shared-bytes', 'Memory that is shared now.'),
    ('private-bytes', 'Memory that is private now.'),
    ('metadata-bytes', 'What QEMU has allocated to remember all states.'),
    ('vmemmap-bytes', 'What the kernel pays to describe split huge pages.'))
CONVERSIONS = dict(zip(DIRECTION, (
    'Conversions that were requested.',
    'Memory that changed its state.',
    'Requests that failed.',
    'Steps that were repeated because a page was in use.',
    'Failures that had to undo steps.')))
LISTENERS = dict(zip(LISTENER, (
    'DMA mappings that a listener holds.',
    'Memory that a listener has mapped.',
    'Requests to map.',
    'Requests to unmap.',
    'Mappings that became smaller ones.')))
GAUGES = ('extents', 'mapped-bytes')


def escape(text):
    """A value of a label."""
    return text.replace('\\', r'\\').replace('"', r'\"').replace('\n', r'\n')


class Text:
    """Families of metrics as lines."""

    def __init__(self):
        self.lines = []

    def family(self, name, what, samples, counter=False):
        """All samples of one metric: (labels, value)."""
        name = PREFIX + name.replace('-', '_')
        if name.endswith('_bytes'):
            self.lines.append(f'# UNIT {name} bytes')
        self.lines += [f'# TYPE {name} {"counter" if counter else "gauge"}',
                       f'# HELP {name} {what}']
        for labels, value in samples:
            shown = ','.join(f'{key}="{escape(str(text))}"'
                             for key, text in labels.items())
            self.lines.append(f'{name}{"_total" if counter else ""}'
                              f'{{{shown}}} {value}')


def listeners(block):
    """(labels, listener): several can have one name."""
    seen = {}
    for item in block.info['listeners']:
        number = seen[item['name']] = seen.get(item['name'], -1) + 1
        yield {'listener': item['name'], 'number': number}, item


def text(vm, blocks, source):
    """Everything about some blocks.  SOURCE is the label of a VM without a
    name."""
    out = Text()
    name = {'vm': vm.name or source}
    blocks = [({**name, 'block': block.name}, block) for block in blocks]
    out.family('vm_info', 'A VM that answers, and the version of its QEMU.',
               [({**name, 'version': vm.version}, 1)])
    out.family('block_info', 'How a block is converted.', [
        ({**labels, **{key: block.info.get(key, '') for key in INFO}}, 1)
        for labels, block in blocks])
    for key, what in SIZES:
        out.family(key if key.endswith('-bytes') else f'{key}-bytes', what,
                   [(labels, block.info[key]) for labels, block in blocks
                    if key in block.info])
    for key, what in CONVERSIONS.items():
        out.family(f'conversion_{key}', what, [
            ({**labels, 'direction': way}, block.info[way][key])
            for labels, block in blocks for way in DIRECTIONS], counter=True)
    out.family('huge_pages', 'Huge pages by size and state.', [
        ({**labels, 'size': page['size'], 'state': state}, page[state])
        for labels, block in blocks for page in block.info['huge-pages']
        for state in STATES])
    for key, what in LISTENERS.items():
        out.family(f'listener_{key}', what, [
            ({**labels, **which}, item[key]) for labels, block in blocks
            for which, item in listeners(block)], counter=key not in GAUGES)
    return '\n'.join(out.lines) + '\n# EOF\n'
