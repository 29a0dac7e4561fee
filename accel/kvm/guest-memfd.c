/*
 * guest_memfd blocks: the kernel
 *
 * The driver for memory whose guest_memfd QEMU made itself (RAM_GUEST_MEMFD:
 * TDX, SEV-SNP): shared pages are in the RAMBlock's mapping, private pages in
 * the guest_memfd, and KVM_SET_MEMORY_ATTRIBUTES on the VM says which of them
 * a guest physical address shows (Documentation/virt/kvm/api.rst, 4.141).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "system/address-spaces.h"
#include "system/guest-memfd.h"
#include "system/kvm.h"
#include "system/ramblock.h"

typedef struct AttributesRequest {
    const MemoryRegion *mr;
    uint64_t start;
    uint64_t end;
    bool private;
    int ret;
} AttributesRequest;

static int set_attributes(hwaddr gpa, uint64_t size, bool private)
{
    return private ? kvm_set_memory_attributes_private(gpa, size) :
                     kvm_set_memory_attributes_shared(gpa, size);
}

static bool set_attributes_in_range(Int128 start, Int128 len,
                                    const MemoryRegion *mr,
                                    hwaddr offset_in_region, void *opaque)
{
    AttributesRequest *req = opaque;
    uint64_t s = MAX(req->start, offset_in_region);
    uint64_t e = MIN(req->end, offset_in_region + int128_get64(len));

    if (mr != req->mr || s >= e) {
        return false;
    }
    req->ret = set_attributes(int128_get64(start) + s - offset_in_region,
                              e - s, req->private);
    return req->ret != 0;
}

/*
 * Attributes belong to guest physical addresses, the state of a page to its
 * block: every address that shows the page gets the attribute.
 */
static int set_attributes_of_block(GuestMemfd *gm, uint64_t offset,
                                   uint64_t size, bool private)
{
    AttributesRequest req = {
        .mr = guest_memfd_mr(gm),
        .start = offset,
        .end = offset + size,
        .private = private,
    };

    RCU_READ_LOCK_GUARD();
    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            set_attributes_in_range, &req);
    return req.ret;
}

/* Only runs that change get here, so the opposite undoes what was done. */
static int kvm_two_copy_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                                bool to_private, uint64_t *error_offset)
{
    int ret = set_attributes_of_block(gm, offset, size, to_private);

    if (ret) {
        set_attributes_of_block(gm, offset, size, !to_private);
    }
    return ret;
}

static void kvm_two_copy_converted(GuestMemfd *gm, uint64_t offset,
                                   uint64_t size, bool to_private)
{
    RAMBlock *rb = guest_memfd_mr(gm)->ram_block;

    if (!to_private) {
        ram_block_discard_guest_memfd_range(rb, offset, size);
    } else if (qemu_ram_pagesize(rb) == qemu_real_host_page_size()) {
        ram_block_discard_range(rb, offset, size);
    }
}

static const GuestMemfdOps kvm_two_copy_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_TWO_COPY,
    .convert = kvm_two_copy_convert,
    .converted = kvm_two_copy_converted,
};

GuestMemfd *guest_memfd_new_kvm(RAMBlock *rb, Error **errp)
{
    return guest_memfd_new(rb, memory_region_name(rb->mr), &kvm_two_copy_ops,
                           true, errp);
}

typedef struct SlotRequest {
    uint64_t offset;
    hwaddr gpa;
} SlotRequest;

/*
 * Attributes outlive memory slots, so shared runs are told too: a private page
 * may have been here before.
 */
static int slot_run(uint64_t offset, uint64_t size, bool private, void *opaque)
{
    const SlotRequest *slot = opaque;

    return set_attributes(slot->gpa + offset - slot->offset, size, private);
}

int guest_memfd_kvm_slot_added(MemoryRegion *mr, uint64_t offset, hwaddr gpa,
                               uint64_t size)
{
    SlotRequest slot = { .offset = offset, .gpa = gpa };

    return guest_memfd_foreach_run(guest_memfd_from_mr(mr), offset, size,
                                   slot_run, &slot);
}
