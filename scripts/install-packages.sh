#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the build needs and that are missing.

set -eu

PACKAGES="build-essential dpkg-dev make patch perl git
          ninja-build ccache pkg-config python3 python3-venv flex bison
          libglib2.0-dev libpixman-1-dev libslirp-dev libfdt-dev libnuma-dev
          libjson-c-dev libcmocka-dev
          seabios qemu-system-data ipxe-qemu ovmf"

# QEMU's configure needs these; where the release has only an older meson,
# fetch-qemu.py unpacks a private copy instead.
MESON_MIN=1.5
MESON_PACKAGES="meson python3-pycotap"

die() {
    echo "install-packages: $*" >&2
    exit 1
}

is_installed() {
    case $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) in
    "install ok installed") return 0 ;;
    esac
    return 1
}

have_meson() {
    for package in $MESON_PACKAGES; do
        is_installed "$package" || return 1
    done
    dpkg --compare-versions \
        "$(dpkg-query -W -f '${Version}' meson)" ge "$MESON_MIN"
}

meson_is_offered() {
    version=$(LC_ALL=C apt-cache policy meson | sed -n 's/^  Candidate: //p')
    dpkg --compare-versions "${version:-0}" ge "$MESON_MIN"
}

if [ "${1:-}" = --have-meson ]; then
    have_meson
    exit
fi

command -v dpkg-query >/dev/null 2>&1 ||
    die "this is no Debian system: install the equivalents of" \
        "$PACKAGES $MESON_PACKAGES by hand, then set SKIP_PACKAGES=1."

missing=
for package in $PACKAGES; do
    is_installed "$package" || missing="$missing $package"
done

if [ -z "$missing" ] && { have_meson || [ -d "${1:-build}/tools/usr" ]; }; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    as_root=
elif ! command -v sudo >/dev/null 2>&1; then
    as_root=none
elif [ -t 0 ]; then
    as_root=sudo
else
    as_root="sudo -n"
fi

if [ "$as_root" = none ]; then
    [ -z "$missing" ] ||
        die "neither root nor sudo here: have an administrator run" \
            "'apt-get install$missing', then try again."
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive

if [ -n "$missing" ]; then
    echo "installing packages:$missing"
    $as_root apt-get -q update </dev/null ||
        echo "install-packages: apt-get update failed, going on with the" \
             "package lists that are here." >&2
fi
if ! have_meson && meson_is_offered; then
    missing="$missing $MESON_PACKAGES"
fi
[ -n "$missing" ] || exit 0

# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install $missing </dev/null ||
    die "apt-get could not install the packages that are needed: run" \
        "'apt-get install$missing' to see why, then try again."
