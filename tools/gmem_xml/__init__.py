# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-xml: document, checks, main.  See main.py."""
