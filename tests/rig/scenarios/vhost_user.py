# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of QEMU's storage daemon, over memory of which a part is private.

The daemon has the file of the memory, and maps it. The guest (tests/guest/blk.c) says
what became of a request whose data are private; then a header is.
"""

from lib.units import MIB
from rig.lib.checks import must_refuse, other_figures
from rig.lib.configurations import IN_PLACE, PROTECTED, TWO_COPY, Config
from rig.lib.l1 import L2

SOCKET, PID, DISK = '/tmp/disk.sock', '/tmp/disk.pid', '/tmp/disk'
DAEMON = (f'rm -f {SOCKET}; /rig/qemu-storage-daemon --daemonize --pidfile {PID} '
          f'--blockdev file,node-name=f,filename={DISK} '
          f'--export vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,'
          f'addr.path={SOCKET}')
GONE = f'while kill -0 $(cat {PID}) 2>/dev/null; do sleep 0.1; done'
# VIRTIO_BLK_S_IOERR
IO_ERROR = 1


def configured(name, memory, *more):
    """A VM whose disk may come back.

    The daemon knows no VIRTIO_F_ACCESS_PLATFORM, which QEMU sets for confidential
    guests, and asks no IOMMU.
    """
    return Config(name, memory, None, ram=64 * MIB, machine=PROTECTED['machine'],
                  extra=PROTECTED['extra'] + [
                      '-chardev', f'socket,id=c,path={SOCKET},reconnect-ms=100',
                      '-device', ','.join(['vhost-user-blk-pci,chardev=c,num-queues=1,'
                                           'disable-legacy=on', *more])],
                  conv=PROTECTED['conv'])


DISKS = {'in-place': configured('in place', IN_PLACE, 'iommu_platform=off'),
         'intel': configured('two copies', TWO_COPY, 'iommu_platform=off')}
REFUSED = configured('', TWO_COPY)


def another_daemon(l1, l2):
    """SIGBUS has ended the daemon: nobody else does it. What the guest says then."""
    l1.run(GONE)
    status = l2.qmp.command('query-status')['status']
    if status != 'running':
        return {}, [f'QEMU is {status}']
    l1.release()
    summary, problems = l2.run_until_pause()
    if not problems:
        l1.run(DAEMON)
        l1.release()
        summary, problems = l2.run_until_pause()
    return summary, problems


def disk(l1, tap, config):
    """Private data do not reach the disk; in place, a private header ends the daemon."""
    in_place = config.name == 'in place'
    l1.run(f'dd if=/dev/zero of={DISK} bs=1M count=1 2>/dev/null; {DAEMON}')
    words = f'conv={config.conv} base=16 area=16 pause=1 virtio=blk dies={int(in_place)}'
    try:
        if not in_place:
            tap.result('it is refused without iommu_platform=off', must_refuse(
                l1, REFUSED, ['iommu_platform=true is not supported by the device']))
        with L2(l1, config, words) as l2:
            summary, problems = l2.run_until_pause()
            # in place, the kernel reads for the daemon from a page that is gone
            tap.result('private data do not reach it', problems or other_figures(
                summary, {'write-status': IO_ERROR * in_place, 'seen': 0}))
            if in_place and not problems:
                summary, problems = another_daemon(l1, l2)
            tap.result('the guest uses the disk',
                       problems or other_figures(summary, {'disk': 1}))
            if not problems:
                l1.release()
                tap.result('QEMU ended well', l2.bad_end())
    finally:
        l1.run(f'kill $(cat {PID}); {GONE}')


def scenarios(platform):
    """(name, function, configuration)"""
    if platform in DISKS:
        yield f'vhost-user, {DISKS[platform].name}', disk, DISKS[platform]
