/*
 * guest_memfd blocks: QEMU's own access to private memory
 *
 * A private page of a VM of KVM's is none of QEMU's business.  Where memory is
 * converted in place the page is gone from QEMU's mapping, and to touch it is
 * SIGBUS; with two copies the access would reach, and allocate, a page that the
 * guest does not see.  Translation of addresses, which nearly all accesses go
 * through, treats such a page like an address where there is nothing, so that an
 * access is an error.  The rest is for system/guest-memfd/sigbus.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "system/ramblock.h"
#include "internal.h"

bool guest_memfd_gives_back(const GuestMemfd *gm)
{
    const uint32_t flags = RAM_SHARED | RAM_NORESERVE;

    return gm->ops->conversion == GUEST_MEMFD_CONVERSION_TWO_COPY &&
           gm->page_size > qemu_real_host_page_size() && gm->rb->fd >= 0 &&
           (gm->rb->flags & flags) == flags;
}

bool guest_memfd_host_access(GuestMemfd *gm, uint64_t offset, uint64_t *len)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t end;
    bool private;

    if (gm->ops->driver != GUEST_MEMFD_DRIVER_KVM || !*len) {
        return true;
    }
    if (offset >= gm->size) {
        return false;
    }
    end = offset + MIN(*len, gm->size - offset);
    end = guest_memfd_run_at(gm, QEMU_ALIGN_DOWN(offset, page),
                             ROUND_UP(end, page), &private);
    *len = MIN(*len, end - offset);
    return !private || guest_memfd_before_launch();
}

/*
 * The first private page in a range of a block, if there is one.  What is not
 * plugged has nothing in it.
 */
static bool find_private(GuestMemfd *gm, uint64_t *start, uint64_t end)
{
    uint64_t page = qemu_real_host_page_size(), stop;
    bool found = false;

    *start = QEMU_ALIGN_DOWN(*start, page);
    end = ROUND_UP(end, page);
    state_lock(gm);
    while (!found && (stop = guest_memfd_map_next(gm->map, true, start, end))) {
        found = guest_memfd_plugged_run(gm, start, stop);
    }
    state_unlock(gm);
    return found;
}

bool guest_memfd_check_save(hwaddr gpa, uint64_t size, Error **errp)
{
    RCU_READ_LOCK_GUARD();
    while (size) {
        /* A range that wraps goes on at 0, as pmemsave does. */
        uint64_t len = gpa ? MIN(size, -gpa) : size;
        MemoryRegionSection s = memory_region_find(get_system_memory(), gpa,
                                                   len);
        GuestMemfd *gm = s.mr ? guest_memfd_from_mr(s.mr) : NULL;
        uint64_t start = s.offset_within_region;
        bool private = false;

        if (s.mr) {
            uint64_t found = int128_get64(s.size);

            private = gm && find_private(gm, &start, start + found);
            memory_region_unref(s.mr);
            len = s.offset_within_address_space - gpa + found;
        }
        if (private) {
            error_setg(errp, "memory cannot be saved: offset 0x%" PRIx64
                       " of '%s' is private to the guest; save it from inside "
                       "the guest, or let the guest share it first", start,
                       gm->id);
            return false;
        }
        gpa += len;
        size -= len;
    }
    return true;
}
