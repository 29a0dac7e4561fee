# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of QEMU's storage daemon, or a file of virtiofsd, over memory that is partly
private.

The daemon has the file of the memory, and maps it. The guest (tests/guest/disk.c) says
what became of a request whose data are private; then a header is.
"""

import collections
import errno

from lib.storage import OLD_VIRTIOFSD, VIRTIOFSD
from lib.units import MIB
from rig.lib.checks import must_refuse, other_figures
from rig.lib.configurations import IN_PLACE, PROTECTED, TWO_COPY, Config
from rig.lib.l1 import L2

SOCKET, PID, SHARED = '/tmp/disk.sock', '/tmp/disk.pid', '/tmp/shared'
DISK = f'{SHARED}/disk'
NEW_DISK = f'mkdir -p {SHARED}; dd if=/dev/zero of={DISK} bs=1M count=1 2>/dev/null'
STORAGE_DAEMON = (
    f'rm -f {SOCKET}; /rig/qemu-storage-daemon --daemonize --pidfile {PID} '
    f'--blockdev file,node-name=f,filename={DISK} '
    f'--export vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,'
    f'addr.path={SOCKET}')
# It does not say when it listens: the kernel does (__SO_ACCEPTCON).
VIRTIOFSD_DAEMON = (
    f'rm -f {SOCKET}; (LD_PRELOAD=/rig/no-seccomp.so /rig/virtiofsd --rlimit-nofile=0 '
    f'--socket-path={SOCKET} ' + (
        f'-f -o source={SHARED},sandbox=chroot' if VIRTIOFSD == OLD_VIRTIOFSD else
        f'--shared-dir={SHARED} --sandbox=chroot --seccomp=none') +
    f' >/tmp/virtiofsd.log 2>&1 3>&- & echo $! >{PID}); '
    f'until grep -q "00010000 .*{SOCKET}" /proc/net/unix; do '
    f'kill -0 $(cat {PID}) || {{ cat /tmp/virtiofsd.log; break; }}; sleep 0.1; done')
GONE = f'while kill -0 $(cat {PID}) 2>/dev/null; do sleep 0.1; done'
# VIRTIO_BLK_S_IOERR
IO_ERROR = 1

# @private_data: what it says of data that it cannot read
# @comes_back: QEMU connects to another one
Backend = collections.namedtuple('Backend', 'name start device socket words private_data '
                                 'comes_back')
BLK = Backend('vhost-user', STORAGE_DAEMON,
              'vhost-user-blk-pci,num-queues=1,disable-legacy=on', ',reconnect-ms=100',
              'virtio=blk', IO_ERROR, True)
FS = Backend('virtiofsd', VIRTIOFSD_DAEMON, 'vhost-user-fs-pci,tag=shared', '',
             'virtio=fs', errno.EFAULT, False)


def configured(backend, name, memory, *more):
    """A VM whose disk may come back.

    The daemons know no VIRTIO_F_ACCESS_PLATFORM, which QEMU sets for confidential
    guests, and ask no IOMMU.
    """
    return Config(name, memory, None, ram=64 * MIB, machine=PROTECTED['machine'],
                  extra=PROTECTED['extra'] + [
                      '-chardev', f'socket,id=c,path={SOCKET}{backend.socket}',
                      '-device', ','.join([backend.device, 'chardev=c', *more])],
                  conv=PROTECTED['conv'])


def after_sigbus(l1, l2, backend):
    """SIGBUS has ended the daemon: nobody else does it. What the guest says then."""
    l1.run(GONE)
    status = l2.qmp.command('query-status')['status']
    if status != 'running':
        return {}, [f'QEMU is {status}']
    l1.release()
    summary, problems = l2.run_until_pause()
    if not problems:
        if backend.comes_back:
            l1.run(backend.start)
        l1.release()
        summary, problems = l2.run_until_pause()
    return summary, problems


def run(l1, tap, backend, config):
    """Private data do not reach the disk; in place, a private header ends the daemon."""
    in_place = config.name == 'in place'
    comes_back = backend.comes_back or not in_place
    l1.run(f'{NEW_DISK}; {backend.start}')
    words = (f'conv={config.conv} base=16 area=16 pause=1 {backend.words} '
             f'dies={int(in_place)}')
    try:
        if not in_place:
            tap.result('it is refused without iommu_platform=off', must_refuse(
                l1, configured(backend, '', TWO_COPY),
                ['iommu_platform=true is not supported by the device']))
            if backend == FS:       # it serves one QEMU
                l1.run(f'{GONE}; {backend.start}')
        with L2(l1, config, words) as l2:
            summary, problems = l2.run_until_pause()
            # in place, the kernel reads for the daemon from a page that is gone
            tap.result('private data do not reach it', problems or other_figures(
                summary, {'write-status': backend.private_data * in_place, 'seen': 0}))
            if in_place and not problems:
                summary, problems = after_sigbus(l1, l2, backend)
            tap.result('the guest uses the disk' if comes_back else
                       'the guest goes on without it',
                       problems or other_figures(summary, {'disk': int(comes_back)}))
            if not problems:
                l1.release()
                tap.result('QEMU ended well', l2.bad_end())
    finally:
        l1.run(f'kill $(cat {PID}); {GONE}')


def disk(l1, tap, config):
    """A disk of the storage daemon."""
    run(l1, tap, BLK, config)


def directory(l1, tap, config):
    """A file of virtiofsd."""
    run(l1, tap, FS, config)


def scenarios(platform):
    """(name, function, configuration)

    The virtiofsd that is written in Rust cannot map a guest_memfd.
    """
    memory = {'in-place': ('in place', IN_PLACE), 'intel': ('two copies', TWO_COPY)}
    for backend, function in ((BLK, disk), (FS, directory)):
        if platform in memory and (
                backend != FS or VIRTIOFSD == OLD_VIRTIOFSD or
                (VIRTIOFSD and platform != 'in-place')):
            config = configured(backend, *memory[platform], 'iommu_platform=off')
            yield f'{backend.name}, {config.name}', function, config
