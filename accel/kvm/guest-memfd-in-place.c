/*
 * guest_memfd blocks: kernels that convert in place
 *
 * The guest_memfd is mapped, and holds shared pages as well as private ones.
 * KVM_SET_MEMORY_ATTRIBUTES2 on the file says which is which: what becomes
 * private is unmapped from every process, and refused as long as a page of it
 * is in use.  A page stays the same page, so no hole is ever punched.
 *
 * The interface is not in a released kernel yet: "KVM: guest_memfd: In-place
 * conversion support" (v8, 2026-06) on the kvm mailing list.  Capability numbers
 * differ between trees, so the ioctl itself is tried.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/kvm.h>
#include "system/guest-memfd-kvm.h"
#include "system/ramblock.h"

#ifndef KVM_SET_MEMORY_ATTRIBUTES2
struct kvm_memory_attributes2 {
    uint64_t offset;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
    uint64_t error_offset;
    uint64_t reserved[11];
};

#define KVM_SET_MEMORY_ATTRIBUTES2 \
    _IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#endif

QEMU_BUILD_BUG_ON(sizeof(struct kvm_memory_attributes2) != 128);

static int set_attributes(int fd, uint64_t offset, uint64_t size, bool private,
                          uint64_t *error_offset)
{
    struct kvm_memory_attributes2 attributes = {
        .offset = offset,
        .size = size,
        .attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
        .error_offset = offset,
    };

    if (!RETRY_ON_EINTR(ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &attributes))) {
        return 0;
    }
    *error_offset = attributes.error_offset;
    return -errno;
}

int guest_memfd_in_place_probe(int fd)
{
    uint64_t unused;

    return set_attributes(fd, 0, qemu_real_host_page_size(), false, &unused);
}

/*
 * A kernel converts all of a range or nothing, but huge pages one by one: those
 * before the one that it failed at are converted, and stay so.  It may name the
 * start of that huge page, which can be before the range.
 *
 * A page that is in use is released soon, and the rest converted then.  After
 * another failure nothing is to have changed: what was converted goes back, and
 * the pages that were not are in that state already.
 */
static void stopped(GuestMemfd *gm, uint64_t offset, uint64_t size,
                    bool to_private, int ret, uint64_t error_offset,
                    GuestMemfdStop *stop)
{
    int fd = guest_memfd_mr(gm)->ram_block->guest_memfd;
    uint64_t page = guest_memfd_huge_page_size(gm);
    uint64_t unused;

    if (error_offset < offset || error_offset >= offset + size) {
        error_offset = offset;
    }
    stop->held = error_offset;
    if (page > qemu_real_host_page_size() &&
        (ret == -EAGAIN ||
         set_attributes(fd, offset, size, !to_private, &unused))) {
        stop->done = MAX(offset, QEMU_ALIGN_DOWN(error_offset, page));
    }
}

static int in_place_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            bool to_private, GuestMemfdStop *stop)
{
    RAMBlock *rb = guest_memfd_mr(gm)->ram_block;
    uint64_t error_offset = offset;
    int ret;

    ret = set_attributes(rb->guest_memfd, offset, size, to_private,
                         &error_offset);
    if (ret) {
        stopped(gm, offset, size, to_private, ret, error_offset, stop);
        return ret;
    }
    if (!to_private) {
        ret = guest_memfd_restore_mapping(gm, offset, size);
        if (ret && set_attributes(rb->guest_memfd, offset, size, true,
                                  &error_offset)) {
            stop->done = offset + size;
        }
    }
    return ret;
}

const GuestMemfdOps guest_memfd_in_place_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = in_place_convert,
};
