# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of a domain as an ElementTree, and back in libvirt's own layout."""

import re
from xml.etree import ElementTree as ET

from gmem.command import GmemError

LARGEST = 4 << 20           # of what libvirt takes
DEEPEST = 256
XML_NS = 'http://www.w3.org/XML/1998/namespace'
# What libvirt escapes, and what libxml2 does, which writes <metadata>
LIBVIRT = str.maketrans({'&': '&amp;', '<': '&lt;', '>': '&gt;',
                         '"': '&quot;', "'": '&apos;', '\r': '&#13;',
                         '\n': '&#10;', '\t': '&#9;'})
LIBXML = {char: text for char, text in LIBVIRT.items() if char != ord("'")}
WHITE = {char: chr(char) for char in b'\n\t'}


class XmlError(GmemError):
    """A document that cannot be edited, and why."""


class _Builder(ET.TreeBuilder):
    """Keeps comments, and declarations of namespaces as attributes."""

    def __init__(self):
        super().__init__(insert_comments=True, insert_pis=True)
        self.depth, self.root, self.spaces = 0, None, {}
        self.before, self.after = [], []        # comments around the root

    def doctype(self, *_args):
        """<!DOCTYPE ...>: entities could grow without bound."""
        raise XmlError('it has a DOCTYPE, which a domain does not need; '
                       'take it out')

    def start_ns(self, prefix, uri):
        """A declaration of the element that starts next."""
        self.spaces['xmlns:' + prefix if prefix else 'xmlns'] = uri

    def start(self, tag, attrs):
        """Where libvirt and libxml2 write these declarations."""
        attrs = {**self.spaces, **attrs} if self.depth else \
            {**attrs, **self.spaces}
        self.spaces = {}
        self.depth += 1
        if self.depth > DEEPEST:
            raise XmlError(f'it has more than {DEEPEST} levels, which '
                           'libvirt does not read')
        element = super().start(tag, attrs)
        if self.root is None:
            self.root = element
        return element

    def end(self, tag):
        """The end of the innermost element."""
        self.depth -= 1
        return super().end(tag)

    def comment(self, text):
        """Of the element, or around the root, where ElementTree has none."""
        if not self.depth:
            (self.after if self.root is not None else self.before).append(
                ET.Comment(text))
        return super().comment(text)


class Document:
    """A document: its root, and what is around it."""

    def __init__(self, data):
        if len(data) > LARGEST:
            raise XmlError(f'it is larger than {LARGEST >> 20} MiB')
        try:
            text = data.decode('utf-8-sig')
        except UnicodeDecodeError as err:
            raise XmlError(f'it is not UTF-8 at byte {err.start}') from err
        said = re.match(r'<\?xml[^>]*?\sencoding\s*=\s*["\']([^"\']*)', text)
        if said and said.group(1).lower() not in ('utf-8', 'us-ascii'):
            raise XmlError(f'the encoding is {said.group(1)}; write it as '
                           'UTF-8')
        self._around = _Builder()
        parser = ET.XMLParser(target=self._around)
        try:
            parser.feed(text)
            self.root = parser.close()
        except ET.ParseError as err:
            raise XmlError(f'it is not XML: {err}') from err
        self._end = text[len(text.rstrip()):].replace('\r', '') or '\n'

    def __bytes__(self):
        parts = [*self._around.before, self.root, *self._around.after]
        lines = [_written(part, '', {'xml': XML_NS}) for part in parts]
        return ('\n'.join(lines) + self._end).encode()


def _name(tag, spaces):
    """{namespace}local with the innermost prefix that has this namespace."""
    if not tag.startswith('{'):
        return tag
    uri, _, local = tag[1:].partition('}')
    prefix = next(prefix for prefix in reversed(spaces)
                  if spaces[prefix] == uri)
    return f'{prefix}:{local}' if prefix else local


def _start(element, spaces, metadata):
    """Name and attributes of a tag."""
    prefixes = {prefix: uri for prefix, uri in spaces.items() if prefix}
    escapes, quote = (LIBXML, '"') if metadata else (LIBVIRT, "'")
    return ' '.join([_name(element.tag, spaces)] + [
        f'{_name(key, prefixes)}={quote}{value.translate(escapes)}{quote}'
        for key, value in element.items()])


def _written(element, indent, spaces, metadata=False):
    """An element, and all in it, as text."""
    if element.tag is ET.Comment:
        return f'<!--{element.text}-->'
    if element.tag is ET.PI:
        return f'<?{element.text}?>'
    new = {name[6:]: uri for name, uri in element.items()
           if name == 'xmlns' or name.startswith('xmlns:')}
    spaces = {**{prefix: uri for prefix, uri in spaces.items()
                 if prefix not in new}, **new}
    start = _start(element, spaces, metadata)
    escapes = {**(LIBXML if metadata else LIBVIRT), **WHITE}
    if metadata:
        del escapes[ord('"')]
    metadata = metadata or element.tag == 'metadata'
    texts = [element.text or ''] + [child.tail or '' for child in element]
    if len(element) and not any(map(str.strip, texts)):
        deeper = indent + '  '
        inside = ''.join('\n' + deeper +
                         _written(child, deeper, spaces, metadata)
                         for child in element) + '\n' + indent
    else:                               # blanks may mean something here
        inside = texts[0].translate(escapes) + ''.join(
            _written(child, indent, spaces, metadata) + text.translate(escapes)
            for child, text in zip(element, texts[1:]))
    if not inside:
        return f'<{start}/>'
    return f"<{start}>{inside}</{start.partition(' ')[0]}>"
