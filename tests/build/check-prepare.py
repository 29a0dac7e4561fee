#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""prepare-qemu.py: what it writes, what it leaves alone, what it refuses."""

import os
import shutil
from pathlib import Path

from lib import tap
from lib.scripts import assert_done, assert_refused, run_script, write

PATCH = '''hook it in

--- a/hw/core.c
+++ b/hw/core.c
@@ -1,3 +1,4 @@
 one
 two
+hook
 three
'''


class Fixture:
    """A tiny QEMU tree, a tiny repository, and a build directory."""

    def __init__(self, directory):
        self.base = directory / 'base'
        self.repo = directory / 'repo'
        self.build = directory / 'build'
        self.src = self.build / 'src'
        write(self.base / 'VERSION', '10.2.2\n')
        write(self.base / 'hw/core.c', 'one\ntwo\nthree\n')
        write(self.base / 'hw/other.c', 'other\n')
        (self.base / 'link.c').symlink_to('hw/other.c')
        for path in self.base.rglob('*.c'):
            os.utime(path, (1000000000, 1000000000), follow_symlinks=False)
        self.patch = write(self.repo / 'patches/0001-hook.patch', PATCH)
        self.own = write(self.repo / 'system/own/own.c', 'own\n')
        write(self.repo / 'scripts/tool.py', 'no part of QEMU\n')
        write(self.repo / 'README.md', 'no part of QEMU\n')

    def prepare(self, pinned=False):
        """Run prepare-qemu.py on the user's tree, or on the pinned one."""
        pristine = self.build / 'pristine'
        if pinned and not pristine.is_dir():
            shutil.copytree(self.base, pristine, symlinks=True)
        return run_script('prepare-qemu.py', '--repo', self.repo,
                          '--build', self.build,
                          QEMU_SRC='' if pinned else self.base)

    def times(self):
        """The modification time of every file in build/src."""
        return {str(path.relative_to(self.src)): path.lstat().st_mtime_ns
                for path in self.src.rglob('*') if not path.is_dir()}

    def changed(self):
        """Which files preparing once more changes, adds or removes."""
        before = self.times()
        assert_done(self.prepare())
        after = self.times()
        return {name for name in before.keys() | after.keys()
                if before.get(name) != after.get(name)}


class Tree(tap.TestCase):
    """What is written into build/src."""

    def test_patches_and_own_files_are_in_the_tree(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        assert set(fixture.times()) == {'VERSION', 'hw/core.c', 'hw/other.c',
                                        'link.c', 'system/own/own.c'}
        assert 'hook' in (fixture.src / 'hw/core.c').read_text()
        assert fixture.src.joinpath('hw/other.c').stat().st_mtime == 1000000000
        assert os.readlink(fixture.src / 'link.c') == 'hw/other.c'
        assert sorted(os.listdir(fixture.build)) == ['src', 'src.manifest']

    def test_nothing_to_do_touches_nothing(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        assert fixture.changed() == set()

    def test_an_edit_touches_only_its_file(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        fixture.own.write_text('edited\n')
        assert fixture.changed() == {'system/own/own.c'}
        fixture.patch.write_text(PATCH.replace('+hook', '+other hook'))
        assert fixture.changed() == {'hw/core.c'}
        fixture.patch.write_text('a new message\n' +
                                 PATCH.replace('+hook', '+other hook'))
        assert fixture.changed() == set()

    def test_a_benchmark_has_what_a_patch_changes_as_it_was(self):
        fixture = Fixture(self.path)
        header = 'include/system/ramblock.h'
        write(fixture.base / header, 'one\ntwo\nthree\n')
        write(fixture.repo / 'patches/0002-header.patch',
              PATCH.replace('hw/core.c', header))
        assert_done(fixture.prepare())
        assert 'hook' in (fixture.src / header).read_text()
        copy = fixture.src / 'tests/bench/qemu-ramblock.h'
        assert copy.read_text() == 'one\ntwo\nthree\n'
        assert fixture.changed() == set()

    def test_what_is_removed_vanishes(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        fixture.own.unlink()
        assert fixture.changed() == {'system/own/own.c'}
        assert not (fixture.src / 'system').exists()
        fixture.patch.unlink()
        assert fixture.changed() == {'hw/core.c'}
        core = fixture.src / 'hw/core.c'
        assert core.read_text() == 'one\ntwo\nthree\n'
        # Restored, but newer than what was built from the patched file
        assert core.stat().st_mtime > 1000000000

    def test_a_damaged_tree_is_mended(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        (fixture.src / 'hw/other.c').unlink()
        (fixture.src / 'hw/core.c').write_text('damaged\n')
        assert fixture.changed() == {'hw/other.c', 'hw/core.c'}
        assert (fixture.src / 'hw/other.c').read_text() == 'other\n'

    def test_a_patch_that_does_not_apply_is_named(self):
        fixture = Fixture(self.path)
        assert_done(fixture.prepare())
        before = fixture.times()
        write(fixture.repo / 'patches/0002-bad.patch',
              PATCH.replace(' two\n+hook', '-no such line\n+bad'))
        assert_refused(fixture.prepare(), '0002-bad.patch', 'hw/core.c',
                       '10.2.2')
        assert fixture.times() == before

    def test_only_the_users_tree_is_patched_with_fuzz(self):
        fixture = Fixture(self.path)
        fixture.patch.write_text(PATCH.replace(' one', ' eins'))
        assert_done(fixture.prepare())
        assert_refused(fixture.prepare(pinned=True), '0001-hook.patch',
                       'hw/core.c')
        fixture.patch.write_text(PATCH)
        assert_done(fixture.prepare(pinned=True))

    def test_a_patch_of_a_missing_file_is_named(self):
        fixture = Fixture(self.path)
        fixture.patch.write_text(PATCH.replace('core.c', 'gone.c'))
        assert_refused(fixture.prepare(), '0001-hook.patch', 'hw/gone.c')

    def test_an_empty_patch_is_named(self):
        fixture = Fixture(self.path)
        fixture.patch.write_text('nothing here\n')
        assert_refused(fixture.prepare(), '0001-hook.patch')

    def test_own_files_never_replace_those_of_qemu(self):
        fixture = Fixture(self.path)
        write(fixture.repo / 'hw/other.c', 'mine\n')
        assert_refused(fixture.prepare(), 'hw/other.c', 'patch')

    def test_a_tree_without_version_is_refused(self):
        fixture = Fixture(self.path)
        (fixture.base / 'VERSION').unlink()
        assert_refused(fixture.prepare(), 'VERSION', 'QEMU_SRC',
                       str(fixture.base))

    def test_a_tree_of_another_release_is_refused(self):
        fixture = Fixture(self.path)
        for version in ('9.2.0', '10.20.1', '11.0.0', ''):
            (fixture.base / 'VERSION').write_text(version + '\n')
            assert_refused(fixture.prepare(), 'QEMU ' + version, '10.2')

    def test_the_users_tree_is_never_written(self):
        fixture = Fixture(self.path)

        def state():
            return {path: (path.lstat().st_mtime_ns, path.is_symlink() or
                           path.is_dir() or path.read_bytes())
                    for path in Path(fixture.base).rglob('*')}
        before = state()
        assert_done(fixture.prepare())
        fixture.patch.write_text(PATCH.replace('+hook', '+again'))
        assert_done(fixture.prepare())
        (fixture.src / 'hw/core.c').write_text('scribble\n')
        assert state() == before


if __name__ == '__main__':
    tap.main()
