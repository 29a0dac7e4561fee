# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversion in place: one copy, which nobody may hold when it turns private.

For an L1 whose kernel does so (tests/rig/kernel).
"""

import contextlib
import os

from lib.qmp import QmpError
from lib.units import MIB, PAGE
from rig.lib.checks import (VM, agree, del_device, memory_used, missing,
                            not_possible, run_batch)
from rig.lib.l1 import EDU, L2, SCHEMES, SECOND_EDU
from rig.lib.configurations import (IN_PLACE, PAGES_2M, PORT, PROTECTED, TWO_COPY,
                                    Config)

HELD = 32 * MIB + 5 * PAGE
PIECE = (32 * MIB, 16 * PAGE)
AROUND = (28 * MIB, 8 * MIB)
# Random conversions of all MIXED; after each batch the guest checks all of its
# data
CONVERSIONS = int(os.environ.get('CONVERSIONS') or
                  (10000 if os.environ.get('QUICK') else 100000))
BATCHES = 5
BOUNCE = 46 * MIB
MOST = 1.02
RETRIES = 10

HOLDERS, HOLDERS_2M = [
    [Config(vfio, IN_PLACE + pages, vfio, ram=64 * MIB, **PROTECTED)
     for vfio in ('iommufd', 'type1')]
    for pages in ('', PAGES_2M)]
# What holds a page: see hold-page.c
HOLDING = ((HOLDERS[0], 'io_uring'), (HOLDERS[1], 'vmsplice'),
           (HOLDERS[1], 'another iommufd'))
HOLDING_2M = ((HOLDERS_2M[1], 'io_uring'), (HOLDERS_2M[0], 'another iommufd'))
MIXED = [Config(f"{vfio or 'no device'}, {split}", IN_PLACE + ',prealloc=on',
                vfio, ram=64 * MIB, split=split, **PROTECTED)
         for vfio, split in (('iommufd', 'auto'), ('type1', 'auto'),
                             ('iommufd', 'cut'), ('type1', 'page'),
                             (None, None))]
# Of the kernel's own pages, and of huge ones, which it splits
RESET, RESET_2M = [
    Config('reset', IN_PLACE + pages, 'iommufd', ram=64 * MIB,
           machine=PROTECTED['machine'],
           extra=PROTECTED['extra'] + ['-action', 'reboot=reset'])
    for pages in ('', PAGES_2M)]
HOTPLUG, HOTPLUG_2M = [
    Config('hotplug', IN_PLACE + pages, None, ram=64 * MIB,
           machine=PROTECTED['machine'],
           extra=PROTECTED['extra'] + PORT + ['-object', 'iommufd,id=i0'])
    for pages in ('', PAGES_2M)]
DATA, LOADED = 0x1800010, 0x600dda7a
ENTRY_POINTS, TWO_COPIES = [
    Config('entry points', memory, None, machine=PROTECTED['machine'],
           extra=RESET.extra + ['-gdb', 'pipe:/tmp/gdb', '-device',
                                f'loader,addr={DATA:#x},data={LOADED:#x},'
                                'data-len=4'])
    for memory in (IN_PLACE, TWO_COPY)]
EMULATED_DEVICE = Config('edu', IN_PLACE, None, machine=PROTECTED['machine'],
                         extra=PROTECTED['extra'] + ['-device', 'edu,dma_delay_ms=1'],
                         conv='hypercall')
REFUSED = (
    (Config('two-copy', TWO_COPY + ',conversion=two-copy', None, **PROTECTED),
     ('conversion=two-copy', 'converts in place', 'conversion=auto')),
    (Config('ordinary VM', IN_PLACE, None),
     ('conversion=in-place', 'this type of VM', 'conversion=auto')),
)


def kernel_works(l1, tap, how):
    """The test program of the kernel's interface."""
    _code, lines = l1.shell(f'/rig/inplace-test {how}')
    results = [line for line in lines if line.startswith(('ok', 'not ok'))]
    bad = [line for line in results if not line.startswith('ok')]
    tap.result(f'{len(results)} checks of the interface, switched {how}',
               bad if results else ['inplace-test said nothing'] + lines)


@contextlib.contextmanager
def held(l1, pid, offset, how='vmsplice'):
    """A process of L1 holds a page of the VM's memory."""
    if how == 'another iommufd':
        devices = l1.run(f'ls /sys/bus/pci/devices/{SECOND_EDU}/vfio-dev')
        how = f'/dev/vfio/devices/{devices[0]}'
    l1.run('rm -f /tmp/go /tmp/held; mkfifo /tmp/go /tmp/held')
    l1.run(f'/rig/hold-page {pid} {offset} {how} </tmp/go >/tmp/held 2>&1 3>&- &')
    l1.run('exec 9>/tmp/go; read line </tmp/held; [ "$line" = held ] || '
           '{ echo "$line"; false; }')
    try:
        yield
    finally:
        l1.run('exec 9>&-; wait $!')


def page_is_held(l1, tap, config_and_how):
    """Nothing changes while somebody holds a page; then it works."""
    config, how = config_and_how
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        with held(l1, vm.pid, HELD, how):
            answer, problems = vm.attempt(*PIECE, True)
            tap.result('to private fails and says which page', problems +
                       missing(answer, [f'{HELD:#x}', 'in use']))
            block = l2.qmp.command('query-guest-memfd')[0]['to-private']
            counted = [block[name] for name in ('failures', 'retries',
                                                'rollbacks')]
            tap.result('it was tried again, and rolled back',
                       [f'{counted}'] if counted != [1, RETRIES, 1] else [])
            answer, problems = vm.attempt(PIECE[0], 4 * PAGE, True)
            tap.result('its neighbours convert',
                       problems + ([answer] if answer else []))
            answer, problems = vm.attempt(PIECE[0], 4 * PAGE, False)
            tap.result('and back', problems + ([answer] if answer else []))
            answer, problems = vm.attempt(*AROUND, True)
            tap.result('huge pages before it go back', problems +
                       missing(answer, [f'{HELD:#x}', 'in use']))
        answer, problems = vm.attempt(*AROUND, True)
        tap.result('it works once the page is free',
                   problems + ([answer] if answer else []))


def guest_is_told(l1, tap, config):
    """A guest whose hypercall fails hears of it."""
    words = f'conv={config.conv} base=16 area=32 rounds=2 pause=1'
    with L2(l1, config, words) as l2:
        l2.run_until_pause()
        l1.release()
        l2.run_until_pause()
        with held(l1, l1.run('pidof qemu')[0], HELD):
            l1.release()
            said = '\n'.join(l2.run_until_pause()[1])
            l2.wait()
        tap.result('the hypercall has an error',
                   missing(said, ['to private: status -']))


def random_mix(l1, tap, config):
    """Random conversions: data survives, and I1 to I3 hold after each batch."""
    batch = CONVERSIONS // len(MIXED) // BATCHES
    words = (f'conv={config.conv} base=16 area={BOUNCE // MIB} rounds={BATCHES} '
             f'mix={batch} seed={1 + MIXED.index(config)} touch=1 keep=1 pause=1')
    before = memory_used(l1)
    problems, ratios, seconds, retries = [], [], 0, 0
    with L2(l1, config, words) as l2:
        for _batch in range(BATCHES):
            end, took, problems = run_batch(l1)
            seconds += took
            problems = problems or agree(l1, l2, config, end, BOUNCE)
            if problems:
                break
            ratios.append((memory_used(l1) - before) / config.ram)
            retries = l2.qmp.command('query-guest-memfd')[0]['to-private'][
                'retries']
            l1.release()
        problems = problems or l2.bad_end()
    tap.result(f'{BATCHES * batch} conversions', problems)
    if problems:
        return
    tap.note(f'{BATCHES * batch / seconds:.0f} a second, {retries} retries')
    tap.result(f'{max(ratios):.3f} of its size is held',
               [] if 0 < max(ratios) <= MOST else
               [f'at most {MOST} expected'])


def reset(l1, tap, config):
    """A reset returns to the initial state."""
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        answer, problems = vm.attempt(*PIECE, True)
        tap.result('a piece is private', problems +
                   ([answer] if answer else []))
        l2.qmp.reset()
        tap.result('a reset makes all shared',
                   vm.problems() +
                   [str(run) for run in vm.runs() if run['private']])


def hotplug(l1, tap, config):
    """A device that comes gets what is shared; one that goes holds nothing."""
    with L2(l1, config) as l2:
        vm = VM(l1, l2, config)
        vm.convert(*PIECE, True)
        for number in range(3):
            l2.qmp.command('device_add', driver='vfio-pci', id='dev', bus='rp',
                           host=EDU, iommufd='i0')
            problems = vm.problems()
            for private in (False, True):
                answer, more = vm.attempt(*PIECE, private)
                problems += more + ([answer] if answer else [])
            tap.result(f'plugged in, {number}', problems)
            del_device(vm, 'iommufd')
            # memory that a device had pinned would be in use
            answer = vm.convert(0, config.ram, True) or \
                vm.convert(0, config.ram, False) or \
                vm.convert(*PIECE, True)
            tap.result(f'unplugged, {number}', [answer] if answer else [])


def gdb(l1, packet, answer):
    """Problems unless the gdb stub gives this answer to a packet."""
    checksum = sum(packet.encode('ascii')) & 0xff
    l1.run(f"printf %s '${packet}#{checksum:02x}' >/tmp/gdb.in")
    said = l1.run(f"timeout 60 head -c {len('+$#00' + answer)} /tmp/gdb.out")
    return missing(str(said), [f'+${answer}#'])


def entry_points(l1, tap, config):
    """QEMU does not touch a private page, whoever requests it."""
    page = DATA & -PAGE
    l1.run('rm -f /tmp/saved /tmp/gdb.in /tmp/gdb.out')
    l1.run('mkfifo /tmp/gdb.in /tmp/gdb.out')
    save = {'val': page - PAGE, 'size': 2 * PAGE, 'filename': '/tmp/saved'}
    ways = (
        ('x', 'human-monitor-command', 'Cannot access memory',
         {'command-line': f'x /4xw {page:#x}'}),
        ('xp', 'human-monitor-command', 'Cannot access memory',
         {'command-line': f'xp /4xw {page:#x}'}),
        ('memsave', 'memsave', 'Invalid addr', dict(save)),
        ('pmemsave', 'pmemsave', 'is private', dict(save)),
        ('dump', 'dump-guest-memory', 'is private to the guest',
         {'paging': False, 'protocol': 'file:/tmp/saved'}),
        ('gpa2hva', 'human-monitor-command', '(m0) is 0x',
         {'command-line': f'gpa2hva {page:#x}'}),
    )
    packets = (
        ('reads', f'm{DATA:x},4', 'E14'), ('writes', f'M{DATA:x},1:00', 'E14'),
        ('sets a breakpoint', f'Z0,{DATA:x},1', 'E22'),
        ('is physical', 'Qqemu.PhyMemMode:1', 'OK'),
        ('reads zeroes then', f'm{DATA:x},4', '00000000'),
        ('does not write then', f'M{DATA:x},1:00', 'OK'),
    )
    # the shared copy is freed
    kept = 0 if config is TWO_COPIES else LOADED
    with L2(l1, config) as l2:
        def value():
            return str(l2.qmp.command('human-monitor-command', **{
                'command-line': f'xp /1xw {DATA:#x}'}))

        vm = VM(l1, l2, config)
        tap.result('what was loaded is there', missing(value(), [hex(LOADED)]))
        vm.convert(page, PAGE, True)
        for name, command, reason, arguments in ways:
            try:
                answer = str(l2.qmp.command(command, **arguments))
            except QmpError as err:
                answer = str(err)
            tap.result(f'{name}: {reason}', missing(answer, [reason]))
        for name, packet, answer in packets:
            tap.result(f'gdb {name}: {answer}', gdb(l1, packet, answer))
        l2.qmp.command('dump-guest-memory', paging=False, begin=page - PAGE,
                       length=PAGE, protocol='file:/tmp/saved')
        tap.result('dump of the shared page before it',
                   [] if int(l1.run('wc -c </tmp/saved')[0]) > PAGE else
                   ['it is too short'])
        vm.convert(page, PAGE, False)
        tap.result('shared again, it is there',
                   missing(value(), [f'0x{kept:08x}']))
        vm.convert(page, PAGE, True)
        l2.qmp.reset()
        tap.result('a reset loads it again', missing(value(), [hex(LOADED)]))


def emulated_device(l1, tap, config):
    """DMA of a device that is QEMU's own."""
    with L2(l1, config, config.guest + ' faults=2') as l2:
        summary, problems = l2.run_until_pause()
        if not problems and summary.get('blocked', 0) != 2:
            problems = [f'two DMAs to private memory were wanted: {summary}']
        l1.release()
        problems = problems or l2.bad_end()
    tap.result('the guest verified DMA', problems)


def scenarios(platform):
    """(name, function, configuration)"""
    if platform == 'intel':
        yield 'no conversion in place', kernel_works, 'off'
        yield 'QEMU itself, two copies', entry_points, TWO_COPIES
    if platform == SCHEMES[-1]:
        for config, how in HOLDING_2M:
            yield (f'a page is held by {how}, {config.name}, huge pages',
                   page_is_held, (config, how))
        yield 'reset, huge pages', reset, RESET_2M
        yield 'hotplug, huge pages', hotplug, HOTPLUG_2M
    if platform != 'in-place':
        return
    yield 'the kernel converts in place', kernel_works, 'on'
    for config, words in REFUSED:
        yield f'refused, {config.name}', not_possible, (config, words)
    for config, how in HOLDING:
        yield f'a page is held by {how}, {config.name}', page_is_held, (config, how)
    yield 'the guest is told', guest_is_told, HOLDERS[0]
    for config in MIXED:
        yield f'random, {config.name}', random_mix, config
    yield 'reset', reset, RESET
    yield 'hotplug', hotplug, HOTPLUG
    yield 'QEMU itself', entry_points, ENTRY_POINTS
    yield 'an emulated device', emulated_device, EMULATED_DEVICE
