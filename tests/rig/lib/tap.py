# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of the rig as TAP 14: a test for each scenario, a subtest for each result.

The only place that prints results.
"""

import threading
import time


def described(word, name, problems):
    """A test line, and a comment for each line of its problems."""
    lines = [f'{word} - {name}']
    for problem in problems:
        lines += [f'  # {line}' for line in str(problem).splitlines() or ['']]
    return lines


class Tap:
    """Numbered tests, of which the plan says how many; for several threads."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def plan(self, number):
        """So many tests follow."""
        print(f'TAP version 14\n1..{number}', flush=True)

    def _number(self):
        return self.passed + self.failed + self.skipped

    def test(self, name, results):
        """A test: it fails if one of the [(what, problems)] of it has problems."""
        lines = [f'# Subtest: {name}']
        for number, (what, problems) in enumerate(results, 1):
            word = 'not ok' if problems else 'ok'
            lines += described(f'{word} {number}', what, problems)
        lines.append(f'1..{len(results)}')
        failed = not results or any(problems for _what, problems in results)
        with self._lock:
            if failed:
                self.failed += 1
            else:
                self.passed += 1
            word = 'not ok' if failed else 'ok'
            print('\n'.join([f'    {line}' for line in lines] +
                            [f'{word} {self._number()} - {name}']), flush=True)

    def skip(self, name, reason):
        """A test that is not run."""
        with self._lock:
            self.skipped += 1
            print(f'ok {self._number()} - {name} # SKIP {reason}', flush=True)

    def note(self, text):
        """Progress."""
        seconds = int(time.monotonic() - self._start)
        text = str(text).replace('\n', '\n# ')
        with self._lock:
            print(f'# {seconds // 60}:{seconds % 60:02} {text}', flush=True)

    def end(self):
        """The last line; the exit code."""
        print(f'{self.passed} passed, {self.failed} failed, '
              f'{self.skipped} skipped', flush=True)
        return 1 if self.failed or not self._number() else 0


class Results:
    """What a scenario has found: printed once it is known whether that counts.

    A scenario that a known fault has ended runs again.
    """

    def __init__(self, tap, name):
        self._tap = tap
        self._name = name
        self.results = []

    @property
    def failed(self):
        """[(what, problems)] of what failed."""
        return [result for result in self.results if result[1]]

    def result(self, what, problems=()):
        """One of them; without problems it is ok."""
        self.results.append((what, list(problems)))

    def note(self, text):
        """Progress."""
        self._tap.note(f'{self._name}: {text}')
