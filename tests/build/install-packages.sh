#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the suite "build" needs beyond those of the
# build.  Debian 12 and 13 both have this clang, and its linker.  mmdebstrap makes
# the Debian that the package is installed in.

exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the build suite" \
    clang-19 lld-19 python3-sphinx lintian mmdebstrap
