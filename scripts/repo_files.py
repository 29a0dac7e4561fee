# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files the repository consists of, and which of them go into QEMU."""

import os
import subprocess

# Directories of this repository that are no part of QEMU's tree
OUTSIDE = ('.ci/', '.git/', 'build/', 'docs/tools/', 'patches/', 'scripts/',
           'tests/build/', 'tests/docs/', 'tests/guest/', 'tests/rig/',
           'tests/lib/', 'tests/libvirt/', 'tests/mutants/',
           'tests/sanitizers/', 'tests/style/', 'tests/tools/', 'tools/')


def listed(repo):
    """All files of the repository, tracked or new, as relative paths."""
    if (repo / '.git').exists():
        done = subprocess.run(
            ['git', '-c', 'safe.directory=*', '-C', str(repo), 'ls-files',
             '-z', '--cached', '--others', '--exclude-standard'],
            check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            names = sorted(set(os.fsdecode(done.stdout).split('\0')) - {''})
            return [name for name in names if (repo / name).is_file()]
    names = []
    for directory, subdirs, files in os.walk(repo):
        relative = os.path.relpath(directory, repo)
        prefix = '' if relative == '.' else relative + '/'
        subdirs[:] = sorted(name for name in subdirs
                            if prefix + name not in ('build', '.git')
                            and name != '__pycache__')
        names += [prefix + name for name in files if not name.endswith('~')]
    return sorted(names)


def overlay(repo):
    """The files that are laid over QEMU's tree, as relative paths."""
    return [name for name in listed(repo)
            if '/' in name and not name.startswith(OUTSIDE)]
