# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of this repository share.

Their PYTHONPATH has the directory above, so they say "from lib import tap".
meson.build sets it, and "scripts/build-qemu.sh env" for a test that is run
alone.
"""

from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
