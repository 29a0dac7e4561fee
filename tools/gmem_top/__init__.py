# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-top: connect, domain, model, draw, picture, metrics, live, output, main."""
