# SPDX-License-Identifier: GPL-2.0-or-later
"""L1, a VM with a real kernel under TCG, and L2, QEMU under KVM in it.

The kernel of L1 logs to its serial line; all else goes through ports of a
virtio console: commands to the shell in L1, and the monitor, the debug console
and COM1 of L2.
"""

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import threading
import time

from lib.error import HarnessError
from lib.guest import EXIT_PASS, PAUSED, key_values
from lib.process import die_with_parent
from lib.qmp import Qmp, QmpError
from rig.lib import cpus

# So much that there are two free huge pages of 1 GiB: nodes of half this size do
# not begin or end at multiples of it
L1_MIB = 7168
PORTS = ('agent', 'qmp', 'console', 'com1')     # /dev/vport0p1 and following
EDU = '0000:00:03.0'
# Its transfers take 100 ms, so long that memory converts meanwhile
SECOND_EDU = '0000:00:05.0'
# Of the first one
DMA_DELAY_MS = 1
# In seconds, for the monitor of a QEMU that may hang
PATIENCE = 10
# How often L1 is looked at, which may hang, in seconds
WATCH = 60
# At the CPUs of an L1 that hangs, and so long apart
LOOKS = 20
PAUSE = 0.25

# -device, and words for the kernel. AMD, in QEMU 10.2.2: fetch_pte() takes an
# entry of 2 MiB for one of 4 KiB, so the kernel is to make none; its ACPI table
# puts the IOAPIC at 00:14.0, where there is nothing, so that this kernel does
# not remap interrupts.
IOMMUS = {
    'intel': ('intel-iommu,intremap=on,caching-mode=off,aw-bits=48',
              'intel_iommu=on iommu.strict=1'),
    'amd': ('amd-iommu,intremap=on,dma-remap=on',
            'amd_iommu=nohugepages iommu.strict=1 '
            'vfio_iommu_type1.allow_unsafe_interrupts=1 '
            'iommufd.allow_unsafe_interrupts=1'),
}
# The kernel with the switch of tests/rig/kernel on
CONVERTS = ' kvm.gmem_in_place_conversion=1'
IOMMUS['in-place'] = (IOMMUS['intel'][0], IOMMUS['intel'][1] + CONVERTS)
# The same, where pages are huge, and broken in one of these ways
SCHEMES = ('flat', 'staged', 'log')
# {platform: scheme}; one of them with AMD's IOMMU as well
SCHEME = {**{scheme: scheme for scheme in SCHEMES}, 'log-amd': 'log'}
for _platform, _scheme in SCHEME.items():
    _device, _words = IOMMUS['amd' if _platform.endswith('amd') else 'intel']
    IOMMUS[_platform] = (_device, f'{_words}{CONVERTS} kvm.gmem_restructure='
                         f'{_scheme} hugetlb_free_vmemmap=on')
# The one whose kernel has AppArmor on
CONFINES = 'flat'
IOMMUS[CONFINES] = (IOMMUS[CONFINES][0], IOMMUS[CONFINES][1] + ' lsm=apparmor')

APPEND = ('console=ttyS0 rdinit=/init panic=-1 oops=panic loglevel=7 '
          'printk.devkmsg=on numa=fake=2 '
          'hugepagesz=1G hugepages=2 hugepagesz=2M '
          'mitigations=off rcupdate.rcu_cpu_stall_timeout=300 '
          # under load the timer may look dead to the kernel
          'no_timer_check')

# What a kernel says when it, or a device, did wrong
COMPLAINT = re.compile(
    r'WARNING: |BUG: |\bBUG\b.* at |Oops|INFO: |Kernel panic|Call Trace'
    r'|possible (circular|recursive|irq)|general protection|UBSAN|list_(add|del)'
    r'|detected stall|[Bb]ad page|page allocation failure|segfault'
    r'|locking correctness validator'
    r'|refcount_t|double fault|DMAR:.*fault|AMD-Vi: Event|AMD-Vi: .*timed out')
# One line of it for each DMA that an IOMMU has refused
FAULT = re.compile(r'DMAR: \[DMA |AMD-Vi: Event logged \[IO_PAGE_FAULT')
# Comes with them
FAULT_NOISE = re.compile(r'DMAR: DRHD: handling fault status')


class L1Error(Exception):
    """L1 is gone or does not do what it is told."""


class Port:
    """One end of a virtio port: lines up to a marker, for one L2 at a time."""

    def __init__(self, sock):
        self._file = sock.makefile('rw', encoding='utf-8', errors='replace',
                                   newline='\n')
        self.ended = True
        self.exit_code = None

    def makefile(self, *_args, **_kwargs):
        """What a user of a socket would call."""
        return self

    def write(self, text):
        """To L2."""
        self._file.write(text)

    def flush(self):
        """To L2, now."""
        self._file.flush()

    def readline(self):
        """A line of L2; '' once it has ended."""
        if self.ended:
            return ''
        line = self._file.readline()
        if not line:
            self.ended = True
            raise L1Error('L1 has gone')
        if line.startswith('@@end '):
            self.ended = True
            self.exit_code = int(line.split()[1])
            return ''
        return line

    def drain(self):
        """The lines that are left of this L2."""
        return [line.rstrip('\r\n') for line in iter(self.readline, '')]


class L1:
    """A context manager that boots it, and ends it."""

    def __init__(self, platform, qemu, firmware, kernel, initramfs, log,
                 more_words='', options=()):
        self.platform = platform
        device, words = IOMMUS[platform]
        self._command = [qemu]
        for d in firmware:
            self._command += ['-L', d]
        self._command += [
            '-nodefaults', '-display', 'none', '-no-reboot',
            '-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm,+npt,+x2apic',
            '-machine', 'q35,kernel-irqchip=split', '-smp', '2',
            '-m', str(L1_MIB), '-device', device,
            '-device', f'edu,addr=3,dma_delay_ms={DMA_DELAY_MS}',
            '-device', 'edu,addr=5',
            '-kernel', kernel, '-initrd', initramfs,
            '-append', f'{APPEND} {words} {more_words}', *options]
        self._path = log
        self._log = []
        self._changed = threading.Condition()
        self._gone = False
        self._process = self._reader = None
        self._agent = self.qmp_port = self.console = self._com1 = None
        self._monitor = self._qmp = None
        self.expired = None     # where its CPUs were, if it took too long
        self.known_fault = ''   # that it has shown: its name

    def __enter__(self):
        pairs = [socket.socketpair() for _ in range(len(PORTS) + 2)]
        theirs = [pair[1] for pair in pairs]
        fds = [sock.fileno() for sock in theirs]
        command = list(self._command)
        command += ['-chardev', f'socket,id=kernel,fd={fds[-1]}',
                    '-serial', 'chardev:kernel',
                    '-chardev', f'socket,id=monitor,fd={fds[-2]}',
                    '-mon', 'chardev=monitor,mode=control',
                    '-device', 'virtio-serial-pci,addr=4']
        for number, (name, fd) in enumerate(zip(PORTS, fds), 1):
            command += ['-chardev', f'socket,id={name},fd={fd}', '-device',
                        f'virtserialport,nr={number},chardev={name}']
        log = open(self._path, 'w', encoding='utf-8', errors='replace')
        log.write(' '.join(map(shlex.quote, command)) + '\n')
        log.flush()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=fds, preexec_fn=die_with_parent)
        finally:
            for sock in theirs:
                sock.close()
        ours = [pair[0] for pair in pairs]
        self._reader = threading.Thread(target=self._read_log,
                                        args=(ours[-1], log), daemon=True)
        self._reader.start()
        self._agent = ours[0].makefile('rw', encoding='utf-8',
                                       errors='replace', newline='\n')
        self.qmp_port = Port(ours[1])
        self.console = Port(ours[2])
        self._com1 = ours[3]
        self._monitor = ours[4]
        return self

    def __exit__(self, *exc):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read_log(self, sock, log):
        with sock, log, sock.makefile('r', encoding='utf-8', errors='replace',
                                      newline='\n') as f:
            with contextlib.suppress(OSError):
                for line in f:
                    line = line.rstrip('\r\n')
                    log.write(line + '\n')
                    log.flush()
                    with self._changed:
                        self._log.append(line)
                        self._changed.notify_all()
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def look(self):
        """Where its CPUs are, said by the monitor; sets @known_fault."""
        self._monitor.settimeout(PATIENCE)
        looks = []
        try:
            self._qmp = self._qmp or Qmp(self._monitor)
            for _ in range(LOOKS):
                looks.append(cpus.look(self._qmp))
                time.sleep(PAUSE)
        except (OSError, EOFError, ValueError, HarnessError, QmpError) as err:
            return f'QEMU does not say where its CPUs are: {err}'
        with open(self._path, encoding='utf-8', errors='replace') as log:
            hang, why = cpus.known_hang(looks, self.expired, log.read())
        self.known_fault = self.known_fault or hang
        return (f'{hang}, {why}; ' if hang else '') + 'its CPUs: ' + \
            ' '.join(cpu.text for cpu in looks[-1])

    @contextlib.contextmanager
    def bounded(self, seconds):
        """Kill L1 if what is done takes longer, or never ends: all waits end then."""
        start, done = time.monotonic(), threading.Event()

        def elapsed():
            return time.monotonic() - start

        def killed_because(said):
            self.expired = f'no end after {elapsed():.0f} s: killed; {said}'

        def watch():
            while not done.wait(min(WATCH, max(seconds - elapsed(), 0))):
                hangs = elapsed() >= seconds
                if hangs:
                    killed_because('its CPUs were not looked at')
                try:
                    said = self.look()
                    hangs = hangs or self.known_fault
                    if hangs and not done.is_set():
                        killed_because(said)
                finally:
                    if hangs and not done.is_set():
                        self._process.send_signal(signal.SIGKILL)
                if hangs:
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        except (L1Error, EOFError, OSError) as err:
            if self.expired:
                raise L1Error(self.expired) from err
            raise
        finally:
            done.set()
            watcher.join()

    @property
    def alive(self):
        """It can be told to do something."""
        return not self._gone and self._process.poll() is None

    def _answer(self):
        lines = []
        while True:
            line = self._agent.readline()
            if not line:
                raise L1Error('L1 has gone')
            if line.startswith('@@ '):
                if lines and not lines[-1]:
                    lines.pop()
                return line.split()[1], lines
            lines.append(line.rstrip('\r\n'))

    def wait_ready(self):
        """Until init waits for commands."""
        self._answer()

    def shell(self, command):
        """Run a line in L1; its exit code and the lines it printed."""
        try:
            self._agent.write(command + '\n')
            self._agent.flush()
        except OSError as err:
            raise L1Error('L1 has gone') from err
        code, lines = self._answer()
        return int(code), lines

    def run(self, command):
        """The lines that a command printed, which must succeed."""
        code, lines = self.shell(command)
        if code:
            raise HarnessError(f'in L1: {command}: exit code {code}: '
                               + '\n'.join(lines[-10:]))
        return lines

    def release(self):
        """A byte to COM1 of L2."""
        self._com1.sendall(b'g')

    # The kernel's log. What is logged between two marks belongs together,
    # because the marks are lines of the log as well.

    def mark(self, text):
        """Write to the kernel's log, and wait until that has arrived here."""
        self.run(f'echo "<5>rig: {text}" >/dev/kmsg')
        wanted = f'rig: {text}'
        with self._changed:
            self._changed.wait_for(
                lambda: self._gone or
                any(line.endswith(wanted) for line in self._log))
            if self._gone:
                raise L1Error('L1 has gone')

    def complaints(self, since):
        """Problems in the log from line @since on."""
        with self._changed:
            lines = self._log[since:]
        faults = expected = 0
        any_number = False
        problems = []
        for line in lines:
            match = re.search(r'rig: expect-fault (\d+)$', line)
            if match:
                expected += int(match.group(1))
            elif line.endswith('rig: expect-any-faults'):
                any_number = True
            elif FAULT.search(line):
                faults += 1
                if faults > expected and not any_number:
                    problems.append(f'the kernel says: {line}')
            elif COMPLAINT.search(line) and not FAULT_NOISE.search(line):
                problems.append(f'the kernel says: {line}')
        # QEMU's IOMMU may make one of two that come before the kernel has read it
        if expected and not faults:
            problems.append(f'no IOMMU fault, expected {expected}')
        return problems

    def position(self):
        """Where the log ends now."""
        with self._changed:
            return len(self._log)

    def tail(self, lines=30):
        """The last lines of the log."""
        with self._changed:
            return self._log[-lines:]


class L2:
    """QEMU in L1, under KVM; a context manager that ends it.

    @config is one of the configurations of a scenario; with @guest, the words of
    its command line, the guest runs, else no CPU does.
    """

    def __init__(self, l1, config, guest=None):
        self._l1 = l1
        self.errors = []
        args = [f'/rig/{config.qemu}', '-L', '/rig/firmware', '-nodefaults',
                '-display', 'none', '-no-reboot', '-accel', 'kvm',
                '-cpu', 'host', '-m', f'{config.ram >> 20}M', '-object',
                f'{config.memory},id=m0,size={config.ram}', '-machine',
                ','.join(('q35', 'memory-backend=m0') + config.machine)]
        for number, name in enumerate(PORTS[1:], 2):
            args += ['-chardev', f'serial,id={name},path=/dev/vport0p{number}']
        args += ['-mon', 'chardev=qmp,mode=control',
                 '-device', 'isa-debugcon,iobase=0xe9,chardev=console',
                 '-device', 'isa-serial,chardev=com1',
                 '-device', 'isa-debug-exit,iobase=0xf4,iosize=4']
        if config.qemu == 'qemu':
            args += ['-device', 'guest-memfd-testdev']
        split = f',x-dma-split={config.split}' if config.split else ''
        if config.vfio == 'iommufd':
            args += ['-object', 'iommufd,id=iommufd0', '-device',
                     f'vfio-pci,host={config.device},iommufd=iommufd0{split}']
        elif config.vfio == 'type1':
            args += ['-device', f'vfio-pci,host={config.device}{split}']
        args += config.extra
        if guest is None:
            args += ['-S']
        else:
            args += ['-kernel', '/rig/guest.elf', '-append', guest]
        self._command = ' '.join(map(shlex.quote, config.prefix + args))
        self.qmp = None
        self.exit_code = None
        self._last_words = []   # of the guest, and why QEMU ended

    def __enter__(self):
        l1 = self._l1
        l1.run(f'({self._command} >/tmp/l2.log 2>&1 3>&-; code=$?; '
               'echo "@@end $code" >/dev/vport0p2; '
               'echo "@@end $code" >/dev/vport0p3) 3>&- &')
        l1.qmp_port.ended = l1.console.ended = False
        try:
            self.qmp = Qmp(l1.qmp_port)
        except (EOFError, ValueError) as err:
            self.wait()
            raise HarnessError('QEMU did not start in L1:\n' +
                               '\n'.join(self.errors)) from err
        return self

    def __exit__(self, kind, *exc):
        if kind is None or not issubclass(kind, L1Error):
            if not self._l1.qmp_port.ended and self._l1.alive:
                with contextlib.suppress(EOFError):
                    self.qmp.command('quit')
            self.wait()

    def run_until_pause(self):
        """Read what the guest says up to its pause: its summary, problems."""
        summary = {}
        said = []
        while True:
            line = self._l1.console.readline().rstrip('\r\n')
            if not line and self._l1.console.ended:
                return summary, ['the guest ended before it was done', *said,
                                 *self.bad_end()]
            said = said[-10:] + [f'guest: {line}']
            if line.startswith('summary '):
                summary.update(key_values(line))
            elif line.startswith('FAIL'):
                return summary, said
            elif line == PAUSED:
                return summary, []

    def wait(self):
        """The exit code of QEMU, once it has ended."""
        if self.exit_code is None:
            self._last_words = self._l1.console.drain()
            events = map(json.dumps, self.qmp.events if self.qmp else [])
            self._last_words += [
                line for line in (*events, *self._l1.qmp_port.drain())
                if '"SHUTDOWN"' in line]
            self.exit_code = self._l1.qmp_port.exit_code
            self.errors = self._l1.run('cat /tmp/l2.log')
        return self.exit_code

    def bad_end(self):
        """Problems if QEMU ends otherwise than by a guest that has passed."""
        code = self.wait()
        if code == EXIT_PASS:
            return []
        self._l1.known_fault = (self._l1.known_fault or
                                cpus.known_end(code, self._last_words))
        return [f'exit code {code}', *self._last_words, *self.errors]
