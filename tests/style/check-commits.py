#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The commits that are not yet in origin/main follow CONTRIBUTING.md.

What is compared is what a clone has: the commits of HEAD that neither
origin/main nor the last tag has.  (Without origin/main: main.)  Where HEAD has
nothing more, there is nothing to check.
"""

import functools
import re
import shutil
import subprocess
from collections import namedtuple

from lib import TOP, tap

Commit = namedtuple('Commit', 'id name mail message')

MAIN = ('refs/remotes/origin/main', 'refs/heads/main')
LONGEST = 72
SUBJECT = re.compile(r'[\w./-]+(?:, [\w./-]+)*: (?P<word>\S+)(?: \S+)*')
# Words with one capital, which begin a subject
NAMES = ('Debian', 'Linux', 'Python', 'Sphinx', 'Intel')
SENTENCE = re.compile(r'\w+\W+\w+.*[.:!?)]', re.DOTALL)
TRAILER = re.compile(r'^[A-Z][\w-]+: .*$', re.MULTILINE)
MACHINE = re.compile(r'(?<![\w.~-])/(?:root|home)/')
GENERATED = re.compile(r'\.(?:orig|rej|log|xz|gz|deb|dsc)$')
GOOD = '''area: do something

The reason is this.

Signed-off-by: A Tester <a@example.org>
'''


def git(*args, **options):
    """What git prints, or None if it fails."""
    done = subprocess.run(['git', '-c', 'safe.directory=*', '-C', TOP, *args],
                          check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, universal_newlines=True,
                          **options)
    return done.stdout if done.returncode == 0 else None


def known():
    """What is there already: main as far as a clone has it, the last tag."""
    names = [name for name in MAIN
             if git('rev-parse', '--verify', '-q', name) is not None][:1]
    tag = git('describe', '--tags', '--abbrev=0')
    return names + ([tag.strip()] if tag else [])


@functools.lru_cache(None)
def commits():
    """Those that are checked, and why there are none."""
    if not shutil.which('git') or not (TOP / '.git').exists():
        return [], 'this is no clone of a git repository'
    base = known()
    if not base:
        return [], 'there is neither a tag nor a branch main to compare with'
    text = git('log', '--no-merges', '-z', '--format=%H%n%an%n%ae%n%B', 'HEAD',
               '--not', *base)
    found = [Commit(*each.split('\n', 3)) for each in text.split('\0') if each]
    return found, 'HEAD has no commits beside %s' % ' and '.join(base)


def wrong_subject(subject):
    """What is wrong with the first line of a message."""
    found = SUBJECT.fullmatch(subject)
    if not found:
        return 'it does not begin "area: do something"'
    word = found.group('word')
    if re.match(r'[A-Z][a-z]+\b(?!\()', word) and \
            not word.startswith(NAMES):
        return 'there is a capital after the colon'
    if subject.endswith('.'):
        return 'it ends with a full stop'
    if len(subject) > LONGEST:
        return 'it has more than %d characters' % LONGEST
    return None


def wrong(commit):
    """What is wrong with a message; None if nothing is."""
    subject, _, rest = commit.message.strip('\n').partition('\n')
    if wrong_subject(subject):
        return 'the subject: ' + wrong_subject(subject)
    if not rest.startswith('\n'):
        return 'the second line is not empty'
    if not SENTENCE.search(TRAILER.sub('', rest)):
        return 'the body has no sentence that says why'
    signature = 'Signed-off-by: %s <%s>' % (commit.name, commit.mail)
    if signature not in commit.message.splitlines():
        return 'it has no "%s"' % signature
    if MACHINE.search(commit.message):
        return 'it has a path of one machine'
    return None


def generated(commit):
    """The files of a commit that something writes."""
    names = git('diff-tree', '-r', '--root', '--no-commit-id', '--name-only',
                '--diff-filter=d', commit.id)
    ignored = git('check-ignore', '--no-index', '--stdin', input=names) or ''
    return ignored.split() + [name for name in names.splitlines()
                              if GENERATED.search(name)]


class Commits(tap.TestCase):
    """Messages and files."""

    @tap.cases({'%s %s' % (commit.id[:12], commit.message.split('\n')[0]):
                (commit,) for commit in commits()[0]} or {'all': None})
    def test_commit(self, commit):
        if not commit:
            self.skipTest(commits()[1])
        assert not wrong(commit), wrong(commit)
        assert not generated(commit), generated(commit)

    @tap.cases({
        'nothing else': GOOD,
        'two areas': GOOD.replace('area:', 'docs, tests/unit:'),
        'a name': GOOD.replace('do', 'QEMU does'),
        'a function': GOOD.replace('do', 'Read() does'),
        'a path of the repository': GOOD.replace('this', 'in tests/root/x')})
    def test_accepted_is(self, message):
        found = wrong(Commit('', 'A Tester', 'a@example.org', message))
        assert not found, found

    @tap.cases({
        'no area': (GOOD.replace('area: ', ''), 'area'),
        'a capital': (GOOD.replace('do', 'Do'), 'capital'),
        'a full stop': (GOOD.replace('thing', 'thing.'), 'full stop'),
        'a long subject': (GOOD.replace('thing', 'thing' * 13), '72'),
        'a fixup': ('fixup! ' + GOOD, 'area'),
        'no empty line': (GOOD.replace('\n\n', '\n', 1), 'second line'),
        'no body': (GOOD.replace('The reason is this.\n\n', ''), 'body'),
        'another signature': (GOOD.replace('a@', 'b@'), 'Signed-off-by'),
        'a path of a machine': (GOOD.replace('this', '/ro' 'ot/x'), 'path')})
    def test_refused_is(self, message, word):
        found = wrong(Commit('', 'A Tester', 'a@example.org', message))
        assert found and word in found, found


if __name__ == '__main__':
    tap.main()
