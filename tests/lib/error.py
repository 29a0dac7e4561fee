# SPDX-License-Identifier: GPL-2.0-or-later
"""What went wrong."""


class HarnessError(Exception):
    """Something that the user can understand and mend."""
