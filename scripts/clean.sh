#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Remove everything below build/ but the downloads.

set -eu

cd "$(dirname "$0")/.."
[ -d build ] || exit 0
find build -mindepth 1 -maxdepth 1 ! -name dl -exec rm -rf {} +
