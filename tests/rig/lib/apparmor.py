# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's profiles for libvirt's domains and its daemon, with lines of the manual.

They are compiled here, where it takes half a second each, and loaded in L1, where
compiling one takes twelve.
"""

import os
import re
import shutil
import subprocess

from lib import TOP

# By scripts/fetch-apparmor.py
PACKAGES = os.path.join(TOP, 'build/apparmor')
PARSER = os.path.join(PACKAGES, 'sbin/apparmor_parser')
# That Debian compiles for, whatever the kernel has
FEATURES = os.path.join(PACKAGES, 'usr/share/apparmor-features/features')
MANUAL = os.path.join(TOP, 'docs/system/guest-memfd/howto-libvirt.rst')
SECTION = 'The system daemon and AppArmor'
DOMAIN = 'libvirt-5f0d21a6-8e3c-4b1f-9d57-2c9a4be0716d'
DAEMON = 'libvirtd'
# Where a domain's profile and its daemon's have lines of the administrator
LOCAL = {DOMAIN: 'local/abstractions/libvirt-qemu', DAEMON: 'local/usr.sbin.libvirtd'}
SOURCE = {DOMAIN: f'libvirt/{DOMAIN}', DAEMON: 'usr.sbin.libvirtd'}
# What libvirt 9.0.0's virt-aa-helper writes for a domain with these consoles and this
# kernel, without the files that nobody opens here
FILES = ('"/dev/vport0p2" rw,', '"/dev/vport0p3" rw,', '"/dev/vport0p4" rw,',
         '"/rig/guest.elf" r,', 'deny "/rig/guest.elf" w,')


def manual_lines():
    """{profile: the lines that the manual adds to it}"""
    with open(MANUAL, encoding='utf-8') as f:
        text = f.read().partition(f'\n{SECTION}\n')[2]
    text = re.split(r'^\S.*\n-+$', text.partition('\n\n')[2], flags=re.MULTILINE)[0]
    lines = re.findall(r'^    (\S.*,)$', text, re.MULTILINE)
    daemon = [line for line in lines if line.endswith('Ux,')]
    return {DOMAIN: [line for line in lines if line not in daemon], DAEMON: daemon}


def program_of(line):
    """The program that a line lets be executed; None if it is of other files."""
    path, rights = line.rsplit(' ', 1)
    return path if 'x' in rights else None


def variants():
    """{name of the file: (profile, lines of the administrator)}

    In "complain" the kernel logs what it would refuse, and does not.
    """
    lines = manual_lines()
    program = [line for line in lines[DOMAIN] if program_of(line)]
    root = [line for line in lines[DOMAIN] if line.startswith('/ ')]
    return {'none': (DOMAIN, []), 'program': (DOMAIN, program),
            'start': (DOMAIN, program + root), 'all': (DOMAIN, lines[DOMAIN]),
            'complain': (DOMAIN, program),
            'daemon-none': (DAEMON, []), 'daemon-all': (DAEMON, lines[DAEMON])}


def matches(line, path):
    """Whether a line is about this path."""
    pattern = line.rsplit(' ', 1)[0].replace('owner ', '')
    for word, value in (('@{PROC}', '/proc'), ('@{pid}', '[0-9]*')):
        pattern = pattern.replace(word, value)
    # {a,b}, **, * and [...]
    parts = re.split(r'(\*\*|\*|\[[^]]*\]|[{},])', pattern)
    meaning = {'**': '.*', '*': '[^/]*', '{': '(?:', '}': ')', ',': '|'}
    return re.fullmatch(''.join(
        part if part.startswith('[') else meaning.get(part, re.escape(part))
        for part in parts), path) is not None


def write(path, text):
    """A file, in a directory that may be new."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)


def compile_profiles(work):
    """(name, path of the compiled file) of each variant, made in a directory."""
    policy = os.path.join(work, 'apparmor.d')
    shutil.rmtree(policy, ignore_errors=True)
    shutil.copytree(os.path.join(PACKAGES, 'etc/apparmor.d'), policy)
    with open(os.path.join(policy, 'libvirt/TEMPLATE.qemu'), encoding='utf-8') as f:
        head, end, _ = f.read().replace('LIBVIRT_TEMPLATE', DOMAIN).rpartition('}')
    write(os.path.join(policy, SOURCE[DOMAIN]),
          f'{head}  #include <libvirt/{DOMAIN}.files>\n{end}\n')
    write(os.path.join(policy, f'libvirt/{DOMAIN}.files'), '\n'.join(FILES) + '\n')
    for name, (profile, lines) in variants().items():
        write(os.path.join(policy, LOCAL[profile]), '\n'.join(lines) + '\n')
        path = os.path.join(work, f'profile-{name}')
        subprocess.run([PARSER, '--config-file=/dev/null', '--base', policy,
                        '--skip-kernel-load', '--skip-cache', '--features-file', FEATURES,
                        *(['--Complain'] if name == 'complain' else []),
                        '--ofile', path, os.path.join(policy, SOURCE[profile])],
                       check=True)
        yield name, path
