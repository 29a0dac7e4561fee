#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that some tests need beyond those of the build.
#
#   install-missing.sh WHO PACKAGE...

set -eu

who=$1
shift

missing=
for package; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    "install ok installed") ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] && [ -z "${SKIP_PACKAGES:-}" ] || exit 0

die() {
    echo "install-packages: $*" >&2
    exit 1
}

if [ "$(id -u)" = 0 ]; then
    as_root=
elif ! command -v sudo >/dev/null 2>&1; then
    die "neither root nor sudo here: have an administrator run" \
        "'apt-get install$missing', then try again."
elif [ -t 0 ]; then
    as_root=sudo
else
    as_root="sudo -n"
fi

echo "installing packages:$missing"
$as_root apt-get -q update </dev/null ||
    echo "install-packages: apt-get update failed, going on with the package" \
         "lists that are here." >&2
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install $missing </dev/null ||
    die "apt-get could not install the packages that $who needs: run" \
        "'apt-get install$missing' to see why, then try again."
