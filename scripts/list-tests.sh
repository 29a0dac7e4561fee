#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Print every test as "SUITE PATH", for meson.build.

set -eu

cd "$(dirname "$0")/.."

scripts/build-qemu.sh tests | while read -r name; do
    case $name in
    tests/unit/*) echo "unit build/qemu/$name" ;;
    *.so) ;;
    tests/qtest/*) echo "qtest build/qemu/$name" ;;
    esac
done

for suite in vfio-user guest libvirt build docs; do
    for path in "tests/$suite"/check-*.py "tests/$suite"/check-*.sh; do
        [ ! -x "$path" ] || echo "$suite $path"
    done
done
echo "style scripts/check-style.py"
