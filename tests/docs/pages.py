# SPDX-License-Identifier: GPL-2.0-or-later
"""The literal blocks of a page, and what is said of them.

A comment before a block says what it is: ".. example: KIND NAME", or in
Markdown "<!-- example: KIND NAME -->".  See check-docs.py for the kinds.
"""

import re
import textwrap
from collections import namedtuple

Block = namedtuple('Block', 'kind name text where')

MARK = re.compile(r'\s*(?:\.\.|<!--) example: (\w+)(?: (\w\S*))?(?: -->)?$')
LITERAL = re.compile(r'``(.+?)``', re.DOTALL)


def _indent(line):
    return len(line) - len(line.lstrip())


def _literal(lines, start, parent):
    """The indented block after a paragraph, and where it ends."""
    end = start
    while end < len(lines) and (not lines[end].strip() or
                                _indent(lines[end]) > parent):
        end += 1
    return textwrap.dedent('\n'.join(lines[start:end])).strip('\n'), end


def _fenced(lines, start):
    end = start
    while not lines[end].startswith('```'):
        end += 1
    return '\n'.join(lines[start:end]), end + 1


def blocks(path):
    """All literal blocks of a page; kind and name are None without a mark."""
    lines = path.read_text().splitlines()
    mark, number = (None, None), 0
    while number < len(lines):
        line = lines[number]
        number += 1
        found = MARK.match(line)
        text = None
        if found:
            assert mark == (None, None), 'two marks before line %d' % number
            mark = found.groups()
        elif path.suffix == '.md' and line.startswith('```'):
            where = number
            text, number = _fenced(lines, number)
        elif path.suffix == '.rst' and line.endswith('::') and \
                not line.startswith('.. '):
            where = number
            text, number = _literal(lines, number, _indent(line))
        if text is not None:
            yield Block(*mark, text, '%s:%d' % (path.name, where))
            mark = (None, None)
    assert mark == (None, None), 'a mark without a block: %s' % (mark,)


def prose(path):
    """The page without its literal blocks."""
    text = path.read_text()
    for block in blocks(path):
        for line in block.text.splitlines():
            text = text.replace(line, '', 1) if line.strip() else text
    return text


def literals(text):
    """All that is between double backticks, on one line each."""
    return [' '.join(found.replace('\\*', '*').split())
            for found in LITERAL.findall(text)]


def section(path, title):
    """The text below a heading, up to the next one of its kind; None if the
    page has no such heading."""
    found = re.search(r'^%s\n([-~=])\1+\n(.*?)(?=^\S[^\n]*\n\1\1\1+\n|\Z)'
                      % re.escape(title), path.read_text(),
                      re.DOTALL | re.MULTILINE)
    return found and found.group(2)


def terms(text, indent=0):
    """The literals in the terms of a definition list."""
    found = re.findall(r'^ {%d}(``.*)\n {%d}\S' % (indent, indent + 2), text,
                       re.MULTILINE)
    return [name for term in found for name in literals(term)]


def first_cells(text):
    """The literals in the first cell of each row of list-tables."""
    return [name for cell in re.findall(r'^   \* - (.*(?:\n {7}.*)*)', text,
                                        re.MULTILINE)
            for name in literals(cell)]
