#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the repository as series of patches: build/export.

Each patch of patches/ is one of the series, and brings files of ours along as
export-series.conf says; a file that no line has is an error. git makes the
patches, in a repository of its own that has nothing but the files concerned. The
same input gives the same output. AUTHOR="NAME <MAIL>" signs with another name.
The patches of the rig's kernel are a series of their own, against Linux.
"""

import argparse
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import repo_files

TOP = Path(__file__).resolve().parent.parent
CONF = TOP / 'scripts/export-series.conf'
COVER = TOP / 'scripts/export-cover.txt'
LINUX_COVER = TOP / 'scripts/export-linux-cover.txt'
LINUX = TOP / 'tests/rig/kernel'
AUTHOR = 'guest-memfd developers <guest-memfd@example.org>'
DATE = '2026-11-22T09:00:00+0000'
LIBRARY = 'subprojects/libvfio-user'
SPEC = importlib.util.spec_from_file_location(
    'prepare_qemu', TOP / 'scripts/prepare-qemu.py')
prepare_qemu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prepare_qemu)
PrepareError = prepare_qemu.PrepareError


class Step:
    """One patch of patches/, and the files that come with it."""

    def __init__(self, path, files):
        self.path = path
        self.name = path.name
        self.files = files
        self.touched = prepare_qemu.touched_files(path)
        head, _, _ = path.read_text().partition('\n\ndiff --git ')
        subject, _, body = head.partition('\n\n')
        subject = re.search(r'^Subject: \[PATCH\] (.*(?:\n .*)*)', subject, re.M)
        self.message = '%s\n\n%s\n' % (
            subject.group(1).replace('\n ', ' '),
            re.sub(r'^Signed-off-by:.*\n?', '', body, flags=re.M).strip())

    def claims(self, name):
        """How long the pattern is by which the step has the file, or 0."""
        return max((len(pattern) for pattern in self.files
                    if fnmatch.fnmatch(name, pattern)), default=0)


def read_steps():
    """The steps, in the order of patches/; each patch has a line."""
    lines = [line.split('#')[0] for line in CONF.read_text().splitlines()]
    # What is indented goes on with the line before.
    entries = re.sub(r'\n +', ' ', '\n'.join(lines)).split('\n')
    files = {words[0]: words[1:] for words in map(str.split, entries) if words}
    steps = []
    for path in sorted((TOP / 'patches').glob('*.patch')):
        found = [word for word in files if word in path.name]
        if len(found) != 1:
            raise PrepareError('scripts/export-series.conf: %s lines have a part '
                               'of the name of patches/%s, not one.' % (
                                   len(found) or 'no', path.name))
        steps.append(Step(path, files.pop(found[0])))
    for word in files:
        raise PrepareError('scripts/export-series.conf: no patch, or one that '
                           'another line has, has "%s" in its name.' % word)
    return steps


def owner(name, steps):
    """The step that a file of ours belongs to."""
    best = max(step.claims(name) for step in steps)
    found = [step for step in steps if step.claims(name) == best]
    if not best or len(found) > 1:
        raise PrepareError(
            'scripts/export-series.conf: %s belongs to %s: name it in the line '
            'of the patch that it comes with.' % (
                name, ' and '.join(step.name for step in found)
                if best else 'no patch'))
    return found[0]


class Git:
    """A repository that nothing but this program has a say in."""

    def __init__(self, path, author, date):
        name, mail = re.fullmatch(r'(.+) <(.+)>', author).groups()
        self.path = path
        self.env = {key: value for key, value in os.environ.items()
                    if not key.startswith('GIT_')}
        self.env.update(
            LC_ALL='C', TZ='UTC', GIT_CONFIG_GLOBAL='/dev/null',
            GIT_CONFIG_NOSYSTEM='1', GIT_AUTHOR_NAME=name,
            GIT_AUTHOR_EMAIL=mail, GIT_AUTHOR_DATE=date,
            GIT_COMMITTER_NAME=name, GIT_COMMITTER_EMAIL=mail,
            GIT_COMMITTER_DATE=date)
        path.mkdir()
        self('init', '-q', '-b', 'main')
        for key in ('core.autocrlf', 'gc.auto', 'maintenance.auto'):
            self('config', key, 'false')
        self('config', 'core.fsync', 'none')    # it is gone in a minute

    def __call__(self, *args):
        done = subprocess.run(
            ['git', *args], cwd=self.path, env=self.env, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        if done.returncode:
            raise PrepareError('git %s failed: %s' % (
                args[0], done.stderr.decode(errors='replace').strip()))
        return done.stdout.decode(errors='surrogateescape')

    def commit(self, message):
        """Commit the work tree as it is."""
        self('add', '-A', '-f', '.')
        self('commit', '-q', '-s', '--cleanup=verbatim', '-m', message)


def maintainers(steps, own):
    """Our lines for QEMU's MAINTAINERS: each with the step it comes with."""
    section = (TOP / 'MAINTAINERS').read_text().split('\n\n')[1]
    first = min(steps.index(owner(name, steps)) for name in own)
    lines = []
    for line in section.splitlines():
        step = first
        if line.startswith('F: '):
            pattern = line[3:] + ('*' if line.endswith('/') else '')
            found = [steps.index(owner(name, steps)) for name in own
                     if fnmatch.fnmatch(name, pattern)]
            if not found:
                continue
            step = min(found)
        lines.append((line, step))
    return lines


def copy(git, source, name, prefix=''):
    """Put a file into the work tree of a series."""
    target = git.path / name[len(prefix):]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / name, target)


def write_maintainers(git, base, lines):
    """QEMU's MAINTAINERS, with a section of ours."""
    text = (base / 'MAINTAINERS').read_text()
    head, mark, tail = text.partition('\nMemory devices\n')
    (git.path / 'MAINTAINERS').write_text(
        head + '\n' + '\n'.join(lines) + '\n' + mark + tail)


def write_series(git, base, steps, own, prefix):
    """Commit the base and each step."""
    for name in {name for step in steps for name in step.touched}:
        copy(git, base, name, prefix)
    lines = []
    if own:
        copy(git, base, 'MAINTAINERS')
        lines = maintainers(steps, own)
    git.commit('base')
    git('branch', 'base')
    for number, step in enumerate(steps):
        git('apply', '-p%d' % (1 + prefix.count('/')), step.path)
        for name in own:
            if owner(name, steps) is step:
                copy(git, TOP, name)
        mine = [line for line, first in lines if first <= number]
        if mine:
            write_maintainers(git, base, mine)
        git.commit(step.message)


def write_linux(out, author):
    """Write the series against Linux, whose patches are what the rig applies."""
    patches = sorted(LINUX.glob('*.patch'))
    subjects = []
    out.mkdir(parents=True)
    for number, path in enumerate(patches, 1):
        text = path.read_text()
        subject = re.search(r'^Subject: \[PATCH\] (.*(?:\n .*)*)', text, re.M)
        subjects.append(subject.group(1).replace('\n ', ' '))
        text = text.replace('Subject: [PATCH]', 'Subject: [RFC PATCH %02d/%d]' % (
            number, len(patches)), 1).replace(AUTHOR, author)
        (out / path.name).write_text(text)
    date = re.search(r'^Date: .*\n', text, re.M).group(0)
    title, _, body = LINUX_COVER.read_text().partition('\n\n')
    (out / '0000-cover-letter.patch').write_text(
        'From %s Mon Sep 17 00:00:00 2001\nFrom: %s\n%s'
        'Subject: [RFC PATCH 00/%d] %s\n\n%s\n%s\n' % (
            '0' * 40, author, date, len(patches), title, body,
            '\n'.join('  ' + subject for subject in subjects)))
    return len(patches)


def export(base, build, author):
    """Write the series; return how many patches each project has."""
    steps, own = read_steps(), repo_files.overlay(TOP)
    target, counts = build / 'export', {}
    with tempfile.TemporaryDirectory(dir=build, prefix='export.') as scratch:
        out = Path(scratch) / 'out'
        for project in ('', LIBRARY):
            mine = [step for step in steps
                    if step.touched[0].startswith(LIBRARY) == bool(project)]
            git = Git(Path(scratch) / ('git%d' % len(counts)), author or AUTHOR,
                      DATE)
            write_series(git, base, mine, [] if project else own,
                         project and project + '/')
            options = []
            if not project:
                options = ['--cover-letter', '--cover-from-description=subject']
                git('config', 'branch.main.description', COVER.read_text())
            git('format-patch', '-q', '-o',
                str(out / (os.path.basename(project))), '--no-signature',
                '--no-renames', '--zero-commit', '--stat=76', '--full-index',
                *options, 'base..main')
            counts[project] = len(mine)
        counts['linux'] = write_linux(out / 'linux', author or AUTHOR)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(out, target)
    return counts


def main():
    """Export from the tree that fetch-qemu.py unpacked, or from QEMU_SRC."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--build', type=Path, default=TOP / 'build')
    parser.add_argument('--author', default=os.environ.get('AUTHOR'))
    args = parser.parse_args()
    given = os.environ.get('QEMU_SRC')
    base = Path(given).resolve() if given else TOP / 'build/pristine'
    try:
        if shutil.which('git') is None:
            raise PrepareError('there is no git here: install it.')
        if args.author and not re.fullmatch(r'.+ <.+>', args.author):
            raise PrepareError('AUTHOR is not of the form "NAME <MAIL>".')
        prepare_qemu.check_version(base)
        args.build.mkdir(parents=True, exist_ok=True)
        counts = export(base, args.build.resolve(), args.author)
    except (PrepareError, OSError) as error:
        print('export-series: %s' % error, file=sys.stderr)
        return 1
    for project, count in counts.items():
        print('build/export/%s: %d patch%s%s' % (
            project and os.path.basename(project) + '/', count,
            '' if count == 1 else 'es',
            {'': ' and a cover letter', 'linux': ' for Linux and a cover letter'}.get(
                project, ' for ' + os.path.basename(project))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
