#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-top for programs: JSON by its schema, metrics, domains of libvirt.

Environment: QEMU_TREE.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

from lib import TOP, tap
from lib.fakeqmp import FakeQmp, block
from lib.scripts import write
from lib.terminal import PATIENCE

GMEM_TOP = TOP / 'tools/gmem-top'
MONITORING = TOP / 'tools/monitoring'
INSTALL = 'run tests/tools/install-packages.sh'
LISTENER = {'name': 'vfio-iommu-iommufd@0x0', 'extents': 3,
            'mapped-bytes': 4096, 'map-calls': 5, 'unmap-calls': 6,
            'splits': 7}
# What stands for virsh: each line of "answers" is used once, the last one for
# ever; one that is no JSON is an error
VIRSH = '''\
#!/usr/bin/python3
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
with open(here / 'asked', 'a') as file:
    file.write(json.dumps(sys.argv[1:]) + '\\n')
if 'qemu-monitor-event' in sys.argv:
    sys.exit(0)
asked = json.loads(sys.argv[-1])['execute']
path = here / asked
lines = path.read_text().splitlines()
if len(lines) > 1:
    path.write_text('\\n'.join(lines[1:]))
if not lines[0].startswith('{'):
    sys.exit('error: ' + lines[0])
print(lines[0])
'''
VERSION = '{"return": {"qemu": {"major": 10, "minor": 2, "micro": 2}}}'


def command(*args):
    """The words of a gmem-top."""
    return [str(arg) for arg in (GMEM_TOP, '--timeout', '60', *args)]


def run(*args, **env):
    """Run it to its end; the exit status, stdout and stderr."""
    done = subprocess.run(command(*args), check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=PATIENCE,
                          universal_newlines=True,
                          env={**os.environ, **env})
    assert done.stderr.count('\n') <= 1 or done.returncode == 2, done.stderr
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def running(*args):
    """One that runs on; its standard output is a pipe."""
    with subprocess.Popen(command(*args), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True) as process:
        try:
            yield process
        finally:
            process.kill()


def validator():
    """Of tools/monitoring/gmem-top.schema.json."""
    try:
        import jsonschema
    except ImportError as err:
        raise tap.Skip('python3-jsonschema is missing: ' + INSTALL) from err
    schema = json.loads((MONITORING / 'gmem-top.schema.json').read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def rich():
    """A block with something of everything."""
    way = dict(zip(('requests', 'bytes', 'failures', 'retries', 'rollbacks'),
                   (11, 12, 13, 14, 15)))
    other = {**LISTENER, 'extents': 8}
    return block(**{'to-private': way, 'restructure': 'log',
                    'provider': 'hugetlb', 'vmemmap-bytes': 49152,
                    'listeners': [LISTENER, other]})


def samples(text):
    """{(name, labels): value} of OpenMetrics, by the parser of Prometheus."""
    try:
        from prometheus_client.openmetrics.parser import \
            text_string_to_metric_families as parse
    except ImportError as err:
        raise tap.Skip('python3-prometheus-client is missing: ' +
                       INSTALL) from err
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in parse(text) for sample in family.samples}


def metric_names():
    """All names that gmem-top writes."""
    import gmem_top.metrics as metrics
    from gmem_top.model import VM
    vm = VM('vm')
    vm.update([rich()], 0)
    return {name for name, *_ in samples(metrics.text(vm, vm.blocks, ''))}


class Programs(tap.TestCase):
    """What gmem-top gives to programs."""

    def fake(self, name='qmp', **answers):
        """The socket of a server."""
        path = self.path / name
        FakeQmp(path, **{'query_name': {'name': 'vm"1\\'},
                         'query_guest_memfd': [rich()], **answers})
        return path

    def test_json_is_a_stream_of_lines(self):
        schema = validator()
        private = iter(range(1, 100))
        path = self.fake(query_guest_memfd=lambda _: [
            block(**{'private-bytes': next(private)})])
        with running('--json', '--interval', '0.1', path) as process:
            lines = [json.loads(process.stdout.readline()) for _ in range(3)]
            for line in lines:
                schema.validate(line)
            assert [line['blocks'][0]['private-bytes']
                    for line in lines] == [1, 2, 3], lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 143
            assert process.stderr.read() == 'gmem-top: terminated\n'

    def test_json_is_as_its_schema_says(self):
        schema = validator()
        for number, blocks in enumerate(([], [rich()], [block()])):
            status, out, err = run('--json', self.fake(
                str(number), query_guest_memfd=blocks))
            assert status == 0 and out.count('\n') == 1, err
            value = json.loads(out)
            schema.validate(value)
            assert len(value['blocks']) == len(blocks)
        # The schema has all members, and no others
        for change in ('id', 'map', 'huge-pages', 'listeners', 'to-shared'):
            for wrong in ({}, {change: value['blocks'][0][change], 'x': 1}):
                broken = dict(value['blocks'][0])
                del broken[change]
                broken.update(wrong)
                assert not schema.is_valid({**value, 'blocks': [broken]})

    def test_a_stream_ends_with_the_vm(self):
        answers = iter(([block()], [block()], b''))
        path = self.fake(query_guest_memfd=lambda _: next(answers))
        status, out, err = run('--json', '--interval', '0.1', path)
        assert status == 3 and 'the VM is gone' in err, (status, err)
        assert out.count('\n') == 2, out
        path = self.fake('pipe')
        with running('--json', '--interval', '0.1', path) as process:
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(PATIENCE) == 141

    def test_metrics_are_openmetrics(self):
        status, out, err = run('--openmetrics', '-', self.fake())
        assert status == 0, err
        found = samples(out)
        name = {'vm': 'vm"1\\'}
        place = {**name, 'block': 'm0'}
        listener = {**place, 'listener': LISTENER['name'], 'number': '0'}
        for key, labels, value in (
                ('vm_info', {**name, 'version': '10.2.2'}, 1),
                ('block_info', {
                    **place, 'driver': 'emulated', 'provider': 'hugetlb',
                    'conversion': 'in-place', 'init': 'shared',
                    'restructure': 'log'}, 1),
                ('shared_bytes', place, 1 << 30),
                ('page_size_bytes', place, 4096),
                ('vmemmap_bytes', place, 49152),
                ('conversion_failures_total',
                 {**place, 'direction': 'to-private'}, 13),
                ('conversion_bytes_total',
                 {**place, 'direction': 'to-private'}, 12),
                ('huge_pages',
                 {**place, 'size': '2097152', 'state': 'shared'}, 512),
                ('listener_extents', listener, 3),
                ('listener_extents', {**listener, 'number': '1'}, 8),
                ('listener_map_calls_total', listener, 5)):
            assert found[('guest_memfd_' + key,
                          *sorted(labels.items()))] == value, key
        assert out.endswith('\n# EOF\n')
        # No map is read for metrics, which may come often
        server = FakeQmp(self.path / 'asked')
        assert run('--openmetrics', '-', self.path / 'asked')[0] == 0
        assert 'query-guest-memfd-map' not in [name for name, _ in
                                               server.heard]

    def test_metrics_of_a_vm_without_memory(self):
        status, out, err = run('--openmetrics', '-', self.fake(
            query_name={}, query_guest_memfd=[]))
        assert status == 0, err
        (key, value), = samples(out).items()
        assert key[0] == 'guest_memfd_vm_info' and value == 1
        assert dict(key[1:])['vm'] == str(self.path / 'qmp')

    def test_a_file_of_metrics_is_replaced(self):
        # As a whole, readable by others, and nothing is left beside it
        path = self.fake()
        target = self.path / 'd' / 'gmem-vm.prom'
        target.parent.mkdir()
        status, out, err = run('--openmetrics', target, path)
        assert status == 0 and not out, err
        mask = os.umask(0)
        os.umask(mask)
        assert target.stat().st_mode & 0o777 == 0o666 & ~mask
        before = target.stat().st_ino
        with open(target, encoding='ascii') as reader:
            assert run('--openmetrics', target, path)[0] == 0
            assert reader.read().endswith('# EOF\n')
        assert target.stat().st_ino != before
        assert os.listdir(target.parent) == [target.name]
        target.unlink()
        target.symlink_to(self.path / 'behind')
        assert run('--openmetrics', target, path)[0] == 0
        assert target.is_symlink() and samples(target.read_text())
        status, _, err = run('--openmetrics', self.path / 'no' / 'x', path)
        assert status == 1 and 'No such file' in err, err
        assert run('--openmetrics', '/dev/full', path)[0] == 1
        assert Path('/dev/full').is_char_device()

    def test_old_metrics_do_not_stay(self):
        # When the VM is gone; but files of others do
        ours, other = self.path / 'ours.prom', self.path / 'other.prom'
        path = self.fake()
        assert run('--openmetrics', ours, path)[0] == 0
        other.write_text('x 1\n')
        for file in (ours, other):
            status, _, err = run('--openmetrics', file, self.path / 'none')
            assert status == 1 and 'No such file' in err, err
        assert not ours.exists() and other.read_text() == 'x 1\n'
        with running('--openmetrics', ours, '--json', '--interval', '0.1',
                     path) as process:
            assert process.stdout.readline() and ours.exists()
            process.terminate()
            assert process.wait(PATIENCE) == 143
        assert not ours.exists()

    def test_dashboard_and_alerts_have_only_our_metrics(self):
        known = metric_names() | {'node_textfile_mtime_seconds'}
        dashboard = (MONITORING / 'grafana-dashboard.json').read_text()
        for text in (dashboard,
                     (MONITORING / 'prometheus-rules.yml').read_text()):
            named = set(re.findall(r'\b(?:guest_memfd|node)_\w+', text))
            assert len(named) > 3 and named <= known, named - known
        panels = json.loads(dashboard)['panels']
        shown = {name for panel in panels for target in panel['targets']
                 for name in re.findall(r'guest_memfd_\w+', target['expr'])}
        # Those that do not change are labels of the rest
        assert known - shown == {
            'guest_memfd_vm_info', 'guest_memfd_block_info',
            'guest_memfd_size_bytes', 'guest_memfd_page_size_bytes',
            'node_textfile_mtime_seconds'}, known - shown
        assert len({panel['id'] for panel in panels}) == len(panels)
        places = {tuple(panel['gridPos'].values()) for panel in panels}
        assert len(places) == len(panels)

    def virsh(self, **answers):
        """PATH with a virsh that answers."""
        answers = {'query-version': VERSION,
                   'query-name': '{"return": {"name": "vm"}}',
                   'query-guest-memfd': json.dumps({'return': [rich()]}),
                   **{name.replace('_', '-'): answer
                      for name, answer in answers.items()}}
        for name, answer in answers.items():
            write(self.path / 'bin' / name, answer)
        write(self.path / 'bin/virsh', VIRSH).chmod(0o755)
        return {'PATH': f'{self.path}/bin:{os.environ["PATH"]}'}

    def test_a_domain_is_queried_through_virsh(self):
        status, out, err = run('--domain', 'vm1', '--openmetrics', '-',
                               **self.virsh())
        assert status == 0, err
        assert 'guest_memfd_vm_info{vm="vm",version="10.2.2"} 1\n' in out
        asked = [json.loads(line) for line in
                 (self.path / 'bin/asked').read_text().splitlines()]
        assert [words[:5] for words in asked] == 3 * [
            ['-q', 'qemu-monitor-command', '--domain', 'vm1', '--cmd']], asked
        assert [json.loads(words[5])['execute'] for words in asked] == [
            'query-version', 'query-name', 'query-guest-memfd']

    def test_what_virsh_cannot_do_is_said(self):
        stopped = 'Requested operation is not valid: domain is not running'
        error = '{"error": {"class": "%s", "desc": "so \\u001b it is"}}'
        for answers, status, words in (
                ({'query_version': stopped}, 1, 'is the VM running?'),
                ({'query_version': 'no\x1bway'}, 1, 'domain vm1: no?way'),
                ({'query_version': '{'}, 1, 'bad answer from virsh'),
                ({'query_version': '{"x": 1}'}, 1, 'bad answer'),
                ({'query_name': stopped}, 3, 'the VM is gone'),
                ({'query_guest_memfd': error % 'GenericError'}, 1,
                 'so ? it is'),
                ({'query_guest_memfd': error % 'CommandNotFound'}, 1,
                 'has no command query-guest-memfd')):
            code, out, err = run('--domain', 'vm1', '--json',
                                 **self.virsh(**answers))
            assert code == status and not out and words in err, (words, err)
        (self.path / 'bin/virsh').unlink()
        code, _, err = run('--domain', 'vm1', '--json',
                           PATH=str(self.path / 'bin'))
        assert code == 1 and 'virsh is missing' in err, err

    def test_a_stream_of_a_domain_ends_with_it(self):
        answer = json.dumps({'return': [block()]})
        runs = json.dumps({'return': {'id': 'm0', 'runs': [
            {'offset': 0, 'size': 1 << 30, 'private': False}]}})
        status, out, err = run(
            '--domain', 'vm', '--json', '--interval', '0.1', **self.virsh(
                query_guest_memfd=f'{answer}\n{answer}\nerror: failed to get '
                "domain 'vm'", query_guest_memfd_map=runs))
        assert status == 3 and out.count('\n') == 2, (status, out, err)
        assert err == 'gmem-top: domain vm: the VM is gone\n', err

    def test_options_that_exclude_each_other(self):
        for args in (('--json', '--openmetrics', '-', 'x'), (),
                     ('--domain', 'vm', 'x'),
                     ('--interval', '4000', '--json', 'x')):
            assert run(*args)[0] == 2, args


if __name__ == '__main__':
    tap.main()
