# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes as text: rounded for people, exact, and as an option of QEMU."""

UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')


def rounded(size):
    """Three digits, as QEMU's size_to_str() prints them in the monitor; what
    that prints as 1e+03 has the next unit here."""
    unit = 0
    while float(f'{size / (1 << 10 * unit):.3g}') >= 1000:
        unit += 1
    return f'{size / (1 << 10 * unit):.3g} {UNITS[unit]}'


def exact(size, step=0):
    """In the largest unit that divides it, or divides STEP."""
    step = step or size
    unit = min(max((step & -step).bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f'{size >> 10 * unit} {UNITS[unit]}'


def as_option(size):
    """The same as QEMU reads it: 2M."""
    return exact(size).replace(' B', '').replace(' ', '').replace('iB', '')
