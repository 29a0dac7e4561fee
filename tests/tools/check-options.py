#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""--help, the man pages and bash completion of the tools say the same.

Environment: QEMU_TREE.
"""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path


from lib import TOP, tap
from lib.scripts import write

TOOLS = TOP / 'tools'
PAGES = TOP / 'docs/tools'
TREE = Path(os.environ.get('QEMU_TREE', TOP / 'build/src'))
COMMANDS = {'gmem-top': ((),),
            'gmem-xml': ((), ('add',), ('remove',), ('onDefineDomain',))}
OPTION = re.compile(r'(?<![\w-])--?[a-z][\w-]*')
# Options of other programs, in examples
OTHERS = {'-qmp', '--inactive', '-L'}


def said(*args):
    """What a tool prints when it succeeds."""
    done = subprocess.run(
        [str(TOOLS / args[0]), *args[1:]], check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True,
        env={**os.environ, 'COLUMNS': '80', 'LC_ALL': 'C'})
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def options(*command):
    """{--option: (its values or '', what --help says of it)}"""
    text = said(*command, '--help')
    found = re.findall(r'^  (-\S+(?: \S+)*)(?: {2,}|\n {10,})'
                       r'(\S.*(?:\n {10,}\S.*)*)$', text, re.MULTILINE)
    shown = re.findall(r'^  (-.*)', text, re.MULTILINE)
    assert len(found) == len(shown), (shown, 'one has no help')
    assert len(found) >= 2, text
    return {name: (' '.join(each.split()[1:]), ' '.join(help_text.split()))
            for each, help_text in found
            for name in OPTION.findall(each)
            for each in [each.split(', ')[-1]]}


def all_options(tool):
    """Those of all its commands."""
    found = {}
    for command in COMMANDS[tool]:
        found.update(options(tool, *command))
    return found


def page(tool):
    """The options of a man page with their values; and its text."""
    text = (PAGES / f'{tool}.rst').read_text()
    found = {}
    for line in re.findall(r'^\.\. option:: (.*)', text, re.MULTILINE):
        for name in OPTION.findall(line):
            assert name not in found, f'{name} is there twice'
            found[name] = ' '.join(line.split(', ')[-1].split()[1:])
    return found, text


def completed(tool, *words):
    """What bash offers for the last of these words."""
    done = subprocess.run(
        ['bash', '-c', '. "$1"; shift; COMP_WORDS=("$@"); '
         'COMP_CWORD=$(($# - 1)); "_${1//-/_}"; '
         'printf "%s\\n" "${COMPREPLY[@]}"', 'bash',
         str(TOOLS / 'completion' / tool), tool, *words],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True)
    assert not done.stderr, done.stderr
    offered = done.stdout.split()
    assert len(offered) == len(set(offered)), offered
    return set(offered)


class Options(tap.TestCase):
    """What people and shells are told of options."""

    def test_the_man_pages_have_the_options_of_help(self):
        for tool in COMMANDS:
            here, there = all_options(tool), page(tool)[0]
            assert here.keys() == there.keys(), here.keys() ^ there.keys()
            for name, (values, _) in here.items():
                shown = values.strip('{}').replace(',', '|') \
                    if values.startswith('{') else values
                assert shown == there[name], (name, shown, there[name])

    def test_the_man_pages_name_no_other_options(self):
        for tool in COMMANDS:
            known = all_options(tool).keys() | OTHERS
            named = set(OPTION.findall(page(tool)[1]))
            assert named <= known, named - known

    def test_defaults_are_the_same(self):
        # A default that --help names is in the same entry of the man page
        number = 0
        for tool in COMMANDS:
            text = page(tool)[1]
            for name, (_, help_text) in all_options(tool).items():
                found = re.search(r'\(default: (\w+)\)', help_text)
                if found:
                    entry = re.search(rf'^\.\. option:: .*{name}\b.*\n+'
                                      r'((?:  .*\n|\n)*)', text, re.MULTILINE)
                    assert re.search(r'default is\s+(?:``)?' + found.group(1),
                                     entry.group(1)), name
                    number += 1
        assert number, 'no default was found'

    def test_completion_offers_the_options_of_help(self):
        for tool, commands in COMMANDS.items():
            for command in commands:
                wanted = options(tool, *command)
                offered = completed(tool, *command, '-')
                assert offered == wanted.keys(), offered ^ wanted.keys()
                one = sorted(wanted)[0]
                assert one in completed(tool, *command, one)

    def test_completion_offers_the_values_of_help(self):
        number = 0
        for tool, commands in COMMANDS.items():
            for command in commands:
                for name, (values, _) in options(tool, *command).items():
                    if values.startswith('{'):
                        offered = completed(tool, *command, name, '')
                        assert offered == set(values.strip('{}').split(',')), \
                            (name, offered)
                        number += 1
        assert number > 5, number

    def test_completion_offers_commands_and_files(self):
        (self.path / 'vm.xml').touch()
        (self.path / 'firmware').mkdir()
        here = f'{self.path}/'
        assert {'add', 'remove'} <= completed('gmem-xml', '')
        assert completed('gmem-xml', 're') == {'remove'}
        both = {here + 'vm.xml', here + 'firmware'}
        assert completed('gmem-xml', 'add', here) == both
        assert completed('gmem-xml', 'remove', '-i', here) == both
        assert completed('gmem-xml', 'add', '--firmware-dirs', here) == \
            {here + 'firmware'}
        assert completed('gmem-top', here) == both
        assert completed('gmem-top', '--svg', here) == both
        assert completed('gmem-top', '--block', here) == set()

    def test_bash_knows_the_completion(self):
        for tool in COMMANDS:
            done = subprocess.run(
                ['bash', '-c', '. "$1"; complete -p "$2"', 'bash',
                 str(TOOLS / 'completion' / tool), tool], check=True,
                stdout=subprocess.PIPE, universal_newlines=True)
            assert f'-F _{tool.replace("-", "_")} {tool}' in done.stdout

    def test_the_version_is_that_of_qemu(self):
        conf = configparser.ConfigParser(interpolation=None)
        conf.read(TOP / 'scripts/qemu-source.conf')
        for tool in COMMANDS:
            assert said(tool, '--version') == \
                f'{tool} {conf["qemu"]["version"]}\n'

    def test_options_are_not_abbreviated(self):
        for words in (('gmem-top', '--interv', '1', 'x'),
                      ('gmem-xml', '--versio'), ('gmem-xml', 'add', '--ini',
                                                 'private')):
            done = subprocess.run([str(TOOLS / words[0]), *words[1:]],
                                  check=False, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
            assert done.returncode == 2 and not done.stdout, done

    def test_the_man_pages_can_be_built(self):
        if not shutil.which('sphinx-build'):
            self.skipTest('no sphinx-build: run '
                          'tests/tools/install-packages.sh')
        if not TREE.is_dir():
            raise tap.Skip('build/src is missing: make build')
        source = self.path / 'source'
        shutil.copytree(PAGES, source / 'tools')
        write(source / 'index.rst', 'Tools\n=====\n\n.. toctree::\n'
              '   :glob:\n\n   tools/*\n')
        done = subprocess.run(
            ['sphinx-build', '-W', '--keep-going', '-n', '-q', '-b', 'man',
             '-c', str(TOP / 'tests/docs'), str(source),
             str(self.path / 'man')],
            check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, 'DOCS_TREE': str(TREE), 'LC_ALL': 'C.UTF-8',
                 'PYTHONPATH': f'{TREE}/docs/sphinx:{TREE}/scripts',
                 'PYTHONDONTWRITEBYTECODE': '1'}, universal_newlines=True)
        assert done.returncode == 0 and not done.stdout, done.stdout
        for tool in COMMANDS:
            text = (self.path / 'man' / f'{tool}.1').read_text()
            text = text.replace('\\-', '-')
            assert re.search(rf'^\.SH NAME\n{tool} - \w', text, re.MULTILINE)
            for name in all_options(tool):
                assert re.search(rf'^\.B.*{name}\b', text, re.MULTILINE), name


if __name__ == '__main__':
    tap.main()
