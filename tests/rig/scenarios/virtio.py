# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated virtio devices, and one of the kernel's, over memory that converts.

Where that is in place, a page that is private is gone for them. The guest says
what became of its requests, and has looked at its data (tests/guest).
"""

from lib.units import MIB
from rig.lib.checks import missing, other_figures
from rig.lib.l1 import L2
from rig.lib.configurations import IN_PLACE, PROTECTED, SHARED, TWO_COPY, Config

# What the guest gives to the balloon, of either state
GIVEN = 8
VHOST_ERROR = 'vhost vring error in virtqueue'


def configured(name, memory, *devices):
    """A configuration with virtio devices of version 1 only."""
    extra = list(PROTECTED['extra'])
    for device in devices:
        extra += ['-device', f'{device},disable-legacy=on']
    return Config(name, memory, None, ram=64 * MIB, machine=PROTECTED['machine'],
                  extra=extra, conv='hypercall')


BALLOON = 'virtio-balloon-pci,free-page-reporting=on'
BALLOONS = {
    'in-place': configured('in place', IN_PLACE, BALLOON),
    'intel': configured('two copies', TWO_COPY, BALLOON),
}
# How many pages are empty
EMPTY = ({'shared-empty': GIVEN, 'private-empty': GIVEN,
          'mixed-empty': 2 * GIVEN},
         {'shared-done': 1, 'shared-empty': GIVEN,
          'private-done': 1, 'private-empty': 1,
          'all-private-done': 1, 'all-private-empty': GIVEN})
QUEUES = configured('queues', IN_PLACE, 'virtio-rng-pci', BALLOON)
VSOCK = configured('vsock', IN_PLACE, 'vhost-vsock-pci,guest-cid=3')
ORDINARY = Config('vsock', SHARED, None, ram=64 * MIB, conv='none',
                  extra=['-device', 'vhost-vsock-pci,guest-cid=3,'
                                 'disable-legacy=on'])


def words(config, what):
    """The guest's command line."""
    return f'conv={config.conv} base=16 area=16 pause=1 virtio={what}'


def no_failures(l2):
    """Problems if a page was held longer than a conversion waits."""
    block = l2.qmp.command('query-guest-memfd')[0]
    return [f'{direction}: {block[direction]}'
            for direction in ('to-private', 'to-shared')
            if block[direction]['failures']]


def end(l1, tap, l2):
    """The guest was content to its end."""
    tap.result('no conversion failed', no_failures(l2))
    l1.release()
    tap.result('QEMU ended well', l2.bad_end())


def balloon(l1, tap, config):
    """Pages that the guest gave away are empty, all others have their data."""
    with L2(l1, config, words(config, 'balloon')) as l2:
        for what, figures in zip(('the balloon', 'reports'), EMPTY):
            summary, problems = l2.run_until_pause()
            tap.result(f'{what}: only what was given is empty',
                       problems or other_figures(summary, figures))
            if problems:
                return
            if what == 'the balloon':
                l1.release()
        end(l1, tap, l2)


def queues(l1, tap, config):
    """QEMU works on the queues of two devices, or the kernel on two of one."""
    with L2(l1, config, words(config, config.name)) as l2:
        summary, problems = l2.run_until_pause()
        wanted = {'queues' if config is VSOCK else 'devices': 2}
        tap.result('private queues and buffers are not touched',
                   problems or other_figures(summary, wanted))
        if problems:
            return
        end(l1, tap, l2)
        if config is VSOCK:
            tap.result('the kernel had EFAULT',
                       missing('\n'.join(l2.errors), [VHOST_ERROR]))


def ordinary(l1, tap, config):
    """The kernel works on queues in memory that nobody converts."""
    with L2(l1, config, words(config, config.name)) as l2:
        summary, problems = l2.run_until_pause()
        tap.result('it has an answer',
                   problems or other_figures(summary, {'queues': 2}))
        if not problems:
            l1.release()
            tap.result('QEMU ended well', l2.bad_end())


def scenarios(platform):
    """(name, function, configuration)"""
    if platform in BALLOONS:
        config = BALLOONS[platform]
        yield f'virtio-balloon, {config.name}', balloon, config
    if platform == 'in-place':
        yield 'virtio queues', queues, QUEUES
        yield 'vhost-vsock', queues, VSOCK
    if platform == 'intel':
        yield 'vhost-vsock, a mapped guest_memfd', ordinary, ORDINARY
