# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx as QEMU's docs/conf.py has it, but for what needs more packages.

DOCS_TREE is QEMU's source tree, whose extensions read the QAPI schema.  They
are in PYTHONPATH: docs/sphinx and scripts.
"""

import os

TREE = os.environ['DOCS_TREE']

# Names that Sphinx wants, and those of QEMU's extensions
project = 'guest_memfd memory'
extensions = ['qapi_domain', 'qapidoc', 'qmp_lexer']
qapidoc_srctree = TREE
qapi_namespaces = {'QMP'}
default_role = 'any'
man_pages = [
    ('tools/gmem-top', 'gmem-top', 'show the guest_memfd memory of a VM', [], 1),
    ('tools/gmem-xml', 'gmem-xml', 'give a libvirt domain guest_memfd memory',
     [], 1),
    ('tools/qemu-system-x86_64-guest-memfd', 'qemu-system-x86_64-guest-memfd',
     'QEMU with guest_memfd memory', [], 1)]
html_theme = 'alabaster'
html_theme_options = {'page_width': '1280px', 'body_max_width': '1000px',
                      'sidebar_width': '260px', 'fixed_sidebar': True,
                      'description': 'Guest memory that is converted between '
                                     'shared and private'}
html_sidebars = {'**': ['about.html', 'searchbox.html', 'navigation.html']}
html_static_path = ['static']
html_css_files = ['manual.css']
html_copy_source = False
html_show_copyright = False
highlight_language = 'none'
# Types of JSON that have no definition in the schema
nitpick_ignore = [('qapi:type', name) for name in ('int', 'string', 'boolean')]
