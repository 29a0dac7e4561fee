# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of Debian that are unpacked and not installed: kernels, profiles.

A package has whatever version the archive has. It is kept in build/dl (or
QEMU_DL_DIR). apt verifies it by the signed index of the archive; its checksum is
kept beside it for the next time.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(
    'fetch_qemu', Path(__file__).resolve().with_name('fetch-qemu.py'))
fetch_qemu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch_qemu)
FetchError = fetch_qemu.FetchError
shown = fetch_qemu.shown


class NotDelivered(FetchError):
    """There is no package to be had on this host."""


def field(deb, name):
    """What the control file of a package says; nothing if it is none."""
    done = subprocess.run(['dpkg-deb', '-f', deb, name], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          universal_newlines=True)
    return done.stdout.strip() if not done.returncode else ''


def digest(path):
    """The sha256 of a file, in hexadecimal."""
    value = hashlib.sha256()
    with open(path, 'rb') as data:
        for block in iter(lambda: data.read(1 << 20), b''):
            value.update(block)
    return value.hexdigest()


def digests(paths):
    """Those of several files, a line each."""
    return ''.join('%s\n' % digest(path) for path in paths)


class DebianPackage:
    """What is wanted.

    @name: the name of the package; @files: what its file is called
    @suites: where it is looked for; @version: a pattern that it must match
    @remedy: where else it may come from
    @depends: the package itself is empty, and depends on the one that is wanted
    """

    # What fetch-qemu.py's download_from() is to deliver: any version
    kind = 'binary'
    sums = {}

    def __init__(self, name, files, suites, version, remedy, depends=False):
        self.name = name
        self.packages = [name]
        self._files = files
        self._suites = suites
        self._version = version
        self._remedy = remedy
        self._depends = depends

    def version_of(self, deb):
        """The version that a package file says it has."""
        version = field(deb, 'Version')
        if not version or not self._version.match(version):
            raise FetchError('%s is not %s in a version that is wanted: '
                             'remove it.' % (shown(deb), self._files))
        return version

    def cached(self, cache):
        """The newest one in the cache that is as it was fetched, or None."""
        newest = None
        for deb in sorted(cache.glob(self._files)):
            sums = deb.with_name(deb.name + '.sha256')
            if not sums.is_file():
                print('%s has no checksum beside it: it is taken as it is'
                      % shown(deb), flush=True)
                sums.write_text('%s  %s\n' % (digest(deb), deb.name))
            elif sums.read_text().split()[0] != digest(deb):
                raise FetchError('%s has changed since it was fetched: remove '
                                 'it to have it fetched again.' % shown(deb))
            version = self.version_of(deb)
            if newest is None or subprocess.run(
                    ['dpkg', '--compare-versions', version, 'gt',
                     self.version_of(newest)], check=False).returncode == 0:
                newest = deb
        return newest

    def get(self, build, cache):
        """The newest one, fetched first if the cache has none."""
        deb = self.cached(cache)
        if deb is None:
            self._fetch(build, cache)
            deb = self.cached(cache)
        return deb

    def _fetch(self, build, cache):
        """Have apt put the package into the cache."""
        remedy = self._remedy % shown(cache)
        if shutil.which('apt-get') is None:
            raise NotDelivered('there is no apt-get here to fetch %s with: %s.'
                               % (self.name, remedy))
        candidates = fetch_qemu.archives()
        if not candidates:
            raise NotDelivered('the apt sources of this host name no Debian '
                               'archive to look for %s in: %s.'
                               % (self.name, remedy))
        into = cache / ('partial-' + self.name)
        (build / 'apt').mkdir(parents=True, exist_ok=True)
        (build / 'apt' / 'apt.log').write_bytes(b'')
        if not any(self._download(archive, suite, build, into)
                   for suite in self._suites for archive in candidates):
            raise NotDelivered(
                "the Debian archive of this host did not deliver %s "
                "(looked for in %s; apt's own words are in %s): %s."
                % (self.name, ', '.join(self._suites),
                   shown(build / 'apt' / 'apt.log'), remedy))
        for deb in into.glob(self._files):
            self.version_of(deb)
            # A copy: from a file: archive apt delivers symbolic links
            shutil.copyfile(deb, into / 'copy')
            cache.joinpath(deb.name + '.sha256').write_text(
                '%s  %s\n' % (digest(into / 'copy'), deb.name))
            os.replace(into / 'copy', cache / deb.name)
        shutil.rmtree(into)

    def _download(self, archive, suite, build, into):
        """One archive and one suite of it; False if they do not have it."""
        self.packages = [self.name]
        if not fetch_qemu.download_from(self, archive, suite, build, into):
            return False
        if self._depends:
            deb = next(into.glob(self.name + '_*.deb'))
            self.packages = [field(deb, 'Depends').split(',')[0].split()[0]]
            return fetch_qemu.download_from(self, archive, suite, build, into)
        return True


def build_directory(doc):
    """Where to unpack, by the arguments of a program whose docstring is given."""
    parser = argparse.ArgumentParser(description=doc.split('\n', 1)[0])
    parser.add_argument('--build', type=Path, default=fetch_qemu.TOP / 'build')
    return parser.parse_args().build.resolve()


def keep_unpacked(build, name, wanted, contents, unpack):
    """Have what @unpack makes of packages in the directory @name of @build.

    @wanted: the packages; @contents: what the directory depends on, as text, of
    their files
    @unpack: fills a new directory with what their files have, or raises

    Nothing happens if it is there already. Programs wait for each other.
    """
    cache = Path(os.environ.get('QEMU_DL_DIR') or build / 'dl').resolve()
    target = build / name
    stamp = build / (name + '.stamp')
    build.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    # not kernel/build.sh's own, which that has while it calls fetch-kernel.py
    with open(build / ('.%s.lock' % name), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        debs = [package.get(build, cache) for package in wanted]
        made_of = contents(debs)
        if target.is_dir() and stamp.is_file() and stamp.read_text() == made_of:
            return
        print('unpacking %s' % ', '.join(map(shown, debs)), flush=True)
        temporary = target.with_name(name + '.tmp')
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        unpack(debs, temporary)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        stamp.write_text(made_of)
