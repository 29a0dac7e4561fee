#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the build needs and that are missing. With
# FULL=1 these are more; which of them there are depends on the release.

set -eu

PACKAGES="build-essential dpkg-dev make patch perl git
          ninja-build ccache pkg-config python3 python3-venv flex bison
          libglib2.0-dev libpixman-1-dev libslirp-dev libfdt-dev libnuma-dev
          libjson-c-dev libcmocka-dev
          libaio-dev liburing-dev libseccomp-dev libgnutls28-dev
          libcap-ng-dev libjpeg-dev libpng-dev libsasl2-dev libncurses-dev
          libusb-1.0-0-dev libusbredirparser-dev libfuse3-dev libzstd-dev
          libbz2-dev
          seabios qemu-system-data ipxe-qemu ovmf"

# "A|B": B will do, if it is installed; the two exclude each other.
FULL_PACKAGES="libasound2-dev libblkio-dev libbpf-dev libbrlapi-dev
               libcacard-dev libcapstone-dev
               libcurl4-gnutls-dev|libcurl4-openssl-dev libdaxctl-dev
               libdrm-dev libepoxy-dev libgbm-dev libglusterfs-dev libgtk-3-dev
               libibumad-dev libibverbs-dev libiscsi-dev
               libjack-dev|libjack-jackd2-dev libnfs-dev libpipewire-0.3-dev
               libpmem-dev libpulse-dev librbd-dev librdmacm-dev libsdl2-dev
               libspice-server-dev libssh-dev libudev-dev libvdeplug-dev
               libvirglrenderer-dev libvte-2.91-dev nettle-dev"

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

# The version of a package that apt would install, if any
offered() {
    LC_ALL=C apt-cache policy "$1" | sed -n '/(none)$/!s/^  Candidate: //p'
}

meson_is_offered() {
    version=$(offered meson)
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

missing_for_full() {
    [ "${FULL:-}" = 1 ] || return 0
    for package in $FULL_PACKAGES; do
        first=${package%%|*}
        if ! is_installed "$first" && ! is_installed "${package#*|}" &&
            [ -n "$(offered "$first")" ]; then
            printf ' %s' "$first"
        fi
    done
}

# Nothing is offered while there are no package lists: see below.
full=$(missing_for_full)
if [ -z "$missing$full" ] && { have_meson || [ -d "${1:-build}/tools/usr" ]; }; then
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
    [ -z "$missing$full" ] ||
        die "neither root nor sudo here: have an administrator run" \
            "'apt-get install$missing$full', then try again."
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive

if [ -n "$missing$full" ]; then
    $as_root apt-get -q update </dev/null ||
        echo "install-packages: apt-get update failed, going on with the" \
             "package lists that are here." >&2
    missing=$missing$(missing_for_full)
    echo "installing packages:$missing"
fi
if ! have_meson && meson_is_offered; then
    missing="$missing $MESON_PACKAGES"
fi
[ -n "$missing" ] || exit 0

# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends --no-remove install \
    $missing </dev/null ||
    die "apt-get could not install the packages that are needed: run" \
        "'apt-get install$missing' to see why, then try again."
