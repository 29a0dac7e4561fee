# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-xml: document, checks, hook, options, main.  See main.py."""
