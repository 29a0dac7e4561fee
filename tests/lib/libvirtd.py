# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd of our own, which nobody else sees: qemu:///session.

All of it is below one directory.  libvirtd has sessions only for users that
are not root, so root starts it in a user namespace, as another user in name
only: files and /dev/kvm stay those of root.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile

from lib.error import HarnessError
from lib.process import die_with_parent
from lib.qmp import QmpError

LIBVIRTD = '/usr/sbin/libvirtd'
NEEDED = ('virsh', 'virt-xml-validate', 'xmllint', 'unshare', 'setpriv')
# As daemon: libvirtd ends if nobody has the number, as 1000 on a new system
NAMESPACE = ['unshare', '--user', '--map-user=1', '--map-group=1', '--']
START_TIMEOUT = 120
CONSOLE_TIMEOUT = 300


def as_user(command):
    """A command for the user of the session."""
    return NAMESPACE + command if os.getuid() == 0 else command


def problem():
    """Why no libvirtd can be started here, or None."""
    for name in NEEDED + (LIBVIRTD,):
        if not shutil.which(name):
            return f'{name} is missing: run tests/libvirt/install-packages.sh'
    done = subprocess.run(as_user(['true']), check=False,
                          stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode:
        return 'no user namespace for libvirtd: ' + done.stderr.strip()
    return None


class Daemon:
    """libvirtd; a context manager that ends it and all of its domains."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix='gmem-')
        self.log = os.path.join(self.dir, 'libvirtd.log')
        self._process = None
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(('XDG_', 'DBUS_', 'LIBVIRT_',
                                            'VIRSH_', 'NOTIFY_'))}
        self.env.update(HOME=self.path('home'), LC_ALL='C',
                        LIBVIRT_AUTOSTART='0',
                        XDG_RUNTIME_DIR=self.path('run'))

    def path(self, *names):
        """A file of this session."""
        return os.path.join(self.dir, *names)

    def write(self, name, text):
        """Write a file of this session and return its path."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return path

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        os.mkdir(self.path('run'), 0o700)
        self.write('home/.config/libvirt/qemu.conf',
                   'stdio_handler = "file"\nsecurity_driver = "none"\n')
        conf = self.write('libvirtd.conf',
                          f'log_outputs = "2:file:{self.log}"\n'
                          'log_filters = "2:qemu.qemu_monitor_json"\n')
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ready:
            ready.bind(self.path('ready'))
            # the namespace makes the kernel forget who the parent is
            self._process = subprocess.Popen(
                as_user(['setpriv', '--pdeathsig', 'TERM', '--', LIBVIRTD,
                         '-f', conf, '-p', self.path('run', 'pid')]),
                env=dict(self.env, NOTIFY_SOCKET=self.path('ready')),
                stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
            ended = os.pidfd_open(self._process.pid)
            try:
                done = select.select([ready, ended], [], [], START_TIMEOUT)[0]
            finally:
                os.close(ended)
        if ready not in done:
            raise HarnessError('libvirtd did not start:\n' + self.errors())

    def errors(self):
        """The end of its log."""
        try:
            with open(self.log, encoding='utf-8', errors='replace') as file:
                lines = [line for line in file if 'QEMU_MONITOR_' not in line]
                return ''.join(lines[-10:])
        except OSError:
            return ''

    def logged(self, pattern):
        """What a pattern finds in its log, which has QEMU's events."""
        with open(self.log, encoding='utf-8', errors='replace') as file:
            return re.findall(pattern, file.read())

    def qemu_log(self, domain):
        """What QEMU printed since it was started last."""
        path = self.path('home/.cache/libvirt/qemu/log', domain + '.log')
        try:
            with open(path, encoding='utf-8', errors='replace') as file:
                return file.read().rpartition(': starting up ')[2]
        except OSError:
            return ''

    def __exit__(self, *exc):
        for name in self._running():
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.virsh('destroy', name, check=False)
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for name in self._running():        # libvirtd did not get at it
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid(name), signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _running(self):
        try:
            return [name[:-4] for name in
                    os.listdir(self.path('run/libvirt/qemu/run'))
                    if name.endswith('.pid') and name != 'driver.pid']
        except OSError:
            return []

    def pid(self, domain):
        """The process of a domain that runs."""
        with open(self.path('run/libvirt/qemu/run', domain + '.pid'),
                  encoding='ascii') as file:
            return int(file.read())

    def virsh(self, *args, check=True, **env):
        """A command of virsh's: what it says; HarnessError if it failed."""
        done = subprocess.run(
            as_user(['virsh', '-q', '-c', 'qemu:///session', *args]),
            env={**self.env, **env}, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=CONSOLE_TIMEOUT)
        if check and done.returncode:
            text = f'virsh {args[0]}: {done.stderr.strip()}'
            if 'failed to connect to monitor socket' in text:
                # QEMU was gone too soon for libvirt to know why
                text += '\n' + self.qemu_log(args[1]).strip()
            raise HarnessError(text)
        return done.stdout

    def define(self, text):
        """Define a domain; libvirt compares it with its schema, too."""
        self.virsh('define', '--validate', self.write('define.xml', text))

    def dump(self, domain):
        """Its definition, as libvirt writes it."""
        return self.virsh('dumpxml', '--inactive', domain)


class Monitor:
    """QMP by virsh, with the interface of qmp.Qmp."""

    def __init__(self, daemon, domain):
        self.daemon, self.domain = daemon, domain

    def command(self, name, **args):
        """Its result; QmpError if it failed."""
        answer = json.loads(self.daemon.virsh(
            'qemu-monitor-command', self.domain,
            json.dumps({'execute': name, 'arguments': args})))
        if 'error' in answer:
            raise QmpError(f"{name}: {answer['error']['desc']}")
        return answer['return']


class Listener:
    """A socket that QEMU connects to: the console of the guest."""

    def __init__(self, path):
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(CONSOLE_TIMEOUT)
        self.lines, self._file = [], None

    def accept(self):
        """The next QEMU."""
        self.close_client()
        sock = self._listener.accept()[0]
        with sock:
            sock.settimeout(CONSOLE_TIMEOUT)
            self._file = sock.makefile('r', encoding='ascii',
                                       errors='replace')

    def wait_for(self, word):
        """Lines up to the one that is this word."""
        self.lines = []
        for line in self._file:
            self.lines.append(line.strip())
            if self.lines[-1] == word:
                return self.lines
        raise HarnessError(f'the guest ended before {word}: '
                           f'{self.lines[-5:]}')

    def close_client(self):
        """Forget the QEMU that is there."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def close(self):
        """No more QEMU."""
        self.close_client()
        self._listener.close()
