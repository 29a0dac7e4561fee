# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of a domain that is to have guest_memfd memory, for gmem-xml."""

import json
import re

from gmem.size import exact

MIB = 1 << 20
QEMU_NS = '{http://libvirt.org/schemas/domain/qemu/1.0}'
NUMA_POLICIES = {'strict': 'bind', 'preferred': 'preferred',
                 'interleave': 'interleave'}
# Objects of libvirt's own
RESERVED_ID = r'pc\.ram|ram-node\d+|dimm\d+|masterKey\d+'


class Report:
    """What is refused, and warnings."""

    def __init__(self):
        self.problems, self.warnings = [], []

    def refuse(self, what, why, remedy):
        """The domain would not start, or not do what it says."""
        self.problems.append(f'{what}: {why}; {remedy}')

    def warn(self, what, text):
        """It may work."""
        self.warnings.append(f'{what}: {text}')


def scaled(number, unit, default='KiB'):
    """Bytes of a size as libvirt writes it; None if it is none."""
    match = re.fullmatch(r'(?:([bB](?:ytes?)?)|([kKmMgGtTpPeE])(i?[bB])?)',
                         unit or default)
    number = (number or '').strip()
    if not match or not re.fullmatch(r'\+?[0-9]+', number, re.ASCII):
        return None
    if match.group(1):
        return int(number)
    power = 'KMGTPE'.index(match.group(2).upper()) + 1
    base = 1000 if (match.group(3) or '').lower() == 'b' else 1024
    return int(number) * base ** power


def node_set(text):
    """'0,2-5,^3' as a sorted list; ValueError if it is not one."""
    nodes = set()
    for word in text.split(','):
        match = re.fullmatch(r'(\^?)(\d{1,4})(?:-(\d{1,4}))?', word.strip(),
                             re.ASCII)
        if not match:
            raise ValueError(word)
        first = int(match.group(2))
        last = int(match.group(3) or first)
        if last < first or (match.group(1) and match.group(3)):
            raise ValueError(word)
        wanted = set(range(first, last + 1))
        nodes = nodes - wanted if match.group(1) else nodes | wanted
    if not nodes:
        raise ValueError(text)
    return sorted(nodes)


def keyvals(text):
    """What QEMU reads from key=value,... ({} and lists are one value)."""
    if text.startswith('{'):
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    pairs = {}
    for index, word in enumerate(text.replace(',,', '\0').split(',')):
        key, equals, value = word.replace('\0', ',').partition('=')
        if equals:
            pairs[key] = value
        elif index == 0:
            pairs[''] = key
    return pairs


class Arguments:
    """The <qemu:arg>s of a domain, by flag."""

    def __init__(self, root):
        values = [arg.get('value', '') for arg in
                  root.findall(f'{QEMU_NS}commandline/{QEMU_NS}arg')]
        self.pairs = []
        for value, following in zip(values, values[1:] + ['']):
            flag = re.fullmatch(r'--?([A-Za-z][\w-]*)', value)
            if flag:
                self.pairs.append((flag.group(1), following))

    def of(self, *flags):
        """The values of a flag, parsed."""
        return [keyvals(value) for flag, value in self.pairs if flag in flags]

    def has(self, flag):
        """Whether it is there."""
        return any(flag == each for each, _ in self.pairs)

    def devices(self, *drivers):
        """The -device of these drivers (or all that begin like them)."""
        return [each for each in self.of('device')
                if (each.get('driver') or each.get('') or '')
                .startswith(drivers)]


def check_kind(report, root):
    """The domain itself."""
    kind = root.get('type')
    if kind not in ('kvm', 'qemu'):
        report.refuse(f"<domain type='{kind}'>", 'this is not QEMU',
                      'use kvm or qemu')
    for arch in root.findall('os/type'):
        if arch.get('arch', 'x86_64') != 'x86_64':
            report.refuse(f"<os><type arch='{arch.get('arch')}'>",
                          'guest_memfd memory is for x86-64 guests',
                          'use x86_64')
    if root.find('features/acpi') is None:
        report.warn('<features>', 'without <acpi/>, libvirt 9.0 passes '
                    '-no-acpi, which this QEMU does not have; add it')
    if root.find('launchSecurity') is not None:
        report.warn('<launchSecurity>', 'guest_memfd memory was never run '
                    'with the hardware of confidential VMs')


def memory_size(report, root):
    """Bytes of the memory that libvirt will give to -m."""
    found = root.findall('memory')
    if len(found) != 1:
        report.refuse('<memory>', f'there are {len(found)}' if found else
                      'it is missing', 'have one')
        return None
    text, unit = ''.join(found[0].itertext()).strip(), found[0].get('unit')
    size = scaled(text, unit)
    if not size or size >= 1 << 60:
        unit = f" unit='{unit}'" if unit else ''
        report.refuse(f'<memory{unit}>{text[:40]}</memory>',
                      'this is not a size of memory',
                      "write a number and one of the units of libvirt (KiB)")
        return None
    return -(-size // MIB) * MIB        # as libvirt rounds it


def check_numa(report, root, size):
    """Cells; returns the elements to take out, as paths."""
    cells = root.findall('cpu/numa/cell')
    if len(cells) > 1:
        report.refuse('<cpu><numa>', f'there are {len(cells)} cells, and '
                      'libvirt makes a memory object for each; QEMU refuses '
                      '-numa memdev= beside -machine memory-backend=, which '
                      'libvirt passes where there are no cells',
                      'leave one cell, or start QEMU without libvirt')
        return []
    if root.find('numatune/memnode') is not None:
        report.refuse('<numatune><memnode>', 'it needs NUMA cells, which '
                      'cannot stay', 'use <numatune><memory>')
    if not cells:
        return []
    cell = scaled(cells[0].get('memory'), cells[0].get('unit'))
    if size is not None and (not cell or -(-cell // MIB) * MIB != size):
        report.refuse('<cpu><numa><cell>', f'its memory is not that of '
                      f'<memory>, {exact(size)}', 'write the same size')
    report.warn('<cpu><numa>', 'the only cell is taken out, since guest_memfd '
                'memory cannot be memory of a cell; the guest has one node as '
                'before, without distances and caches')
    return ['cpu/numa']


def check_backing(report, root):
    """<memoryBacking>; returns the options that replace elements, and the
    elements to take out: with them libvirt would allocate its own memory.
    """
    wanted, gone = {}, []
    if root.find('memoryBacking/locked') is not None:
        report.refuse('<memoryBacking><locked>', 'libvirt also has memory of '
                      'its own for the domain, which the guest does not use, '
                      'and would lock all of it', 'take it out (for devices '
                      'that are passed through, <memtune><hard_limit> does)')
    if root.find('memoryBacking/hugepages') is not None:
        gone.append('memoryBacking/hugepages')
        pages = root.findall('memoryBacking/hugepages/page')
        sizes = {scaled(page.get('size'), page.get('unit')) for page in pages}
        if len(sizes) > 1 or None in sizes:
            report.refuse('<memoryBacking><hugepages>', 'guest_memfd memory '
                          'has pages of one size', 'leave one <page>')
        elif sizes <= {4096} and sizes:
            wanted['hugetlb'] = 'off'
        else:
            wanted['hugetlb'] = sizes.pop() if sizes else 'on'
    allocation = root.find('memoryBacking/allocation')
    if allocation is not None and allocation.get('mode') == 'immediate':
        gone.append('memoryBacking/allocation')
        wanted['prealloc'] = 'on'
        if allocation.get('threads'):
            wanted['prealloc_threads'] = allocation.get('threads')
    return wanted, gone


def check_numatune(report, root):
    """The policy that libvirt gives to its own memory: (nodes, policy)."""
    memory = root.find('numatune/memory')
    if memory is None:
        return None
    mode = memory.get('mode', 'strict')
    if memory.get('placement') == 'auto':
        report.warn("<numatune><memory placement='auto'>", 'the nodes are not '
                    'known before the start; give --host-nodes')
    elif mode in NUMA_POLICIES and memory.get('nodeset'):
        try:
            return node_set(memory.get('nodeset')), NUMA_POLICIES[mode]
        except ValueError:
            report.refuse(f"<numatune><memory nodeset='"
                          f"{memory.get('nodeset')}'>", 'this is not a '
                          'set of nodes', 'write it like 0,2-3')
    return None


def check_hotplug(report, root):
    """Memory that libvirt would plug."""
    if root.find('maxMemory') is not None:
        report.refuse('<maxMemory>', 'libvirt would plug DIMMs of its own '
                      'memory, never of guest_memfd', 'take it out and give '
                      '--slots and --max-memory, then plug DIMMs with object_'
                      'add and device_add of virsh qemu-monitor-command')
    for device in root.findall('devices/memory'):
        report.refuse(f"<devices><memory model='{device.get('model')}'>",
                      'libvirt makes it of its own memory, never of '
                      'guest_memfd', 'take it out')


def check_devices(report, root, args):
    """Devices that cannot be used with this memory, or that may fail."""
    for path, name, value, what in (
            ('interface', 'type', 'vdpa', 'vhost-vdpa'),
            ('disk', 'type', 'nvme', 'a userspace NVMe disk')):
        if any(each.get(name) == value
               for each in root.findall(f'devices/{path}')):
            report.refuse(f"<devices><{path} {name}='{value}'>",
                          f'{what} needs all memory mapped, always',
                          'take it out')
    for driver in ('virtio-mem', 'vhost-vdpa'):
        if args.devices(driver):
            report.refuse(f"<qemu:arg value='{driver}...'>", 'it cannot '
                          'be used with guest_memfd memory',
                          'take it out')
    for balloon in root.findall('devices/memballoon'):
        if balloon.get('freePageReporting') == 'on':
            report.warn("<memballoon freePageReporting='on'>", 'a guest that '
                        'reports private pages can lose the device if memory '
                        'is converted in place; take it out')


def on_iommufd(root, hostdev):
    """Whether libvirt 12 passes this device through by iommufd: its own
    <driver> says so, or <iommufd> of the domain, which 12.2 has."""
    whole = root.find('iommufd')
    said = [each.get('iommufd') for each in hostdev.findall('driver')
            if each.get('iommufd')]
    return said[-1] == 'yes' if said else \
        whole is not None and whole.get('enabled') == 'yes'


def check_passthrough(report, root, args, size, split):
    """VFIO: locked memory, iommufd, virtual IOMMUs."""
    hostdevs = [each for each in root.findall('devices/hostdev')
                if each.get('type') in ('pci', 'mdev')]
    by_hand = args.devices('vfio-pci')
    by_libvirt = [each for each in hostdevs if on_iommufd(root, each)]
    iommufd = any('iommufd' in (each.get('qom-type'), each.get(''))
                  for each in args.of('object'))
    if not hostdevs and not by_hand:
        return
    limit = root.find('memtune/hard_limit')
    if limit is not None:
        limit = scaled(limit.text, limit.get('unit'))
    if size is not None:
        enough = (size + (1 << 30)) >> 10
        advice = f"<memtune><hard_limit unit='KiB'>{enough}</hard_limit>" \
                 '</memtune>'
        if limit is not None and limit < size:
            report.refuse('<memtune><hard_limit>', 'it is less than the '
                          f'memory, {exact(size)}, which devices that are '
                          'passed through lock', f'write at least {advice}')
        elif limit is None and by_hand:
            report.warn('<memtune>', 'libvirt does not know what is locked; '
                        f'add {advice}, or more if other VMs of the '
                        'same user have devices on iommufd')
    if by_libvirt:
        report.warn('<hostdev>', "libvirt before 12.1 forgets iommufd='yes' "
                    'and passes the device through by type1; there, take the '
                    '<hostdev> out and write <qemu:arg>s with iommufd=; '
                    'libvirt from 12.1 on opens /dev/iommu and the device '
                    'itself, and needs no cgroup_device_acl for them')
    if by_hand and iommufd:
        report.warn('<qemu:arg>', 'iommufd needs "/dev/iommu" and the '
                    '/dev/vfio/devices in cgroup_device_acl of qemu.conf, and '
                    'access to them for the user that runs QEMU')
    if split == 'cut' and (len(by_libvirt) < len(hostdevs) or
                           by_hand and not iommufd):
        report.refuse('--x-dma-split cut', 'a device is passed through by '
                      'type1, and this needs iommufd', "use auto, or <driver "
                      "iommufd='yes'/> in its <hostdev> with libvirt 12, or "
                      'pass the device through by <qemu:arg>s with iommufd=')
    if root.find('devices/iommu') is not None:
        report.warn('<devices><iommu>', 'QEMU refuses a device that is passed '
                    'through behind it if memory can become private; take it '
                    'out')


def check_arguments(report, args, name, slots):
    """What others have put into <qemu:commandline>."""
    for machine in args.of('machine', 'M'):
        if 'memory-backend' in machine:
            report.refuse("<qemu:arg value='memory-backend="
                          f"{machine['memory-backend']}'>", 'the memory has a '
                          'backend already', 'take out -machine and its '
                          'object')
    for flag, why in (('numa', 'QEMU refuses -numa beside -machine '
                               'memory-backend=, which libvirt passes'),
                      ('mem-path', 'QEMU refuses it beside -machine '
                                   'memory-backend='),
                      ('mem-prealloc', "it would allocate libvirt's own "
                                       'memory too; there is --prealloc on'),
                      ('only-migratable', 'guest_memfd memory cannot be '
                                          'migrated')):
        if args.has(flag):
            report.refuse(f"<qemu:arg value='-{flag}'>", why, 'take it out')
    if any(each.get('mem-lock') == 'on' for each in args.of('overcommit')):
        report.refuse("<qemu:arg value='mem-lock=on'>", 'libvirt also has '
                      'memory of its own for the domain, and would lock it',
                      'take it out')
    for memory in args.of('m'):
        if slots is not None or '' in memory or 'size' in memory:
            report.refuse("<qemu:arg value='-m'>", '<memory>, --slots and '
                          '--max-memory set the size', 'take it out')
    if any(each.get('id') == name for each in args.of('object', 'device')):
        report.refuse(f"<qemu:arg value='...id={name}'>",
                      'the name is taken', 'use another --id')


def confidential(root, args):
    """Whether the VM has private memory."""
    return root.find('launchSecurity') is not None or any(
        'confidential-guest-support' in each
        for each in args.of('machine', 'M'))
