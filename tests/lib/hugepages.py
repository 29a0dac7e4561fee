# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools of huge pages, for several tests at once."""

import contextlib
import fcntl
import os

from lib.units import MIB

HUGE_PAGE = 2 * MIB
POOLS = '/sys/kernel/mm/hugepages/'


def _pool(size):
    return f'{POOLS}hugepages-{size // 1024}kB'


def _read(size, name):
    with open(os.path.join(_pool(size), name), encoding='ascii') as f:
        return int(f.read())


@contextlib.contextmanager
def _locked(path):
    """Alone with a pool or its size; not at all if this host has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _grow(size, missing):
    """Have so many more pages in the pool; how many it has got.

    @missing is a function: others may change the pool up to then.
    """
    path = os.path.join(_pool(size), 'nr_hugepages')
    with _locked(path), contextlib.suppress(OSError, ValueError):
        before = _read(size, 'nr_hugepages')
        with open(path, 'w', encoding='ascii') as f:
            f.write(str(max(0, before + missing())))
        return _read(size, 'nr_hugepages') - before
    return 0


def huge_pages_free(size=HUGE_PAGE):
    """Free huge pages that nobody has reserved."""
    try:
        return max(0, _read(size, 'free_hugepages') -
                   _read(size, 'resv_hugepages'))
    except (OSError, ValueError):
        return 0


@contextlib.contextmanager
def grown_pool(needed, size=HUGE_PAGE):
    """Have that many free pages at first, if this host can.

    At the end the pool shrinks by what it has grown; a signal has to be an
    exception (see lib.process).
    """
    added = 0
    try:
        if huge_pages_free(size) < needed:
            added = _grow(size, lambda: max(0, needed - huge_pages_free(size)))
        yield
    finally:
        if added > 0:
            _grow(size, lambda: -added)


@contextlib.contextmanager
def huge_pages(needed, size=HUGE_PAGE):
    """Have that many free pages for oneself; yields None or why not.

    Others who call this, and gm_lock_huge_pages() of the qtests, wait until the
    end: free pages that one test is about to use look free to the next one.
    """
    if not needed:
        yield None
        return
    with _locked(POOLS), grown_pool(needed, size):
        free = huge_pages_free(size)
        yield None if free >= needed else (
            f'needs {needed} free huge pages of {size // MIB} MiB, '
            f'there are {free}')
