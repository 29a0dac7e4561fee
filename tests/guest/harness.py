# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the guest in QEMU with the edu device on a vfio-user server.

Used by check-guest.py and by scripts/demo.py.  Everything but the socket of
the vfio-user server is connected by socket pairs, so there is nothing to wait
for and nothing to clean up but one directory.
"""

import collections
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

MIB = 1 << 20
PAGE = 4096
EXIT_PASS = 33
# Between the end of base memory and 1 MiB: VGA, option ROMs, BIOS
LEGACY = (0xa0000, 0x100000)

HUGE = '/sys/kernel/mm/hugepages/hugepages-2048kB/'
FIRMWARE = ('/usr/share/seabios', '/usr/share/qemu')
FIRMWARE_FILES = ('bios-256k.bin', 'multiboot_dma.bin', 'kvmvapic.bin')

KVM_GET_API_VERSION = 0xae00
KVM_CREATE_VM = 0xae01
KVM_CHECK_EXTENSION = 0xae03
KVM_CAP_VM_TYPES = 235
KVM_CAP_GUEST_MEMFD_FLAGS = 244
PR_SET_PDEATHSIG = 1


class HarnessError(Exception):
    """Something that the user can understand and mend."""


class Paths:
    """What is needed, from the environment or from the build directory."""

    def __init__(self):
        self.qemu = os.environ.get(
            'QEMU', os.path.join(TOP, 'build/qemu-system-x86_64'))
        self.server = os.environ.get(
            'EDU_SERVER',
            os.path.join(TOP, 'build/qemu/tests/vfio-user/edu-server'))
        self.guest = os.environ.get(
            'GUEST_ELF', os.path.join(TOP, 'build/tests/guest/guest.elf'))
        for name, path in (('QEMU', self.qemu), ('EDU_SERVER', self.server),
                           ('GUEST_ELF', self.guest)):
            if not os.path.isfile(path):
                raise HarnessError(f'{path} does not exist: run "make build" '
                                   f'first, or set {name}')
        self.firmware = find_firmware(self.qemu)


def find_firmware(qemu):
    """The directories for -L that hold what a PC and -kernel need."""
    dirs = os.environ.get('QEMU_FIRMWARE')
    dirs = dirs.split(':') if dirs else list(FIRMWARE)
    bundle = os.path.dirname(os.path.realpath(qemu))
    dirs += [os.path.join(bundle, 'pc-bios'),
             os.path.join(bundle, 'qemu-bundle/usr/local/share/qemu')]
    dirs = [d for d in dirs if os.path.isdir(d)]
    for name in FIRMWARE_FILES:
        if not any(os.path.exists(os.path.join(d, name)) for d in dirs):
            raise HarnessError(
                f'{name} is not in {" ".join(dirs) or "any directory"}. '
                f'Install the packages seabios and qemu-system-data, or set '
                f'QEMU_FIRMWARE')
    return dirs


def kvm_problem(guest_memfd_flags=0, vm_type=0):
    """None if KVM can create such a VM whose guest_memfd have these flags, else
    why not."""
    try:
        fd = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError as err:
        return f'/dev/kvm: {err.strerror}'
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION) != 12:
            return '/dev/kvm: unknown API version'
        types = fcntl.ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES)
        if vm_type and not types & 1 << vm_type:
            return f'/dev/kvm: VMs have the types 0x{types:x} only'
        vm = fcntl.ioctl(fd, KVM_CREATE_VM, vm_type)
        flags = fcntl.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS)
        os.close(vm)
        if flags & guest_memfd_flags != guest_memfd_flags:
            return f'/dev/kvm: guest_memfd has the flags 0x{flags:x} only'
    except OSError as err:
        return f'/dev/kvm: cannot create a VM: {err.strerror}'
    finally:
        os.close(fd)
    return None


def _huge(name):
    with open(HUGE + name, encoding='ascii') as f:
        return int(f.read())


def huge_pages_free():
    """Free 2 MiB huge pages that nobody has reserved."""
    try:
        return max(0, _huge('free_hugepages') - _huge('resv_hugepages'))
    except (OSError, ValueError):
        return 0


@contextlib.contextmanager
def huge_pages(needed):
    """Have that many free 2 MiB huge pages; yields None or why not."""
    missing = needed - huge_pages_free()
    added = 0
    problem = None
    try:
        if missing > 0:
            try:
                before = _huge('nr_hugepages')
                with open(HUGE + 'nr_hugepages', 'w', encoding='ascii') as f:
                    f.write(str(before + missing))
                added = _huge('nr_hugepages') - before
            except (OSError, ValueError):
                pass
            free = huge_pages_free()
            if free < needed:
                problem = (f'needs {needed} free huge pages of 2 MiB, '
                           f'there are {free}')
        yield problem
    finally:
        if added > 0:
            with contextlib.suppress(OSError, ValueError):
                now = _huge('nr_hugepages')
                with open(HUGE + 'nr_hugepages', 'w', encoding='ascii') as f:
                    f.write(str(max(0, now - added)))


def die_with_parent():
    """In a child: not to outlive this process, whatever ends it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_on_signals():
    """End by an exception, so that everything is cleaned up."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore(_number, _frame):
        """A second one must not disturb the cleaning up."""

    def leave(number, _frame):
        for each in signals:
            signal.signal(each, ignore)
        print(f'{os.path.basename(sys.argv[0])}: '
              f'{signal.Signals(number).name}', file=sys.stderr)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, leave)


class QmpError(Exception):
    """A command that QEMU refused."""


class Qmp:
    """The least of a QMP client; events are kept.

    QEMU may find something in its socket that was written to one before it:
    answers are to what has their number, and to speak twice of capabilities is
    no error.
    """

    _numbers = itertools.count()

    def __init__(self, sock):
        self._file = sock.makefile('rw', encoding='utf-8', newline='\n')
        self.events = []
        greeting = self._read()
        if 'QMP' not in greeting:
            raise HarnessError(f'no QMP greeting but {greeting}')
        with contextlib.suppress(QmpError):
            self.command('qmp_capabilities')

    def _read(self):
        try:
            line = self._file.readline()
        except OSError:
            line = ''
        if not line:
            raise EOFError('QEMU has closed its monitor')
        return json.loads(line)

    def command(self, name, **args):
        """Its result; QmpError if it failed, EOFError if QEMU is gone."""
        number = next(self._numbers)
        try:
            self._file.write(json.dumps(
                {'execute': name, 'arguments': args, 'id': number}) + '\n')
            self._file.flush()
        except OSError as err:
            raise EOFError('QEMU has closed its monitor') from err
        while True:
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)
            elif answer.get('id', number) != number:
                continue
            elif 'error' in answer:
                raise QmpError(f"{name}: {answer['error']['desc']}")
            else:
                return answer['return']

    def wait(self, matches):
        """The first event that matches, of those kept and those to come."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                seen += 1
                if matches(event):
                    return event
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)


Mapping = collections.namedtuple('Mapping', 'iova size prot fd')


class Control:
    """The control socket of the vfio-user server."""

    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        self._file = sock.makefile('rw', encoding='ascii', newline='\n')
        sock.close()

    def _ask(self, command):
        self._file.write(command + '\n')
        self._file.flush()
        lines = []
        while True:
            line = self._file.readline()
            if not line:
                raise EOFError('the vfio-user server is gone')
            line = line.rstrip('\n')
            if line == 'end':
                return lines
            lines.append(line)

    def maps(self):
        """The mappings, sorted by address."""
        maps = []
        for line in self._ask('maps'):
            iova, size, prot, fd = line.split()
            maps.append(Mapping(int(iova, 16), int(size, 16), prot,
                                fd == 'fd'))
        return maps

    def stats(self):
        """The counters as a dictionary."""
        return {key: int(value) for key, value in
                (line.split() for line in self._ask('stats'))}

    def quit(self):
        """Ask the server to exit."""
        self._ask('quit')


def start_server(server, path, errors, *options):
    """The vfio-user server on the socket @path: its process, and its control."""
    ready, ready_write = os.pipe()
    try:
        process = subprocess.Popen(
            [server, *options, '--control', path + '.control',
             '--ready-fd', str(ready_write), path],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            pass_fds=[ready_write], preexec_fn=die_with_parent)
    finally:
        os.close(ready_write)
    with os.fdopen(ready) as f:
        if f.readline() != 'ready\n':
            process.kill()
            process.wait()
            with open(errors.name, encoding='utf-8', errors='replace') as log:
                raise HarnessError(f'{server} did not start:\n{log.read()}')
    return process, Control(path + '.control')


class Machine:
    """The server, QEMU and the guest; a context manager that ends them all.

    Lines of the guest arrive in .lines, a queue that ends with None. Without
    @peer there is no server; @peer_options are more of its device. If the guest is
    @protected, KVM has private memory for it.
    """

    def __init__(self, paths, accel='tcg', huge=False, ram=512 * MIB,
                 driver='emulated', init='private', memory=None,
                 devices=None, guest='', smp=1, timeout=None, peer=True,
                 peer_options=(), protected=False):
        self.paths = paths
        self.peer = peer
        self._peer_options = dict(peer_options)
        self.accel = accel
        self.ram = ram
        self.smp = smp
        self.protected = protected
        self.guest_options = guest
        self.lines = queue.Queue()
        self.console = []
        self.timed_out = False
        self._timeout = timeout
        self._timer = None
        if memory is None:
            memory = (f'memory-backend-guest-memfd,id=m0,size={ram},'
                      f'driver={driver},init={init}')
            if huge:
                memory += ',hugetlb=on,hugetlbsize=2M'
        self.memory = memory
        self.devices = (['guest-memfd-testdev'] if devices is None
                        else devices)
        self.server = self.qemu = self.qmp = self.control = None
        self._dir = self._errors = self._serial = self._reader = None

    def __enter__(self):
        self._dir = tempfile.mkdtemp(prefix='guest-memfd-')
        self._errors = open(os.path.join(self._dir, 'errors'), 'w+',
                            encoding='utf-8', errors='replace')
        try:
            if self.peer:
                self.server, self.control = self.start_server('edu', '--once')
            self._start_qemu()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def start_server(self, name, *options):
        """A server on the socket @name; its process and its control."""
        return start_server(self.paths.server, self.socket(name), self._errors,
                            *options)

    def socket(self, name):
        """The path of a socket of this machine's."""
        return os.path.join(self._dir, name)

    def command_line(self, fds):
        """QEMU's command line; @fds are those of console, serial and QMP."""
        args = [self.paths.qemu]
        for d in self.paths.firmware:
            args += ['-L', d]
        args += ['-nodefaults', '-display', 'none', '-no-reboot',
                 '-accel', self.accel, '-cpu', 'max', '-smp', str(self.smp),
                 '-m', f'{self.ram // MIB}M', '-object', self.memory,
                 '-machine', 'q35,memory-backend=m0']
        if self.protected:
            args += ['-object', 'x-sw-protected-guest,id=p0',
                     '-machine', 'confidential-guest-support=p0']
        for name, fd in zip(('console', 'serial', 'qmp'), fds):
            args += ['-chardev', f'socket,id={name},fd={fd}']
        args += ['-mon', 'chardev=qmp,mode=control',
                 '-device', 'isa-debugcon,iobase=0xe9,chardev=console',
                 '-device', 'isa-serial,chardev=serial',
                 '-device', 'isa-debug-exit,iobase=0xf4,iosize=4']
        for device in self.devices:
            args += ['-device', device]
        if self.peer:
            args += ['-device', json.dumps({
                'driver': 'vfio-user-pci', 'id': 'edu0', **self._peer_options,
                'socket': {'type': 'unix',
                           'path': self.socket('edu')}})]
        return args + ['-kernel', self.paths.guest,
                       '-append', self.guest_options]

    def _start_qemu(self):
        pairs = [socket.socketpair() for _ in range(3)]
        theirs = [pair[1] for pair in pairs]
        fds = [sock.fileno() for sock in theirs]
        console, self._serial, monitor = [pair[0] for pair in pairs]
        try:
            self.qemu = subprocess.Popen(
                self.command_line(fds), stdin=subprocess.DEVNULL,
                stdout=self._errors, stderr=self._errors, pass_fds=fds,
                preexec_fn=die_with_parent)
        finally:
            for sock in theirs:
                sock.close()
        self._reader = threading.Thread(target=self._read_console,
                                        args=(console,), daemon=True)
        self._reader.start()
        if self._timeout:
            self._timer = threading.Timer(self._timeout, self._expired)
            self._timer.daemon = True
            self._timer.start()
        try:
            self.qmp = Qmp(monitor)
        except (EOFError, ConnectionError) as err:
            self.qemu.wait()
            raise HarnessError(
                f'QEMU did not start:\n{self.errors()}') from err
        finally:
            monitor.close()

    def _read_console(self, sock):
        with sock, sock.makefile('r', encoding='ascii',
                                 errors='replace') as f:
            with contextlib.suppress(OSError):
                for line in f:
                    line = line.rstrip('\r\n')
                    self.console.append(line)
                    self.lines.put(line)
        self.lines.put(None)

    def _expired(self):
        self.timed_out = True
        self.qemu.kill()

    def errors(self):
        """What QEMU and the server printed."""
        self._errors.flush()
        with open(self._errors.name, encoding='utf-8',
                  errors='replace') as f:
            return f.read().rstrip()

    def release(self):
        """Let a guest with hold=1 go on."""
        self._serial.sendall(b'g')

    def wait(self):
        """The exit codes of QEMU and of the server, which follows it."""
        qemu = self.qemu.wait()
        self._reader.join()
        return qemu, self.server.wait() if self.server else 0

    def close(self):
        """End whatever still runs."""
        if self._timer:
            self._timer.cancel()
        for process in (self.qemu, self.server):
            if process:
                if process.poll() is None:
                    process.kill()
                process.wait()
        if self._reader:
            self._reader.join()
        if self._serial:
            self._serial.close()
        if self._errors:
            self._errors.close()
        if self._dir:
            shutil.rmtree(self._dir, ignore_errors=True)
            self._dir = None


def key_values(line):
    """The key=value words of a line; numbers where they are numbers."""
    pairs = (word.split('=', 1) for word in line.split() if '=' in word)
    return {key: int(value) if value.isdigit() else value
            for key, value in pairs}


def query_map(qmp, block, limit=None):
    """All runs of a block, asking for pages of @limit runs."""
    runs = []
    offset = 0
    while offset is not None:
        args = {'id': block, 'offset': offset}
        if limit:
            args['limit'] = limit
        answer = qmp.command('query-guest-memfd-map', **args)
        if limit and len(answer['runs']) > limit:
            raise HarnessError(f'asked for {limit} runs, got '
                               f"{len(answer['runs'])}")
        runs += answer['runs']
        following = answer.get('next-offset')
        if following is not None and following <= offset:
            raise HarnessError(f'next-offset {following} after {offset}')
        offset = following
    return merge_runs(runs)


def all_shared(size):
    """The map of memory that nobody converts."""
    return [{'offset': 0, 'size': size, 'private': False}]


def merge_runs(runs):
    """Join neighbours of one state: a page of an answer may end anywhere."""
    merged = []
    for run in runs:
        if (merged and merged[-1]['private'] == run['private'] and
                merged[-1]['offset'] + merged[-1]['size'] == run['offset']):
            merged[-1]['size'] += run['size']
        else:
            merged.append(dict(run))
    return merged


def cut(ranges, hole):
    """[(start, end)] without what lies in the hole."""
    for start, end in ranges:
        if start < hole[0]:
            yield start, min(end, hole[0])
        if end > hole[1]:
            yield max(start, hole[1]), end


def join(ranges):
    """Sorted [(start, end)] with touching neighbours joined."""
    joined = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if joined and start < joined[-1][1]:
            raise HarnessError(f'{start:#x} is there twice')
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def mapped_ranges(maps, ram):
    """What the server has mapped of guest RAM, as joined ranges."""
    return join(cut(((m.iova, min(m.iova + m.size, ram))
                     for m in maps if m.iova < ram), LEGACY))


def compare_maps(runs, maps, ram):
    """Problems (a list of sentences) if DMA mappings differ from the map.

    RAM below 4 GiB is where it is in the block; the legacy area below 1 MiB
    belongs to other memory as well and is left out.
    """
    problems = []
    end = 0
    for run in runs:
        if run['offset'] != end or run['size'] <= 0:
            problems.append(f"run at {run['offset']:#x} follows {end:#x}")
        end = run['offset'] + run['size']
    if end != ram:
        problems.append(f'runs end at {end:#x}, the block at {ram:#x}')

    shared = join(cut(((r['offset'], r['offset'] + r['size'])
                       for r in runs if not r['private']), LEGACY))
    mapped = mapped_ranges(maps, ram)
    for m in maps:
        if m.iova < ram and not LEGACY[0] <= m.iova < LEGACY[1]:
            if not m.fd:
                problems.append(f'{m.iova:#x} is mapped without memory')
            if m.prot != 'rw':
                problems.append(f'{m.iova:#x} is mapped {m.prot}')
    for start, end in sorted(set(mapped) - set(shared))[:5]:
        problems.append(f'mapped [{start:#x}, {end:#x}) is no shared run')
    for start, end in sorted(set(shared) - set(mapped))[:5]:
        problems.append(f'shared [{start:#x}, {end:#x}) is no mapped range')
    return problems
