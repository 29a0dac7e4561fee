# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of build/qemu, linked again with some of their objects compiled anew.

A second configuration of QEMU costs more than a thousand compilations, however
little is switched on.  A variant compiles the objects that matter once more,
with other flags, and takes all others from build/qemu, which must be complete.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import repo_files

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / 'build'
QEMU = BUILD / 'qemu'
SRC = BUILD / 'src'

LINKERS = ('c_LINKER', 'c_LINKER_RSP')
ARCHIVERS = ('STATIC_LINKER', 'STATIC_LINKER_RSP')


class VariantError(Exception):
    """A failure that one sentence explains."""


class Edge:
    """One way to link, as QEMU's build.ninja has it."""

    def __init__(self, rule, inputs):
        self.rule = rule
        self.inputs = inputs
        self.variables = {'ARGS': '', 'LINK_ARGS': ''}


def unescaped(word):
    """A path or text of build.ninja as it is meant."""
    return re.sub(r'\$(.)', r'\1', word)


def escaped(word):
    """A path as build.ninja wants it."""
    return re.sub(r'([$ :])', r'$\1', str(word))


def read_edges(qemu=QEMU):
    """{output: Edge} of all programs and libraries."""
    edges, current = {}, None
    with open(qemu / 'build.ninja', encoding='utf-8') as lines:
        for line in lines:
            if line.startswith(' '):
                if current:
                    name, _, value = line.strip().partition(' = ')
                    current.variables[name] = value
                continue
            current = None
            match = re.match(r'build ((?:[^ :$|]|\$.)+)[^:]*: (\w+) ?(.*)',
                             line)
            if match and match.group(2) in LINKERS + ARCHIVERS + ('SHSYM',):
                words = re.findall(r'(?:[^ $]|\$.)+', match.group(3))
                explicit = []
                for word in words:
                    if word.startswith('|'):
                        break
                    explicit.append(unescaped(word))
                current = Edge(match.group(2), explicit)
                edges[unescaped(match.group(1))] = current
    return edges


def read_commands(qemu=QEMU):
    """{object: its entry of compile_commands.json}."""
    entries = json.loads((qemu / 'compile_commands.json').read_text())
    return {entry['output']: entry for entry in entries}


def source(entry, qemu=QEMU):
    """The file that an entry compiles, relative to QEMU's tree, or None."""
    path = os.path.normpath(qemu / entry['file'])
    top = str(SRC) + '/'
    return path[len(top):] if path.startswith(top) else None


def own_files(repo=TOP):
    """What the repository has for QEMU's tree: its files, what it patches."""
    patched = set()
    for patch in (repo / 'patches').glob('*.patch'):
        patched.update(re.findall(r'^\+\+\+ b/(\S+)', patch.read_text(), re.M))
    return set(repo_files.overlay(repo)), patched


def test_programs(kind):
    """The project's test programs of a kind ("unit", "qtest"), of build/qemu."""
    done = subprocess.run([TOP / 'scripts/build-qemu.sh', 'tests'], check=True,
                          stdout=subprocess.PIPE, universal_newlines=True)
    return [name for name in done.stdout.split()
            if name.startswith('tests/%s/' % kind)]


class Variant:
    """A directory beside build/qemu, laid out like it."""

    def __init__(self, name, flags, link_flags='', build=BUILD):
        self.name = name
        self.dir = build / name
        self.qemu = build / 'qemu'
        self.flags = flags
        self.link_flags = link_flags
        self.edges = read_edges(self.qemu)
        self.commands = read_commands(self.qemu)
        self.chosen = set()         # objects that are compiled anew
        self.replaced = {}          # text of commands: what stands there here
        self.targets = {}           # what is linked here, and how

    def ours(self, path):
        """The path of PATH in this directory, seen from build/qemu."""
        return os.path.join('..', self.name, path)

    def choose(self, predicate):
        """Compile anew each object whose source PREDICATE wants."""
        for name, entry in self.commands.items():
            path = source(entry, self.qemu)
            if path and predicate(path):
                self.chosen.add(name)

    def choose_all_of(self, program):
        """Compile anew all that is linked into PROGRAM, and was compiled."""
        edge = self.edge(program)
        args = [unescaped(word) for word in
                shlex.split(edge.variables['LINK_ARGS'])]
        done = subprocess.run(
            ['gcc', '-m64', '-Wl,--trace', '-o', os.devnull, *edge.inputs,
             *args], cwd=self.qemu, check=False, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)
        if done.returncode:
            raise VariantError('%s cannot be linked again: %s'
                               % (program, done.stderr.strip()))
        for line in done.stdout.splitlines():
            # "libx.a(member.o)" in a thin archive: "(libx.a)libx.a.p/member.o"
            name = re.sub(r'^\([^)]*\)', '', line.strip())
            name = os.path.relpath(self.qemu / name, self.qemu)
            if name in self.commands:
                self.chosen.add(name)

    def edge(self, program):
        """How PROGRAM is linked."""
        if program not in self.edges:
            raise VariantError('build/qemu has no program %s: run make build.'
                               % program)
        return self.edges[program]

    def part(self, name):
        """What takes the place of an input: itself, or something of ours."""
        if name in self.chosen:
            return [self.ours(name)]
        edge = self.edges.get(name)
        if not edge or edge.rule == 'SHSYM':
            return [name]
        parts = [part for each in edge.inputs for part in self.part(each)]
        if parts == edge.inputs:
            return [name]
        if edge.rule in ARCHIVERS:
            self.targets[name] = (edge.rule, parts, [], edge.variables)
            return [self.ours(name)]
        return parts                # of a shared library: its objects

    def link(self, program):
        """Have PROGRAM here."""
        edge = self.edge(program)
        parts = [part for each in edge.inputs for part in self.part(each)]
        words, implicit = [], []
        for word in edge.variables['LINK_ARGS'].split(' '):
            if word in self.edges:
                implicit += self.part(word)
                words += self.part(word)
            else:
                words.append(word)
        variables = dict(edge.variables, LINK_ARGS=' '.join(
            [*words, self.link_flags]))
        self.targets[program] = (edge.rule, parts, implicit, variables)

    def compile_command(self, name):
        """How an object is compiled here."""
        command = self.commands[name]['command']
        for old, new in self.replaced.items():
            command = command.replace(old, new)
        words = shlex.split(command)
        for flag in ('-MQ', '-MF', '-o'):
            at = words.index(flag) + 1
            words[at] = self.ours(words[at])
        at = words.index('-c')
        words[at:at] = self.flags.split()
        return ' '.join(shlex.quote(word) for word in words).replace('$', '$$')

    def ninja(self):
        """The text of build.ninja."""
        rules = subprocess.run(
            ['sed', '-n', r'/^rule \(c_LINKER\|STATIC_LINKER\)/,/^$/p',
             'build.ninja'], cwd=self.qemu, check=True,
            stdout=subprocess.PIPE, universal_newlines=True).stdout
        text = ['builddir = ../%s' % self.name,
                'rule compile', ' command = $command', ' deps = gcc',
                ' depfile = $out.d', ' description = %s: $out' % self.name, '',
                rules]
        used = set()
        for name, (rule, parts, implicit, variables) in self.targets.items():
            used.update(parts, implicit)
            text += ['build %s: %s %s | %s' % (
                escaped(self.ours(name)), rule, ' '.join(map(escaped, parts)),
                ' '.join(map(escaped, implicit)))]
            text += [' %s = %s' % item for item in variables.items()]
        for name in sorted(self.chosen):
            if self.ours(name) in used:
                source_file = self.commands[name]['file']
                for old, new in self.replaced.items():
                    source_file = source_file.replace(old, new)
                text += ['build %s: compile %s' % (
                    escaped(self.ours(name)), escaped(source_file)),
                    ' command = ' + self.compile_command(name)]
        return '\n'.join(text) + '\n'

    def write(self):
        """Bring build.ninja up to date."""
        self.dir.mkdir(exist_ok=True)
        path, text = self.dir / 'build.ninja', self.ninja()
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)

    def make(self, programs=()):
        """Compile and link; what the compiler says is in the exception."""
        done = subprocess.run(
            ['ninja', '-f', self.ours('build.ninja'), '--quiet',
             *(['-j', os.environ['JOBS']] if os.environ.get('JOBS') else []),
             *map(self.ours, programs)],
            cwd=self.qemu, check=False, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            raise VariantError('compiling build/%s failed:\n%s'
                               % (self.name, done.stdout.strip()))
