#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch, verify and unpack what qemu-source.conf names.

    fetch-qemu.py qemu     QEMU's source, unpacked as build/pristine
    fetch-qemu.py tools    meson and pycotap, unpacked as build/tools

Packages come from the host's own Debian archive, through an apt
configuration that lives below build/apt and leaves the system's alone.
"""

import argparse
import configparser
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent

# The spelling of the options of a one-line source in deb822 style
ONE_LINE_OPTIONS = {
    'arch': 'Architectures',
    'signed-by': 'Signed-By',
    'trusted': 'Trusted',
    'check-valid-until': 'Check-Valid-Until',
    'by-hash': 'By-Hash',
    'allow-insecure': 'Allow-Insecure',
}
# What a derived source takes over from the host's own one
KEPT_FIELDS = ('URIs', 'Signed-By', 'Trusted', 'Check-Valid-Until',
               'By-Hash', 'Allow-Insecure')


class FetchError(Exception):
    """A failure that one sentence explains."""


def shown(path):
    """PATH as a user would type it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# The host's own apt sources

def parse_deb822(text):
    """Yield the stanzas of a .sources file as dictionaries."""
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    stanza, field = {}, None
    for line in lines + ['']:
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, None
        elif line[0].isspace():
            if field:
                stanza[field] += '\n' + line
        elif ':' in line:
            name, value = line.split(':', 1)
            field = next((known for known in
                          KEPT_FIELDS + ('Types', 'Suites', 'Components',
                                         'Enabled')
                          if known.lower() == name.strip().lower()),
                         name.strip())
            stanza[field] = value.strip()


def parse_one_line(text):
    """Yield the entries of a sources.list file as deb822 dictionaries."""
    for line in text.splitlines():
        line = line.split('#', 1)[0].strip()
        kind, _, rest = line.partition(' ')
        if kind not in ('deb', 'deb-src'):
            continue
        stanza = {'Types': kind}
        rest = rest.strip()
        if rest.startswith('['):
            options, _, rest = rest[1:].partition(']')
            for option in options.split():
                name, _, value = option.partition('=')
                name = ONE_LINE_OPTIONS.get(name.lower(), name)
                stanza[name] = value.replace(',', ' ')
        words = rest.split()
        if len(words) >= 3:
            stanza['URIs'], stanza['Suites'] = words[:2]
            stanza['Components'] = ' '.join(words[2:])
            yield stanza


def machine_sources():
    """All sources that the system's apt configuration names."""
    out = subprocess.run(
        ['apt-config', 'shell', 'LIST', 'Dir::Etc::sourcelist/f',
         'PARTS', 'Dir::Etc::sourceparts/d'],
        check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
    where = {name: value.strip("'") for name, value in
             (line.split('=', 1) for line in out.splitlines())}
    paths = [Path(where['LIST'])] if where.get('LIST') else []
    if where.get('PARTS'):
        paths += sorted(Path(where['PARTS']).glob('*'))
    for path in paths:
        if not path.is_file():
            continue
        text = path.read_text(errors='replace')
        if path.suffix == '.sources':
            yield from parse_deb822(text)
        elif path.suffix == '.list':
            yield from parse_one_line(text)


def archives():
    """The host's sources that may be Debian's archive, best first."""
    codename = ''
    for line in Path('/etc/os-release').read_text().splitlines():
        if line.startswith('VERSION_CODENAME='):
            codename = line.split('=', 1)[1].strip('"')
    stanzas = [stanza for stanza in machine_sources()
               if stanza.get('Enabled', 'yes').lower() not in
               ('no', 'false', '0')
               and 'deb' in stanza.get('Types', '').split()
               and 'main' in stanza.get('Components', '').split()]
    found = []
    for name in (codename, 'sid', 'unstable', 'testing', 'stable'):
        for stanza in stanzas:
            if name in stanza.get('Suites', '').split() and \
               stanza not in found:
                found.append(stanza)
    return found


def apt_options(directory, archive, suite, types):
    """Write the private apt configuration; return the options that use it."""
    shutil.rmtree(directory, ignore_errors=True)
    for name in ('sources', 'lists/partial', 'cache/archives/partial'):
        (directory / name).mkdir(parents=True)
    fields = {'Types': types, 'Suites': suite, 'Components': 'main'}
    fields.update((name, archive[name]) for name in KEPT_FIELDS
                  if name in archive)
    (directory / 'sources/private.sources').write_text(
        ''.join('%s: %s\n' % item for item in fields.items()))
    settings = {
        'Dir::Etc::sourcelist': '/dev/null',
        'Dir::Etc::sourceparts': directory / 'sources',
        'Dir::State::lists': directory / 'lists',
        'Dir::Cache': directory / 'cache',
        'APT::Sandbox::User': 'root',
        'Acquire::Languages': 'none',
        # An old index will do: what it leads to is verified by checksum
        'Acquire::Check-Valid-Until': 'false',
        'Acquire::Check-Date': 'false',
        'Acquire::Retries': '3',
    }
    return [word for name, value in settings.items()
            for word in ('-o', '%s=%s' % (name, value))]


# Files and their checksums

class Group:
    """One section of qemu-source.conf."""

    def __init__(self, conf, name):
        parser = configparser.ConfigParser(interpolation=None)
        if not parser.read(conf):
            raise FetchError('%s is missing.' % shown(conf))
        section = parser[name]
        self.name = name
        self.version = section['version']
        self.kind = section['kind']
        self.packages = section['packages'].split()
        self.suites = section['suites'].split()
        words = section['sha256'].split()
        self.sums = dict(zip(words[1::2], words[0::2]))

    def stamp(self):
        """What an unpacked copy of the group is stamped with."""
        return ''.join('%s  %s\n' % (digest, name)
                       for name, digest in self.sums.items())

    def remedy(self, cache):
        """Where the files may come from instead."""
        text = 'put %s into %s' % (', '.join(self.sums), shown(cache))
        if self.name == 'qemu':
            text += ', or set QEMU_SRC to an unpacked QEMU %s tree' \
                % self.version
        return text


def verify(group, directory):
    """Raise FetchError unless every file of the group is what it should be."""
    for name, expected in group.sums.items():
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if digest != expected:
            raise FetchError(
                '%s has the wrong checksum (sha256 %s, expected %s): remove '
                'it to have it fetched again.'
                % (shown(directory / name), digest, expected))


def download_from(group, archive, suite, build, into):
    """Have apt put the group's files into INTO; False if it can't."""
    print('looking for %s in Debian %s' % (' '.join(group.packages), suite),
          flush=True)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    source = group.kind == 'source'
    options = apt_options(build / 'apt' / suite, archive, suite,
                          'deb-src' if source else 'deb')
    verb = ['source', '--download-only'] if source else ['download']
    with open(build / 'apt' / 'apt.log', 'ab') as log:
        for command, output in ((['update'], log),
                                (verb + group.packages, None)):
            if subprocess.run(['apt-get', '-q'] + options + command, cwd=into,
                              stdin=subprocess.DEVNULL, stdout=output,
                              stderr=log, check=False).returncode:
                return False
    return all((into / name).is_file() for name in group.sums)


def fetch(group, build, cache):
    """Make sure that CACHE holds all files of the group, verified."""
    if not all((cache / name).is_file() for name in group.sums):
        if shutil.which('apt-get') is None:
            raise FetchError('there is no apt-get here to fetch %s with: %s.'
                             % (' '.join(group.packages),
                                group.remedy(cache)))
        candidates = archives()
        if not candidates:
            raise FetchError('the apt sources of this host name no Debian '
                             'archive to look for %s in: %s.'
                             % (' '.join(group.packages),
                                group.remedy(cache)))
        into = cache / 'partial'
        (build / 'apt').mkdir(parents=True, exist_ok=True)
        (build / 'apt' / 'apt.log').write_bytes(b'')
        if not any(download_from(group, archive, suite, build, into)
                   for suite in group.suites for archive in candidates):
            raise FetchError(
                'the Debian archive of this host did not deliver %s (looked '
                'for in %s; apt\'s own words are in %s): %s.'
                % (' '.join(group.packages), ', '.join(group.suites),
                   shown(build / 'apt' / 'apt.log'), group.remedy(cache)))
        verify(group, into)
        for name in group.sums:
            # A copy: from a file: archive apt delivers symbolic links
            shutil.copyfile(into / name, into / (name + '.copy'))
            os.replace(into / (name + '.copy'), cache / name)
        shutil.rmtree(into)
    verify(group, cache)


def unpack(group, cache, target):
    """Unpack the group's files as the directory TARGET."""
    print('unpacking %s' % ', '.join(group.sums), flush=True)
    temporary = target.with_name(target.name + '.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    if group.kind == 'source':
        dsc = next(name for name in group.sums if name.endswith('.dsc'))
        commands = [['dpkg-source', '--no-check', '--no-copy', '-x',
                     cache / dsc, temporary]]
    else:
        commands = [['dpkg-deb', '-x', cache / name, temporary]
                    for name in group.sums]
    for command in commands:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode:
            sys.stderr.buffer.write(done.stdout)
            raise FetchError('%s could not unpack %s (see above).'
                             % (command[0], shown(command[-2])))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def main():
    """Fetch and unpack one group, unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('group', choices=['qemu', 'tools'])
    parser.add_argument('--build', type=Path, default=TOP / 'build')
    parser.add_argument('--conf', type=Path,
                        default=TOP / 'scripts/qemu-source.conf')
    args = parser.parse_args()
    build = args.build.resolve()
    cache = Path(os.environ.get('QEMU_DL_DIR') or build / 'dl').resolve()
    target = build / ('pristine' if args.group == 'qemu' else 'tools')
    stamp = build / (target.name + '.stamp')
    try:
        group = Group(args.conf, args.group)
        if target.is_dir() and stamp.is_file() and \
           stamp.read_text() == group.stamp():
            return 0
        build.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        fetch(group, build, cache)
        unpack(group, cache, target)
        stamp.write_text(group.stamp())
    except (FetchError, OSError) as error:
        print('fetch-qemu: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
