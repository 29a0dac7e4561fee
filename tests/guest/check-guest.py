#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole slice with a real guest: QEMU, its memory, VFIO and a DMA peer.

Prints TAP.  The guest (tests/guest) converts memory and does DMA against its
own model; before it ends, the map that QEMU reports is compared with what the
vfio-user server has mapped.  Environment: QEMU, EDU_SERVER, GUEST_ELF,
QEMU_FIRMWARE, GUEST_OPS, GUEST_SEED, GUEST_TIMEOUT (seconds, against hangs),
QEMU_STORAGE_DAEMON.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile

from lib import TOP
from lib.dma_map import all_shared, compare_maps, query_map
from lib.error import HarnessError
from lib.guest import EXIT_PASS, key_values
from lib.hugepages import huge_pages
from lib.kvm import kvm_problem
from lib.paths import Paths
from lib.process import die_with_parent, exit_on_signals
from lib.qmp import QmpError
from lib.units import MIB, PAGE
from lib.vm import Machine

RAM = 512 * MIB
# A KVM that has to emulate code without paging takes 20 ms for an operation, and
# longer where CPUs wait for each other.
OPS = {'tcg': '2000', 'kvm': '500', 'kvm-smp': '200'}
SEED = os.environ.get('GUEST_SEED', '1')
TIMEOUT = float(os.environ.get('GUEST_TIMEOUT', '300'))
STORAGE_DAEMON = os.environ.get(
    'QEMU_STORAGE_DAEMON', os.path.join(TOP, 'build/qemu-storage-daemon'))

STEPS = (
    'the guest verified DMA',
    'DMA mappings are the shared memory',
    'the map is the same in small pages',
    'counters agree',
    'QEMU and the server ended well',
)
# Of memory that nobody can convert
ORDINARY_STEPS = (
    'the guest verified DMA',
    'what it asked for was refused',
    'DMA mappings are all of the memory',
    'it is no block',
    'QEMU and the server ended well',
)


class Tap:
    """Numbered results."""

    def __init__(self):
        self.number = 0
        self.failed = 0

    def result(self, name, problems):
        """One test; without problems it is ok."""
        self.number += 1
        print(f"{'not ' if problems else ''}ok {self.number} - {name}")
        for problem in problems:
            for line in str(problem).splitlines() or ['']:
                print(f'# {line}')
        self.failed += bool(problems)
        sys.stdout.flush()

    def skip(self, name, reason):
        """One test that cannot be run here."""
        self.number += 1
        print(f'ok {self.number} - {name} # SKIP {reason}')
        sys.stdout.flush()


def run_until_hold(machine):
    """Read what the guest says up to HOLD; its summary, or a problem."""
    summary = {}
    while True:
        line = machine.lines.get()
        if line is None:
            return summary, ['the guest ended before it was done']
        if line.startswith('summary '):
            summary = key_values(line)
        elif line.startswith('FAIL'):
            return summary, [line]
        elif line == 'HOLD':
            return summary, []


def check_conversions(block, summary):
    """The counters of conversions agree with the guest."""
    problems = []
    # The guest leaves alone what is not in its window.
    outside = (RAM - summary['pages'] * PAGE if block['init'] == 'shared'
               else 0)

    if block['shared-bytes'] != summary['shared-pages'] * PAGE + outside:
        problems.append(f"shared: {block['shared-bytes']}, but the guest "
                        f"shared {summary['shared-pages']} pages")
    for direction in ('to-shared', 'to-private'):
        if not block[direction]['requests']:
            problems.append(f'{direction}: no request was counted')
    requests = (block['to-shared']['requests'] +
                block['to-private']['requests'])
    if requests < summary['conversions']:
        problems.append(f"{requests} requests, but the guest made "
                        f"{summary['conversions']}")
    if not any(listener['unmap-calls'] for listener in block['listeners']):
        problems.append('no unmap call was counted')
    return problems


def check_counters(machine, runs, maps, summary, driver):
    """query-guest-memfd agrees with the map, the server and the guest."""
    problems = []

    def same(what, a, b):
        if a != b:
            problems.append(f'{what}: {a} != {b}')

    blocks = machine.qmp.command('query-guest-memfd')
    blocks = [b for b in blocks if b['id'] == 'm0']
    if len(blocks) != 1:
        return [f'query-guest-memfd has {len(blocks)} blocks named m0']
    block = blocks[0]
    shared = sum(r['size'] for r in runs if not r['private'])
    # ROMs, which lie over the RAM below 1 MiB, have no file
    extents = [m for m in maps if m.iova < RAM and m.fd]

    same('size', block['size'], RAM)
    same('driver', block['driver'], driver)
    same('shared-bytes and map', block['shared-bytes'], shared)
    same('private-bytes and map', block['private-bytes'], RAM - shared)

    def total(key):
        return sum(listener[key] for listener in block['listeners'])

    # one for each range of addresses at which the container sees the block
    same('mapped-bytes and server', total('mapped-bytes'),
         sum(m.size for m in extents))
    same('extents and server', total('extents'), len(extents))
    if not total('map-calls'):
        problems.append('no map call was counted')
    for level in block['huge-pages']:
        same(f"huge pages of {level['size']}",
             level['shared'] + level['private'] + level['mixed'],
             RAM // level['size'])
    return problems + check_conversions(block, summary)


def check_ordinary(machine):
    """It says that it is memory which cannot be converted."""
    problems = []
    blocks = machine.qmp.command('query-guest-memfd')
    if blocks:
        problems.append(f'query-guest-memfd shows {blocks}')
    for command, args, words in (
            ('query-guest-memfd-map', {'id': 'm0'}, 'ordinary memory'),
            ('x-guest-memfd-convert',
             {'id': 'm0', 'offset': 0, 'size': PAGE, 'private': True},
             'ordinary memory'),
            # only the device is in the way
            ('migrate', {'uri': 'exec:false'}, "/vfio-user-pci'")):
        try:
            machine.qmp.command(command, **args)
            problems.append(f'{command} was accepted')
        except QmpError as err:
            if words not in str(err):
                problems.append(str(err))
    return problems


def refused_requests(machine, summary, before):
    """What the guest asked for in vain has not reached the server."""
    problems = []
    stats = machine.control.stats()
    if not summary['refused']:
        problems.append('the guest has not asked')
    for what in ('map', 'unmap'):
        if stats[what] != before[what]:
            problems.append(f'{what}: {before[what]} calls before the guest '
                            f'asked, {stats[what]} after it')
    return problems


def look_at_ordinary(machine, tap, name):
    """The guest waits twice: before it asks for conversions, and after it."""
    before = machine.control.stats()
    machine.release()
    summary, problems = run_until_hold(machine)
    tap.result(f'{name}: {ORDINARY_STEPS[1]}',
               problems or refused_requests(machine, summary, before))
    maps = machine.control.maps()
    tap.result(f'{name}: {ORDINARY_STEPS[2]}',
               compare_maps(all_shared(RAM), maps, RAM))
    tap.result(f'{name}: {ORDINARY_STEPS[3]}', check_ordinary(machine))


def look_at_machine(machine, tap, name, summary, case):
    """What can be compared while the guest waits."""
    if case.conv == 'refused':
        look_at_ordinary(machine, tap, name)
        return
    maps = machine.control.maps()
    runs = query_map(machine.qmp, 'm0')
    tap.result(f'{name}: {STEPS[1]}', compare_maps(runs, maps, RAM))
    same = query_map(machine.qmp, 'm0', limit=7) == runs
    tap.result(f'{name}: {STEPS[2]}',
               [] if same else ['pages of 7 runs give another map'])
    tap.result(f'{name}: {STEPS[3]}',
               check_counters(machine, runs, maps, summary, case.driver))
    stats = machine.control.stats()
    print('# ' + ' '.join(f'{key}={value}' for key, value in stats.items()))


def check_exit(machine):
    """The end, after the guest was released."""
    problems = []
    qemu, server = machine.wait()
    if machine.timed_out:
        problems.append(f'no end after {TIMEOUT} s: killed')
    if qemu != EXIT_PASS:
        problems.append(f'QEMU exited with {qemu}, expected {EXIT_PASS}')
    if server != 0:
        problems.append(f'the server exited with {server}')
    if 'PASS' not in machine.console:
        problems.append('the guest did not print PASS')
    return problems


def diagnose(machine):
    """What helps to understand a failure."""
    for line in machine.console[-20:]:
        print(f'# guest: {line}')
    for line in machine.errors().splitlines()[-20:]:
        print(f'# stderr: {line}')


class Case:
    """A machine, and what it is told.

    @conv: how its guest converts memory
    @cpus: that many CPUs of the guest convert
    """

    def __init__(self, accel, driver, conv='testdev', huge=False, cpus=1):
        self.accel = accel
        self.driver = driver
        self.conv = conv
        self.huge = huge
        self.cpus = cpus

    @property
    def steps(self):
        """What is a test."""
        return ORDINARY_STEPS if self.conv == 'refused' else STEPS

    @property
    def name(self):
        """For people."""
        name = (f"{self.accel}, {'2M' if self.huge else '4K'} pages, "
                f'{self.driver} driver')
        if self.protected:
            name += ', private memory'
        return name + (f', {self.cpus} CPUs' if self.cpus > 1 else '')

    @property
    def protected(self):
        """Whether KVM has private memory for it."""
        return self.driver == 'kvm' and self.conv != 'refused'

    @property
    def problem(self):
        """Why this host cannot run the machine, or None."""
        if self.accel != 'kvm':
            return None
        if self.protected:
            return kvm_problem(vm_type=SW_PROTECTED_VM)
        return kvm_problem(0 if self.driver == 'emulated' else SHARED_FILES)

    @property
    def options(self):
        """Words for the guest."""
        ops = os.environ.get(
            'GUEST_OPS', OPS['kvm-smp' if self.accel == 'kvm' and
                             self.cpus > 1 else self.accel])
        words = f'ops={ops} seed={SEED} conv={self.conv} hold=1'
        if self.cpus > 1:
            # The emulated driver keeps what is in a page.
            words += f' cpus={self.cpus} keep={int(not self.protected)}'
        return words

    def machine(self, paths):
        """The machine."""
        smp = max(self.cpus, 2 if self.accel == 'kvm' else 1)
        accel = 'tcg,thread=multi' if self.accel == 'tcg' else self.accel
        return Machine(paths, accel=accel, ram=RAM, guest=self.options,
                       timeout=TIMEOUT, huge=self.huge, driver=self.driver,
                       smp=smp, devices=['guest-memfd-testdev'] * self.cpus,
                       init='private' if self.driver == 'emulated' else
                       'shared', protected=self.protected)


def run_case(tap, paths, case):
    """One machine: all of its steps get a result."""
    first = tap.number
    failed = tap.failed
    steps, name = case.steps, case.name
    try:
        with case.machine(paths) as machine:
            try:
                summary, problems = run_until_hold(machine)
                tap.result(f'{name}: {steps[0]}', problems)
                if not problems:
                    look_at_machine(machine, tap, name, summary, case)
                    machine.release()
                    tap.result(f'{name}: {steps[4]}', check_exit(machine))
            finally:
                if tap.failed > failed or tap.number < first + len(steps):
                    diagnose(machine)
    except (HarnessError, QmpError, EOFError, OSError, KeyError) as err:
        step = steps[tap.number - first] if tap.number - first < len(steps) \
            else steps[-1]
        tap.result(f'{name}: {step}', [f'{type(err).__name__}: {err}'])
    for step in steps[tap.number - first:]:
        tap.result(f'{name}: {step}', ['not reached'])


# What is run.  The last one is an ordinary VM whose only memory is a mapped
# guest_memfd: it is refused.  TCG converts with the BQL held, so that it is under
# KVM that requests of several CPUs meet; two CPUs do, as a host may have no more.
CASES = (
    Case('tcg', 'emulated'),
    Case('tcg', 'emulated', huge=True),
    Case('tcg', 'emulated', cpus=4),
    Case('kvm', 'emulated'),
    Case('kvm', 'emulated', huge=True),
    Case('kvm', 'emulated', cpus=2),
    Case('kvm', 'kvm', conv='hypercall', cpus=4),
    Case('kvm', 'kvm', conv='refused'),
)
# With a virtio balloon: the driver; whether there is the peer, for which memory
# has to stay where it is; how many of the pages that the guest gives away are
# empty then
BALLOONS = (('emulated', False, 8), ('emulated', True, 0), ('kvm', False, 8))
BALLOON = 'virtio-balloon-pci,disable-legacy=on,free-page-reporting=on'
SHARED_FILES = 3        # GUEST_MEMFD_FLAG_MMAP and _INIT_SHARED
SW_PROTECTED_VM = 1


def run_virtio(tap, paths, name, wanted, **machine_args):
    """A guest that uses a virtio device, and what it says of it."""
    problems = []
    try:
        with Machine(paths, timeout=TIMEOUT, **machine_args) as machine:
            problems += check_exit(machine)
            said = [key_values(line) for line in machine.console
                    if line.startswith('summary ')]
            if not said or not wanted.items() <= said[0].items():
                problems.append(f'expected {wanted}')
            if problems:
                diagnose(machine)
    except (HarnessError, QmpError, EOFError, OSError) as err:
        problems = [f'{type(err).__name__}: {err}']
    tap.result(name, problems)


def run_balloon(tap, paths, driver, peer, empty):
    """A guest that gives pages away, shared ones and private ones."""
    name = (f"virtio-balloon, {driver} driver, {'with a' if peer else 'no'} "
            f'DMA peer: {empty} of the given pages are empty')
    words = 'base=16 window=16 virtio=balloon'
    args = {'ram': 64 * MIB, 'devices': ['guest-memfd-testdev', BALLOON]}
    if driver == 'kvm':
        problem = kvm_problem(SHARED_FILES)
        if problem:
            tap.skip(name, problem)
            return
        words += ' conv=none'
        args.update(accel='kvm', init='shared')
    run_virtio(tap, paths, name, {
        'shared-empty': empty, 'private-empty': empty,
        'mixed-empty': 2 * empty}, driver=driver, peer=peer, guest=words,
               **args)


def run_messages(tap, paths):
    """DMA by messages: the server has no file of this memory.

    It does the DMA while QEMU, with the BQL, waits for it to answer the write to
    a register; libvfio-user, which waits then, takes no other request.
    """
    run_virtio(tap, paths, 'ordinary memory without a file: DMA by messages',
               {'dma-failed': 0}, accel='tcg', ram=64 * MIB,
               memory=f'memory-backend-ram,id=m0,size={64 * MIB}',
               peer_options={'x-no-posted-writes': True},
               guest='base=16 window=16 ops=200 conv=none')


def run_queues(tap, paths):
    """QEMU works on queues in memory that nobody converts."""
    name = 'virtio-rng and virtio-balloon, kvm driver: they have an answer'
    problem = kvm_problem(SHARED_FILES)
    if problem:
        tap.skip(name, problem)
        return
    run_virtio(tap, paths, name, {'devices': 2}, accel='kvm', ram=64 * MIB,
               driver='kvm', init='shared', peer=False,
               devices=['virtio-rng-pci,disable-legacy=on', BALLOON],
               guest='base=16 window=16 virtio=queues conv=none')


def run_vhost(tap, paths):
    """The host's kernel works on queues in memory that nobody converts."""
    name = 'vhost-vsock, kvm driver: it has an answer'
    problem = kvm_problem(SHARED_FILES)
    if not problem and not os.path.exists('/dev/vhost-vsock'):
        problem = '/dev/vhost-vsock does not exist'
    if problem:
        tap.skip(name, problem)
        return
    run_virtio(tap, paths, name, {'queues': 2}, accel='kvm', ram=64 * MIB,
               driver='kvm', init='shared', peer=False,
               devices=[f'vhost-vsock-pci,guest-cid={os.getpid()},'
                        'disable-legacy=on'],
               guest='base=16 window=16 virtio=vsock conv=none')


# The firmware reads it from a disk and runs it.  It writes itself to the next
# sector, and exits with EXIT_PASS if that worked:
#     mov $0x0301,%ax; mov $2,%cx; mov $0,%dh; mov $0x7c00,%bx; int $0x13
#     mov $0x11,%al; jc 1f; mov $0x10,%al; 1: out %al,$0xf4; 2: hlt; jmp 2b
BOOT_SECTOR = bytes.fromhex('b80103 b90200 b600 bb007c cd13'
                            'b011 7202 b010 e6f4 f4 ebfd'
                            ).ljust(510, b'\0') + b'\x55\xaa'


def vhost_user_problems(paths, directory):
    """What goes wrong when a VM boots from a disk of another process."""
    disk, path = (os.path.join(directory, name) for name in ('disk', 'socket'))
    with open(disk, 'wb') as file:
        file.write(BOOT_SECTOR)
        file.truncate(MIB)
    # It can be connected to as soon as the daemon is started.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        command = [
            STORAGE_DAEMON, '--blockdev', f'file,node-name=f,filename={disk}',
            '--export', 'vhost-user-blk,id=e,node-name=f,writable=on,'
                        f'addr.type=fd,addr.str={listener.fileno()}']
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                  pass_fds=[listener.fileno()],
                                  preexec_fn=die_with_parent)
    try:
        qemu = subprocess.run(
            [paths.qemu, '-nodefaults', '-display', 'none', '-accel', 'kvm',
             '-cpu', 'host', '-machine', 'q35,memory-backend=m0', '-m', '64M',
             *(word for name in paths.firmware for word in ('-L', name)),
             '-object', 'memory-backend-guest-memfd,id=m0,size=64M,'
                        'conversion=none',
             '-chardev', f'socket,id=c,path={path}',
             '-device', 'vhost-user-blk-pci,chardev=c,bootindex=1',
             '-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, errors='replace', timeout=TIMEOUT,
            check=False, preexec_fn=die_with_parent)
    except subprocess.TimeoutExpired as err:
        return [err]
    finally:
        daemon.kill()
        daemon.wait()
    with open(disk, 'rb') as file:
        written = file.read(1024)
    problems = []
    if qemu.returncode != EXIT_PASS:
        problems += [f'QEMU has exit status {qemu.returncode}', qemu.stdout]
    if written != 2 * BOOT_SECTOR:
        problems.append('what the guest wrote is not on the disk')
    return problems


def run_vhost_user(tap, paths):
    """Another process does DMA to memory that nobody converts."""
    name = 'vhost-user-blk, kvm driver: the guest reads and writes a disk'
    problem = kvm_problem(SHARED_FILES)
    if not problem and not os.path.isfile(STORAGE_DAEMON):
        problem = f'{STORAGE_DAEMON} does not exist'
    if problem:
        tap.skip(name, problem)
        return
    with tempfile.TemporaryDirectory(prefix='guest-memfd-') as directory:
        tap.result(name, vhost_user_problems(paths, directory))


def main():
    """All cases."""
    exit_on_signals()
    tap = Tap()
    print('TAP version 13')
    steps = sum(len(case.steps) for case in CASES)
    print(f'1..{steps + len(BALLOONS) + 4}')
    try:
        paths = Paths()
    except HarnessError as err:
        print(f'Bail out! {err}')
        return 1
    for case in CASES:
        problem = case.problem
        with contextlib.ExitStack() as stack:
            if not problem and case.huge:
                problem = stack.enter_context(huge_pages(RAM // (2 * MIB)))
            if problem:
                for step in case.steps:
                    tap.skip(f'{case.name}: {step}', problem)
            else:
                run_case(tap, paths, case)
    for balloon in BALLOONS:
        run_balloon(tap, paths, *balloon)
    run_messages(tap, paths)
    run_queues(tap, paths)
    run_vhost(tap, paths)
    run_vhost_user(tap, paths)
    return 1 if tap.failed else 0


if __name__ == '__main__':
    sys.exit(main())
