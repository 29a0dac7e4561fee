# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes."""

MIB = 1 << 20
PAGE = 4096
