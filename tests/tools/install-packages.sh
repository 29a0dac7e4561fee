#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Install the Debian packages that the tools suite needs beyond those of the
# build: libvirt's schema, what checks a domain and JSON against a schema, a
# parser of metrics, one of YAML, and Sphinx.

exec sh "$(dirname "$0")/../../scripts/install-missing.sh" "the tools suite" \
    libvirt-clients libxml2-utils python3-sphinx python3-jsonschema \
    python3-prometheus-client python3-yaml
