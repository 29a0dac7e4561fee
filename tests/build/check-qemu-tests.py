#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests: a few that touch what the patches change; the comparison.

scripts/qemu-tests.py runs all of them.
"""

import importlib

from lib import tap

qemu_tests = importlib.import_module('qemu-tests')

QUICK = ['check-qom-proplist', 'test-qdev-global-props',
         *('qtest-x86_64/' + name for name in (
             'device-plug-test', 'intel-iommu-test', 'machine-none-test',
             'numa-test', 'qmp-cmd-test', 'readconfig-test', 'test-hmp',
             'virtio-balloon-test'))]


class QemuTests(tap.TestCase):
    """Some tests of QEMU, and the comparison of results."""

    def test_a_few_pass(self):
        results = qemu_tests.run(qemu_tests.BUILD / 'qemu', QUICK)
        assert sorted(results) == sorted(QUICK), results
        failed = [name for name in QUICK
                  if results[name] not in qemu_tests.PASSED]
        assert not failed, failed

    def test_what_is_worse_is_marked(self):
        lines = list(qemu_tests.compare(
            {'a': 'OK', 'b': 'FAIL', 'c': 'FAIL', 'd': 'TIMEOUT', 'e': 'OK'},
            {'a': 'SKIP', 'b': 'OK', 'c': 'FAIL', 'e': 'ERROR'}))
        assert lines == ['b: FAIL, released OK: WORSE',
                         'c: FAIL, released FAIL',
                         'd: TIMEOUT, released not there',
                         'e: OK, released ERROR']


if __name__ == '__main__':
    tap.main()
