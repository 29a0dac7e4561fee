# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw docs/images/split.svg: huge pages of 1 GiB of which parts are shared.

    PYTHONPATH=tests scripts/build-qemu.sh env python3 -m rig.picture [DIR]

L1's kernel splits in scheme "log". The VM has a device, and nobody runs in it:
x-guest-memfd-convert shares 64 MiB in one piece, and single pages. gmem-top
connects to a socket here, as the monitor in L1 is a virtio port.
"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading

from lib import TOP
from lib.paths import find_firmware
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from rig.lib.checks import VM
from rig.lib.configurations import IN_PLACE, PAGES_1G, PROTECTED, Config
from rig.lib.l1 import L1, L2
from rig.lib.pools import vmemmap
from rig.lib.prepare import KERNEL, LOGS, QEMU, prepare

SIZE = 2048 * MIB
BOUNCE, BOUNCE_AT = 64 * MIB, 256 * MIB
SINGLE_PAGES = 16
VM_1G = Config('1G, iommufd', IN_PLACE.replace('shared', 'private') + PAGES_1G +
               ',prealloc=on', 'iommufd', ram=SIZE, machine=PROTECTED['machine'],
               extra=PROTECTED['extra'] + ['-S'])
GREETING = {'QMP': {'version': {'qemu': {'major': 10, 'minor': 2, 'micro': 2},
                                'package': ''}, 'capabilities': []}}


def commands(connection):
    """What the client sends: JSON, with or without line ends between."""
    text = ''
    while received := connection.recv(65536):
        text += received.decode()
        while text := text.lstrip():
            try:
                command, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield command


def serve(listening, qmp):
    """Answer one client after the other from the monitor of L2."""
    while True:
        connection, _address = listening.accept()
        with connection:
            connection.sendall(json.dumps(GREETING).encode() + b'\r\n')
            for command in commands(connection):
                try:
                    answer = {'return': {} if command['execute'] ==
                              'qmp_capabilities' else qmp.command(
                                  command['execute'],
                                  **command.get('arguments', {}))}
                except QmpError as err:
                    answer = {'error': {'class': 'GenericError', 'desc': str(err)}}
                if 'id' in command:
                    answer['id'] = command['id']
                connection.sendall(json.dumps(answer).encode() + b'\r\n')


def share(vm):
    """A bounce area in the first huge page, single pages in the second one."""
    choose = random.Random(1)
    vm.convert(BOUNCE_AT, BOUNCE, False)
    for page in choose.sample(range(SIZE // 2 // PAGE, SIZE // PAGE), SINGLE_PAGES):
        vm.convert(page * PAGE, PAGE, False)


def main():
    """Draw it, and print what gmem-top and the kernel say."""
    directory = sys.argv[1] if sys.argv[1:] else os.path.join(TOP, 'docs/images')
    archive = prepare('picture.cpio')
    with L1('log', QEMU, find_firmware(QEMU), KERNEL, archive,
            os.path.join(LOGS, 'picture.log')) as l1, \
            tempfile.TemporaryDirectory() as scratch, socket.socket(
                socket.AF_UNIX) as listening:
        path = os.path.join(scratch, 'qmp')
        listening.bind(path)
        listening.listen()
        l1.wait_ready()
        with L2(l1, VM_1G) as l2:
            share(VM(l1, l2, VM_1G))
            threading.Thread(target=serve, args=(listening, l2.qmp),
                             daemon=True).start()
            for option in (['--once'],
                           ['--svg', os.path.join(directory, 'split.svg')]):
                subprocess.run([os.path.join(TOP, 'tools/gmem-top'), *option,
                                '--timeout', '60', path], check=True)
            print('pages of vmemmap:', vmemmap(l1) // PAGE)


if __name__ == '__main__':
    main()
