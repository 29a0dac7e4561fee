# SPDX-License-Identifier: GPL-2.0-or-later
"""Give a libvirt domain guest_memfd memory, or take it back.

libvirt knows no such memory, so it comes in <qemu:commandline>; an element in
<metadata> says what was added, and keeps what had to go for it.  What was
added is taken out before it is added again.  After "add" and "remove" every
byte is as before.
"""

import sys

from gmem.command import complain, run
from gmem.size import as_option, exact

from . import checks
from .document import LARGEST, QEMU_NS, DomainXml, XmlError, attribute, content
from .options import parse_args

OUR_NS = 'urn:qemu-guest-memfd:gmem-xml'
MARK = f'{{{OUR_NS}}}memory'
COMMANDLINE = f'{{{QEMU_NS}}}commandline'
ARG = f'{{{QEMU_NS}}}arg'
REMOVABLE = (('memoryBacking', 'hugepages'), ('memoryBacking', 'allocation'),
             ('cpu', 'numa'))


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
            refuse('driver', 'it protects no memory, but the machine is '
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
        refuse('hugetlb', 'all of this memory is a guest_memfd, and no '
               "kernel's has huge pages", 'use driver=emulated, or off')
    if driver == 'kvm' and not has_private and opts.host_nodes:
        report.warn(opts.origin.get('host-nodes', '--host-nodes'),
                    'a guest_memfd follows nodes from Linux 7.3 on; where '
                    'QEMU refuses them, give --host-nodes none')
    if isinstance(opts.hugetlb, int) and size and size % opts.hugetlb:
        refuse('hugetlb', f'<memory> is {exact(size)}, which is no '
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
    """All of it; the size, and the elements that have to go."""
    opts.origin = {}        # of options that elements have set
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
    return size, gone + ([numa] if numa else [])


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
    """What QEMU is to be told."""
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


def set_emulator(doc, path):
    """Change <emulator>; returns a line for the mark."""
    element = doc.root.find('devices', 'emulator')
    if element:
        old = doc.inside(element)
        doc.set_inside(element, content(path))
        return f'<gmem:emulator now={quoted(path)}>{content(old)}' \
               '</gmem:emulator>'
    if not doc.root.find('devices'):
        doc.insert(doc.root, ['<devices>', '</devices>'])
    doc.insert(doc.root.find('devices'),
               [f'<emulator>{content(path)}</emulator>'])
    return f'<gmem:emulator now={quoted(path)} made="yes"/>'


def quoted(text):
    """An attribute's value."""
    return f"'{attribute(text)}'"


def insert_arguments(doc, args):
    """Add to <qemu:commandline>; says whether it was there."""
    element = doc.root.find(COMMANDLINE)
    if not element:
        lines = [f'  <qemu:arg value={quoted(arg)}/>' for arg in args]
        doc.insert(doc.root, [
            f'<qemu:commandline xmlns:qemu={quoted(QEMU_NS)}>', *lines,
            '</qemu:commandline>'])
        return 'made'
    state = 'opened' if element.empty_tag else 'kept'
    tag = element.tag.rpartition('commandline')[0] + 'arg'
    doc.insert(element, [f'<{tag} value={quoted(arg)}/>' for arg in args])
    return state


def insert_mark(doc, lines, state):
    """Say in <metadata> what was done."""
    element = doc.root.find('metadata')
    metadata = 'made' if not element else \
        'opened' if element.empty_tag else 'kept'
    mark = [f"<gmem:memory xmlns:gmem='{OUR_NS}' metadata='{metadata}' "
            f"commandline='{state}'>"] + lines + ['</gmem:memory>']
    if element:
        doc.insert(element, mark)
    else:
        doc.insert(doc.root, ['<metadata>'] + ['  ' + line for line in mark]
                   + ['</metadata>'], doc.root.find('name'))


def add(doc, opts, report):
    """Give the domain guest_memfd memory."""
    if doc.root.find('metadata', MARK):
        remove(doc)
    size, gone = check(report, opts, doc.root)
    if report.problems:
        return
    lines = []
    for parent, name in [(each.parent.name, each.name) for each in gone]:
        after, raw = doc.take_out(doc.root.find(parent, name))
        lines.append(f'  <gmem:removed parent={quoted(parent)} '
                     f'name={quoted(name)} after={quoted(after)}>'
                     f'{content(raw)}</gmem:removed>')
    if opts.emulator:
        lines.append('  ' + set_emulator(doc, opts.emulator))
    args = qemu_arguments(opts, size)
    state = insert_arguments(doc, args)
    insert_mark(doc, lines + [f'  <gmem:arg value={quoted(arg)}/>'
                              for arg in args], state)


def drop(doc, name, state):
    """Take out an element that was made for us, if nothing is in it now."""
    element = doc.root.find(name)
    if element and not doc.inside(element).strip():
        if state == 'made':
            doc.remove(element)
        elif state == 'opened':
            doc.collapse(element)


def remove_arguments(doc, args, state):
    """Take them out of <qemu:commandline>."""
    found = [arg.get('value') for arg in doc.root.all((COMMANDLINE, ARG))]
    for first in range(len(found) - len(args) + 1):
        if found[first:first + len(args)] == args:
            break
    else:
        raise XmlError('<qemu:commandline> is not as gmem-xml left it; take '
                       'the arguments of guest_memfd memory out of it and '
                       '<gmem:memory> out of <metadata>, by hand')
    for _ in args:
        doc.remove(doc.root.all((COMMANDLINE, ARG))[first])
    drop(doc, COMMANDLINE, state)


def restore_emulator(doc, mark):
    """Unless somebody has changed it since."""
    done = mark.find(f'{{{OUR_NS}}}emulator')
    element = doc.root.find('devices', 'emulator')
    if done and element and element.text == done.get('now'):
        if done.get('made'):
            doc.remove(element)
            drop(doc, 'devices', 'made')
        else:
            doc.set_inside(element, done.text)


def remove(doc):
    """Take out what was added, and put back what had to go."""
    mark = doc.root.find('metadata', MARK)
    if not mark:
        raise XmlError('gmem-xml has added nothing to this domain')
    doc.remove(mark)
    drop(doc, 'metadata', mark.get('metadata'))
    args = [arg.get('value') for arg in mark.all((f'{{{OUR_NS}}}arg',))]
    if args:
        remove_arguments(doc, args, mark.get('commandline'))
    restore_emulator(doc, mark)
    for piece in reversed(mark.all((f'{{{OUR_NS}}}removed',))):
        parent, name = piece.get('parent'), piece.get('name')
        if (parent, name) not in REMOVABLE:
            raise XmlError(f'<gmem:memory> is not as gmem-xml left it: it '
                           f'keeps a <{name}> of a <{parent}>')
        if not doc.root.find(parent, name):     # nobody has put in another
            doc.put_back(parent, piece.get('after'), piece.text)


def edit(opts):
    """Read, edit, write; the exit status."""
    report = checks.Report()
    try:
        if opts.file == '-':
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with open(opts.file, 'rb') as file:
                data = file.read(LARGEST + 1)
        doc = DomainXml(data)
        if doc.root.name != 'domain':
            raise XmlError(f'it is a <{doc.root.tag}>; give the XML of a '
                           '<domain>, as virsh dumpxml prints it')
        if opts.command == 'add':
            add(doc, opts, report)
        else:
            remove(doc)
    except XmlError as err:
        report.problems.append(f'{opts.file}: {err}')
    except OSError as err:
        report.problems.append(f'{opts.file}: {err.strerror}')
    for text in [f'warning: {text}' for text in report.warnings] + \
            report.problems:
        text = ''.join(char if char.isprintable() else '?' for char in text)
        complain('gmem-xml', f'{text}.')
    if report.problems:
        return 1
    if opts.in_place:
        with open(opts.file, 'wb') as file:
            file.write(doc.data)
    else:
        sys.stdout.buffer.write(doc.data)
    return 0


def main():
    """The exit status."""
    opts = parse_args()
    return run('gmem-xml', lambda: edit(opts))
