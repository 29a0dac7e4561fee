#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make export: the series applies, gives what make build compiles, is clean.

The patches go into a git repository that has those files of QEMU that they
change, as they were fetched.
"""

import fnmatch
import importlib
import os
import re
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import repo_files
from lib import TOP, checkpatch, tap
from lib.scripts import assert_done, assert_refused, run_script

export_series = importlib.import_module('export-series')

TREE = TOP / 'build/src'
BASE = Path(os.environ.get('QEMU_SRC') or TOP / 'build/pristine')
# What the series changes in QEMU's own tree, and make build does not need
ONLY_UPSTREAM = {'MAINTAINERS'}
SECTIONS = ('Problem', 'Design', 'Measurements', 'How to test',
            'What is missing')


# All of this is read only, and takes seconds to make: once is enough.
SCRATCH = tempfile.TemporaryDirectory()
ONCE = Path(SCRATCH.name)


@lru_cache(maxsize=None)
def export(build=ONCE, **env):
    """Run the export; the patches of QEMU, and those of the library."""
    if shutil.which('git') is None:
        raise tap.Skip('there is no git')
    if not TREE.is_dir() or not BASE.is_dir():
        raise tap.Skip('build/src or build/pristine is missing: make build')
    given = {'QEMU_SRC': BASE} if os.environ.get('QEMU_SRC') else {}
    assert_done(run_script('export-series.py', '--build', build,
                           **given, **env))
    found = sorted((build / 'export').glob('0*.patch'))
    return found, sorted((build / 'export/libvfio-user').glob('0*.patch'))


def touched():
    """The files of QEMU that patches/ changes."""
    return sorted({name for patch in (TOP / 'patches').glob('*.patch')
                   for name in export_series.prepare_qemu.touched_files(patch)})


@lru_cache(maxsize=None)
def applied():
    """A repository with the series applied to what was tagged "base"."""
    series, library = export()
    git = export_series.Git(ONCE / 'tree', 'A Tester <a@example.org>',
                            '2026-11-22T09:00:00+0000')
    for name in set(touched()) | ONLY_UPSTREAM:
        (git.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(BASE / name, git.path / name)
    git.commit('QEMU')
    git('tag', 'base')
    git('am', '-q', *map(str, series[1:]))
    git('am', '-q', '--directory=' + export_series.LIBRARY, *map(str, library))
    return git


def kind(path):
    """The content of a file, and whether it can be executed."""
    return path.read_bytes(), os.access(path, os.X_OK)


class Series(tap.TestCase):
    """What is in build/export, and what git makes of it."""

    def test_the_series_gives_what_make_build_compiles(self):
        # Every file of ours, every file that we patch; and no other changes
        git = applied()
        wanted = set(touched()) | set(repo_files.overlay(TOP))
        different = [name for name in sorted(wanted)
                     if not (git.path / name).is_file()
                     or kind(git.path / name) != kind(TREE / name)]
        assert not different, 'different: ' + ' '.join(different)
        changed = set(git('diff', '--name-only', 'base').splitlines())
        assert changed == wanted | ONLY_UPSTREAM, \
            'changed: ' + ' '.join(sorted(changed ^ (wanted | ONLY_UPSTREAM)))
        assert not git('status', '--porcelain')

    def test_every_file_has_a_maintainer(self):
        # QEMU's MAINTAINERS has a pattern for each file when it comes
        git = applied()
        # The last commits are the library's, which QEMU does not have.
        _, library = export()
        overlay = set(repo_files.overlay(TOP))
        for commit in git('rev-list', 'base..HEAD~%d' % len(library)).split():
            files = git('ls-tree', '-r', '--name-only', commit).splitlines()
            ours = set(files) & overlay
            if not ours:
                continue        # the fixes of QEMU stand first
            own = git('show', commit + ':MAINTAINERS').split(
                '\nguest_memfd memory\n')[1].split('\n\n')[0]
            patterns = [line[3:] + ('*' if line.endswith('/') else '')
                        for line in own.splitlines() if line.startswith('F: ')]
            for name in ours:
                assert any(fnmatch.fnmatch(name, each) for each in patterns), \
                    '%s comes without a pattern in MAINTAINERS' % name
            for each in patterns:
                assert fnmatch.filter(files, each), '%s matches nothing' % each

    def test_every_patch_is_clean(self):
        # checkpatch.pl is content; there is a subject, a body, a signature
        series, library = export()
        for number, patch in enumerate(series[1:] + library, 1):
            text = patch.read_text()
            head, _, rest = text.partition('\n---\n')
            subject, _, body = head.partition('\n\n')
            assert re.search(r'^Subject: \[PATCH.*\] \S+: ', subject, re.M), \
                head
            assert re.search(r'\w\n\n?Signed-off-by: .+ <.+>$|'
                             r'\w[.:]\n\nSigned-off-by: .+ <.+>$', body), \
                '%s: no body, or no signature: %s' % (patch.name, body)
            assert '\ndiff --git ' in rest
            if patch in series:
                assert patch.name.startswith('%04d-' % number)
                assert '%02d/%d]' % (number, len(series) - 1) in subject
        said = checkpatch.unclean(series[1:] + library, '--no-tree')
        assert not said, '\n'.join('%s\n%s' % (patch.name, text)
                                   for patch, text in said.items())

    def test_the_cover_letter_has_all_sections(self):
        # Problem, design, measurements; what comes; which files
        series, _ = export()
        text = series[0].read_text()
        assert 'Subject: [PATCH 00/%d] ' % (len(series) - 1) in text
        assert '***' not in text, 'a placeholder of git'
        places = [text.find('\n%s\n%s\n' % (title, '=' * len(title)))
                  for title in SECTIONS]
        assert -1 not in places and places == sorted(places), places
        assert re.search(r'^ \d+ files changed, ', text, re.M)

    def test_the_same_again_gives_the_same(self):
        # No dates or names of the machine; AUTHOR signs
        first, _ = export()
        author = 'A Tester <a@example.org>'
        again, _ = export(self.path / 'again', AUTHOR=author, TZ='Asia/Tokyo',
                          GIT_AUTHOR_DATE='2001-01-01',
                          EMAIL='nobody@example.org', GIT_DIR='/nonexistent')
        assert [path.name for path in first] == [path.name for path in again]
        assert 'Signed-off-by: ' + author in again[1].read_text()
        for path, twin in zip(first, again):
            text = path.read_text()
            for name in ('Signed-off-by: ', 'From: '):
                text = text.replace(name + export_series.AUTHOR, name + author)
            # The summary of the cover letter
            text = text.replace('\n%s (' % export_series.AUTHOR.split(' <')[0],
                                '\nA Tester (')
            assert text == twin.read_text(), path.name

    def test_the_series_for_linux_is_what_the_rig_applies(self):
        # The same changes, numbered, with a cover letter that lists them
        export()
        rig = sorted((TOP / 'tests/rig/kernel').glob('*.patch'))
        cover, *series = sorted((ONCE / 'export/linux').glob('0*.patch'))
        assert [path.name for path in series] == [path.name for path in rig]
        text = cover.read_text()
        assert 'Subject: [RFC PATCH 00/%d] guest_memfd: ' % len(rig) in text
        for number, (path, original) in enumerate(zip(series, rig), 1):
            head, _, diff = path.read_text().partition('\ndiff --git ')
            assert diff == original.read_text().partition('\ndiff --git ')[2]
            subject = re.search(r'^Subject: \[RFC PATCH (\d+)/%d\] (.*(?:\n .*)*)'
                                % len(rig), head, re.M)
            assert int(subject.group(1)) == number
            assert '\n  %s\n' % subject.group(2).replace('\n ', ' ') in text
            assert re.search(r'\n\nSigned-off-by: .+ <.+>\n', head), head

    def test_a_wrong_author_is_refused(self):
        # One sentence says so, and nothing is written
        assert_refused(run_script('export-series.py', '--build', self.path,
                                  AUTHOR='nobody'), 'AUTHOR')
        assert not (self.path / 'export').exists()


if __name__ == '__main__':
    tap.main()
