# SPDX-License-Identifier: GPL-2.0-or-later
"""Edit a domain XML in place: every byte that is not edited stays as it is.

expat says where the elements are; an edit splices bytes and parses again.
Only UTF-8 (which is what libvirt writes) without a DTD.
"""

import re
import xml.parsers.expat

QEMU_NS = 'http://libvirt.org/schemas/domain/qemu/1.0'
BLANKS = b' \t\r\n'
LARGEST = 4 << 20          # of what libvirt takes


class XmlError(Exception):
    """A document that cannot be edited, and why."""


class Element:
    """A tag and where it is; start:end is all of it, inner:inner_end between.

    Names are local ones, or {namespace}local as in ElementTree.
    """

    def __init__(self, name, tag, attrs, parent, start, inner):
        self.name, self.tag, self.attrs = name, tag, attrs
        self.parent, self.children, self.pieces = parent, [], []
        self.start, self.inner = start, inner
        self.inner_end = self.end = inner
        self.empty_tag = False          # <like this/>

    @property
    def text(self):
        """Its own text, without that of the elements in it."""
        return ''.join(self.pieces)

    def all(self, path):
        """All elements at a path of names below this one."""
        found = [self]
        for name in path:
            found = [child for element in found for child in element.children
                     if child.name == name]
        return found

    def find(self, *path):
        """The first of them, or None."""
        return next(iter(self.all(path)), None)

    def get(self, name, default=None):
        """An attribute."""
        return self.attrs.get(name, default)


class _Builder:
    """Makes Elements of what expat reports."""

    def __init__(self, data):
        self.data, self.root, self.open = data, None, None
        self.parser = xml.parsers.expat.ParserCreate(namespace_separator=' ')
        self.parser.namespace_prefixes = True
        self.parser.XmlDeclHandler = self.declaration
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.StartElementHandler = self.begin
        self.parser.EndElementHandler = self.finish
        self.parser.CharacterDataHandler = self.characters

    def declaration(self, _version, encoding, _standalone):
        """<?xml ...?>"""
        if encoding and encoding.lower() not in ('utf-8', 'us-ascii'):
            raise XmlError(f'the encoding is {encoding}; write it as UTF-8')

    def doctype(self, *_args):
        """<!DOCTYPE ...>: entities could grow without bound."""
        raise XmlError('it has a DOCTYPE, which no domain needs; take it out')

    def begin(self, name, attrs):
        """A start tag; expat says where, but not where it ends."""
        start = self.parser.CurrentByteIndex
        tag = re.compile(rb'<([^\s/>]+)(?:[^\'">]|\'[^\']*\'|"[^"]*")*>')
        match = tag.match(self.data, start)
        words = name.split(' ')
        name = words[0] if len(words) == 1 else f'{{{words[0]}}}{words[1]}'
        element = Element(name, match.group(1).decode(), attrs, self.open,
                          start, match.end())
        element.empty_tag = match.group().endswith(b'/>')
        if self.open:
            self.open.children.append(element)
        else:
            self.root = element
        self.open = element

    def finish(self, _name):
        """An end tag."""
        element = self.open
        if not element.empty_tag:
            element.inner_end = self.parser.CurrentByteIndex
            element.end = self.data.index(b'>', element.inner_end) + 1
        self.open = element.parent

    def characters(self, text):
        """Text of the innermost open element."""
        self.open.pieces.append(text)


def attribute(text):
    """As it is written between single quotes."""
    for char, name in (('&', '&amp;'), ('<', '&lt;'), ("'", '&apos;'),
                       ('\t', '&#9;'), ('\n', '&#10;'), ('\r', '&#13;')):
        text = text.replace(char, name)
    return text


def content(text):
    """As it is written between tags."""
    for char, name in (('&', '&amp;'), ('<', '&lt;'), ('>', '&gt;'),
                       ('\r', '&#13;')):
        text = text.replace(char, name)
    return text


class DomainXml:
    """A document and its edits."""

    def __init__(self, data):
        self.data = data
        self.root = None
        self._parse()

    def _parse(self):
        if len(self.data) > LARGEST:
            raise XmlError(f'it is larger than {LARGEST >> 20} MiB')
        builder = _Builder(self.data)
        try:
            self.data.decode('utf-8')
            builder.parser.Parse(self.data, True)
        except UnicodeDecodeError as err:
            raise XmlError(f'it is not UTF-8 at byte {err.start}') from err
        except xml.parsers.expat.ExpatError as err:
            raise XmlError(f'it is no XML: {err}') from err
        self.root = builder.root

    def _splice(self, start, end, text):
        if isinstance(text, str):
            text = text.encode()
        self.data = self.data[:start] + text + self.data[end:]
        self._parse()

    def _indent(self, element):
        """The blanks before an element, if it is the first of its line."""
        line = self.data.rfind(b'\n', 0, element.start) + 1
        before = self.data[line:element.start].decode()
        return '' if before.strip() else before

    def insert(self, parent, lines, after=None):
        """Add lines of XML at the end of an element, or after a child."""
        eol = '\r\n' if b'\r\n' in self.data else '\n'
        outer = self._indent(parent)
        inner = self._indent(parent.children[0]) if parent.children else ''
        inner = inner or outer + '  '
        text = ''.join(eol + inner + line for line in lines)
        if parent.empty_tag:
            self._splice(parent.end - 2, parent.end,
                         f'>{text}{eol}{outer}</{parent.tag}>')
            return
        if after is None and parent.children:
            after = parent.children[-1]
        where = after.end if after else parent.inner
        self._splice(where, where, text)

    def remove(self, element):
        """Take out an element and the blanks before it."""
        start = element.start
        while start > element.parent.inner and \
                self.data[start - 1] in BLANKS:
            start -= 1
        self._splice(start, element.end, b'')

    def collapse(self, element):
        """Write an element that holds only blanks as <an empty tag/>."""
        if not self.data[element.inner:element.inner_end].strip(BLANKS):
            self._splice(element.inner - 1, element.end, b'/>')

    def take_out(self, element):
        """Take out an element and whatever is before it up to its sibling.

        Returns the name of that sibling and what was taken out.
        """
        siblings = element.parent.children
        index = siblings.index(element)
        before = siblings[index - 1] if index else None
        start = before.end if before else element.parent.inner
        raw = self.data[start:element.end].decode()
        self._splice(start, element.end, b'')
        return before.name if before else '', raw

    def put_back(self, parent, after, raw):
        """The reverse of it; parent is a name below the root."""
        element = self.root.find(parent)
        if not element:
            self.insert(self.root, [f'<{parent}/>'])
            element = self.root.find(parent)
        if element.empty_tag:
            self._splice(element.end - 2, element.end,
                         f'>{raw}</{element.tag}>')
            return
        sibling = element.find(after) if after else None
        where = sibling.end if sibling else element.inner
        self._splice(where, where, raw)

    def inside(self, element):
        """What is between the tags, as it is written."""
        return self.data[element.inner:element.inner_end].decode()

    def set_inside(self, element, raw):
        """Replace it."""
        if element.empty_tag:
            self._splice(element.end - 2, element.end,
                         f'>{raw}</{element.tag}>')
        else:
            self._splice(element.inner, element.inner_end, raw)
