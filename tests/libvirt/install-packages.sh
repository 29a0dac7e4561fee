#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the libvirt suite needs beyond those of the
# build.  They hold no unit of systemd: nothing is started.

exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the libvirt suite" \
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libxml2-utils \
    util-linux
