# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of the rig, as TAP."""

import threading
import time


class Tap:
    """Numbered results, and what they sum up to. For several threads."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def _line(self, word, name, problems=()):
        number = self.passed + self.failed + self.skipped
        lines = [f'{word} {number} - {name}']
        for problem in problems:
            lines += [f'# {line}' for line in str(problem).splitlines() or ['']]
        print('\n'.join(lines), flush=True)

    def result(self, name, problems=()):
        """One test; without problems it is ok."""
        with self._lock:
            if problems:
                self.failed += 1
            else:
                self.passed += 1
            self._line('not ok' if problems else 'ok', name, problems)

    def skip(self, name, reason):
        """One test that is not run."""
        with self._lock:
            self.skipped += 1
            self._line('ok', f'{name} # SKIP {reason}')

    def note(self, text):
        """Progress."""
        seconds = int(time.monotonic() - self._start)
        with self._lock:
            print(f'# {seconds // 60}:{seconds % 60:02} {text}', flush=True)

    def end(self):
        """The last line; the exit code."""
        print(f'{self.passed} passed, {self.failed} failed, '
              f'{self.skipped} skipped', flush=True)
        return 1 if self.failed or not self.passed + self.skipped else 0


class Named:
    """A Tap for which all names begin the same, and failures wait.

    They may come from a known fault of L1.
    """

    def __init__(self, tap, prefix):
        self._tap = tap
        self._prefix = prefix
        self.failed = []

    def result(self, name, problems=()):
        """One test."""
        name = f'{self._prefix}: {name}'
        problems = list(problems)
        if problems:
            self.failed.append((name, problems))
        else:
            self._tap.result(name)

    def note(self, text):
        """Progress."""
        self._tap.note(f'{self._prefix}: {text}')
