#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make build/src: QEMU's tree plus patches/ plus the repository's own files.

Only files whose content differs are written, so that ninja rebuilds what
changed and nothing else.  The tree that QEMU_SRC names is only ever read.
"""

import argparse
import configparser
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import repo_files

# Parts of QEMU's tree that no build reads
SKIPPED = {'.git', 'roms', 'build', 'debian', '.pc'}

# What the patches change and a benchmark needs as it was, and where to put it
ORIGINALS = {
    'include/system/ramblock.h': 'tests/bench/qemu-ramblock.h',
    'system/ram-block-attributes.c': 'tests/bench/qemu-ram-block-attributes.c',
}


class PrepareError(Exception):
    """A failure that one sentence explains."""


def check_version(base):
    """Raise PrepareError unless BASE is a QEMU tree of the right release."""
    conf = configparser.ConfigParser(interpolation=None)
    conf.read(Path(__file__).with_name('qemu-source.conf'))
    release = conf['qemu']['version'].rpartition('.')[0]
    version = base / 'VERSION'
    if not version.is_file():
        raise PrepareError(
            '%s is no QEMU source tree (it has no file VERSION): set QEMU_SRC '
            'to an unpacked QEMU %s.x tree.' % (base, release))
    found = version.read_text().strip()
    if not found.startswith(release + '.'):
        raise PrepareError(
            '%s is QEMU %s, but the patches are for %s.x: set QEMU_SRC to a '
            'tree of that release.' % (base, found, release))


def tree_files(base):
    """All files below BASE that a build may read, as relative paths."""
    found = []

    def walk(prefix):
        with os.scandir(base / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                if not prefix and entry.name in SKIPPED or \
                   entry.name == '__pycache__':
                    continue
                if entry.is_dir(follow_symlinks=False):
                    walk(name + '/')
                else:
                    found.append(name)
    walk('')
    return found


def touched_files(patch):
    """The files that a patch changes, as relative paths."""
    names = []
    for line in patch.read_text(errors='surrogateescape').splitlines():
        match = re.match(r'(?:---|\+\+\+) [ab]/([^\t]+)', line)
        if match and match.group(1) not in names:
            names.append(match.group(1))
    return names


def apply_patches(patches, base, stage, fuzz):
    """Apply the patches to copies of what they touch; return those paths."""
    touched = []
    for patch in patches:
        names = touched_files(patch)
        if not names:
            raise PrepareError('patches/%s changes no file: it is no patch.'
                               % patch.name)
        for name in names:
            if name in touched:
                continue
            touched.append(name)
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            if (base / name).is_file():
                shutil.copy2(base / name, stage / name)
        done = subprocess.run(
            ['patch', '-p1', '--no-backup-if-mismatch', '--forward',
             '-r', '-', '-F', fuzz, '-i', patch], cwd=stage, check=False,
            env=dict(os.environ, LC_ALL='C'), universal_newlines=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise PrepareError(refusal(patch, base, names, done.stdout))
    return touched


def refusal(patch, base, names, output):
    """The sentence that says which patch does not apply, and where."""
    where, current = [], names[0]
    for line in output.splitlines():
        match = re.match(r"patching file '?([^']*?)'?(?: \(.*\))?$", line)
        if match:
            current = match.group(1)
        elif 'FAILED' in line or 'failed' in line or \
                line.startswith(('No file to patch', 'The next patch')):
            if current not in where:
                where.append(current)
    return 'patches/%s does not apply to %s of QEMU %s: rebase the patch, or ' \
        'build with the QEMU version it was made for.' % (
            patch.name, ', '.join(where or names),
            (base / 'VERSION').read_text().strip())


def same_file(source, target):
    """Whether two files have the same content (or link target) and mode."""
    if source.is_symlink() or target.is_symlink():
        return source.is_symlink() and target.is_symlink() and \
            os.readlink(source) == os.readlink(target)
    return target.is_file() and \
        filecmp.cmp(source, target, shallow=False) and \
        os.access(source, os.X_OK) == os.access(target, os.X_OK)


def install(source, target, keep_mtime):
    """Make TARGET equal to SOURCE; leave it alone if it already is."""
    if same_file(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + '.new~')
    shutil.copy2(source, temporary, follow_symlinks=False)
    if not keep_mtime:
        # Newer than anything that was built from what was here before
        os.utime(temporary, follow_symlinks=False)
    os.replace(temporary, target)


def same_stat(source, target):
    """Whether a file of QEMU's own is certainly unchanged."""
    try:
        one, two = os.lstat(source), os.lstat(target)
    except FileNotFoundError:
        return False
    return one.st_size == two.st_size and one.st_mtime_ns == two.st_mtime_ns


def remove(path, top):
    """Remove a file and the directories that this leaves empty."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == top or not parent.is_dir() or any(parent.iterdir()):
            break
        parent.rmdir()


def prepare(repo, base, build, fuzz):
    """Bring build/src up to date."""
    src, manifest = build / 'src', build / 'src.manifest'
    src.mkdir(parents=True, exist_ok=True)
    before = set(manifest.read_text().splitlines()) \
        if manifest.is_file() else set()
    patches = sorted((repo / 'patches').glob('*.patch'))
    own = repo_files.overlay(repo)
    with tempfile.TemporaryDirectory(dir=build, prefix='stage.') as stage:
        stage = Path(stage)
        touched = apply_patches(patches, base, stage, fuzz)
        wanted = {name: base / name for name in tree_files(base)}
        for name in own:
            if name in wanted or name in touched:
                raise PrepareError(
                    "%s is a file of QEMU's own: change it with a patch in "
                    'patches/, not with a file of the same name.' % name)
        for name in touched:
            wanted.pop(name, None)
            if (stage / name).is_file():
                wanted[name] = stage / name
        wanted.update((name, repo / name) for name in own)
        wanted.update((copy, base / name) for name, copy in ORIGINALS.items()
                      if (base / name).is_file())

        # Whatever is interrupted below, the next run knows what may be there.
        manifest.write_text('\n'.join(sorted(before | set(wanted))) + '\n')
        changed = set(touched) | set(own)
        for name, source in wanted.items():
            if name in changed or not same_stat(source, src / name):
                install(source, src / name,
                        keep_mtime=not before and name not in changed)
        for name in before - set(wanted):
            remove(src / name, src)
        manifest.write_text('\n'.join(sorted(wanted)) + '\n')


def main():
    """Prepare the tree from QEMU_SRC or from what fetch-qemu.py unpacked."""
    top = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--repo', type=Path, default=top)
    parser.add_argument('--build', type=Path, default=top / 'build')
    args = parser.parse_args()
    build = args.build.resolve()
    given = os.environ.get('QEMU_SRC')
    base = Path(given).resolve() if given else build / 'pristine'
    try:
        check_version(base)
        prepare(args.repo.resolve(), base, build, '2' if given else '0')
    except (PrepareError, OSError) as error:
        print('prepare-qemu: %s' % error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
