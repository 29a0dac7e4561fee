#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-xml as KubeVirt's hook: called as sidecar-shim calls it."""

import json
import os
import re
import shutil
import subprocess
import sys

from lib import TOP, tap

KUBEVIRT = TOP / 'tools/kubevirt'
# Does what sidecar-shim does: runs the hook by its name, and collects output and
# errors
SHIM = """import json, subprocess, sys
done = subprocess.run(['onDefineDomain', *sys.argv[1:]], check=False,
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, universal_newlines=True)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""
QEMU_NS = 'http://libvirt.org/schemas/domain/qemu/1.0'
INSTALL = 'run tests/tools/install-packages.sh'
# As KubeVirt writes it: tabs, bytes, and no self-closing tags
DOMAIN = f'''\
<domain type="KIND" xmlns:qemu="{QEMU_NS}">
\t<name>default_gmem</name>
\t<memory unit="b">1073741824</memory>
\t<os>
\t\t<type arch="x86_64" machine="q35">hvm</type>
\t\t<smbios mode="sysinfo"></smbios>
\t</os>
\t<features>
\t\t<acpi></acpi>
\t</features>
\t<cpu mode="host-model">
\t\t<topology sockets="1" cores="2" threads="1"></topology>
\t</cpu>
\t<memoryBacking>
\t\t<hugepages></hugepages>
\t</memoryBacking>
\t<devices>
\t\t<emulator>/usr/bin/qemu-system-x86_64</emulator>
\t\t<interface type="ethernet">
\t\t\t<target dev="tap0" managed="no"></target>
\t\t</interface>
\t</devices>
\t<metadata>
\t\t<kubevirt xmlns="http://kubevirt.io">
\t\t\t<uid></uid>
\t\t</kubevirt>
\t</metadata>
\t<vcpu placement="static">2</vcpu>
</domain>'''


def vmi(**annotations):
    """A VirtualMachineInstance; underlines are dashes."""
    return json.dumps({
        'apiVersion': 'kubevirt.io/v1', 'kind': 'VirtualMachineInstance',
        'metadata': {'name': 'gmem', 'annotations': {
            'hooks.kubevirt.io/hookSidecars': '[]',
            **{'gmem-xml/' + name.replace('_', '-'): value
               for name, value in annotations.items()}}},
        'spec': {'domain': {'devices': {}}}})


class Hook(tap.TestCase):
    """What the sidecar does to a domain."""

    def setUp(self):
        # As the Containerfile installs it
        self.log = ''
        self.bin = self.path / 'usr/bin'
        self.bin.mkdir(parents=True)
        for line in (KUBEVIRT / 'Containerfile').read_text().splitlines():
            words = line.split()
            if words[:1] == ['COPY'] and len(words) == 3:
                source, target = TOP / words[1], f'{self.path}{words[2]}'
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.
                                    ignore_patterns('__pycache__'))
                else:
                    shutil.copy(source, target)
            elif words[:3] == ['RUN', 'ln', '-s']:
                os.symlink(f'{self.path}{words[3]}', f'{self.path}{words[4]}')

    def call(self, *args):
        """What the shim gets, and keeps the log of the container."""
        done = subprocess.run(
            [sys.executable, '-c', SHIM, *args], check=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True,
            env={'PATH': f'{self.bin}:{os.environ["PATH"]}'})
        self.log = done.stderr
        return json.loads(done.stdout)

    def ok(self, instance, domain=DOMAIN.replace('KIND', 'kvm')):
        """The domain that comes out."""
        status, out, err = self.call('--vmi', instance, '--domain', domain)
        assert status == 0 and not err, err
        return out

    def refused(self, instance, *words, domain=DOMAIN.replace('KIND', 'kvm')):
        """Without output, in sentences."""
        status, out, err = self.call('--vmi', instance, '--domain', domain)
        assert status == 1 and not out, (status, out)
        for word in words:
            assert word in err, err
        assert err.endswith('.\n') and 'Traceback' not in err, err

    def test_options_are_annotations(self):
        out = self.ok(vmi(driver='emulated', init='private', hugetlb='2M',
                          prealloc='on', prealloc_threads='4',
                          host_nodes='0,2-3', policy='bind',
                          emulator='/q/qemu', firmware_dirs='/a:/b',
                          x_dma_split='auto'))
        for word in ("<emulator>/q/qemu</emulator>", '!<hugepages',
                     "value='memory-backend-guest-memfd,id=gmem0,size=1G,"
                     'driver=emulated,init=private,hugetlb=on,hugetlbsize=2M,'
                     'prealloc=on,prealloc-threads=4,host-nodes=0,'
                     "host-nodes=2-3,policy=bind'",
                     "value='memory-backend=gmem0'", "value='/b'",
                     "<smbios mode='sysinfo'/>", 'urn:qemu-guest-memfd'):
            found = word.lstrip('!') in out.partition('<metadata>')[0] + \
                out.partition('</metadata>')[2] + \
                ('urn:qemu-guest-memfd' if 'urn:' in out else '')
            assert found != word.startswith('!'), (word, out)

    def test_no_annotation_is_all_defaults(self):
        plain = DOMAIN.replace('KIND', 'qemu')
        for instance in (vmi(), '{}', '{"metadata": {"annotations": null}}'):
            out = self.ok(instance, plain)
            assert "value='memory-backend-guest-memfd,id=gmem0,size=1G," \
                "hugetlb=on'" in out, out

    def test_a_domain_that_is_defined_again_stays(self):
        # KubeVirt drops the mark in <metadata> and keeps the arguments
        out = self.ok(vmi(driver='emulated'))
        again = re.sub(r' *<gmem:memory.*</gmem:memory>\n', '', out,
                       flags=re.DOTALL)
        assert 'gmem:' not in again and 'gmem0' in again
        assert self.ok(vmi(driver='emulated'), again) == again
        assert self.ok(vmi(driver='emulated'), out) == out

    def test_what_is_wrong_is_named(self):
        for instance, words in (
                (vmi(hugetlb='3'), ['annotation gmem-xml/hugetlb: 3 is not']),
                (vmi(driver='magic'), ['annotation gmem-xml/driver: magic',
                                       'auto, kvm, emulated']),
                (vmi(prealloc=True), ['annotation gmem-xml/prealloc',
                                      'in quotes']),
                (vmi(huge='2M'), ['annotation gmem-xml/huge',
                                  'no such option', 'hugetlb']),
                (vmi(init='private'), ['annotation gmem-xml/init: private',
                                       'no private memory']),
                (vmi(driver='emulated', slots='2'), ['one needs the other']),
                ('{', ['--vmi: it is not JSON']),
                ('[]', ['not a VirtualMachineInstance']),
                ('[' * 100000, ['--vmi: it is not JSON']),
                ('{"metadata": {"annotations": [1]}}',
                 ['not a VirtualMachineInstance'])):
            self.refused(instance, *words)
        self.refused(vmi(), 'not XML', domain='memory')
        self.refused(vmi(), 'type=\'xen\'', domain=DOMAIN.replace('KIND',
                                                                  'xen'))
        for args in ((), ('--vmi', '{}'), ('--domain', DOMAIN),
                     ('add', '--vmi', '{}', '--domain', DOMAIN)):
            assert self.call(*args)[0] == 2, args

    def test_the_log_of_the_container_has_the_reason(self):
        # The shim collects the hook's standard error and does not show it
        self.refused(vmi(hugetlb='3', driver='x'), 'hugetlb')
        first, second = self.log.splitlines()
        assert first.startswith('gmem-xml: annotation gmem-xml/driver: x')
        assert second.startswith('gmem-xml: annotation gmem-xml/hugetlb: 3')
        self.ok(vmi(driver='emulated'))
        assert not self.log

    def test_the_example_is_accepted(self):
        try:
            import yaml
        except ImportError as err:
            raise tap.Skip('python3-yaml is missing: ' + INSTALL) from err
        machine = yaml.safe_load((KUBEVIRT / 'vm.yaml').read_text())
        template = machine['spec']['template']
        found = template['metadata']['annotations']
        sidecar, = json.loads(found['hooks.kubevirt.io/hookSidecars'])
        assert sidecar['image'] == 'gmem-xml-hook'
        assert sidecar['args'] == ['--version', 'v1alpha3']
        instance = {'metadata': template['metadata'],
                    'spec': template['spec']}
        out = self.ok(json.dumps(instance))
        for name, value in found.items():
            if name.startswith('gmem-xml/') and 'emulator' not in name:
                assert f',{name[9:]}={value},' in out.replace("'", ','), name
        assert f'<emulator>{found["gmem-xml/emulator"]}</emulator>' in out


if __name__ == '__main__':
    tap.main()
