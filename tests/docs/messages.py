# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a message can come from the sources.

A message is made of the format strings of the sources: what stands for %s is
short, the text of an errno, or a message itself; another one may follow in
brackets or after a colon.
"""

import ast
import os
import re

import pages

# Where the messages of QEMU's own come from
QEMU_DIRS = ('accel/kvm', 'backends', 'block', 'dump', 'hw/core', 'hw/mem',
             'hw/vfio', 'hw/vfio-user', 'hw/virtio', 'include/qapi',
             'migration', 'monitor', 'qapi', 'qom', 'system', 'target/i386',
             'util')
OURS = ('accel', 'backends', 'hw', 'include', 'system', 'target')

TOKEN = re.compile(r'"((?:[^"\\\n]|\\.)*)"|/\*.*?\*/|//[^\n]*|\b([A-Z_]\w*)\b'
                   r"|'(?:[^'\\\n]|\\.)+'|\s+|\\\n|.", re.DOTALL)
CONVERSION = re.compile(r'%(?:%|[-+ #0]*[\d.*]*(?:hh?|ll?|z|t|j)?'
                        r'([a-zA-Z]))|\0')
NUMBER = r'(?:0x)?(?:[0-9a-f]+|N|\.\.\.)'
FEW_WORDS = 4
LIBVIRT_SAYS = 'failed to connect to monitor socket'
LEAST = 8       # characters of text that a format must have
ERRNOS = {os.strerror(number) for number in range(1, 134)} | {'REASON', '...'}
PREFIX = re.compile(r'(?:error: internal error: .*\.\.\. )?'
                    r'(?:qemu-system-x86_64: |gmem-xml: )?'
                    r'(?:warning: |error: )?')


def c_formats(text):
    """String literals, joined with their neighbours; a macro between two is
    a conversion."""
    parts = []
    for found in TOKEN.finditer(text):
        string, name = found.groups()
        if string is not None:
            parts.append(re.sub(r'\\(.)', r'\1', string.replace('\\n', '')))
        elif name and parts and re.match(r'(PRI|HWADDR_PRI)', name):
            parts.append('d')           # "0x%" PRIx64: the % is there
        elif name and name.isupper():
            parts.append('\0')
        elif not found.group(0).isspace() and \
                not found.group(0).startswith(('/*', '//', '\\')):
            if parts:
                yield ''.join(parts)
            parts = []


def python_formats(text):
    """The same of Python, whose f-strings have \\0 for their values."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r'\{.*?\}', '\0', node.value)
        elif isinstance(node, ast.JoinedStr):
            yield ''.join(part.value if isinstance(part, ast.Constant) else
                          '\0' for part in node.values)


class Format:
    """A format string as a regular expression."""

    def __init__(self, text):
        text = re.sub(r'^(error|warning|%s|\0): |%s(?=%s)', '', text.lstrip())
        if text.startswith('(') and text.endswith(')'):
            text = text[1:-1]
        parts = CONVERSION.split(text)      # plain, kind, plain, ...
        self.literal = max(parts[::2], key=len)
        self._first = parts[0]
        self._parts = [re.escape(part or '') for part in parts]
        for number, found in enumerate(CONVERSION.finditer(text)):
            self._parts[2 * number + 1] = \
                '%' if found.group(0) == '%%' else \
                '(.+?)' if found.group(1) in (None, 's') else NUMBER
        if self._parts[:1] == [''] and len(parts) > 1:
            self._parts[1] += '?' * (self._parts[1] == '(.+?)')
        pattern = ''.join(self._parts)
        if pattern.endswith('(.+?)'):
            # A remedy may be there or not.
            pattern = pattern.removesuffix('?)') + ')?'
        elif parts[-1].endswith(': '):
            pattern += '(.+)'
        else:
            pattern += r'(?:: (.+)| (\(.+\)))?'
        self._pattern = re.compile(r'(?:[\w.-]+: )?' + pattern, re.DOTALL)

    def parts(self, text):
        """What a message has beyond this; None if it is no such message."""
        found = self.literal in text and self._pattern.fullmatch(text)
        return [part for part in found.groups() if part] if found else None

    def begins(self, text):
        """Whether the text ends where this has its first, second... value."""
        if len(text) < LEAST or len(self._first) < LEAST:
            return False
        return self._first.startswith(text) or \
            text.startswith(self._first) and any(
                re.fullmatch(''.join(self._parts[:end]), text, re.DOTALL)
                for end in range(1, len(self._parts), 2))


class Messages:
    """All format strings of the repository, and those of QEMU."""

    def __init__(self, top, tree):
        texts = set()
        for name in OURS:
            for suffix in ('c', 'h'):
                for path in (top / name).rglob('*.' + suffix):
                    texts.update(c_formats(path.read_text()))
        for path in top.glob('patches/*.patch'):
            added = re.sub(r'^[+ ]', '', path.read_text(), flags=re.MULTILINE)
            texts.update(c_formats(added))
        for path in [*top.glob('scripts/*.py'), *top.glob('tools/*/*.py')]:
            texts.update(python_formats(path.read_text()))
        ours = {path.name for path in top.rglob('*.c')
                if 'build' not in path.relative_to(top).parts}
        for name in QEMU_DIRS:
            for path in (tree / name).rglob('*.[ch]'):
                if path.name not in ours:
                    texts.update(c_formats(path.read_text(errors='replace')))
        self._formats = [each for each in map(Format, texts)
                         if len(each.literal) >= LEAST and ' ' in each.literal]

    def known(self, text, depth=4):
        """Whether this can be a message, or a part of one."""
        text = text.strip()
        for reason in ERRNOS:
            if text.startswith(reason):
                text = text[len(reason):].strip()
        if text.startswith('(') and text.endswith((')', '...')):
            text = text[1:].removesuffix(')')
        if not text.strip('.: '):
            return True
        if text.startswith('--'):       # gmem-xml: option, reason, remedy
            return all(self._part(part, depth)
                       for part in re.split(': |; ', text.rstrip('.')))
        for each in self._formats if depth else ():
            parts = each.parts(text)
            if parts is not None and all(self._part(part, depth)
                                         for part in parts):
                return True
            if text.endswith('...') and each.begins(text[:-3]) or \
                    text.endswith(':') and each.begins(text + ' '):
                return True
        return False

    def _part(self, text, depth):
        return len(text.split()) <= FEW_WORDS or self.known(text, depth - 1)


def quoted(page):
    """The messages that a page of the manual quotes: unmarked blocks, the first
    column of "Troubleshooting", and what is long in the text and no command."""
    for block in pages.blocks(page):
        if not block.kind:
            for line in block.text.splitlines():
                if line.strip():
                    yield PREFIX.sub('', line.strip(), count=1)
    yield from pages.first_cells(pages.section(page, 'Troubleshooting') or '')
    for text in pages.literals(pages.prose(page)):
        if len(text.split()) >= FEW_WORDS and \
                not text.startswith(('-', 'EDITOR=')) and text != LIBVIRT_SAYS:
            yield text
