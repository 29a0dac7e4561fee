#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the rig needs beyond those of the build; virtiofsd
# as for the guest suite.

sh "$(dirname "$0")/../guest/install-packages.sh"
exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the rig" \
    build-essential dpkg-dev ccache flex bison bc xz-utils \
    libelf-dev libssl-dev uuid-dev busybox-static
