#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Build the HTML of docs/ with Sphinx; each warning is an error.
#
#   build-docs.sh DIR       write the pages to DIR
#   build-docs.sh DIR man   write the man pages of docs/tools to DIR
#
# Environment: QEMU_TREE (QEMU's sources with our files, whose Sphinx extensions
# read the QAPI schema; build/src), SKIP_PACKAGES=1 (install nothing).

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
tree=${QEMU_TREE:-$top/build/src}

die() {
    echo "build-docs: $*" >&2
    exit 1
}

case $#:${2:-man} in
1:man | 2:man) ;;
*) die "usage: $0 DIR [man]" ;;
esac
[ -d "$tree/docs/sphinx" ] ||
    die "$tree is not a QEMU tree: run make build, or set QEMU_TREE."
command -v sphinx-build >/dev/null || sh "$top/tests/docs/install-packages.sh"
command -v sphinx-build >/dev/null ||
    die "there is no sphinx-build: run tests/docs/install-packages.sh."

# The pages, with those that only exist outside of QEMU's own manuals
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -R "$top"/docs/* "$top"/tests/docs/*.rst "$source"

rm -rf "$1"
mkdir -p "$1"
status=0
# The extensions of QEMU's documentation, and what reads the QAPI schema
said=$(DOCS_TREE=$tree PYTHONPATH=$tree/docs/sphinx:$tree/scripts \
    LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    sphinx-build -W --keep-going -n -q -b "${2:-html}" -c "$top/tests/docs" \
    -d "$source/.doctrees" "$source" "$1" 2>&1) || status=1
# Warnings name the copy.
[ -z "$said" ] || echo "$said" | sed "s|$source/|docs/|g" >&2
if [ -n "$said" ] || [ $status != 0 ]; then
    die "the documentation has errors: the lines above say where."
fi
