# SPDX-License-Identifier: GPL-2.0-or-later
"""cpio archives."""

import os
import stat


class Archive:
    """A cpio archive in the format that Linux unpacks."""

    def __init__(self, path):
        self._file = open(path, 'wb')
        self._inode = 0
        self._known = set()

    def add(self, name, mode, data=b'', device=(0, 0)):
        """One file, with the directories it is in."""
        parent = os.path.dirname(name)
        if parent and parent not in self._known:
            self._known.add(parent)
            self.add(parent, stat.S_IFDIR | 0o755)
        self._inode += 1
        encoded = name.encode() + b'\0'
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device,
                  len(encoded), 0)
        self._padded(b'070701' + b''.join(b'%08x' % f for f in fields) +
                     encoded)
        self._padded(data)

    def add_file(self, name, path, mode=0o755):
        """A regular file with the content of another one."""
        with open(path, 'rb') as f:
            self.add(name, stat.S_IFREG | mode, f.read())

    def add_once(self, name, path):
        """The same, unless it is there already."""
        if name not in self._known:
            self._known.add(name)
            self.add_file(name, path)

    def close(self):
        """Write the end."""
        self.add('TRAILER!!!', 0)
        self._file.close()

    def _padded(self, data):
        self._file.write(data + bytes(-len(data) % 4))
