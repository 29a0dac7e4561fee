/*
 * guest_memfd blocks: the kernel
 *
 * One driver per generation of the kernel's interface (Documentation/virt/kvm/
 * api.rst, 4.141 to 4.143):
 *
 *  in-place  the guest_memfd is mapped, and its pages are shared or private
 *            (guest-memfd-in-place.c)
 *  two-copy  shared pages are in the RAMBlock's mapping, private pages in the
 *            guest_memfd, and KVM_SET_MEMORY_ATTRIBUTES on the VM says which of
 *            them a guest physical address shows (6.8)
 *
 * Where the VM has no private memory, a guest_memfd that is mapped is ordinary
 * RAM (6.18): there is nothing to drive, and no block.  guest-memfd-file.c creates
 * the files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/range.h"
#include "qemu/rcu.h"
#include "hw/boards.h"
#include "system/address-spaces.h"
#include "system/confidential-guest-support.h"
#include "system/guest-memfd-kvm.h"
#include "system/kvm.h"
#include "system/kvm_int.h"
#include "system/ramblock.h"
#include "system/system.h"

#define SHARED_FILE_FLAGS (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

/* What this VM's KVM can do.  Capabilities depend on the type of the VM. */
typedef struct KVMGuestMemfdCaps {
    bool files;                 /* slots with a guest_memfd */
    uint64_t file_flags;        /* GUEST_MEMFD_FLAG_* */
    bool private_attribute;     /* KVM_MEMORY_ATTRIBUTE_PRIVATE on the VM */
    bool in_place;              /* KVM_SET_MEMORY_ATTRIBUTES2 on its files */
} KVMGuestMemfdCaps;

/*
 * A new file, whose page is shared, is told that it is.  A probe that fails for
 * another reason is an error: to go on would be to take something weaker.
 */
static bool probe_in_place(KVMGuestMemfdCaps *caps, Error **errp)
{
    int fd, ret;

    if (!caps->files ||
        (caps->file_flags & SHARED_FILE_FLAGS) != SHARED_FILE_FLAGS) {
        return true;
    }
    fd = guest_memfd_kvm_create(NULL, NULL, qemu_real_host_page_size(), false,
                                errp);
    if (fd < 0) {
        return false;
    }
    ret = guest_memfd_in_place_probe(fd);
    close(fd);
    caps->in_place = !ret;
    if (ret && ret != -ENOTTY && ret != -EINVAL) {
        error_setg_errno(errp, -ret, "cannot find out whether KVM converts "
                         "memory in place");
        return false;
    }
    return true;
}

static bool probe(KVMGuestMemfdCaps *caps, Error **errp)
{
    KVMState *s = kvm_state;
    int flags = kvm_vm_check_extension(s, KVM_CAP_GUEST_MEMFD_FLAGS);
    int attributes = kvm_vm_check_extension(s, KVM_CAP_MEMORY_ATTRIBUTES);

    *caps = (KVMGuestMemfdCaps) {
        .files = kvm_vm_check_extension(s, KVM_CAP_GUEST_MEMFD) > 0 &&
                 kvm_vm_check_extension(s, KVM_CAP_USER_MEMORY2) > 0,
        .file_flags = MAX(flags, 0),
        .private_attribute = MAX(attributes, 0) & KVM_MEMORY_ATTRIBUTE_PRIVATE,
    };
    return probe_in_place(caps, errp);
}

typedef struct AttributesRequest {
    const MemoryRegion *mr;
    uint64_t start;
    uint64_t end;
    bool private;
    int ret;
} AttributesRequest;

/* QEMU's own function logs each refusal: a guest could fill the log. */
static int set_attributes(hwaddr gpa, uint64_t size, bool private)
{
    struct kvm_memory_attributes attributes = {
        .address = gpa,
        .size = size,
        .attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
    };

    return kvm_vm_ioctl(kvm_state, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
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

/*
 * Free what is shared of a range whose pages are private now.  A hole in a
 * hugetlb file is a huge page or nothing: those at the ends, which may be
 * mixed, stay until all of their pages have become private.
 */
static void free_shared_copy(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    RAMBlock *rb = guest_memfd_mr(gm)->ram_block;
    uint64_t page = qemu_ram_pagesize(rb);
    uint64_t start = QEMU_ALIGN_DOWN(offset, page);
    uint64_t end = ROUND_UP(offset + size, page);

    if (page > qemu_real_host_page_size()) {
        if (!guest_memfd_gives_back(gm)) {
            return;
        }
        if (!guest_memfd_all_private(gm, start, page)) {
            start += page;
        }
        if (start < end && !guest_memfd_all_private(gm, end - page, page)) {
            end -= page;
        }
        if (start == end) {
            return;
        }
        guest_memfd_giving_back(gm, start, end - start);
    }
    ram_block_discard_range(rb, start, end - start);
}

/*
 * Huge pages come from a pool, which may have given those that were freed to
 * another process.  An access to the memory gets a SIGBUS then, so fail before.
 */
static int allocate_huge_pages(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    RAMBlock *rb = guest_memfd_mr(gm)->ram_block;
    uint64_t page = qemu_ram_pagesize(rb);
    uint64_t start = QEMU_ALIGN_DOWN(offset, page);

    if (page == qemu_real_host_page_size() || (rb->flags & RAM_READONLY)) {
        return 0;
    }
    return guest_memfd_take_back(gm, start,
                                 ROUND_UP(offset + size, page) - start);
}

/*
 * Only runs that change get here, so the opposite undoes what was done.  If that
 * fails, too, the range counts as converted: some address shows it so.
 */
static int two_copy_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            bool to_private, GuestMemfdStop *stop)
{
    int ret = to_private ? 0 : allocate_huge_pages(gm, offset, size);

    if (!ret) {
        ret = set_attributes_of_block(gm, offset, size, to_private);
        if (ret && set_attributes_of_block(gm, offset, size, !to_private)) {
            stop->done = offset + size;
            return ret;
        }
    }
    if (ret && !to_private) {
        free_shared_copy(gm, offset, size);
    }
    return ret;
}

/* Free the copy that lost. */
static void two_copy_converted(GuestMemfd *gm, uint64_t offset, uint64_t size,
                               bool to_private)
{
    if (to_private) {
        free_shared_copy(gm, offset, size);
    } else {
        ram_block_discard_guest_memfd_range(guest_memfd_mr(gm)->ram_block,
                                            offset, size);
    }
}

static const GuestMemfdOps two_copy_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_TWO_COPY,
    .convert = two_copy_convert,
    .converted = two_copy_converted,
};

static const GuestMemfdOps *need_in_place(const KVMGuestMemfdCaps *caps,
                                          Error **errp)
{
    if (!caps->in_place) {
        error_setg(errp, "conversion=in-place needs KVM_SET_MEMORY_ATTRIBUTES2 "
                   "(in no released kernel), which this kernel's KVM does not "
                   "offer to this type of VM; use conversion=auto");
        return NULL;
    }
    return &guest_memfd_in_place_ops;
}

/*
 * Locked pages cannot be freed one by one: the copy that is not used would stay
 * where it is, and the log would tell of each attempt.
 */
static bool check_mlock(Error **errp)
{
    if (!should_mlock(mlock_state)) {
        return true;
    }
    error_setg(errp, "conversion=two-copy: -overcommit mem-lock=%s would lock "
               "the copy that is not used, too; use mem-lock=off",
               is_mlock_on_fault(mlock_state) ? "on-fault" : "on");
    return false;
}

static const GuestMemfdOps *need_two_copy(const KVMGuestMemfdCaps *caps,
                                          Error **errp)
{
    if (caps->in_place && !caps->private_attribute) {
        error_setg(errp, "conversion=two-copy needs KVM_MEMORY_ATTRIBUTE_"
                   "PRIVATE, which this kernel's KVM does not have, because it "
                   "converts in place; use conversion=auto or in-place");
        return NULL;
    }
    if (!caps->files || !caps->private_attribute) {
        error_setg(errp, "conversion=two-copy needs guest_memfd and "
                   "KVM_MEMORY_ATTRIBUTE_PRIVATE (Linux 6.8), which this "
                   "kernel's KVM does not offer to this type of VM; use a "
                   "confidential machine, conversion=none or driver=emulated");
        return NULL;
    }
    return check_mlock(errp) ? &two_copy_ops : NULL;
}

static bool need_shared_files(const KVMGuestMemfdCaps *caps, Error **errp)
{
    if (!caps->files ||
        (caps->file_flags & SHARED_FILE_FLAGS) != SHARED_FILE_FLAGS) {
        error_setg(errp, "conversion=none needs GUEST_MEMFD_FLAG_MMAP and "
                   "GUEST_MEMFD_FLAG_INIT_SHARED (Linux 6.18), which this "
                   "kernel's KVM does not offer to this type of VM; use "
                   "driver=emulated or memory-backend-memfd");
        return false;
    }
    return true;
}

/* convert-in-place= of the confidential guest; auto: it says nothing */
static OnOffAuto machine_wish(void)
{
    return current_machine && current_machine->cgs ?
           current_machine->cgs->convert_in_place : ON_OFF_AUTO_AUTO;
}

/* Memory that can be private. */
static const GuestMemfdOps *need_private(const KVMGuestMemfdCaps *caps,
                                         Error **errp)
{
    OnOffAuto wish = machine_wish();
    bool in_place = wish == ON_OFF_AUTO_AUTO ? caps->in_place :
                                               wish == ON_OFF_AUTO_ON;

    return in_place ? need_in_place(caps, errp) : need_two_copy(caps, errp);
}

/* Does an object say the same as the confidential guest? */
static bool check_wish(GuestMemfdConversion wish, Error **errp)
{
    OnOffAuto in_place = machine_wish();

    if ((wish == GUEST_MEMFD_CONVERSION_IN_PLACE &&
         in_place == ON_OFF_AUTO_OFF) ||
        (wish == GUEST_MEMFD_CONVERSION_TWO_COPY &&
         in_place == ON_OFF_AUTO_ON)) {
        error_setg(errp, "conversion=%s contradicts convert-in-place=%s of the "
                   "confidential guest '%s'; leave one of them out",
                   GuestMemfdConversion_str(wish), OnOffAuto_str(in_place),
                   object_get_canonical_path_component(
                       OBJECT(current_machine->cgs)));
        return false;
    }
    return true;
}

bool guest_memfd_kvm_check_machine(Error **errp)
{
    OnOffAuto wish = machine_wish();
    KVMGuestMemfdCaps caps;
    const char *id;

    if (wish == ON_OFF_AUTO_AUTO) {
        return true;
    }
    if (!probe(&caps, errp)) {
        return false;
    }
    id = object_get_canonical_path_component(OBJECT(current_machine->cgs));
    if (wish == ON_OFF_AUTO_ON && !caps.in_place) {
        error_setg(errp, "convert-in-place=on of '%s' needs "
                   "KVM_SET_MEMORY_ATTRIBUTES2 (in no released kernel), which "
                   "this kernel's KVM does not offer to this type of VM; %s",
                   id, caps.private_attribute ? "use convert-in-place=off" :
                   "leave the option out");
        return false;
    }
    if (wish == ON_OFF_AUTO_OFF && !(caps.files && caps.private_attribute)) {
        error_setg(errp, "convert-in-place=off of '%s' needs guest_memfd and "
                   "KVM_MEMORY_ATTRIBUTE_PRIVATE (Linux 6.8), which this "
                   "kernel's KVM does not offer to this type of VM; %s",
                   id, caps.in_place ? "use convert-in-place=on" :
                   "leave the option out");
        return false;
    }
    return true;
}

bool guest_memfd_kvm_choose(GuestMemfdConversion wish,
                            const GuestMemfdOps **ops, Error **errp)
{
    KVMGuestMemfdCaps caps;

    if (!check_wish(wish, errp) || !probe(&caps, errp)) {
        return false;
    }
    if (wish == GUEST_MEMFD_CONVERSION_AUTO &&
        !caps.in_place && !caps.private_attribute) {
        wish = GUEST_MEMFD_CONVERSION_NONE;
    }
    switch (wish) {
    case GUEST_MEMFD_CONVERSION_AUTO:
        *ops = need_private(&caps, errp);
        break;
    case GUEST_MEMFD_CONVERSION_TWO_COPY:
        *ops = need_two_copy(&caps, errp);
        break;
    case GUEST_MEMFD_CONVERSION_IN_PLACE:
        *ops = need_in_place(&caps, errp);
        break;
    case GUEST_MEMFD_CONVERSION_NONE:
        *ops = NULL;
        return need_shared_files(&caps, errp);
    default:
        g_assert_not_reached();
    }
    return *ops;
}

/*
 * The memory is in the guest_memfd alone.  @rb->fd keeps its number, for those
 * who know it.
 */
static bool replace_mapping(RAMBlock *rb, Error **errp)
{
    const char *name = memory_region_name(rb->mr);

    if (qemu_ram_pagesize(rb) != qemu_real_host_page_size()) {
        error_setg(errp, "'%s' has huge pages, which the guest_memfd of this "
                   "kernel, converted in place, has not; leave them out", name);
        return false;
    }
    if (rb->flags & (RAM_NAMED_FILE | RAM_PMEM | RAM_READONLY)) {
        error_setg(errp, "'%s' is a file, but this kernel converts memory in "
                   "place, so that it must be in a guest_memfd; use "
                   "memory-backend-guest-memfd", name);
        return false;
    }
    if (mmap(rb->host, qemu_ram_get_max_length(rb), PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, rb->guest_memfd, 0) != rb->host ||
        (rb->fd >= 0 && dup3(rb->guest_memfd, rb->fd, O_CLOEXEC) < 0)) {
        error_setg_errno(errp, errno, "cannot map the guest_memfd of '%s'",
                         name);
        return false;
    }
    rb->fd_offset = 0;
    rb->fd_is_guest_memfd = true;
    return true;
}

GuestMemfd *guest_memfd_new_kvm(RAMBlock *rb, Error **errp)
{
    const GuestMemfdOps *ops;
    KVMGuestMemfdCaps caps;
    GuestMemfd *gm = NULL;
    ERRP_GUARD();

    if (!probe(&caps, errp)) {
        return NULL;
    }
    ops = need_private(&caps, errp);
    if (!ops) {
        error_prepend(errp, "'%s': ", memory_region_name(rb->mr));
        return NULL;
    }
    rb->guest_memfd = guest_memfd_kvm_create(ops, NULL,
                                             qemu_ram_get_max_length(rb), true,
                                             errp);
    if (rb->guest_memfd < 0) {
        return NULL;
    }
    if (!guest_memfd_is_mapped(ops) || replace_mapping(rb, errp)) {
        gm = guest_memfd_new(rb, memory_region_name(rb->mr), ops, true, errp);
    }
    if (!gm) {
        close(rb->guest_memfd);
        rb->guest_memfd = -1;
    }
    return gm;
}

void guest_memfd_kvm_free_source(RAMBlock *rb)
{
    if (!rb->fd_is_guest_memfd) {
        ram_block_discard_range(rb, 0, rb->max_length);
    }
}

bool guest_memfd_kvm_may_bind(const KVMMemoryListener *kml,
                              const KVMSlot *slot)
{
    if (kml->as_id || slot->guest_memfd < 0) {
        return false;
    }
    for (unsigned i = 0; i < kml->nr_slots_allocated; i++) {
        const KVMSlot *s = &kml->slots[i];

        if (s != slot && s->memory_size &&
            s->guest_memfd == slot->guest_memfd &&
            ranges_overlap(s->guest_memfd_offset, s->memory_size,
                           slot->guest_memfd_offset, slot->memory_size)) {
            return false;
        }
    }
    return true;
}

/*
 * KVM maps a huge page as one only if it begins at a multiple of its size in the
 * guest too.  The mapping is aligned to it.
 */
static void check_congruent(MemoryRegion *mr, uint64_t offset, hwaddr gpa,
                            uint64_t size)
{
    uint64_t page = qemu_ram_pagesize(mr->ram_block);

    if (size >= page && (gpa - offset) % page) {
        g_autofree char *page_str = size_to_str(page);

        warn_report_once("'%s' offset 0x%" PRIx64 " is at guest physical "
                         "address 0x%" PRIx64 ": KVM maps its huge pages in "
                         "smaller pages, because the difference is not a "
                         "multiple of %s; change the size of the memory before "
                         "it, or max-ram-below-4g= of the machine",
                         memory_region_name(mr), offset, (uint64_t)gpa,
                         page_str);
    }
}

/*
 * Attributes outlive memory slots, so shared runs are told too: a private page
 * may have been here before.
 */
static int slot_run(uint64_t offset, uint64_t size, bool private, void *opaque)
{
    const hwaddr *to_gpa = opaque;

    return set_attributes(*to_gpa + offset, size, private);
}

int guest_memfd_kvm_slot_added(MemoryRegion *mr, uint64_t offset, hwaddr gpa,
                               uint64_t size)
{
    hwaddr to_gpa = gpa - offset;
    RAMBlock *rb = mr->ram_block;

    if (rb->fd_is_guest_memfd) {
        check_congruent(mr, offset, gpa, size);
        return 0;               /* the file knows the state of its pages */
    }
    return guest_memfd_foreach_run(rb->gmem, offset, size, slot_run, &to_gpa);
}
