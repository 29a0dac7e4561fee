/*
 * guest_memfd blocks: who asks for a conversion
 *
 * Turns guest physical addresses, or a part of a block, into the pieces of a
 * transaction (system/guest-memfd/convert.c).  What a guest or a client sends
 * may be anything: all of it is checked here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "internal.h"
#include "trace.h"

/* Can the memory at @section become what is asked?  Adds a piece if it does. */
static int add_section(GArray *pieces, const MemoryRegionSection *section,
                       bool to_private)
{
    GuestMemfd *gm = guest_memfd_from_mr(section->mr);
    GuestMemfdPiece p = { .gm = gm, .start = section->offset_within_region };

    if (gm) {
        uint64_t page = qemu_real_host_page_size();

        p.end = p.start + int128_get64(section->size);
        if (!QEMU_IS_ALIGNED(p.start | p.end, page)) {
            return -EINVAL;
        }
        g_array_append_val(pieces, p);
        return 0;
    }
    if (!to_private && !memory_region_is_ram(section->mr) &&
        !memory_region_is_romd(section->mr)) {
        return 0;
    }
    return -EINVAL;
}

int guest_memfd_collect(GArray *pieces, GPtrArray *regions, hwaddr gpa,
                        uint64_t size, bool to_private)
{
    hwaddr last = gpa + size - 1;

    if (!size || last < gpa ||
        !QEMU_IS_ALIGNED(gpa | size, qemu_real_host_page_size())) {
        return -EINVAL;
    }
    for (;;) {
        MemoryRegionSection s = memory_region_find(get_system_memory(), gpa,
                                                   last - gpa + 1);
        hwaddr stop;
        int ret;

        if (!s.mr) {
            return to_private ? -EINVAL : 0;
        }
        g_ptr_array_add(regions, s.mr);
        if (s.offset_within_address_space > gpa && to_private) {
            return -EINVAL;
        }
        ret = add_section(pieces, &s, to_private);
        if (ret) {
            return ret;
        }
        stop = s.offset_within_address_space + int128_get64(s.size) - 1;
        if (stop >= last) {
            return 0;
        }
        gpa = stop + 1;
    }
}

typedef struct Regions {
    struct rcu_head rcu;
    GPtrArray *mrs;             /* MemoryRegion, each with a reference */
} Regions;

static void regions_free(Regions *regions)
{
    g_ptr_array_unref(regions->mrs);
    g_free(regions);
}

/*
 * Is the memory at @gpa still the only region?  Then, as long as the caller is
 * in an RCU read section, a FlatView holds a reference of its own.
 */
static bool still_mapped(Regions *regions, hwaddr gpa)
{
    MemoryRegionSection section;

    if (regions->mrs->len != 1) {
        return false;
    }
    section = memory_region_find(get_system_memory(), gpa, 1);
    memory_region_unref(section.mr);
    return section.mr == g_ptr_array_index(regions->mrs, 0);
}

/*
 * The last reference to a region that was unplugged meanwhile must go under the
 * BQL, which RCU callbacks have.  They wake a thread, so only if it may be that.
 */
static void regions_put(Regions *regions, hwaddr gpa)
{
    RCU_READ_LOCK_GUARD();
    if (bql_locked() || still_mapped(regions, gpa)) {
        regions_free(regions);
    } else {
        call_rcu(regions, regions_free, rcu);
    }
}

int guest_memfd_convert(hwaddr gpa, uint64_t size, bool to_private)
{
    g_autoptr(GArray) pieces = g_array_new(false, false,
                                           sizeof(GuestMemfdPiece));
    Regions *regions = g_new0(Regions, 1);
    int ret;

    regions->mrs = g_ptr_array_new_with_free_func(
        (GDestroyNotify)memory_region_unref);
    ret = guest_memfd_collect(pieces, regions->mrs, gpa, size, to_private);
    if (!ret) {
        ret = guest_memfd_transact(pieces, to_private, NULL);
    }
    regions_put(regions, gpa);
    trace_guest_memfd_request(gpa, size, to_private, ret);
    return ret;
}

int guest_memfd_convert_block(GuestMemfd *gm, uint64_t offset, uint64_t size,
                              bool to_private, Error **errp)
{
    g_autoptr(GArray) pieces = g_array_new(false, false, sizeof(GuestMemfdPiece));
    uint64_t page = qemu_real_host_page_size();
    GuestMemfdPiece p = { .gm = gm, .start = offset, .end = offset + size };

    if (!QEMU_IS_ALIGNED(offset, page) || !QEMU_IS_ALIGNED(size, page)) {
        error_setg(errp, "offset 0x%" PRIx64 " and size 0x%" PRIx64 " must be "
                   "multiples of the host's page size, 0x%" PRIx64, offset,
                   size, page);
        return -EINVAL;
    }
    if (!size) {
        error_setg(errp, "size must not be 0");
        return -EINVAL;
    }
    if (offset >= guest_memfd_size(gm) ||
        size > guest_memfd_size(gm) - offset) {
        error_setg(errp, "offset 0x%" PRIx64 " size 0x%" PRIx64 " is not "
                   "inside '%s', which has 0x%" PRIx64 " bytes", offset, size,
                   gm->id, guest_memfd_size(gm));
        return -EINVAL;
    }
    g_array_append_val(pieces, p);
    return guest_memfd_transact(pieces, to_private, errp);
}
