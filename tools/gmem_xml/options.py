# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of gmem-xml; see docs/tools/gmem-xml.rst."""

import argparse
import os
import re
import sys

from gmem.command import add_help, make_parser

from . import checks

DESCRIPTION = (
    'Give a libvirt domain guest_memfd memory, or take it out. libvirt does '
    'not know this memory: gmem-xml writes it into <qemu:commandline>. An '
    'element of <metadata> records what was added and keeps what was taken '
    'out.')
EPILOG = (
    'add and remove read the XML of a domain, as virsh dumpxml prints it, and '
    'write it to standard output. Exit status: 0 success, 1 the domain or an '
    'option is refused (nothing is written), 2 wrong arguments.')


def matching(pattern, what, convert=str):
    """A type of option whose whole text matches a pattern."""
    def check(text):
        if not re.fullmatch(pattern, text, re.ASCII):
            raise argparse.ArgumentTypeError(f'{text} is not {what}')
        return convert(text)
    return check


def size_in_bytes(text):
    """Bytes of 2M, 2MiB and such."""
    number, unit = re.fullmatch(r'(\d+)([KMGT]?).*', text).groups()
    return int(number) << (' KMGT'.index(unit or ' ') * 10)


size_option = matching(r'[0-9]+([KMGT](iB)?)?', 'a size; write it like 2M or '
                       '1G', size_in_bytes)
count_option = matching(r'0*[1-9][0-9]{0,4}', 'a number above 0', int)
name_option = matching(
    rf'(?!({checks.RESERVED_ID})\Z)[A-Za-z][A-Za-z0-9._-]*', 'a name for an '
    'object, or libvirt uses it; begin with a letter, then letters, digits, '
    '".", "_" and "-"')


def huge_option(text):
    """--hugetlb."""
    if text in ('on', 'off'):
        return text
    size = size_option(text)
    if size < 8192 or size & (size - 1):
        raise argparse.ArgumentTypeError(
            f'{text} is not a size of huge pages; write 2M or 1G, or on for '
            "the host's default")
    return size


def path_option(text):
    """A file or directory: libvirt does not search PATH."""
    if not text.startswith('/') or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f'{text!r} is not an absolute path that XML can hold')
    return text


def paths_option(text):
    """--firmware-dirs."""
    return [path_option(each) for each in text.split(':')]


def nodes_option(text):
    """--host-nodes."""
    try:
        return [] if text == 'none' else checks.node_set(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(
            f'{text} is not a set of nodes; write it like 0,2-3') from err


SWITCH = {'choices': ('on', 'off')}
# Of memory-backend-guest-memfd, by its own names
OBJECT = (
    ('--id', {'type': name_option, 'default': 'gmem0', 'metavar': 'ID'},
     'name of the memory object (default: gmem0)'),
    ('--driver', {'choices': ('auto', 'kvm', 'emulated')},
     'the driver that converts pages: KVM, or QEMU alone, which does not '
     'protect memory (default: kvm in a domain of this type, else emulated)'),
    ('--conversion', {'choices': ('auto', 'in-place', 'two-copy', 'none')},
     "how pages are converted (default: as the host's kernel can)"),
    ('--init', {'choices': ('auto', 'shared', 'private')},
     'state of all pages at the start and after a reset (default: private '
     'in a confidential VM, else shared)'),
    ('--hugetlb', {'type': huge_option, 'metavar': 'SIZE|on|off'},
     "size of the huge pages, 2M or 1G; on is the host's default (default: "
     'what <hugepages> says)'),
    ('--prealloc', SWITCH,
     'allocate the memory at the start (default: what <allocation> says)'),
    ('--prealloc-threads', {'type': count_option, 'metavar': 'N'},
     'threads that allocate it (default: as many as vCPUs)'),
    ('--reserve', SWITCH,
     'reserve huge pages, or swap space, at the start (default: on)'),
    ('--host-nodes', {'type': nodes_option, 'metavar': 'LIST|none'},
     'NUMA nodes of the host that the memory comes from, like 0,2-3 '
     '(default: those of <numatune>)'),
    ('--policy', {'choices': ('preferred', 'bind', 'interleave')},
     'NUMA policy for these nodes (default: that of <numatune>, or bind)'),
    ('--merge', SWITCH,
     'let the host merge equal pages (default: setting of the machine)'),
    ('--dump', SWITCH,
     'include the memory in core dumps of QEMU (default: setting of the '
     'machine)'))
DOMAIN = (
    ('--emulator', {'type': path_option, 'metavar': 'PATH'},
     'the QEMU of <emulator>, as an absolute path'),
    ('--firmware-dirs', {'type': paths_option, 'default': [],
                         'metavar': 'DIR[:DIR...]'},
     'where this QEMU finds its firmware (-L)'),
    ('--slots', {'type': count_option, 'metavar': 'N'},
     'how many DIMMs can be plugged; needs --max-memory'),
    ('--max-memory', {'type': size_option, 'metavar': 'SIZE'},
     'size of the memory with all DIMMs; needs --slots'),
    ('--x-dma-split', {'choices': ('auto', 'page', 'cut')},
     'what all vfio-pci devices do when a part of a DMA mapping becomes '
     'private (default: auto)'))


def parse_args():
    """The command line."""
    parser = make_parser('gmem-xml', description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(dest='command', required=True,
                                     metavar='add|remove|onDefineDomain')
    for name, text in (
            ('add', 'give a domain guest_memfd memory, or change its '
                    'options'),
            ('remove', 'take out what add has added')):
        command = commands.add_parser(name, help=text, allow_abbrev=False,
                                      add_help=False,
                                      description=text.capitalize() + '.')
        add_help(command)
        command.add_argument('-i', '--in-place', action='store_true',
                             help='write the result to FILE')
        command.add_argument('file', nargs='?', default='-', metavar='FILE',
                             help='XML of the domain (default: standard '
                             'input)')
        for title, group in (('options of the memory', OBJECT),
                             ('options of the domain', DOMAIN)):
            group = group if name == 'add' else ()
            section = command.add_argument_group(title)
            for option, kind, text in group:
                section.add_argument(option, help=text, **kind)
    command = commands.add_parser(
        'onDefineDomain', help='what add does, as a hook of KubeVirt',
        allow_abbrev=False, add_help=False, description='What add does, as '
        'a hook of KubeVirt. The options of add are annotations of the '
        'instance: gmem-xml/OPTION.')
    add_help(command)
    command.add_argument('--vmi', required=True, metavar='JSON',
                         help='the VirtualMachineInstance')
    command.add_argument('--domain', required=True, metavar='XML',
                         help='the domain, which is not a file')
    command.set_defaults(file='--domain', in_place=False)
    words = sys.argv[1:]
    if os.path.basename(sys.argv[0]) == 'onDefineDomain':
        words.insert(0, 'onDefineDomain')
    opts = parser.parse_args(words)
    if opts.in_place and opts.file == '-':
        parser.error('--in-place needs a FILE')
    return opts
