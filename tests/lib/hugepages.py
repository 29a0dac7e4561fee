# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools of huge pages."""

import contextlib

HUGE = '/sys/kernel/mm/hugepages/hugepages-2048kB/'


def _huge(name):
    with open(HUGE + name, encoding='ascii') as f:
        return int(f.read())


def huge_pages_free():
    """Free 2 MiB huge pages that nobody has reserved."""
    try:
        return max(0, _huge('free_hugepages') - _huge('resv_hugepages'))
    except (OSError, ValueError):
        return 0


@contextlib.contextmanager
def huge_pages(needed):
    """Have that many free 2 MiB huge pages; yields None or why not."""
    missing = needed - huge_pages_free()
    added = 0
    problem = None
    try:
        if missing > 0:
            try:
                before = _huge('nr_hugepages')
                with open(HUGE + 'nr_hugepages', 'w', encoding='ascii') as f:
                    f.write(str(before + missing))
                added = _huge('nr_hugepages') - before
            except (OSError, ValueError):
                pass
            free = huge_pages_free()
            if free < needed:
                problem = (f'needs {needed} free huge pages of 2 MiB, '
                           f'there are {free}')
        yield problem
    finally:
        if added > 0:
            with contextlib.suppress(OSError, ValueError):
                now = _huge('nr_hugepages')
                with open(HUGE + 'nr_hugepages', 'w', encoding='ascii') as f:
                    f.write(str(max(0, now - added)))
