#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Print every test as "SUITE PATH", for meson.build.

set -eu

cd "$(dirname "$0")/.."

scripts/build-qemu.sh tests | while read -r name; do
    case $name in
    tests/unit/*)
        echo "unit build/qemu/$name"
        echo "sanitizers build/asan/$name"
        ! grep -q qemu_thread_create "$name.c" ||
            echo "sanitizers build/tsan/$name"
        ;;
    # ASan has to be loaded before what four of these preload.  The fifth has not
    # been run with it yet.
    tests/qtest/guest-memfd-kvm-test | tests/qtest/guest-memfd-pages-test | \
    tests/qtest/guest-memfd-server-test | tests/qtest/guest-memfd-session-test | \
    tests/qtest/guest-memfd-config-test)
        echo "qtest build/qemu/$name"
        ;;
    tests/qtest/*)
        echo "qtest build/qemu/$name"
        echo "sanitizers build/asan/$name"
        ;;
    esac
done

for suite in vfio-user guest tools libvirt build docs style sanitizers; do
    for path in "tests/$suite"/check-*.py "tests/$suite"/check-*.sh; do
        [ ! -x "$path" ] || echo "$suite $path"
    done
done
