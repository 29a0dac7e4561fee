# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP.

QEMU's own qemu.qmp does not fit.  A client of it that waits for an event waits
on when QEMU has ended, as the guests of these tests end it.  It takes a refused
qmp_capabilities for the end of the session: on the rig's port, which all QEMUs
have one after the other, it can be refused.
"""

import contextlib
import itertools
import json
import time

from lib.error import HarnessError

POLL_SECONDS = 0.01


class QmpError(Exception):
    """A command that QEMU refused."""


class Qmp:
    """A client; events are kept.

    QEMU may find something in its socket that was written to one before it:
    answers are to what has their number, and to speak twice of capabilities is
    no error.
    """

    _numbers = itertools.count()

    def __init__(self, sock):
        self._file = sock.makefile('rw', encoding='utf-8', newline='\n')
        self.events = []
        greeting = self._read()
        if 'QMP' not in greeting:
            raise HarnessError(f'no QMP greeting but {greeting}')
        with contextlib.suppress(QmpError):
            self.command('qmp_capabilities')

    def _read(self):
        try:
            line = self._file.readline()
        except OSError:
            line = ''
        if not line:
            raise EOFError('QEMU has closed its monitor')
        return json.loads(line)

    def command(self, name, **args):
        """Its result; QmpError if it failed, EOFError if QEMU is gone."""
        number = next(self._numbers)
        try:
            self._file.write(json.dumps(
                {'execute': name, 'arguments': args, 'id': number}) + '\n')
            self._file.flush()
        except OSError as err:
            raise EOFError('QEMU has closed its monitor') from err
        while True:
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)
            elif answer.get('id', number) != number:
                continue
            elif 'error' in answer:
                raise QmpError(f"{name}: {answer['error']['desc']}")
            else:
                return answer['return']

    def human(self, line):
        """What the human monitor answers."""
        return self.command('human-monitor-command', **{'command-line': line})

    def wait(self, matches):
        """The first event that matches, of those kept and those to come."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                seen += 1
                if matches(event):
                    return event
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)

    def reset(self):
        """Reset the machine. QMP answers before it is done, an event tells."""
        before = len(self.events)
        self.command('system_reset')
        self.wait(lambda event: event['event'] == 'RESET' and
                  event in self.events[before:])

    def poll(self, condition):
        """Wait for what QEMU has no event for; what @condition() returns.

        It is asked now and then, so that QEMU has time for other things.
        """
        while not (result := condition()):
            time.sleep(POLL_SECONDS)
        return result
