#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the guest suite needs beyond those of the
# build: virtiofsd, which Debian 12 has in a package of QEMU.  That package starts
# nothing.

set -eu

package=virtiofsd
! grep -q '^VERSION_ID="\{0,1\}12\>' "${OS_RELEASE:-/etc/os-release}" ||
    package=qemu-system-common

exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the guest suite" \
    "$package"
