# SPDX-License-Identifier: GPL-2.0-or-later
"""Give a libvirt domain guest_memfd memory, or take it out.

libvirt does not know this memory, so it is written to <qemu:commandline>.  An
element in <metadata> records what was added, and keeps what was taken out.
"add" first does what "remove" does.
"""

import sys
from xml.etree import ElementTree as ET

from gmem.command import complain, run
from gmem.size import as_option, exact

from . import checks, hook
from .document import LARGEST, Document, XmlError
from .options import DOMAIN, OBJECT, parse_args

QEMU = checks.QEMU_NS
OURS = '{urn:qemu-guest-memfd:gmem-xml}'
REMOVABLE = ('memoryBacking/hugepages', 'memoryBacking/allocation', 'cpu/numa')
CHANGED = XmlError('it is not as gmem-xml left it; take the arguments of '
                   'guest_memfd memory out of <qemu:commandline> and '
                   '<gmem:memory> out of <metadata>, by hand')


def check_options(report, opts, root, args, size):
    """Options that exclude each other, or this domain."""
    kind = root.get('type')
    has_private = checks.confidential(root, args)
    driver = opts.driver
    if driver in (None, 'auto'):
        driver = 'kvm' if kind == 'kvm' or has_private else 'emulated'
    huge = opts.hugetlb not in (None, 'off')

    def refuse(name, why, remedy):
        value = getattr(opts, name.replace('-', '_'))
        if isinstance(value, int):
            value = as_option(value)
        report.refuse(opts.origin.get(name, f'--{name} {value}'), why, remedy)

    if opts.driver == 'kvm' and kind == 'qemu':
        refuse('driver', "<domain type='qemu'> has no KVM", "use <domain "
               "type='kvm'> or driver=emulated")
    if driver == 'emulated':
        if opts.conversion in ('two-copy', 'none'):
            refuse('conversion', 'driver=emulated can only convert in-place',
                   'leave it out')
        if has_private:
            refuse('driver', 'it does not protect memory, and the VM is '
                   'confidential', 'leave it out')
    elif not has_private:
        if opts.conversion in ('in-place', 'two-copy'):
            refuse('conversion', 'an ordinary VM has no private memory',
                   'leave it out, or use driver=emulated')
        if opts.init == 'private':
            refuse('init', 'an ordinary VM has no private memory',
                   'leave it out, or use driver=emulated')
    if driver == 'kvm' and huge and (
            not has_private or opts.conversion in ('none', 'in-place')):
        refuse('hugetlb', 'all of this memory is a guest_memfd, which '
               'cannot have huge pages', 'use driver=emulated, or off')
    if driver == 'kvm' and not has_private and opts.host_nodes:
        report.warn(opts.origin.get('host-nodes', '--host-nodes'),
                    'a guest_memfd follows nodes from Linux 7.3 on; where '
                    'QEMU refuses them, give --host-nodes none')
    if isinstance(opts.hugetlb, int) and size and size % opts.hugetlb:
        refuse('hugetlb', f'<memory> is {exact(size)}, which is not a '
               'multiple of it', 'round the memory up')
    if opts.prealloc == 'on' and opts.reserve == 'off':
        refuse('reserve', 'it excludes ' + opts.origin.get(
            'prealloc', '--prealloc on'), 'leave out one of them')
    if opts.policy and not opts.host_nodes:
        refuse('policy', 'it needs nodes', 'give --host-nodes')
    if (opts.slots is None) != (opts.max_memory is None):
        report.refuse('--slots, --max-memory', 'one needs the other',
                      'give both')
    elif size and opts.max_memory is not None and opts.max_memory <= size:
        refuse('max-memory', f'<memory> is {exact(size)}',
               'give more than that')


def choose_nodes(report, opts, tuned):
    """--host-nodes, else what <numatune> says of libvirt's own memory."""
    if opts.host_nodes is None and tuned:
        opts.host_nodes = tuned[0]
        opts.policy = opts.policy or tuned[1]
        opts.origin['host-nodes'] = '<numatune><memory>'
    elif opts.host_nodes and tuned and tuned[1] == 'bind' and \
            not set(opts.host_nodes) <= set(tuned[0]):
        report.refuse('--host-nodes', '<numatune><memory> keeps the VM on '
                      'other nodes', 'change one of them')


def check(report, opts, root):
    """All checks; the size, and the elements to take out, as paths."""
    args = checks.Arguments(root)
    checks.check_kind(report, root)
    size = checks.memory_size(report, root)
    numa = checks.check_numa(report, root, size)
    wanted, gone = checks.check_backing(report, root)
    for name, value in wanted.items():
        if getattr(opts, name) is None:
            setattr(opts, name, value)
            opts.origin[name] = '<memoryBacking><hugepages>' \
                if name == 'hugetlb' else "<allocation mode='immediate'>"
    choose_nodes(report, opts, checks.check_numatune(report, root))
    checks.check_hotplug(report, root)
    checks.check_devices(report, root, args)
    checks.check_passthrough(report, root, args, size, opts.x_dma_split)
    checks.check_arguments(report, args, opts.id, opts.slots)
    check_options(report, opts, root, args, size)
    return size, gone + numa


def ranges(nodes):
    """[0, 2, 3] as ['0', '2-3']."""
    found = []
    for node in nodes:
        if found and found[-1][1] == node - 1:
            found[-1][1] = node
        else:
            found.append([node, node])
    return [str(a) if a == b else f'{a}-{b}' for a, b in found]


def qemu_arguments(opts, size):
    """The arguments of QEMU."""
    words = [('id', opts.id), ('size', as_option(size)),
             ('driver', opts.driver), ('conversion', opts.conversion),
             ('init', opts.init)]
    if opts.hugetlb is not None:
        words.append(('hugetlb', 'off' if opts.hugetlb == 'off' else 'on'))
        if isinstance(opts.hugetlb, int):
            words.append(('hugetlbsize', as_option(opts.hugetlb)))
    words += [('prealloc', opts.prealloc),
              ('prealloc-threads', opts.prealloc_threads),
              ('reserve', opts.reserve), ('merge', opts.merge),
              ('dump', opts.dump)]
    if opts.host_nodes:
        words += [('host-nodes', each) for each in ranges(opts.host_nodes)]
        words.append(('policy', opts.policy or 'bind'))
    memory = ','.join(['memory-backend-guest-memfd'] + [
        '%s=%s' % (key, str(value).replace(',', ',,'))
        for key, value in words if value is not None])
    args = ['-object', memory, '-machine', f'memory-backend={opts.id}']
    if opts.slots is not None:
        args += ['-m', f'slots={opts.slots},'
                       f'maxmem={as_option(opts.max_memory)}']
    if opts.x_dma_split is not None:
        args += ['-global', f'vfio-pci.x-dma-split={opts.x_dma_split}']
    for path in opts.firmware_dirs:
        args += ['-L', path]
    return args


def marked(root):
    """<metadata> and the mark in it, or None twice."""
    for metadata in root.findall('metadata'):
        mark = metadata.find(f'{OURS}memory')
        if mark is not None:
            return metadata, mark
    return None, None


def take(parent, element):
    """Take an element out; its parent keeps no blanks if it is empty now."""
    parent.remove(element)
    if not len(parent) and not (parent.text or '').strip():
        parent.text = None


def sub_element(parent, name, **attrs):
    """The element of this name; made if there is none."""
    found = parent.find(name)
    return ET.SubElement(parent, name, attrs) if found is None else found


def add(root, opts, report):
    """Give the domain guest_memfd memory."""
    if marked(root)[1] is not None:
        remove(root)
    size, gone = check(report, opts, root)
    if report.problems:
        return
    mark = ET.Element(f'{OURS}memory', {'xmlns:gmem': OURS[1:-1]})
    for path in gone:
        parent, element = root.find(path.partition('/')[0]), root.find(path)
        ET.SubElement(mark, f'{OURS}removed', {
            'from': parent.tag, 'at': str(list(parent).index(element))
        }).append(element)
        take(parent, element)
    if opts.emulator:
        emulator = sub_element(sub_element(root, 'devices'), 'emulator')
        kept = ET.SubElement(mark, f'{OURS}emulator', now=opts.emulator)
        kept.text, emulator.text = emulator.text, opts.emulator
    commandline = root.find(f'{QEMU}commandline')
    if commandline is None:
        commandline = ET.SubElement(root, f'{QEMU}commandline')
        # Where libvirt declares it, unless that means something else
        where = root if root.get('xmlns:qemu') in (None, QEMU[1:-1]) \
            else commandline
        where.set('xmlns:qemu', QEMU[1:-1])
    for arg in qemu_arguments(opts, size):
        ET.SubElement(commandline, f'{QEMU}arg', value=arg)
        ET.SubElement(mark, f'{OURS}arg', value=arg)
    if root.find('metadata') is None:
        names = [element.tag for element in root]
        root.insert(names.index('name') + 1 if 'name' in names else 0,
                    ET.Element('metadata'))
    root.find('metadata').append(mark)


def remove_arguments(root, mark):
    """Take them out of <qemu:commandline>, where they are in one piece."""
    args = [arg.get('value') for arg in mark.findall(f'{OURS}arg')]
    commandline = root.find(f'{QEMU}commandline')
    there = [] if commandline is None else commandline.findall(f'{QEMU}arg')
    for first in range(len(there) - len(args) + 1):
        found = there[first:first + len(args)]
        if [arg.get('value') for arg in found] == args:
            for arg in found:
                take(commandline, arg)
            return
    if args:
        raise CHANGED


def remove(root):
    """Take out what was added, and put back what was taken out."""
    metadata, mark = marked(root)
    if mark is None:
        raise XmlError('gmem-xml has added nothing to this domain')
    take(metadata, mark)
    remove_arguments(root, mark)
    kept = mark.find(f'{OURS}emulator')
    emulator = root.find('devices/emulator')
    if kept is not None and emulator is not None and \
            emulator.text == kept.get('now'):       # it was not changed since
        emulator.text = kept.text
        if not kept.text:
            take(root.find('devices'), emulator)
    for piece in reversed(mark.findall(f'{OURS}removed')):
        path = '/'.join([piece.get('from', '')] + [each.tag for each in piece])
        if path not in REMOVABLE or not piece.get('at', '').isdecimal():
            raise CHANGED
        if root.find(path) is None:                 # it was not replaced since
            parent = sub_element(root, piece.get('from'))
            parent.insert(int(piece.get('at')), piece[0])
    for element in (metadata, root.find(f'{QEMU}commandline')):
        if element is not None and not len(element) and not element.text:
            root.remove(element)
    if not any(str(element.tag).startswith(QEMU) for element in root.iter()):
        for name, value in list(root.items()):
            if name.startswith('xmlns:') and value == QEMU[1:-1]:
                del root.attrib[name]


def read(opts):
    """The document, as bytes."""
    if opts.command == 'onDefineDomain':
        return opts.domain.encode(errors='surrogateescape')
    if opts.file == '-':
        return sys.stdin.buffer.read(LARGEST + 1)
    with open(opts.file, 'rb') as file:
        return file.read(LARGEST + 1)


def add_by_hook(root, opts, report):
    """What KubeVirt wants: the options are annotations."""
    hook.set_options(opts, OBJECT + DOMAIN, report)
    if not report.problems and not hook.has_it(checks.Arguments(root),
                                               opts.id):
        add(root, opts, report)


def edit(opts):
    """Read, edit, write; the exit status."""
    report = checks.Report()
    opts.origin = {}        # of options that elements or annotations have set
    try:
        document = Document(read(opts))
        if document.root.tag != 'domain':
            name = document.root.tag.rpartition('}')[2]
            raise XmlError(f'it is a <{name}>; give the XML of a <domain>, as '
                           'virsh dumpxml prints it')
        if opts.command == 'add':
            add(document.root, opts, report)
        elif opts.command == 'remove':
            remove(document.root)
        else:
            add_by_hook(document.root, opts, report)
    except XmlError as err:
        report.problems.append(f'{opts.file}: {err}')
    except OSError as err:
        report.problems.append(f'{opts.file}: {err.strerror}')
    for text in [f'warning: {text}' for text in report.warnings] + \
            report.problems:
        text = ''.join(char if char.isprintable() else '?' for char in text)
        complain('gmem-xml', f'{text}.')
        if opts.command == 'onDefineDomain':
            hook.tell_the_shim(f'{text}.')
    if report.problems:
        return 1
    if opts.in_place:
        with open(opts.file, 'wb') as file:
            file.write(bytes(document))
    else:
        sys.stdout.buffer.write(bytes(document))
    return 0


def main():
    """The exit status."""
    opts = parse_args()
    return run('gmem-xml', lambda: edit(opts))
