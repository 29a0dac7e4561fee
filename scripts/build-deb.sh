#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Make a Debian package of what "make build" has built. It depends on the
# libraries that this host has, so it is for the release of this host.
#
#   build-deb.sh DIR    write the package to DIR in place of one that is there,
#                       and print its name
#
# Environment: AUTHOR ('NAME <MAIL>', the maintainer of the package; the author
# of the last commit).

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build
name=qemu-system-x86-guest-memfd
binary=usr/bin/qemu-system-x86_64-guest-memfd

die() {
    echo "build-deb: $*" >&2
    exit 1
}

[ $# = 1 ] || die "usage: $0 DIR"
for program in dpkg-deb dpkg-shlibdeps dpkg-gencontrol; do
    command -v $program >/dev/null ||
        die "there is no $program: install the package dpkg-dev."
done
[ -x "$build/qemu-system-x86_64" ] ||
    die "build/qemu-system-x86_64 does not exist: run make build first."

repository() {
    git -c 'safe.directory=*' -C "$top" "$@"
}

# A later commit is a later version, and so is a later release of Debian.
version=$(cat "$build/src/VERSION")
date=${SOURCE_DATE_EPOCH:-$(date +%s)}
author='Unknown <unknown@localhost>'
if repository rev-parse --verify -q HEAD >/dev/null 2>&1; then
    date=$(repository log -1 --format=%ct)
    author=$(repository log -1 --format='%an <%ae>')
    version=$version+git$(date -u -d "@$date" +%Y%m%d%H%M%S)
    version=$version.$(repository rev-parse --short=8 HEAD)
    [ -z "$(repository status --porcelain)" ] || version=$version.changed
fi
author=${AUTHOR:-$author}
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${ID:-}${VERSION_ID:-}")
case $release in
debian[0-9]*) version=$version~deb${release#debian} ;;
esac

# The same input gives the same package.
export SOURCE_DATE_EPOCH="$date"
umask 022

mkdir -p "$1"
into=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
DESTDIR=$root PREFIX=/usr "$top/scripts/install.sh" install
gzip -9n "$root"/usr/share/man/man1/*

doc=$root/usr/share/doc/$name
mkdir -p "$doc" "$work/debian" "$root/DEBIAN"
cat "$top/scripts/deb/copyright" "$build/src/LICENSE" \
    "$build/src/subprojects/libvfio-user/LICENSE" >"$doc/copyright"
cat >"$work/debian/changelog" <<END
qemu-guest-memfd ($version) unstable; urgency=medium

  * See the history of the repository.

 -- $author  $(date -u -R -d "@$date")
END
gzip -9nc "$work/debian/changelog" >"$doc/changelog.gz"

maintainer=$(printf %s "$author" | sed 's/[&|\\]/\\&/g')
sed "s|@MAINTAINER@|$maintainer|" "$top/scripts/deb/control" >"$work/debian/control"
said=$(cd "$work" && dpkg-shlibdeps "$root/$binary" 2>&1) ||
    die "dpkg-shlibdeps does not know what QEMU is linked with: $said"
(cd "$work" && dpkg-gencontrol "-P$root") ||
    die "dpkg-gencontrol refuses the package: the line above says why."
(cd "$root" && find usr -type f | LC_ALL=C sort | xargs md5sum) \
    >"$root/DEBIAN/md5sums"

rm -f "$into/${name}"_*.deb
package=$into/${name}_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null ||
    die "dpkg-deb could not write $package: the line above says why."
echo "$package"
