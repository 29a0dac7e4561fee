/*
 * guest_memfd blocks: QEMU's own access to memory that is converted in place
 *
 * A page that is private is gone from QEMU's mapping: to touch it is SIGBUS.
 * Translation of addresses, which nearly all accesses go through, treats such a
 * page like an address where there is nothing, so that an access is an error.
 * The rest is for system/guest-memfd/sigbus.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "internal.h"

bool guest_memfd_unmaps_private(const GuestMemfd *gm)
{
    return gm->ops->driver == GUEST_MEMFD_DRIVER_KVM &&
           gm->ops->conversion == GUEST_MEMFD_CONVERSION_IN_PLACE;
}

bool guest_memfd_host_access(GuestMemfd *gm, uint64_t offset, uint64_t *len)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t start = QEMU_ALIGN_DOWN(offset, page);
    uint64_t end = ROUND_UP(offset + *len, page);
    bool private;

    if (!guest_memfd_unmaps_private(gm) || !*len ||
        qatomic_read(&gm->launching)) {
        return true;
    }
    end = guest_memfd_run_at(gm, start, MIN(end, gm->size), &private);
    *len = MIN(*len, end - offset);
    return !private;
}

bool guest_memfd_check_save(hwaddr gpa, uint64_t size, Error **errp)
{
    RCU_READ_LOCK_GUARD();
    while (size) {
        MemoryRegionSection s = memory_region_find(get_system_memory(), gpa,
                                                   size);
        GuestMemfd *gm = s.mr ? guest_memfd_from_mr(s.mr) : NULL;
        uint64_t page = qemu_real_host_page_size();
        uint64_t start, end, len;
        bool private = false;

        if (!s.mr) {
            return true;
        }
        len = int128_get64(s.size);
        start = QEMU_ALIGN_DOWN(s.offset_within_region, page);
        end = ROUND_UP(s.offset_within_region + len, page);
        if (gm) {
            private = guest_memfd_next_run(gm, true, &start, end);
        }
        memory_region_unref(s.mr);
        if (private) {
            error_setg(errp, "memory cannot be saved: offset 0x%" PRIx64
                       " of '%s' is private to the guest; save it from inside "
                       "the guest, or let the guest share it first", start,
                       gm->id);
            return false;
        }
        len += s.offset_within_address_space - gpa;
        gpa += len;
        size -= len;
    }
    return true;
}
