#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the repository as a series of patches against QEMU: build/export.

export-series.conf says which file, hunk or line comes with which step; what
belongs to no step is an error. git makes the patches, in a repository of its
own that has nothing but the files concerned. The same input gives the same
output. AUTHOR="NAME <MAIL>" signs with another name.
"""

import argparse
import configparser
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
SPEC = importlib.util.spec_from_file_location(
    'prepare_qemu', TOP / 'scripts/prepare-qemu.py')
prepare_qemu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prepare_qemu)
PrepareError = prepare_qemu.PrepareError


class Step:
    """One section of the configuration: one patch."""

    def __init__(self, name, section):
        self.name = name
        self.subject = section['subject']
        self.files = section.get('files', '').split()
        self.hunks = self.rules(section.get('hunks', ''))
        self.lines = self.rules(section.get('lines', ''))
        self.project = section.get('project')
        texts = [section.get('body', '').strip()]
        texts += [description(word)
                  for word in section.get('messages', '').split()]
        self.body = '\n\n'.join(text for text in texts if text)

    @staticmethod
    def rules(text):
        """Lines "FILE REGEX", as a list of both."""
        return [(name, re.compile(regex)) for name, regex in
                (line.split(' ', 1) for line in text.splitlines() if line)]

    def claims(self, name):
        """How long the pattern is by which the step has the file, or 0."""
        return max((len(pattern) for pattern in self.files
                    if fnmatch.fnmatch(name, pattern)), default=0)


def description(word):
    """What the patch with this word in its name says, without its subject."""
    found = sorted((TOP / 'patches').glob('*%s*.patch' % word))
    if len(found) != 1:
        raise PrepareError('export-series.conf: %d patches have "%s" in their '
                           'names, not one.' % (len(found), word))
    text = found[0].read_text().split('\n\ndiff --git ', 1)[0]
    text = text.split('\n\n', 1)[1]
    return re.sub(r'^Signed-off-by:.*\n?', '', text, flags=re.M).strip()


def owner(name, steps):
    """The step that a file belongs to."""
    best = max(step.claims(name) for step in steps)
    found = [step for step in steps if step.claims(name) == best]
    if not best or len(found) > 1:
        raise PrepareError(
            'scripts/export-series.conf: %s belongs to %s: name it under '
            '"files" of the step that it comes with.' % (
                name, ' and '.join(step.name for step in found)
                if best else 'no step'))
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


class File:
    """A file of QEMU's: its lines, and the hunks that change them."""

    def __init__(self, text, diff, default, name, steps, used):
        self.lines = text.splitlines(True)
        self.hunks = []         # first line, number of lines, [(line, step)]
        for head, body in re.findall(r'^@@ -(\S+) \S+ @@.*\n((?:[-+\\].*\n)*)',
                                     diff, re.M):
            start, _, count = head.partition(',')
            count = int(count or 1)
            changed = [line for line in body.splitlines(True)
                       if line[0] != '\\']
            whole = self.rule(name, steps, 'hunks', changed, used)
            self.hunks.append((int(start) - (count > 0), count, [
                (line, whole or self.rule(name, steps, 'lines', [line], used)
                 or default) for line in changed]))

    @staticmethod
    def rule(name, steps, kind, changed, used):
        """The step with a rule for one of these lines, or None."""
        for step in steps:
            for rule in getattr(step, kind):
                if rule[0] == name and any(map(rule[1].search, changed)):
                    used.add(rule)
                    return step
        return None

    def at(self, done):
        """The content of the file when these steps are done."""
        result, place = [], 0
        for start, count, changed in self.hunks:
            result += self.lines[place:start]
            result += [line[1:] for line, step in changed
                       if (line[0] == '+') == (step in done)]
            place = start + count
        return ''.join(result + self.lines[place:])


def maintainers(steps, own):
    """Our lines for QEMU's MAINTAINERS: each with the step it comes with."""
    section = (TOP / 'MAINTAINERS').read_text().split('\n\n')[1]
    lines = []
    for line in section.splitlines():
        step = steps[0]
        if line.startswith('F: '):
            pattern = line[3:] + ('*' if line.endswith('/') else '')
            found = [steps.index(owner(name, steps)) for name in own
                     if fnmatch.fnmatch(name, pattern)]
            if not found:
                continue
            step = steps[min(found)]
        lines.append((line, step))
    return lines


class Series:
    """The patches for one project: QEMU, or one that it brings along."""

    def __init__(self, steps, base, stage, own, touched, prefix=''):
        self.steps, self.base, self.stage = steps, base, stage
        self.own, self.touched, self.prefix = own, touched, prefix
        self.used = set()

    def copy(self, git, source, name):
        """Put a file into the work tree of the series."""
        target = git.path / name[len(self.prefix):]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target)

    def files(self, git, all_steps):
        """What each patched file is made of."""
        for name in self.touched:
            self.copy(git, self.stage, name)
        found = {}
        for name in self.touched:
            path = name[len(self.prefix):]
            found[path] = File(
                git('show', 'HEAD:' + path),
                git('diff', '-U0', '--no-renames', 'HEAD', '--', path),
                owner(name, all_steps), name, all_steps, self.used)
        return found

    def write_maintainers(self, git, done, own_lines):
        """QEMU's MAINTAINERS, with a section of ours."""
        text = (self.base / 'MAINTAINERS').read_text()
        section = [line for line, step in own_lines if step in done]
        head, mark, tail = text.partition('\nMemory devices\n')
        (git.path / 'MAINTAINERS').write_text(
            head + '\n' + '\n'.join(section) + '\n' + mark + tail)

    def write(self, git, all_steps):
        """Commit the base and each step."""
        extra = [] if self.prefix else ['MAINTAINERS']
        for name in self.touched + extra:
            self.copy(git, self.base, name)
        git.commit('base')
        git('branch', 'base')
        files = self.files(git, all_steps)
        own_lines = [] if self.prefix else maintainers(self.steps, self.own)
        done = []
        for step in self.steps:
            done.append(step)
            for name, file in files.items():
                (git.path / name).write_text(file.at(done),
                                             errors='surrogateescape')
            for name in self.own:
                if owner(name, all_steps) is step:
                    self.copy(git, self.stage, name)
            if not self.prefix:
                self.write_maintainers(git, done, own_lines)
            git.commit('%s\n\n%s\n' % (step.subject, step.body))

    def unused(self):
        """Rules that no line of any file obeyed."""
        return ['%s %s' % (name, regex.pattern) for step in self.steps
                for name, regex in step.hunks + step.lines
                if (name, regex) not in self.used]


def export(base, build, author, fuzz):
    """Write the series; return how many patches each project has."""
    conf = configparser.ConfigParser(interpolation=None, delimiters=('=',))
    conf.read(CONF)
    general = conf['series']
    steps = [Step(name, conf[name]) for name in conf.sections()
             if name != 'series']
    target, counts = build / 'export', {}
    with tempfile.TemporaryDirectory(dir=build, prefix='export.') as scratch:
        scratch = Path(scratch)
        stage, out = scratch / 'stage', scratch / 'out'
        stage.mkdir()
        patches = sorted((TOP / 'patches').glob('*.patch'))
        touched = prepare_qemu.apply_patches(patches, base, stage, fuzz)
        own = repo_files.overlay(TOP)
        for name in own:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, stage / name)
        for project in sorted({step.project or '' for step in steps}):
            mine = [step for step in steps if (step.project or '') == project]
            prefix = project + '/' if project else ''
            git = Git(scratch / ('git%d' % len(counts)),
                      author or general['author'], general['date'])
            series = Series(mine, base, stage, *[
                [name for name in names if owner(name, steps) in mine]
                for names in (own, touched)], prefix)
            series.write(git, steps)
            if series.unused():
                raise PrepareError('export-series.conf: no changed line '
                                   'matches "%s".' % series.unused()[0])
            options = []
            if not project:
                options = ['--cover-letter', '--cover-from-description=subject']
                git('config', 'branch.main.description', COVER.read_text())
            git('format-patch', '-q', '-o',
                str(out / (os.path.basename(project))), '--no-signature',
                '--no-renames', '--zero-commit', '--stat=76', '--full-index',
                *options, 'base..main')
            counts[project] = len(mine)
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
        counts = export(base, args.build.resolve(), args.author,
                        '2' if given else '0')
    except (PrepareError, OSError) as error:
        print('export-series: %s' % error, file=sys.stderr)
        return 1
    for project, count in counts.items():
        print('build/export/%s: %d patch%s%s' % (
            project and os.path.basename(project) + '/', count,
            '' if count == 1 else 'es',
            ' for ' + os.path.basename(project) if project
            else ' and a cover letter'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
