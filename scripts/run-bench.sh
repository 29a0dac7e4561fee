#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Run every benchmark that was built, and that of the rig.

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
found=
for program in "$top"/build/qemu/tests/bench/guest-memfd-*; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then
        continue
    fi
    found=1
    echo "== $(basename "$program")"
    "$program"
done
if [ "${CHECK_VM:-}" != skip ]; then
    echo "== conversions on a real kernel (CHECK_VM=skip leaves them out)"
    "$top"/tests/vm/bench.py
fi
if [ -z "$found" ]; then
    echo "run-bench: there is no benchmark in this tree yet." >&2
    exit 1
fi
