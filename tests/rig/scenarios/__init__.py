# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rig runs in L1.

A scenario is a function of a booted L1, a Tap that it gives results to, and the
configuration of its VM. No module here imports another one: what they share is in
rig.lib.
"""

from rig.scenarios import (apparmor, descriptors, gap, guest, hugepage, hugepage_mount,
                           hugepage_vm, inplace, inplace_life, launch, lifecycle, memory,
                           refusals, selftests, vhost_user, virtio)


def scenarios(platform):
    """(name, function, configuration) of all that runs with an IOMMU."""
    # Huge pages of the kernel first: each page of the pools is as it was at boot.
    for module in (hugepage, selftests, guest, inplace, inplace_life, hugepage_vm,
                   hugepage_mount, descriptors, gap, memory, lifecycle, refusals, virtio,
                   vhost_user, launch, apparmor):
        yield from module.scenarios(platform)
