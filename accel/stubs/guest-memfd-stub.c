/*
 * guest_memfd blocks without KVM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "system/guest-memfd-kvm.h"
#include "system/ramblock.h"

GuestMemfd *guest_memfd_new_kvm(RAMBlock *rb, Error **errp)
{
    error_setg(errp, "private guest memory for '%s' needs KVM",
               memory_region_name(rb->mr));
    return NULL;
}

bool guest_memfd_kvm_choose(GuestMemfdConversion wish,
                            const GuestMemfdOps **ops, Error **errp)
{
    g_assert_not_reached();
}

bool guest_memfd_kvm_has_pages(const GuestMemfdPages *pages, Error **errp)
{
    g_assert_not_reached();
}

int guest_memfd_kvm_create(const GuestMemfdOps *ops,
                           const GuestMemfdPages *pages, uint64_t size,
                           bool private, Error **errp)
{
    g_assert_not_reached();
}

bool guest_memfd_kvm_restructure(const char *file, GuestMemfdRestructure *how)
{
    g_assert_not_reached();
}

bool guest_memfd_kvm_honours_policy(void)
{
    g_assert_not_reached();
}
