#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the style suite needs beyond those of the
# build.

exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the style suite" \
    pylint shellcheck
