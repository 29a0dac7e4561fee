#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation: it builds, its examples run, its names exist.

Each literal block of the manual and of the Markdown files is marked as one of

  vm NAME       command lines, of which QEMU's is started
  qmp NAME      a dialogue with that QEMU, whose answers are as shown
  hmp NAME      a command of the monitor, after all of that
  libvirt NAME  commands of virsh and gmem-xml, and the QEMU they lead to
  host          commands that are not run
  run           "make run" and what it prints
  event         an event
  none          a picture, or something else that is no command

by "example: KIND NAME" in a comment before it, or else has one message of QEMU
or of a script in each line, which the sources must have.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path


import examples
import messages
import pages
from lib import TOP, tap

TREE = Path(os.environ.get('QEMU_TREE', TOP / 'build/src'))
README = TOP / 'README.md'
MARKDOWN = [README, TOP / 'CONTRIBUTING.md', TOP / 'SECURITY.md']
MANUAL = [*sorted(TOP.glob('docs/system/guest-memfd/*.rst')),
          TOP / 'docs/specs/guest-memfd-testdev.rst']
DEVEL = sorted(TOP.glob('docs/devel/guest-memfd/*.rst'))
# What QEMU says of an option that is right, on a host that cannot do it
HOST_LACKS = ('not enough free huge pages of ',
              'is not a huge page size of this host',
              "the host's kernel refuses a file of huge pages",
              "can have no memory of the host's node ",
              'x-resource: Could not open ',
              "x-resource of 'm0' needs driver=kvm ")
KINDS = {'vm': 'vm', 'qmp': 'talk', 'hmp': 'monitor', 'libvirt': 'libvirt',
         'host': 'host', 'event': 'event', 'run': 'run'}


def all_blocks():
    """The blocks that must be something."""
    return [block for page in (*MARKDOWN, *MANUAL)
            for block in pages.blocks(page)]


def section(book, title):
    """The text of the page or section of this title in a book's pages."""
    found = [text for text in (pages.section(page, title) for page in book)
             if text is not None]
    assert len(found) == 1, '%d sections are "%s"' % (len(found), title)
    return found[0]


def options_of_the_manual():
    """The sections of the page of options, by option."""
    parts = re.split(r'^``([\w-]+)``\n-+\n', section(MANUAL, 'Options'),
                     flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def field(text, name):
    """What a section says in a field; None if it has no such field."""
    found = re.search(r'^:%s: (.*(?:\n +.*)*)' % name, text, re.MULTILINE)
    return found and found.group(1)


def examples_of_pages():
    """The names of the blocks that are run, one after the other."""
    return {block.name or 'others': block.name for block in all_blocks()
            if block.kind in KINDS}


class Pages(tap.TestCase):
    """What the pages say is so."""

    def test_sphinx_has_no_warnings(self):
        if not shutil.which('sphinx-build'):
            self.skipTest('no sphinx-build: run '
                          'tests/docs/install-packages.sh')
        done = subprocess.run(
            [TOP / 'scripts/build-docs.sh', self.path / 'html'], check=False,
            env={**os.environ, 'QEMU_TREE': str(TREE)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True)
        assert done.returncode == 0 and not done.stdout, done.stdout
        for name, word in (('system/guest-memfd/troubleshooting',
                            'Troubleshooting'),
                           ('specs/guest-memfd-testdev', 'BAR'),
                           ('devel/guest-memfd/invariants', 'Invariants'),
                           ('qapi', 'x-guest-memfd-convert')):
            text = (self.path / 'html' / (name + '.html')).read_text()
            assert word in text, '%s has no %s' % (name, word)

    def test_qemu_has_the_pages_in_its_manuals(self):
        for index, name in (('system/index.rst', 'guest-memfd/index'),
                            ('devel/index-internals.rst', 'guest-memfd/index'),
                            ('specs/index.rst', 'guest-memfd-testdev')):
            text = (TREE / 'docs' / index).read_text()
            assert '\n   %s\n' % name in text, '%s has no %s' % (index, name)

    def test_all_messages_are_in_the_sources(self):
        known = messages.Messages(TOP, TREE)
        quoted = [text for page in MANUAL for text in messages.quoted(page)]
        assert len(quoted) > 50, quoted
        strange = [text for text in quoted if not known.known(text)]
        assert not strange, 'not in the sources:\n' + '\n'.join(strange)

    def test_all_options_are_those_of_the_object(self):
        done = subprocess.run([examples.QEMU, '-object', examples.BACKEND +
                               ',help'], check=True, stdout=subprocess.PIPE,
                              universal_newlines=True)
        there = set(re.findall(r'^  ([\w-]+)=', done.stdout, re.MULTILINE))
        there.remove('x-use-canonical-path-for-ramblock-id')    # of machines
        options = options_of_the_manual()
        assert options.keys() == there, options.keys() ^ there
        schema = (TOP / 'qapi/guest-memfd-options.json').read_text()
        for name in ('Driver', 'Conversion', 'Init', 'DmaSplit'):
            values = re.search(r"'enum': 'GuestMemfd%s',\s*'data': \[(.*?)\]"
                               % name, schema, re.DOTALL).group(1)
            option = {'DmaSplit': 'x-dma-split'}.get(name, name.lower())
            assert set(pages.literals(field(options[option], 'Values'))) == \
                set(re.findall(r"'([\w-]+)'", values)), option
        for name, text in options.items():
            assert field(text, 'Values'), name + ': no values'
            assert field(text, 'Default'), name + ': no default'

    def test_all_examples_of_options_are_accepted(self):
        # Or refused for what this host lacks
        seen = 0
        for name, text in options_of_the_manual().items():
            for shown in pages.literals(field(text, 'Example') or ''):
                seen += 1
                size = '' if name == 'size' else ',size=32M'
                done = subprocess.run(
                    [examples.QEMU, '-accel', 'tcg', '-machine', 'none',
                     '-nodefaults', '-display', 'none', '-qmp', 'stdio',
                     '-object',
                     '%s,id=m0%s,%s' % (examples.BACKEND, size, shown)],
                    check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    universal_newlines=True,
                    input='{"execute": "qmp_capabilities"}{"execute": "quit"}')
                assert not done.returncode or \
                    any(lack in done.stderr for lack in HOST_LACKS), \
                    '%s: %s' % (shown, done.stderr)
        assert seen > 10, seen

    def test_all_qmp_is_in_the_schema(self):
        schema = (TOP / 'qapi/guest-memfd.json').read_text()
        there = set(re.findall(r"'(?:command|event)': '([\w-]+)'", schema))
        terms = set(pages.terms(section(MANUAL, 'QMP')))
        assert terms == there, terms ^ there
        for page in (*MARKDOWN, *MANUAL, *DEVEL):
            named = set(re.findall(r'\b(?:query|x)-guest-memfd[\w-]*'
                                   r'|\bGUEST_MEMFD_[A-Z]+_[A-Z]+\b',
                                   page.read_text()))
            named -= {'GUEST_MEMFD_FLAG_MMAP', 'GUEST_MEMFD_FLAG_INIT',
                      'x-guest-memfd'}      # an option
            named = {name for name in named if not name.endswith('-')}
            assert named <= there, named - there

    def test_all_trace_events_exist(self):
        there = set()
        for path in TREE.glob('**/trace-events'):
            there.update(re.findall(r'^(?:disable )?(\w+)\(', path.read_text(),
                                    re.MULTILINE))
        terms = pages.terms(section(DEVEL, 'Debugging'))
        assert len(terms) > 10, terms
        assert set(terms) <= there, set(terms) - there
        ours = {name for name in there if 'guest_memfd' in name}
        assert ours <= set(terms), ours - set(terms)

    def test_all_functions_exist(self):
        source = ''.join(
            path.read_text() for name in messages.OURS + ('tests', 'scripts',
                                                          'tools', 'patches')
            for path in (TOP / name).rglob('*')
            if path.suffix in ('.c', '.h', '.py', '.patch'))
        for path in messages.QEMU_DIRS:
            source += ''.join(each.read_text(errors='replace')
                              for each in (TREE / path).rglob('*.[ch]'))
        there = set(re.findall(r'\b(\w+)\(|\(\*(\w+)\)\(', source))
        there = {name for pair in there for name in pair}
        named = {name for page in DEVEL
                 for text in pages.literals(page.read_text())
                 for name in re.findall(r'^(\w+)\(\)$', text)}
        assert len(named) > 50, named
        assert named <= there, sorted(named - there)

    def test_all_files_exist(self):
        for page in (*MARKDOWN, *MANUAL, *DEVEL):
            text = page.read_text().replace('\\*', '*')
            found = set(re.findall(
                r'(?<![\w/.$-])((?:tests|scripts|tools|system|backends|hw|'
                r'accel|target|qapi|include|docs|patches)/[\w/.*-]*[\w*])'
                r'(?![\w*-])', text))
            for name in found:
                assert any(any(each.glob(name)) for each in
                           (TOP, TREE, Path(examples.SERVER).parents[2])), \
                    '%s names %s' % (page.name, name)

    def test_all_tests_are_in_the_map(self):
        text = section(DEVEL, 'Tests').replace('\\*', '*')
        named = re.findall(r'^((?:tests|scripts)/\S+)', text, re.MULTILINE)
        listed = subprocess.run([TOP / 'scripts/list-tests.sh'], check=True,
                                stdout=subprocess.PIPE, universal_newlines=True)
        lines = listed.stdout.splitlines()
        assert len(lines) > 20, lines
        for line in lines:
            name = line.split()[1].removeprefix('build/qemu/')
            assert any(Path(name).match(each.removesuffix('.c'))
                       for each in named), name + ' is not in the map'

    def test_all_hooks_are_on_their_page(self):
        # Patches from the first hook on, by the beginning of their names
        terms = set(pages.terms(section(DEVEL, 'Hooks')))
        names = [re.sub(r'^\d+-|\.patch$', '', path.name)
                 for path in sorted((TOP / 'patches').glob('*.patch'))]
        first = [name.startswith('memory-let-a-RamDiscardListener-show')
                 for name in names].index(True)
        missing = [name for name in names[first:]
                   if not any(name.startswith(term) for term in terms)]
        assert not missing, missing
        unknown = [term for term in terms
                   if not any(name.startswith(term) for name in names[first:])]
        assert not unknown, unknown

    def test_all_bounds_are_those_of_the_sources(self):
        # The table of SECURITY.md has the value of each constant
        def value(text):
            text = re.sub(r'(\d)u\b', r'\1', text.strip('()'))
            found = re.fullmatch(r'(\d+)(?: \*)? ([KMG])iB', text)
            if found:
                return int(found.group(1)) * examples.UNITS[found.group(2)]
            found = re.fullmatch(r'(\d+)(?: << (\d+))?', text)
            assert found, text
            return int(found.group(1)) << int(found.group(2) or 0)

        rows = re.findall(r'^\| .* \| (.*) \| `(\w+)` \| `(.*)` \|$',
                          MARKDOWN[2].read_text(), re.MULTILINE)
        assert len(rows) > 10, rows
        for bound, name, path in rows:
            found = re.search(r'^#define %s +(.*)$' % name,
                              (TREE / path).read_text(), re.MULTILINE)
            assert found, '%s has no %s' % (path, name)
            assert value(bound) == value(found.group(1)), (name, found.group(1))

    def test_the_profile_has_what_qemu_reads(self):
        # Of /sys: a file of each directory that our sources name
        rules = [re.escape(line.split()[0]).replace(r'\*\*', '.+').replace(
            r'\[0\-9\]\*', '[0-9]+') for line in re.findall(
                r'^    (/sys/.* r,)$', section(
                    MANUAL, 'The system daemon and AppArmor'), re.MULTILINE)]
        named = [path for name in ('backends', 'accel/kvm', 'include/system',
                                   'system/guest-memfd')
                 for file in sorted((TOP / name).rglob('*.[ch]'))
                 for path in re.findall(r'"(/sys/[^"]+)"', file.read_text())]
        assert len(named) >= 3, named
        for path in named:
            path = path.replace('%lu', '0')
            if path.endswith('hugepages'):
                path += '/hugepages-2048kB/free_hugepages'
            assert any(re.fullmatch(rule, path) for rule in rules), \
                (path, rules)

    def test_the_plan_follows_from_the_measurements(self):
        # Hosts of pages of 1 GiB for VMs of 16 GiB, except one VM's memory
        def row(book, title, name):
            found = re.search(r'^ *%s  +(.*)$' % re.escape(name),
                              section(book, title), re.MULTILINE)
            assert found, name
            return [int(word) for word in found.group(1).split()]

        one = row(DEVEL, 'What it costs', '64 MiB in one piece')
        many = row(DEVEL, 'What it costs', '64 MiB in 32 pieces of 2 MiB')
        worst = max(row(DEVEL, 'What it costs', '16384 pages'))
        plan = 'What restructuring costs'
        for gib, name in ((256, '256 GiB'), (512, '512 GiB'), (1024, '1 TiB'),
                          (2048, '2 TiB'), (4096, '4 TiB')):
            vms = gib // 16 - 1
            wanted = [round(vms * kib / 1024)
                      for kib in (*one, *many, worst * 16 / 2)]
            assert row(MANUAL, plan, name) == [vms, *wanted], (name, wanted)
        assert '%.1f %%' % (100 * worst / (2 << 20)) in \
            ' '.join(section(MANUAL, plan).split())
        for name in ('page', 'cut'):
            measured = re.search(r'^%s +(\S+ MB)' % name, section(
                DEVEL, 'Measurements'), re.MULTILINE).group(1)
            assert re.search(r'^``%s`` +%s\b' % (name, measured), section(
                MANUAL, 'Mappings'), re.MULTILINE), name

    def test_the_picture_is_what_its_script_draws(self):
        # Except for the time of the drawing
        subprocess.run([TOP / 'scripts/docs-images.py', self.path], check=True,
                       env={**os.environ, 'QEMU': examples.QEMU})
        drawn, kept = (re.sub(r'20[\d: +-]+', '', path.read_text())
                       for path in (self.path / 'map.svg',
                                    TOP / 'docs/images/map.svg'))
        self.assertEqual(drawn, kept, 'run scripts/docs-images.py, see there')

    def test_all_blocks_are_known(self):
        for block in all_blocks():
            assert block.kind or '.md:' not in block.where, \
                block.where + ' is not marked'
            assert block.kind in (None, 'none', *KINDS), block.where

    @tap.cases(examples_of_pages())
    def test_example(self, name):
        with examples.Example(self.path) as machine:
            for block in all_blocks():
                if block.kind in KINDS and block.name == name:
                    self.run_block(machine, block)
            machine.unplug()

    def run_block(self, machine, block):
        """What a block shows is what happens."""
        try:
            getattr(machine, KINDS[block.kind])(block.text)
        except examples.Cannot as lack:
            self.skipTest(lack)
        except Exception as err:
            raise AssertionError('%s: %s' % (block.where, err)) from err


if __name__ == '__main__':
    tap.main()
