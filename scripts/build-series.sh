#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compile QEMU, and run the tests that it has by then, after each patch of
# build/export. This takes long, since some patches change what all files
# include; build/series/build.log tells how far it is.
#
#   build-series.sh [FIRST [LAST]]    FIRST > 1: the tree has those before

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
series=$top/build/series
first=${1:-1}
last=${2:-99}

apply() {
    patch -s -p1 --no-backup-if-mismatch -F 0 -d "$1" <"$2"
}

# Print what a test says against the series; count what it is content with.
run() {
    QTEST_QEMU_BINARY=./qemu-system-x86_64 "$1" --tap -k \
        >"$series/test.log" 2>&1 || failed="$failed $1"
    grep '^not ok' "$series/test.log" || true
    passed=$((passed + $(grep -c '^ok [^#]*$' "$series/test.log" || true)))
}

if [ "$first" = 1 ]; then
    rm -rf "$series"
    mkdir -p "$series"
    # patch makes new files of those that it changes.
    cp -al "$top/build/pristine" "$series/src"
    for patch in "$top"/build/export/libvfio-user/*.patch; do
        apply "$series/src/subprojects/libvfio-user" "$patch"
    done
fi

for patch in "$top"/build/export/0*.patch; do
    name=$(basename "$patch" .patch)
    number=$(expr "$name" : '0*\([1-9][0-9]*\)-') || continue
    [ "$number" -ge "$first" ] || continue
    [ "$number" -le "$last" ] || break
    apply "$series/src" "$patch"
    if ! "$top/scripts/build-qemu.sh" tree "$series" \
        >"$series/build.log" 2>&1; then
        tail -n 25 "$series/build.log" >&2
        echo "$name: does not compile" >&2
        exit 1
    fi
    passed=0 failed=
    cd "$series/qemu"
    for test in tests/unit/test-guest-memfd* tests/qtest/guest-memfd-*test; do
        if [ -f "$test" ] && [ -x "$test" ]; then
            run "./$test"
        fi
    done
    echo "$name: compiled, $passed tests passed${failed:+, failed:$failed}"
    [ -z "$failed" ] || exit 1
done
