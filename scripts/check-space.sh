#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Refuse to begin what would not fit on the disk.
#
#   check-space.sh DIR MIB WHAT

set -eu

free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }')
[ "${free:-0}" -ge "$2" ] || {
    echo "check-space: $3 takes about $2 MiB, and where $1 is there are only" \
         "${free:-0} MiB free: make room, or clone the repository to another" \
         "disk." >&2
    exit 1
}
