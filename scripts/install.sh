#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install what "make build" has built, under names that no other QEMU uses, or
# remove it. Nothing is written below build/, so root can run this in the clone
# of a user.
#
#   install.sh install | uninstall
#
# Environment: PREFIX (/usr/local), DESTDIR (a directory in front of PREFIX, for
# packages).

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build
prefix=${PREFIX:-/usr/local}
name=qemu-system-x86_64-guest-memfd
# The modules of the tools, beside the tools: Python looks for modules where a
# script is, after it has followed the symbolic link in bin.
lib=share/qemu-guest-memfd
completion=share/bash-completion/completions

die() {
    echo "install: $*" >&2
    exit 1
}

case $prefix in
/*) ;;
*) die "PREFIX is $prefix: give an absolute path, such as /usr/local." ;;
esac
root=${DESTDIR:-}$prefix
tools=$(cd "$top/tools" && echo gmem-*)

uninstall() {
    for page in "$top"/docs/tools/*.rst; do
        rm -f "$root/share/man/man1/$(basename "$page" .rst).1"
    done
    for tool in $tools; do
        rm -f "$root/bin/$tool" "$root/$completion/$tool"
    done
    rm -f "$root/bin/$name"
    rm -rf "${root:?}/$lib"
}

# The files of a directory of Python modules, into another directory
install_modules() {
    (cd "$1" && find . -name '*.py') | while read -r module; do
        install -D -m 644 "$1/$module" "$2/$module"
    done
}

install_all() {
    install -D -s -m 755 "$build/qemu-system-x86_64" "$root/bin/$name"
    install_modules "$build/src/python/qemu/qmp" "$root/$lib/qemu/qmp"
    for package in "$top"/tools/gmem*/; do
        install_modules "$package" "$root/$lib/$(basename "$package")"
    done
    for tool in $tools; do
        install -m 755 "$top/tools/$tool" "$root/$lib"
        ln -s "../$lib/$tool" "$root/bin/$tool"
        install -D -m 644 "$top/tools/completion/$tool" \
            "$root/$completion/$tool"
    done
    for page in "$man"/*.1; do
        install -D -m 644 "$page" "$root/share/man/man1/$(basename "$page")"
    done
}

case ${1:-} in
install)
    [ -x "$build/qemu-system-x86_64" ] ||
        die "build/qemu-system-x86_64 does not exist: run make build first."
    man=$(mktemp -d)
    trap 'rm -rf "$man"' EXIT
    "$top/scripts/build-docs.sh" "$man" man
    ;;
uninstall) ;;
*)
    die "usage: $0 install | uninstall"
    ;;
esac

umask 022
mkdir -p "$root" 2>/dev/null || :
[ -w "$root" ] ||
    die "$root cannot be written: run make $1 as root, or set PREFIX."
# Modules of an earlier version must not stay.
uninstall
[ "$1" = uninstall ] || install_all
