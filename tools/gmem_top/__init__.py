# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-top: connect, model, draw, picture, live, main.  See main.py."""
