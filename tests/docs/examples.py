# SPDX-License-Identifier: GPL-2.0-or-later
"""Run what the manual shows: command lines, QMP, and libvirt's commands.

All of it happens in a directory that stands for /tmp and /run, and no vCPU
runs (-S).  "..." in a command line is that of the quick start.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import xml.etree.ElementTree as ET

from lib import TOP
from lib.kvm import kvm_problem
from lib.paths import find_firmware
from lib.process import die_with_parent
from lib.qmp import QmpError, Qmp
from lib.server import start_server

SERVER = os.environ.get('EDU_SERVER') or os.path.join(
    os.environ.get('QEMU_BUILD', os.path.join(TOP, 'build/qemu')),
    'tests/vfio-user/edu-server')
QEMU = os.environ.get('QEMU', os.path.join(TOP, 'build/qemu-system-x86_64'))
BACKEND = 'memory-backend-guest-memfd'
REST = shlex.split('-accel tcg -nodefaults -display none -m 1G '
                   f'-object {BACKEND},id=m0,size=1G,driver=emulated '
                   '-machine q35,memory-backend=m0')
# What QEMU says where options are right and the machine has no such VMs
LACKING = ('needs KVM_X86_SW_PROTECTED_VM, which this kernel',
           'accelerator does not support confidential guest')
UNITS = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}

NS = '{http://libvirt.org/schemas/domain/qemu/1.0}'
DOMAIN = '''\
<domain type='qemu'>
  <name>vm</name>
  <memory unit='GiB'>1</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices/>
</domain>
'''
VIRSH = '''\
#!/bin/sh
set -eu
case $1 in
dumpxml) cat domain.xml ;;
define | start) test $# = 2 ;;
qemu-monitor-command)
    for word; do
        case $word in "{"*) echo "$word" | tr '\\n' ' ' >>sent; echo >>sent ;; esac
    done
    test "$3" != --hmp || printf '%s\\n' '{"execute": "human-monitor-command",
        "arguments": {"command-line": "'"$4"'"}}' | tr '\\n' ' ' >>sent ;;
*) exit 1 ;;
esac
'''


class Cannot(Exception):
    """What the machine lacks to start this example."""


def commands(text):
    """The commands of a block as lists of words: one begins at each line that
    is not indented."""
    text = text.replace('\\\n', ' ')
    for command in re.split(r'\n+(?=\S)', text.strip()):
        yield shlex.split(command.rstrip(' &'))


def matches(shown, real):
    """Whether an answer is as shown; "..." in a list or dictionary is
    anything."""
    if isinstance(shown, dict) and isinstance(real, dict):
        if '...' in shown:
            shown = {key: shown[key] for key in shown if key != '...'}
            real = {key: real[key] for key in real if key in shown}
        return shown.keys() == real.keys() and \
            all(matches(shown[key], real[key]) for key in shown)
    if isinstance(shown, list) and isinstance(real, list):
        if shown[:1] == ['...']:
            shown = shown[1:]
            real = real[len(real) - len(shown):] if shown else []
        return len(shown) == len(real) and all(map(matches, shown, real))
    return type(shown) is type(real) and shown == real


def dialogue(text):
    """The messages of a block of QMP: direction and value."""
    text = re.sub(r'(\[\s*)\.\.\.', r'\1"..."', text)
    text = re.sub(r'(\{\s*)\.\.\.', r'\1"...": "..."', text)
    for direction, value in re.findall(r'^(->|<-) (.*?)(?=^(?:->|<-) |\Z)',
                                       text, re.DOTALL | re.MULTILINE):
        yield direction, json.loads(value)


def needs_huge_pages():
    """Answers show huge pages of each size that the host has."""
    if not os.path.isdir('/sys/kernel/mm/hugepages/hugepages-1048576kB'):
        raise Cannot('the host has no huge pages of 1 GiB, which are shown')


def nodes_of_this_host(word):
    """An option whose host-nodes= is there."""
    return re.sub(r'(?<=host-nodes=)\d+', lambda found: found.group()
                  if os.path.isdir('/sys/devices/system/node/node' +
                                   found.group()) else '0', word)


def size(text):
    """Bytes of 1G and such."""
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


class Example:
    """All blocks of one name; a context manager that ends what it started."""

    def __init__(self, directory):
        self._dir = str(directory)
        self._processes = []
        self._keep = []
        self._devices = []
        self.qmp = None
        self._errors = open(directory / 'errors', 'w+', encoding='utf-8')
        for name in ('build', 'tools'):
            (directory / name).symlink_to(os.path.join(TOP, name))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._errors.close()

    def _here(self, word):
        """Sockets of the example are in our directory."""
        return re.sub(r'(?<![\w/])/(?:tmp|run)/', self._dir + '/', word)

    def start(self, words):
        """QEMU, with a monitor of ours; checks the memory it was given."""
        words = [nodes_of_this_host(self._here(word)) for word in words]
        if '...' in words:
            words = words + REST if '-accel' not in words else words
            words.remove('...')
        if 'kvm' in words and kvm_problem():
            words = [{'kvm': 'tcg', 'host': 'max'}.get(word, word)
                     for word in words]
        ours, theirs = socket.socketpair()
        command = [QEMU, '-S', '-nodefaults', '-display', 'none', '-chardev',
                   f'socket,id=test,fd={theirs.fileno()}',
                   '-mon', 'chardev=test,mode=control']
        for directory in find_firmware(QEMU):
            command += ['-L', directory]
        with theirs:
            self._processes.append(subprocess.Popen(
                command + words, stdin=subprocess.DEVNULL,
                stdout=self._errors, stderr=self._errors,
                pass_fds=[theirs.fileno()], preexec_fn=die_with_parent))
        self._keep.append(ours)
        try:
            self.qmp = Qmp(ours)
        except (EOFError, ConnectionError):
            self._errors.seek(0)
            said = self._errors.read().strip()
            if any(lack in said for lack in LACKING):
                raise Cannot(said.splitlines()[-1]) from None
            raise AssertionError('QEMU did not start: ' + said) from None
        self._keeps_its_promise(words)
        self._devices += [json.loads(word)['id'] for word in words
                          if '"vfio-' in word]

    def _keeps_its_promise(self, words):
        """query-guest-memfd shows each memory object as its options say."""
        shown = {block['id']: block
                 for block in self.qmp.command('query-guest-memfd')}
        for word in words:
            if word.startswith(BACKEND + ','):
                options = dict(option.split('=', 1)
                               for option in word.split(',')[1:])
                block = shown[options['id']]
                assert block['size'] == size(options['size']), block
                for name in ('driver', 'conversion', 'init'):
                    value = options.get(name, 'auto')
                    assert value in ('auto', block[name]), block

    def vm(self, text):
        """A server, QEMU, and scripts that look at it."""
        for words in commands(text):
            program = os.path.basename(words[0])
            if program == 'edu-server':
                process, control = start_server(
                    SERVER, self._here(words[-1]), self._errors,
                    *[self._here(word) for word in words[1:-1]])
                self._processes.append(process)
                self._keep.append(control)
            elif program == 'qemu-system-x86_64':
                self.start(words[1:])
            else:
                assert program == 'gmem-top', words
                done = self._run([os.path.join(TOP, words[0])] +
                                 ['--once'] * ('--openmetrics' not in words) +
                                 [self._here(word) for word in words[1:]])
                assert 'm0' in done or '--openmetrics' in words, done

    def unplug(self):
        """Devices that do DMA are where they can be unplugged."""
        for name in self._devices:
            self.qmp.command('device_del', id=name)

    def _run(self, command, **options):
        done = subprocess.run(command, cwd=self._dir, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              universal_newlines=True, **options)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def talk(self, text):
        """QMP: commands are sent, answers are as shown."""
        answer = None
        if '"huge-pages"' in text:
            needs_huge_pages()
        for direction, value in dialogue(text):
            if direction == '<-':
                assert matches(value, {'return': answer}), \
                    'shown %s, but it is %s' % (value, answer)
            elif value['execute'] == 'qmp_capabilities':    # done already
                answer = {}
            else:
                answer = self.qmp.command(value['execute'],
                                          **value.get('arguments', {}))
            if direction == '->' and value['execute'] == 'quit':
                self._devices.clear()

    def monitor(self, text):
        """A command for people, and what it prints."""
        needs_huge_pages()
        command, shown = text.split('\n', 1)
        line = command.removeprefix('(qemu) ')
        real = self.qmp.command('human-monitor-command',
                                **{'command-line': line})
        lines = [each.rstrip() for each in real.splitlines()]
        assert lines == shown.splitlines(), real

    def libvirt(self, text):
        """A shell that has a virsh which only writes down what QEMU is sent;
        then QEMU with what gmem-xml has made of the domain."""
        for name, content in (('domain.xml', DOMAIN), ('virsh', VIRSH)):
            if not os.path.exists(os.path.join(self._dir, name)):
                with open(os.path.join(self._dir, name), 'w',
                          encoding='ascii') as f:
                    f.write(content)
        os.chmod(os.path.join(self._dir, 'virsh'), 0o755)
        self._run(['sh', '-eu', '-c', text],
                  env={**os.environ, 'PATH': self._dir + ':' +
                       os.environ['PATH']})
        if not self.qmp:
            tree = ET.parse(os.path.join(self._dir, 'vm.xml'))
            words = [each.get('value')
                     for each in tree.findall(f'{NS}commandline/{NS}arg')]
            assert any(BACKEND in word for word in words), words
            self.start(['-M', 'q35', '-nodefaults',
                        '-m', '1G,slots=1,maxmem=4G', *words])
        sent = os.path.join(self._dir, 'sent')
        if not os.path.exists(sent):
            return
        with open(sent, encoding='ascii') as f:
            for line in f:
                value = json.loads(line)
                try:
                    answer = self.qmp.command(value['execute'],
                                              **value.get('arguments', {}))
                    # What people type fails with an answer
                    assert value['execute'] != 'human-monitor-command' or \
                        ' in pages of ' in answer, answer
                except QmpError as err:
                    raise AssertionError(f'{line}: {err}') from err
        os.unlink(sent)

    def host(self, text):
        """Commands that would change the host: only their syntax."""
        self._run(['sh', '-n', '-c', text])
        for name in re.findall(r'/(?:sys|proc)/\S+', text):
            parent = os.path.dirname(os.path.dirname(name))
            assert os.path.isdir(parent), parent + ' does not exist'

    def run(self, text):
        """What "make run" prints, except for its numbers; "..." is the rest
        of the output."""
        command, shown = text.split('\n', 1)
        assert command == '$ make run', command
        real = self._run([os.path.join(TOP, 'scripts/build-qemu.sh'), 'env',
                          '/usr/bin/python3',
                          os.path.join(TOP, 'scripts/demo.py'), '--plain'])
        real = set(re.sub(r'[\d.]+', 'N', real).splitlines())
        huge = not any('4 KiB pages are used' in line for line in real)
        for line in re.sub(r'[\d.]+', 'N', shown).splitlines():
            if not (huge and ' pages' in line):
                assert line in real or line == 'N', line

    def event(self, text):
        """An event with all data that the schema says."""
        with open(os.path.join(TOP, 'qapi/guest-memfd.json'),
                  encoding='ascii') as f:
            schema = f.read()
        for _, value in dialogue(text):
            found = re.search(r"'event': '%s',\s*'data': \{(.*?)\}"
                              % value['event'], schema, re.DOTALL)
            assert found, value['event'] + ' is not in the schema'
            members = set(re.findall(r"'([\w-]+)':", found.group(1)))
            assert members == value['data'].keys(), members
