#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-xml: domains and options in, domains or refusals out."""

import contextlib
import functools
import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock
from xml.etree.ElementTree import canonicalize

from gmem_xml.main import edit
from gmem_xml.options import parse_args
from lib import TOP, tap

GMEM_XML = TOP / 'tools/gmem-xml'
SCHEMA = Path('/usr/share/libvirt/schemas/domain.rng')
QEMU_NS = 'http://libvirt.org/schemas/domain/qemu/1.0'
MARK = 'urn:qemu-guest-memfd:gmem-xml'

# The words in capitals are replaced
PLAIN = '''\
<domain type='KIND'>
  <name>vm</name>
  <uuid>58b1fc47-1978-4d8b-b138-0bb702e65702</uuid>
  <memory unit='KiB'>1048576</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  TUNE
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-10.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
  </features>
  <cpu mode='host-model' check='partial'>CELLS</cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    DEVICES
    <memballoon model='virtio'/>
  </devices>
  COMMAND
</domain>
'''
WORDS = {'KIND': 'qemu', 'TUNE': '<!-- tune -->', 'CELLS': '',
         'DEVICES': '<!-- devices -->', 'COMMAND': ''}

HOSTDEV = '''<hostdev mode='subsystem' type='pci' managed='yes'>
      <source>
        <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
      </source>
    </hostdev>'''


TOKEN = re.compile(r'<!--.*?-->|<(\S+?)(?:\s[^<>]*)?(?<!/)>[^<]*</\1>'
                   r'|<[^<>]*>', re.DOTALL)


def laid_out(text):
    """As libvirt writes it: each element begins a line."""
    lines, depth = [], 0
    for found in TOKEN.finditer(text):
        token, leaf = found.group(), found.group(1)
        depth -= token.startswith('</')
        lines.append('  ' * depth + (token.replace(f'></{leaf}>', '/>') if leaf
                                     else token))
        depth += not (leaf or token.startswith(('</', '<!--'))
                      or token.endswith('/>'))
    return '\n'.join(lines) + '\n'


def domain(**words):
    """A domain with some of its parts replaced, as virsh dumpxml writes it."""
    text = PLAIN
    for word, value in WORDS.items():
        text = text.replace(word, words.pop(word.lower(), value))
    for old, new in words.pop('change', ()):
        assert old in text, old
        text = text.replace(old, new)
    assert not words, words
    if '<qemu:' in text:
        text = text.replace('>', f" xmlns:qemu='{QEMU_NS}'>", 1)
    return laid_out(text)


def command(*args):
    """A <qemu:commandline>."""
    return '<qemu:commandline>' + ''.join(
        "<qemu:arg value='%s'/>" % arg.replace('"', '&quot;')
        for arg in args) + '</qemu:commandline>'


def backing(text):
    """A <memoryBacking>."""
    return f'<memoryBacking>{text}</memoryBacking>'


def memory(kib, unit=None):
    """A change of <memory>."""
    unit = f" unit='{unit}'" if unit else ''
    return (("<memory unit='KiB'>1048576</memory>\n"
             "  <currentMemory unit='KiB'>1048576</currentMemory>",
             f'<memory{unit}>{kib}</memory>'),)


CELL = "<numa><cell id='0' cpus='0-1' memory='1048576' unit='KiB'/></numa>"
CELLS = ("<numa><cell id='0' cpus='0' memory='524288' unit='KiB'/>"
         "<cell id='1' cpus='1' memory='524288' unit='KiB'/></numa>")
HUGE = "<hugepages><page size='2048' unit='KiB'/></hugepages>"
# Of libvirt 12
ON_IOMMUFD = HOSTDEV.replace("managed='yes'>\n", "managed='yes'>\n      "
                             "<driver name='vfio' iommufd='yes'/>\n")
IOMMUFD = ('-object', 'iommufd,id=iommufd0', '-device',
           'vfio-pci,host=01:00.0,iommufd=iommufd0')

EMPTY_TAGS = domain(change=(('</name>', '</name><metadata  />'),),
                    command='<qemu:commandline/>')
BY_HAND = domain(tune=backing(HUGE), cells=CELL)
TITLES = domain(tune='<title>TITLE</title><description>TEXT</description>'
                     '<!-- <memory> -->').replace('TITLE', 'a&lt;memory&gt;b')

# Name, domain, options, what is in the output (or, with !, is not), what is
# said on standard error (nothing else is), and what there is after "remove",
# if that is not the domain as it was
DONE = (
    ('nothing but the memory', domain(), [],
     ["value='memory-backend-guest-memfd,id=gmem0,size=1G'",
      "value='memory-backend=gmem0'", '!hugetlb', '!prealloc'], []),
    ('all options of the object', domain(),
     ['--id', 'mem.1', '--driver', 'emulated', '--conversion', 'in-place',
      '--init', 'private', '--hugetlb', '2M', '--prealloc', 'on',
      '--prealloc-threads', '4', '--reserve', 'on', '--merge', 'off',
      '--dump', 'off', '--host-nodes', '0,2-3,4', '--policy', 'interleave'],
     ["value='memory-backend-guest-memfd,id=mem.1,size=1G,driver=emulated,"
      'conversion=in-place,init=private,hugetlb=on,hugetlbsize=2M,'
      'prealloc=on,prealloc-threads=4,reserve=on,merge=off,dump=off,'
      'host-nodes=0,host-nodes=2-4,policy=interleave\'',
      "value='memory-backend=mem.1'"], []),
    ('the emulator, firmware and room for DIMMs', domain(),
     ['--emulator', "/opt/a&b'<c>/qemu", '--firmware-dirs', '/a,b:/c',
      '--slots', '4', '--max-memory', '8G'],
     ["<emulator>/opt/a&amp;b&apos;&lt;c&gt;/qemu</emulator>", "value='/a,b'",
      "value='-L'", "value='/c'", "value='slots=4,maxmem=8G'"], []),
    ('the emulator of a domain without', domain(change=(
        ('    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n', ''),)),
     ['--emulator', '/q'], ['<emulator>/q</emulator>'], []),
    ('KVM', domain(kind='kvm'), ['--conversion', 'none'],
     ['conversion=none'], []),
    ('a balloon that is inflated', domain(change=(
        ("<currentMemory unit='KiB'>1048576",
         "<currentMemory unit='KiB'>524288"),)), [], ['size=1G'], []),
    ('memory without a unit', domain(change=memory(2097152)), [],
     ['size=2G'], []),
    ('memory in MiB', domain(change=memory(300, 'MiB')), [],
     ['size=300M'], []),
    ('memory in bytes is rounded as by libvirt',
     domain(change=memory(1048577, 'b')), [], ['size=2M'], []),
    ('memory in GB is not in GiB', domain(change=memory(1, 'GB')), [],
     ['size=954M'], []),
    ('memory in T', domain(change=memory(2, 'T')), [], ['size=2T'], []),
    ('hugepages become an option', domain(tune=backing(HUGE)), [],
     ['hugetlb=on,hugetlbsize=2M', '!<hugepages>'], []),
    ('hugepages of the default size', domain(tune=backing('<hugepages/>')),
     [], ['hugetlb=on', '!hugetlbsize', '!<hugepages/>'], []),
    ('an option wins over hugepages', domain(tune=backing(HUGE)),
     ['--hugetlb', '1G'], ['hugetlb=on,hugetlbsize=1G'], []),
    ('hugepages of 4 KiB are none', domain(tune=backing(
        "<hugepages><page size='4'/></hugepages>")), [], ['hugetlb=off'], []),
    ('allocation becomes an option', domain(tune=backing(
        "<source type='memfd'/>\n    <!-- all -->\n    <access mode='shared'/>"
        "\n    <allocation mode='immediate' threads='3'/>\n    <discard/>")),
     [], ['prealloc=on,prealloc-threads=3', '!<allocation', '<!-- all -->',
          "<source type='memfd'/>"], []),
    ('both, between comments', domain(tune=backing(
        f'<!-- a -->{HUGE}<!-- b --><nosharepages/><!-- c -->\n\n'
        "<allocation mode='immediate'/> <!-- d -->")), [],
     ['hugetlbsize=2M,prealloc=on', '<nosharepages/>'], []),
    ('both, side by side', domain(tune=backing(
        f"{HUGE}\n    <allocation mode='immediate'/>")), [],
     ['hugetlbsize=2M,prealloc=on', '!<allocation'], []),
    ('both, the other way round', domain(tune=backing(
        f"<allocation mode='immediate'/>{HUGE}<nosharepages/>")), [],
     ['hugetlbsize=2M,prealloc=on', '!<allocation'], []),
    ('one cell is taken out', domain(cells=CELL), [], ['!<numa>', '!<cell'],
     ['the only cell is taken out']),
    ('numatune becomes a policy', domain(
        tune="<numatune><memory mode='strict' nodeset='0-3,^2'/></numatune>"),
     [], ['host-nodes=0-1,host-nodes=3,policy=bind'], []),
    ('numatune is not followed', domain(
        tune="<numatune><memory mode='strict' nodeset='0'/></numatune>"),
     ['--host-nodes', 'none'], ['!host-nodes='], []),
    ('numatune that the kernel may not follow', domain(
        kind='kvm', tune="<numatune><memory mode='preferred' nodeset='1'/>"
                         '</numatune>'),
     [], ['host-nodes=1,policy=preferred'], ['<numatune><memory>: a']),
    ('numatune of numad', domain(
        tune="<numatune><memory mode='strict' placement='auto'/></numatune>"),
     [], ['!host-nodes='], ['--host-nodes']),
    ('a device that is passed through', domain(kind='kvm', devices=HOSTDEV),
     [], ['size=1G'], []),
    ('a device on iommufd', domain(kind='kvm', command=command(*IOMMUFD)),
     ['--x-dma-split', 'cut'], ["value='-global'/>",
                                "value='vfio-pci.x-dma-split=cut'"],
     ["<hard_limit unit='KiB'>2097152</hard_limit>", 'cgroup_device_acl']),
    ('a limit that is enough', domain(
        kind='kvm', command=command(*IOMMUFD),
        tune="<memtune><hard_limit unit='GiB'>4</hard_limit></memtune>"),
     [], [], ['cgroup_device_acl']),
    ('a virtual IOMMU', domain(kind='kvm', devices=HOSTDEV +
                               "<iommu model='intel'/>"),
     [], [], ['refuses a device']),
    ('free page reporting', domain(change=(
        ("<memballoon model='virtio'/>",
         "<memballoon model='virtio' freePageReporting='on'/>"),)),
     [], [], ['freePageReporting']),
    ('no ACPI', domain(change=(('<acpi/>', '<apic/>'),)), [], [],
     ['-no-acpi']),
    ('a confidential machine', domain(
        kind='kvm', command=command('-machine', 'q35,'
                                    'confidential-guest-support=p0')),
     ['--hugetlb', '2M', '--conversion', 'two-copy', '--init', 'private'],
     ['conversion=two-copy,init=private,hugetlb=on'], []),
    ('arguments that are there stay', domain(
        command=command('-M', 'q35,,memory-backend=x', '-object',
                        '{"qom-type":"rng-random","id":"r"}')), [],
     ["value='q35,,memory-backend=x'"], []),
    ('metadata that is there stays', domain(
        tune='<metadata><x:y xmlns:x="urn:x">z</x:y></metadata>'), [],
     ['<x:y xmlns:x="urn:x">z</x:y>'], []),
    ('empty tags', EMPTY_TAGS, [], ['size=1G'], [], domain()),
    ('another prefix', domain(
        command=f"<q:commandline xmlns:q='{QEMU_NS}'><q:env name='A'/>"
                '</q:commandline>'), [], ["<q:arg value='-machine'/>"], []),
    ('CRLF, tabs and a byte order mark', '\ufeff<?xml version="1.0"?>\r\n' +
     BY_HAND.replace('\n', '\r\n').replace('  ', '\t'), [],
     ['hugetlbsize=2M'], ['the only cell'], BY_HAND),
    ('all on one line', ' '.join(BY_HAND.split()) + '\n',
     ['--emulator', '/q'], ['hugetlbsize=2M'], ['the only cell'], BY_HAND),
    ('what looks like tags', TITLES.replace('TEXT', '<![CDATA[<memory>]]>'),
     [], ['size=1G'], [], TITLES.replace('TEXT', '&lt;memory&gt;')),
)

BOMB = ('<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
        '<domain><name>&b;</name></domain>')
# Name, domain, options, words of the refusal
REFUSED = (
    ('an entity bomb', BOMB, [], ['DOCTYPE']),
    ('no XML', 'memory', [], ['not XML']),
    ('half of it', domain()[:300], [], ['not XML']),
    ('nothing', '', [], ['not XML']),
    ('five megabytes', domain() + '\n' * 5000000, [], ['larger than 4 MiB']),
    ('another document', '<domainsnapshot/>', [], ['<domainsnapshot>']),
    ('a domain of another namespace', "<domain xmlns='urn:x'/>", [],
     ['<domain>', 'virsh dumpxml']),
    ('Latin-1', '<?xml version="1.0" encoding="iso-8859-1"?>' + domain(), [],
     ['iso-8859-1', 'UTF-8']),
    ('another hypervisor', domain(kind='xen'), [], ["type='xen'", 'kvm']),
    ('another processor', domain(change=(("'x86_64'", "'aarch64'"),)), [],
     ['aarch64', 'x86_64']),
    ('no memory', domain(change=(
        ("<memory unit='KiB'>1048576</memory>", ''),)), [],
     ['<memory>', 'missing']),
    ('memory of words', domain(change=memory('much')), [], ['much']),
    ('memory of no size', domain(change=memory(0)), [], ['<memory>0<']),
    ('memory in another unit', domain(change=memory(1, 'pages')), [],
     ["unit='pages'"]),
    ('memory beyond all measure', domain(change=memory(999, 'E')), [],
     ['not a size of memory']),
    ('two cells', domain(cells=CELLS), [], ['<cpu><numa>', '2 cells',
                                            'leave one cell']),
    ('a cell of another size', domain(cells=CELL.replace('1048576', '2048')),
     [], ['<cell>', '1 GiB']),
    ('memnode', domain(cells=CELL, tune=(
        "<numatune><memnode cellid='0' mode='strict' nodeset='0'/>"
        '</numatune>')), [], ['<memnode>', '<memory>']),
    ('locked memory', domain(tune=backing('<locked/>')), [],
     ['<locked>', 'hard_limit']),
    ('hugepages of two sizes', domain(tune=backing(
        "<hugepages><page size='2' unit='M'/><page size='1' unit='G'/>"
        '</hugepages>')), [], ['one size']),
    ('memory that pages do not divide', domain(change=memory(3, 'MiB')),
     ['--hugetlb', '2M'], ['--hugetlb 2M', '3 MiB', 'multiple']),
    ('DIMMs of libvirt', domain(change=(
        ("  <memory unit", "  <maxMemory slots='4' unit='G'>9</maxMemory>\n"
         '  <memory unit'),), devices=(
             "<memory model='dimm'><target><size>1</size></target></memory>")),
     [], ['<maxMemory>', '--slots', "model='dimm'"]),
    ('vhost-vdpa', domain(devices="<interface type='vdpa'><source dev='/d'/>"
                                  '</interface>'), [], ["type='vdpa'"]),
    ('a userspace NVMe disk', domain(
        devices="<disk type='nvme'><target dev='vda'/></disk>"), [],
     ["type='nvme'"]),
    ('virtio-mem by hand', domain(command=command(
        '-device', '{"driver":"virtio-mem-pci"}')), [], ['virtio-mem']),
    ('too little locked memory', domain(
        devices=HOSTDEV, tune='<memtune><hard_limit>1000</hard_limit>'
                              '</memtune>'),
     [], ['<hard_limit>', "<hard_limit unit='KiB'>2097152"]),
    ('cut with type1', domain(devices=HOSTDEV), ['--x-dma-split', 'cut'],
     ['--x-dma-split cut', "<driver iommufd='yes'/>", '<qemu:arg>']),
    ('cut with iommufd and type1', domain(devices=ON_IOMMUFD + HOSTDEV),
     ['--x-dma-split', 'cut'], ['--x-dma-split cut']),
    ('cut with type1 by hand', domain(command=command(
        '-device', 'vfio-pci,host=01:00.0')), ['--x-dma-split', 'cut'],
     ['--x-dma-split cut']),
    ('another backend', domain(command=command(
        '--machine', 'usb=off,,x,memory-backend=other')), [],
     ["memory-backend=other'"]),
    ('the same name', domain(command=command(
        '-object', '{"qom-type": "iothread", "id": "gmem0"}')), [],
     ['id=gmem0', '--id']),
    ('NUMA by hand', domain(command=command('-numa', 'node')), [],
     ["value='-numa'"]),
    ('preallocation by hand', domain(command=command('-mem-prealloc')), [],
     ['--prealloc on']),
    ('locked memory by hand', domain(command=command(
        '-overcommit', 'mem-lock=on')), [], ['mem-lock=on']),
    ('only what can migrate', domain(command=command('-only-migratable')), [],
     ['migrated']),
    ('slots twice', domain(command=command('-m', 'slots=2')),
     ['--slots', '2', '--max-memory', '2G'], ["value='-m'"]),
    ('KVM without KVM', domain(), ['--driver', 'kvm'],
     ['--driver kvm', "type='qemu'"]),
    ('two copies that are emulated', domain(), ['--conversion', 'two-copy'],
     ['--conversion two-copy', 'in-place']),
    ('an emulated confidential machine', domain(
        kind='kvm', tune="<launchSecurity type='sev-snp'/>"),
     ['--driver', 'emulated'], ['--driver emulated', 'confidential']),
    ('an ordinary VM that converts', domain(kind='kvm'),
     ['--conversion', 'in-place'], ['no private memory']),
    ('an ordinary VM that is private', domain(kind='kvm'),
     ['--init', 'private'], ['--init private', 'no private memory']),
    ('an ordinary VM with huge pages', domain(
        kind='kvm', tune=backing('<hugepages/>')), [],
     ['<memoryBacking><hugepages>: ', 'driver=emulated']),
    ('huge pages of a guest_memfd', domain(kind='kvm'), ['--hugetlb', '2M'],
     ['--hugetlb 2M: ', 'driver=emulated']),
    ('preallocation without a reservation', domain(
        tune=backing("<allocation mode='immediate'/>")),
     ['--reserve', 'off'], ['--reserve off', 'immediate']),
    ('a policy without nodes', domain(), ['--policy', 'bind'],
     ['--policy bind', '--host-nodes']),
    ('nodes outside of numatune', domain(
        tune="<numatune><memory mode='strict' nodeset='0'/></numatune>"),
     ['--host-nodes', '0-1'], ['--host-nodes', '<numatune>']),
    ('slots without room', domain(), ['--slots', '1'], ['--max-memory']),
    ('less room than memory', domain(),
     ['--slots', '1', '--max-memory', '512M'],
     ['--max-memory 512M', '1 GiB']),
    ('a name of libvirt', domain(), ['--id', 'pc.ram'], ['pc.ram']),
    ('a name with a comma', domain(), ['--id', 'a,size=1'], ['a,size=1']),
    ('pages of three megabytes', domain(), ['--hugetlb', '3M'], ['3M', '2M']),
    ('no threads', domain(), ['--prealloc-threads', '0'], ['above 0']),
    ('an emulator in PATH', domain(), ['--emulator', 'qemu'], ['absolute']),
    ('an emulator with a bell', domain(), ['--emulator', '/\a'],
     ['absolute']),
    ('no nodes', domain(), ['--host-nodes', '3-1'], ['0,2-3']),
    ('a driver that is none', domain(), ['--driver', 'bogus'], ['bogus']),
)


def gmem_xml(text, *args):
    """Run it: exit code, output and lines on standard error."""
    done = subprocess.run([GMEM_XML, *args],
                          input=text.encode(), check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def edited(text, *args):
    """The same in this process, which takes a tenth of the time."""
    given = io.TextIOWrapper(io.BytesIO(text.encode()))
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with mock.patch('sys.stdin', given), \
            mock.patch('sys.argv', ['gmem-xml', *args]), \
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = edit(parse_args())
        except SystemExit as status:
            code = status.code
    return code, out.buffer.getvalue().decode(), err.getvalue()


def ok(text, *args, function=gmem_xml):
    """Run it where nothing is refused."""
    code, out, err = function(text, *args)
    assert code == 0, err
    return out


@functools.lru_cache(None)
def invalid():
    """{a domain of DONE: what libvirt's schema does not like in it}."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths = {}
        for number, (case, text, args, *_) in enumerate(DONE):
            paths[case] = directory / ('%d.xml' % number)
            paths[case].write_text(ok(text, 'add', *args, function=edited))
        broken = directory / 'broken.xml'
        broken.write_text(domain(devices='<memory/>'))
        done = subprocess.run(
            ['xmllint', '--noout', '--relaxng', SCHEMA, broken,
             *paths.values()], check=False, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True)
    assert '%s fails to validate' % broken in done.stdout, done.stdout
    lines = done.stdout.splitlines()
    return {case: '\n'.join(line for line in lines if str(path) in line)
            for case, path in paths.items()
            if '%s validates' % path not in lines}


class Tables(tap.TestCase):
    """Domains that get the memory, and domains that are refused."""

    @tap.cases({name: tuple(rest) for name, *rest in DONE})
    def test_done(self, text, args, words, warnings, back=None):
        """Done, done again, and taken back"""
        run = functools.partial(ok, function=edited)
        code, out, err = edited(text, 'add', *args)
        assert code == 0, err
        for word in words:
            found = word.lstrip('!') in \
                out.partition(f'xmlns:gmem="{MARK}"')[0] + \
                out.partition('</gmem:memory>')[2]
            assert found != word.startswith('!'), f'{word}: {out}'
        lines = err.splitlines()
        assert len(lines) == len(warnings), err
        for line, word in zip(lines, warnings):
            assert word in line and 'warning: ' in line, err
        assert run(out, 'add', *args) == out
        assert run(run(out, 'add', '--init', 'shared'), 'remove') == \
            (back or text)
        assert run(out, 'remove') == (back or text)

    @tap.cases({name: name for name, *_ in DONE})
    def test_valid(self, name):
        if not SCHEMA.is_file() or not shutil.which('xmllint'):
            self.skipTest("libvirt's schema or xmllint is missing: run "
                          'tests/tools/install-packages.sh')
        assert name not in invalid(), invalid()[name]

    @tap.cases({name: tuple(rest) for name, *rest in REFUSED})
    def test_refused(self, text, args, words):
        """Refused in a sentence, without output"""
        code, out, err = edited(text, 'add', *args)
        assert code, out
        assert not out, out
        for word in words:
            assert word in err, err
        last = err.splitlines()[-1]
        assert last.endswith('.') or 'error: argument' in last, err


class Command(tap.TestCase):
    """The program: its files, pipes and exit codes."""

    def test_what_others_add_stays(self):
        # Edits after "add" survive "remove"
        text = domain()
        out = ok(text, 'add', '--emulator', '/q')
        for old, new in (
                ('<qemu:arg value=\'-object\'/>', "<qemu:arg value='-S'/>"
                 "<qemu:arg value='-object'/>"),
                ('</metadata>', "<x:y xmlns:x='urn:x'/></metadata>"),
                ('<emulator>/q<', '<emulator>/other<')):
            assert old in out
            out = out.replace(old, new)
        out = ok(out, 'remove')
        for word in ("value='-S'", 'urn:x', '/other'):
            assert word in out, out
        for word in (MARK, 'gmem0', '-object'):
            assert word not in out, out

    def test_iommufd_of_libvirt_12_stays(self):
        # libvirt 9's schema does not have it, so it is in no table.  What
        # libvirt 9 needs to be told is told; nothing that libvirt 12 does
        # itself is asked for
        whole = domain(kind='kvm', devices=HOSTDEV, change=((
            '</vcpu>', "</vcpu><iommufd enabled='yes' fdgroup='iommu'/>"),))
        for text, kept in (
                (domain(kind='kvm', devices=ON_IOMMUFD),
                 "<driver name='vfio' iommufd='yes'/>"),
                (whole, "<iommufd enabled='yes' fdgroup='iommu'/>")):
            code, out, err = gmem_xml(text, 'add', '--x-dma-split', 'cut')
            assert code == 0 and kept in out, err
            assert err.count('\n') == 1 and 'before 12.1' in err, err
            assert 'hard_limit' not in err, err
            assert ok(out, 'add', '--x-dma-split', 'cut') == out
            assert ok(out, 'remove') == text
        # A device can differ from the domain
        code, _, err = gmem_xml(whole.replace(
            "managed='yes'>", "managed='yes'><driver iommufd='no'/>"),
                                'add', '--x-dma-split', 'cut')
        assert code == 1 and 'by type1' in err, err

    def test_hugepages_of_others_stay(self):
        # What was kept does not come beside what came since
        out = ok(domain(tune=backing(HUGE)), 'add').replace(
            '</memoryBacking>', '<hugepages/></memoryBacking>')
        out = ok(out, 'remove')
        assert out.count('<hugepages') == 1, out

    def test_arguments_that_were_changed_are_refused(self):
        # They cannot be found
        out = ok(domain(), 'add').replace("'memory-backend=gmem0'",
                                          "'memory-backend=gmem1'", 1)
        code, out, err = gmem_xml(out, 'remove')
        assert code == 1 and not out and 'by hand' in err, err

    def test_a_forged_mark_is_refused(self):
        # What it keeps goes to no other place
        for old, new in (('from="memoryBacking"', 'from="devices"'),
                         ('at="0"', 'at="-1"'), ('at="0"', ''),
                         ('<hugepages>', '<hugepages/><hugepages>')):
            out = ok(domain(tune=backing(HUGE)), 'add')
            assert out.count(old) == 1, out
            code, out, err = gmem_xml(out.replace(old, new), 'remove')
            assert code == 1 and not out and 'by hand' in err, err

    def test_nothing_to_remove_is_said(self):
        # A domain without the mark
        code, out, err = gmem_xml(domain(), 'remove')
        assert code == 1 and not out and 'nothing' in err, err

    def test_a_file_is_edited_in_place(self):
        # As an editor of virsh edit; left alone when refused
        path = self.path / 'vm.xml'
        path.write_text(domain())
        assert ok('', 'add', '-i', str(path)) == ''
        assert 'gmem0' in path.read_text()
        assert ok('', 'remove', '-i', str(path)) == ''
        assert path.read_text() == domain()
        assert gmem_xml('', 'add', '-i', '--driver', 'kvm', str(path))[0] == 1
        assert path.read_text() == domain()
        code, _, err = gmem_xml('', 'add', str(self.path / 'none'))
        assert code == 1 and 'No such file' in err, err
        code, out, err = gmem_xml(domain(), 'add', '-i')
        assert code == 2 and not out and 'needs a FILE' in err, err

    def test_a_file_without_end_is_refused(self):
        # Only as much as a domain can have is read
        code, out, err = gmem_xml('', 'add', '/dev/zero')
        assert code == 1 and not out and 'larger than 4 MiB' in err, err

    def test_output_that_nobody_takes_is_no_success(self):
        # A closed pipe, a full disk, no standard output: without a traceback
        reader, writer = os.pipe()
        os.close(reader)
        with open('/dev/full', 'wb') as full:
            for output, status, word in ((writer, 141, ''),
                                         (full, 1, 'No space left'),
                                         (None, 1,
                                          'standard output is closed')):
                done = subprocess.run(
                    [GMEM_XML, 'add'], input=domain().encode(), check=False,
                    stdout=output, stderr=subprocess.PIPE,
                    preexec_fn=None if output else lambda: os.close(1))
                assert done.returncode == status, done
                assert word in done.stderr.decode(), done
                assert done.stderr.count(b'\n') == bool(word), done
        os.close(writer)

    def test_many_levels_are_refused(self):
        # As by libvirt
        deep = '<d>' * 200 + '</d>' * 200
        text = domain(tune=f'<metadata>{deep}</metadata>')
        assert ok(ok(text, 'add'), 'remove') == text
        for levels in (255, 100000):
            deep = '<d>' * levels + '</d>' * levels
            text = domain(tune='<metadata>x</metadata>').replace('>x<',
                                                                 f'>{deep}<')
            code, out, err = gmem_xml(text, 'add')
            assert code == 1 and not out and 'more than 256 levels' in err, err

    def test_what_virsh_prints_stays(self):
        # Byte for byte: quotes, escapes and blanks of libvirt and of libxml2
        text = f"""\
<domain type='kvm' id='3' xmlns:qemu='{QEMU_NS}'>
  <name>a&quot;&apos;&gt;b</name>
  <title> </title>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
    <a:a xmlns:a="urn:a" b="'&quot;&amp;&#9;">"' and <b>more</b> &lt;text&gt;
  </a:a>
  </metadata>
  <memory unit='KiB'>1048576</memory>
  <features>
    <acpi/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
  </devices>
  <qemu:commandline>
    <qemu:arg value='{{&quot;driver&quot;:&quot;x&quot;}}'/>
    <qemu:env name='A' value='&apos;'/>
  </qemu:commandline>
</domain>

"""
        out = ok(text, 'add', '--emulator', '/q')
        assert set(text.splitlines()) - set(out.splitlines()) == {
            '    <emulator>/usr/bin/qemu-system-x86_64</emulator>'}
        assert ok(out, 'remove') == text

    def test_namespaces_keep_their_meaning(self):
        # Prefixes that hide others, and none at all
        text = domain(tune='<metadata><x xmlns="u1" xmlns:p="u1" p:k="v" k="w">'
                           '<y xmlns:p="u2" p:k="1"><z/></y><w xmlns="" '
                           'xml:lang="en"><v/></w></x></metadata>')
        out = ok(ok(text, 'add'), 'remove')
        assert canonicalize(out) == canonicalize(text), out

    def test_comments_around_the_domain_stay(self):
        # As in a file that somebody keeps
        text = f'<!-- ours -->\n{domain()}<!-- the end -->\n'
        assert ok(ok(text, 'add'), 'remove') == text

    def test_nothing_is_left_of_the_namespace(self):
        # Unless others need it; a prefix that means something else stays
        declaration = f" xmlns:qemu='{QEMU_NS}'"
        assert declaration in ok(domain(), 'add').splitlines()[0]
        assert declaration not in ok(ok(domain(), 'add'), 'remove')
        by_hand = domain().replace("<domain type='qemu'",
                                   f"<domain type='qemu'{declaration}")
        assert ok(ok(by_hand, 'add'), 'remove') == domain()
        others = domain(command=command('-S'))
        assert ok(ok(others, 'add'), 'remove') == others
        taken = domain().replace("<domain type='qemu'",
                                 "<domain type='qemu' xmlns:qemu='urn:x'")
        out = ok(taken, 'add')
        assert f'<qemu:commandline{declaration}>' in out, out
        assert ok(out, 'remove') == taken


if __name__ == '__main__':
    tap.main()
