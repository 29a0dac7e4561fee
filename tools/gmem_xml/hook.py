# SPDX-License-Identifier: GPL-2.0-or-later
"""gmem-xml as the hook onDefineDomain of KubeVirt.

KubeVirt's sidecar-shim runs onDefineDomain with the VirtualMachineInstance as
JSON and the domain as XML, and gives libvirt what that prints.  The options are
annotations of the instance.
"""

import argparse
import json
import os

from .document import XmlError

PREFIX = 'gmem-xml/'            # of annotations
FORMS = 'write it as one of '


def annotations(text):
    """Those of a VirtualMachineInstance that are ours: {option: value}."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise XmlError(f'--vmi: it is not JSON: {err}') from err
    for key in ('metadata', 'annotations'):
        if not isinstance(found, dict):
            break
        found = found.get(key) or {}
    if not isinstance(found, dict):
        raise XmlError('--vmi: it is not a VirtualMachineInstance; give it as '
                       'KubeVirt does')
    return {key[len(PREFIX):]: value for key, value in found.items()
            if key.startswith(PREFIX)}


def value_of(kind, text):
    """The value of an option, checked as on the command line."""
    if not isinstance(text, str):
        raise XmlError('its value is not a string; put it in quotes')
    try:
        value = kind.get('type', str)(text)
    except (argparse.ArgumentTypeError, ValueError) as err:
        raise XmlError(str(err)) from err
    choices = kind.get('choices', [value])
    if value not in choices:
        raise XmlError(f'{text} is none of its values; {FORMS}'
                       f'{", ".join(choices)}')
    return value


def set_options(opts, table, report):
    """Set the options of "add" from annotations."""
    kinds = {option[2:]: kind for option, kind, _ in table}
    opts.origin = {}
    for name, kind in kinds.items():
        setattr(opts, name.replace('-', '_'), kind.get('default'))
    for name, text in sorted(annotations(opts.vmi).items()):
        what = f'annotation {PREFIX}{name}'
        if name not in kinds:
            report.refuse(what, 'there is no such option',
                          FORMS + ', '.join(kinds))
            continue
        try:
            setattr(opts, name.replace('-', '_'), value_of(kinds[name], text))
            opts.origin[name] = f'{what}: {text}'
        except XmlError as err:
            report.problems.append(f'{what}: {err}')


def has_it(args, name):
    """Whether a domain that KubeVirt defines again has the memory already.

    KubeVirt keeps <qemu:commandline> of a domain and drops our mark."""
    return any(each.get('') == 'memory-backend-guest-memfd' and
               each.get('id') == name for each in args.of('object')) and \
        any(each.get('memory-backend') == name
            for each in args.of('machine'))


def tell_the_shim(text):
    """The shim drops our standard error; its own is the container's log."""
    try:
        theirs = os.open(f'/proc/{os.getppid()}/fd/2',
                         os.O_WRONLY | os.O_APPEND)
    except OSError:
        return
    try:
        if not os.path.samestat(os.fstat(theirs), os.fstat(2)):
            os.write(theirs, f'gmem-xml: {text}\n'.encode())
    except OSError:
        pass                    # it has been said on ours
    finally:
        os.close(theirs)
