# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that print TAP, by unittest and pycotap as QEMU's functional tests.

    from lib import tap

    class Size(tap.TestCase):
        def test_a_file_has_the_size_of_its_text(self):
            ...self.path / 'file'...

        @tap.cases({'4 KiB': 4096, '2 MiB': 2 << 20})
        def test_a_page_has_a_size(self, size):
            ...

    if __name__ == '__main__':
        tap.main()

A test has the first line of its docstring for a name, or else its method's
name with spaces.  What it prints becomes comments after its result, as does the
traceback of an exception, which ends this test only.
"""

import os
import signal
import sys
import tempfile
import unittest
from pathlib import Path

import pycotap

from lib.process import on_signals

PREFIX = 'test_'
# For functions that are not methods of a test; tests have skipTest()
Skip = unittest.SkipTest


def cases(table):
    """One test for each entry of TABLE: a name, and the arguments.

    A tuple is several arguments, anything else is one.  The name of the test
    ends with that of the entry.
    """
    if not table:
        raise ValueError('a table without cases tests nothing')

    def mark(method):
        method.cases = dict(table)
        return method
    return mark


def _sentence(method):
    """The name of a test for people."""
    first = (method.__doc__ or '').strip().partition('\n')[0].rstrip('.')
    return first or method.__name__.removeprefix(PREFIX).replace('_', ' ')


def _one_line(text):
    """What does not end or change a line of TAP."""
    return ' '.join(str(text).replace('#', '').split())


def _expand(method):
    """The tests that a method stands for."""
    table = getattr(method, 'cases', None)
    if table is None:
        return [method]
    return [_of_case(method, number, name, args)
            for number, (name, args) in enumerate(table.items(), 1)]


def _of_case(method, number, name, args):
    """The test for one entry of the table of METHOD."""
    if not isinstance(args, tuple):
        args = (args,)

    def test(self):
        method(self, *args)
    test.__name__ = '%s_%d' % (method.__name__, number)
    test.__doc__ = '%s: %s' % (_sentence(method), name)
    return test


class TestCase(unittest.TestCase):
    """A test with a directory of its own, and tables of cases."""

    longMessage = True
    maxDiff = None
    _path = None

    def __init_subclass__(cls, *args, **kwargs):
        super().__init_subclass__(*args, **kwargs)
        # All of them anew: what takes the place of a table stays there.
        for name, method in list(vars(cls).items()):
            if name.startswith(PREFIX):
                delattr(cls, name)
                for test in _expand(method):
                    setattr(cls, test.__name__, test)

    @property
    def path(self):
        """A directory that is removed after the test."""
        if self._path is None:
            directory = tempfile.TemporaryDirectory()
            self.addCleanup(directory.cleanup)
            self._path = Path(directory.name)
        return self._path

    def id(self):
        """What TAP calls this test."""
        return _one_line(_sentence(getattr(self, self._testMethodName)))


class _Loader(unittest.TestLoader):
    """Finds the tests of a class in the order in which they are written."""

    def getTestCaseNames(self, testCaseClass):
        order = [name for cls in reversed(testCaseClass.__mro__)
                 for name in vars(cls)]
        return sorted(super().getTestCaseNames(testCaseClass),
                      key=order.index)


class _Result(pycotap.TAPTestResult):
    """A setUpClass() that fails or skips is a result with a number, too."""

    def addError(self, test, err):
        self._begin(test)
        super().addError(test, err)
        self._end(test)

    def addSkip(self, test, reason):
        self._begin(test)
        super().addSkip(test, _one_line(reason) or 'no reason given')

    def _begin(self, test):
        if not isinstance(test, unittest.TestCase):
            self.testsRun += 1

    def _end(self, test):
        if not isinstance(test, unittest.TestCase):
            self.stopTest(test)


class _Runner(pycotap.TAPTestRunner):
    """Prints results as they come, tracebacks and output as comments."""

    def __init__(self):
        super().__init__(message_log=pycotap.LogMode.LogToDiagnostics,
                         test_output_log=pycotap.LogMode.LogToDiagnostics)

    def run(self, test):
        out, err = sys.stdout, sys.stderr
        result = _Result(self.output_stream, self.error_stream,
                         self.message_log, self.test_output_log)
        try:
            test(result)
            result.printErrors()
        finally:
            sys.stdout, sys.stderr = out, err
        return result


def _interrupt(number):
    """End by an exception that no test keeps, as unittest keeps SystemExit."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def _run(function):
    """What a function returns that is given a runner and a loader of tests."""
    on_signals(_interrupt)
    try:
        return function(_Runner(), _Loader())
    except KeyboardInterrupt as reason:
        print('Bail out! %s' % reason, flush=True)
        sys.exit(1)


def run_class(cls):
    """Run the tests of one class; whether all of them passed."""
    return _run(lambda runner, loader: runner.run(
        loader.loadTestsFromTestCase(cls))).wasSuccessful()


def main():
    """Run the tests of the program, or those that its arguments name."""
    result = _run(lambda runner, loader: unittest.main(
        testRunner=runner, testLoader=loader, exit=False)).result
    if not result.testsRun:
        sys.exit('%s: it has no such test' % os.path.basename(sys.argv[0]))
    sys.exit(not result.wasSuccessful())
