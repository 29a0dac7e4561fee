# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps of blocks as a picture: SVG, or PNG without any library."""

import struct
import zlib
from xml.sax.saxutils import escape

from gmem.size import exact, rounded

from . import font
from .model import STATES

# Told apart by the colour-blind too (Okabe and Ito); the first four are
# the states of the map.
COLOURS = ((187, 187, 187), (86, 180, 233), (213, 94, 0), (240, 228, 66),
           (255, 255, 255), (0, 0, 0))
BACKGROUND, INK = 4, 5

WIDTH = 1024                # of a map, at most
MAX_CELL = 24
MAX_CELLS = 1 << 16
MARGIN = 16
LABEL = 108
LINE = 24
SCALE = 2                   # of the font: 12 x 16 pixels
CHAR = (font.WIDTH + 1) * SCALE


class Picture:
    """Rectangles (x, y, width, height, colour) and texts (x, y, text)."""

    def __init__(self):
        self.width = self.height = 0
        self.rects = []
        self.texts = []

    def rect(self, *rect):
        """A rectangle; the picture grows with it."""
        self.rects.append(rect)
        x, y, width, height, _ = rect
        self.width = max(self.width, x + width + MARGIN)
        self.height = max(self.height, y + height + MARGIN)

    def text(self, x, y, text):
        """A line of text; Y is its top."""
        self.texts.append((x, y, text))
        self.width = max(self.width, x + CHAR * len(text) + MARGIN)
        self.height = max(self.height, y + font.HEIGHT * SCALE + MARGIN)

    def svg(self):
        """The picture as a document."""
        lines = ['<?xml version="1.0" encoding="UTF-8"?>',
                 '<svg xmlns="http://www.w3.org/2000/svg" '
                 f'width="{self.width}" height="{self.height}" '
                 f'viewBox="0 0 {self.width} {self.height}" '
                 'shape-rendering="crispEdges">',
                 '<rect width="100%" height="100%" fill="#ffffff"/>']
        for x, y, width, height, colour in self.rects:
            fill = '#%02x%02x%02x' % COLOURS[colour]
            lines.append(f'<rect x="{x}" y="{y}" width="{width}" '
                         f'height="{height}" fill="{fill}"/>')
        for x, y, text in self.texts:
            lines.append(f'<text x="{x}" y="{y + 7 * SCALE}" '
                         f'textLength="{len(text) * CHAR}" xml:space='
                         '"preserve" font-family="monospace" '
                         f'font-size="{CHAR * 5 // 3}">{escape(text)}</text>')
        return ('\n'.join(lines) + '\n</svg>\n').encode()

    def png(self):
        """The picture as a file, one byte for each pixel."""
        rows = [bytearray([BACKGROUND]) * self.width
                for _ in range(self.height)]
        for x, y, width, height, colour in self.rects:
            for row in rows[y:y + height]:
                row[x:x + width] = bytes([colour]) * width
        for x, y, text in self.texts:
            for dx, dy in font.pixels(text):
                left = x + dx * SCALE
                for row in rows[y + dy * SCALE:y + (dy + 1) * SCALE]:
                    row[left:left + SCALE] = bytes([INK]) * SCALE

        def chunk(name, data):
            """A chunk of a PNG file."""
            return (struct.pack('>I', len(data)) + name + data +
                    struct.pack('>I', zlib.crc32(name + data)))

        return (b'\x89PNG\r\n\x1a\n' +
                chunk(b'IHDR', struct.pack('>IIBBBBB', self.width,
                                           self.height, 8, 3, 0, 0, 0)) +
                chunk(b'PLTE', b''.join(map(bytes, COLOURS))) +
                chunk(b'IDAT', zlib.compress(b''.join(
                    b'\0' + bytes(row) for row in rows))) +
                chunk(b'IEND', b''))


def grid(block):
    """The size of a cell in bytes and in pixels, and how many columns."""
    cell = block.map.cell
    while -(-block.info['size'] // cell) > MAX_CELLS:
        cell *= 2
    columns = 1
    while columns * columns < -(-block.info['size'] // cell):
        columns *= 2
    return cell, min(MAX_CELL, WIDTH // columns), columns


def huge_pages(info):
    """A line about the huge pages that back a block, if any do: by state, and
    what the host's kernel pays for the broken ones, if QEMU knows."""
    return [f"pages of {rounded(page['size'])}: {page['shared']} shared, "
            f"{page['private']} private, {page['mixed']} mixed" +
            (f", vmemmap {rounded(info['vmemmap-bytes'])}"
             if 'vmemmap-bytes' in info else '')
            for page in info['huge-pages']
            if page['size'] == info['page-size']]


def draw_block(picture, block, top, when):
    """Title, legend and map of one block."""
    info = block.info
    cell, pixels, columns = grid(block)
    picture.text(MARGIN, top, f"{block.name}  {rounded(info['size'])}  {when}")
    picture.text(MARGIN, top + LINE,
                 f"shared {rounded(info['shared-bytes'])}, "
                 f"private {rounded(info['private-bytes'])}, "
                 f"{rounded(cell)} per cell")
    top += 2 * LINE
    for text in huge_pages(info):
        picture.text(MARGIN, top, text)
        top += LINE
    x = MARGIN
    for state in (1, 2, 3, 0):
        picture.rect(x, top, 16, 16, state)
        picture.text(x + 22, top, STATES[state])
        x += 22 + CHAR * (len(STATES[state]) + 2)

    top += LINE + 8
    gap = int(pixels >= 8)
    states = block.map.cells(cell)
    every = 1                       # rows for each label
    while every * pixels < LINE:
        every *= 2
    for row in range(-(-len(states) // columns)):
        y = top + row * pixels
        if row % every == 0:
            label = exact(row * columns * cell, columns * cell)
            picture.text(MARGIN + LABEL - 12 - CHAR * len(label),
                         y + max(pixels - 14, 0) // 2, label)
        part = states[row * columns:(row + 1) * columns]
        x = MARGIN + LABEL
        while part:
            count = 1 if gap else len(part) - len(part.lstrip(part[:1]))
            picture.rect(x, y, count * pixels - gap, pixels - gap, part[0])
            x += count * pixels
            part = part[count:]


def draw(blocks, when, name=''):
    """A picture of these blocks, one below the other."""
    picture = Picture()
    for block in blocks:
        draw_block(picture, block, picture.height or MARGIN,
                   f'{name}  {when}' if name else when)
    return picture
