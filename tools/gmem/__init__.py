# SPDX-License-Identifier: GPL-2.0-or-later
"""What gmem-top and gmem-xml share."""

VERSION = '10.2.2'          # of the QEMU that the tools come with
