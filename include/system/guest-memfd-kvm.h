/*
 * guest_memfd memory: what KVM does with it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_KVM_H
#define SYSTEM_GUEST_MEMFD_KVM_H

#include "system/guest-memfd-driver.h"

struct KVMMemoryListener;
struct KVMSlot;
struct kvm_run;

/**
 * guest_memfd_kvm_choose - the driver for memory that this VM's KVM converts
 *
 * @wish: how to convert; 'auto' is what convert-in-place= of the confidential
 *        guest says, else the best that the kernel has
 * @ops: out: NULL for 'none': memory that is always shared needs no driver, and
 *       no block
 * @errp: names what the kernel lacks, and the remedy
 *
 * Tries what the VM can do.  Returns: false on error.
 */
bool guest_memfd_kvm_choose(GuestMemfdConversion wish,
                            const GuestMemfdOps **ops, Error **errp);

/**
 * guest_memfd_kvm_check_machine - can convert-in-place= be honoured?
 *
 * @errp: names the option of the confidential guest, what the kernel lacks, and
 *        the remedy
 *
 * Tries what the VM can do.  Called when KVM has created the VM, so that it is
 * refused whatever memory there is.
 *
 * Returns: false on error.
 */
bool guest_memfd_kvm_check_machine(Error **errp);

/** guest_memfd_in_place_ops - the driver of kernels that convert in place */
extern const GuestMemfdOps guest_memfd_in_place_ops;

/**
 * guest_memfd_in_place_probe - can pages of this file be converted in place?
 *
 * @fd: a guest_memfd, new, whose first page is shared
 *
 * Returns: 0 if they can; -ENOTTY or -EINVAL if not; another errno if the kernel
 * could not say.
 */
int guest_memfd_in_place_probe(int fd);

/**
 * struct GuestMemfdPages - where the pages of a mapped guest_memfd come from
 *
 * @size: bytes; of hugetlb one that the host offers, else the host's page size
 * @mounted: the kernel is given a mounted filesystem, not a page order
 * @mount: a file descriptor of its root directory, if @mounted
 */
typedef struct GuestMemfdPages {
    GuestMemfdProvider provider;
    uint64_t size;
    bool mounted;
    int mount;
} GuestMemfdPages;

/**
 * guest_memfd_kvm_has_pages - can a mapped guest_memfd have such pages?
 *
 * Tries what the VM's kernel can do; what it speaks, once.  Of a pool that is short
 * the creation of the file tells.
 *
 * Returns: false, with the reason and the remedy in @errp, if it cannot.
 */
bool guest_memfd_kvm_has_pages(const GuestMemfdPages *pages, Error **errp);

/**
 * guest_memfd_kvm_create - create the guest_memfd of a block
 *
 * @ops: from guest_memfd_kvm_choose(), NULL included.  Two-copy: a file for
 *       private pages, which cannot be mapped.  Else a file that is mapped, and
 *       holds all of the memory
 * @pages: of a file that is mapped; NULL: the kernel's own pages
 * @size: bytes, a multiple of the size of these pages
 * @private: the state of pages of a mapped file
 *
 * Returns: a file descriptor; -1 on error.
 */
int guest_memfd_kvm_create(const GuestMemfdOps *ops,
                           const GuestMemfdPages *pages, uint64_t size,
                           bool private, Error **errp);

#define GUEST_MEMFD_RESTRUCTURE_FILE \
    "/sys/module/kvm/parameters/gmem_restructure"

/**
 * guest_memfd_kvm_restructure - how does the kernel split huge pages?
 *
 * @file: GUEST_MEMFD_RESTRUCTURE_FILE, which kernels have that split in more than one way
 *
 * Returns: false if the file does not say.
 */
bool guest_memfd_kvm_restructure(const char *file, GuestMemfdRestructure *how);

/**
 * guest_memfd_kvm_honours_policy - does a mapped guest_memfd follow mbind()?
 */
bool guest_memfd_kvm_honours_policy(void);

/**
 * guest_memfd_new_kvm - create the guest_memfd of a RAM_GUEST_MEMFD block
 *
 * For blocks that are not a memory-backend-guest-memfd (all memory of TDX and
 * SEV-SNP machines, ROMs included): everything starts private.  Where the kernel
 * converts in place, the file replaces what @rb->host shows, and what @rb->fd is
 * if that is a memfd.
 *
 * Returns: the manager, with @rb->guest_memfd created, or NULL on error.
 * Without KVM this is an error.
 */
GuestMemfd *guest_memfd_new_kvm(RAMBlock *rb, Error **errp);

/**
 * guest_memfd_kvm_may_bind - may a new slot be bound to its guest_memfd?
 *
 * KVM binds a page to one slot only (EEXIST), but some pages show at several
 * addresses: those of SMRAM, for example, and whatever other address spaces
 * show.  The first slot is bound, all others use the mapping, which shows the
 * same pages while they are shared.
 *
 * @kml: the listener with all slots of an address space
 * @slot: one of them, filled in, not yet registered
 *
 * False for a slot that has none.  The caller holds the lock of the slots.
 */
bool guest_memfd_kvm_may_bind(const struct KVMMemoryListener *kml,
                              const struct KVMSlot *slot);

/**
 * guest_memfd_kvm_slot_added - tell KVM the state of pages in a new memory slot
 *
 * @offset: of the slot in the memory region, in bytes
 * @gpa, @size: where the slot is, in bytes
 *
 * Warns if KVM cannot use the huge pages of a guest_memfd there.
 *
 * Returns: 0 or a negative errno.  Called with the BQL held.
 */
int guest_memfd_kvm_slot_added(MemoryRegion *mr, uint64_t offset, hwaddr gpa,
                               uint64_t size);

/**
 * guest_memfd_kvm_free_source - free QEMU's copy of what was measured
 *
 * Does nothing if @rb maps the guest_memfd itself: then there is no copy.
 */
void guest_memfd_kvm_free_source(RAMBlock *rb);

/**
 * guest_memfd_kvm_map_gpa_range - a guest's KVM_HC_MAP_GPA_RANGE
 *
 * @gpa: guest physical address
 * @npages: pages of 4 KiB
 * @to_private: the state wanted
 *
 * Every value is the guest's and may be hostile.
 *
 * Returns: for the hypercall: 0; EAGAIN if the same may work later (a page is in
 * use, or there is not enough memory); EINVAL for all other reasons.
 */
uint64_t guest_memfd_kvm_map_gpa_range(hwaddr gpa, uint64_t npages,
                                       bool to_private);

/**
 * guest_memfd_kvm_fault - a vCPU accessed memory in the other state
 *
 * @run: of the vCPU, with KVM_EXIT_MEMORY_FAULT
 *
 * Converts it to the state of the access.  If a page is in use the vCPU may
 * fault again, about 10 s long.  Called without the BQL, in the thread of the vCPU.
 *
 * Returns: 0 to go on; a negative errno, reported, to stop the VM.
 */
int guest_memfd_kvm_fault(const struct kvm_run *run);

/**
 * guest_memfd_kvm_run_failed - say which memory it was that failed
 *
 * @run: of the vCPU
 * @err: what KVM_RUN returned; nothing is said except for -EHWPOISON, -ENOMEM
 *       and -ENOSPC with KVM_EXIT_MEMORY_FAULT
 *
 * Called without the BQL.
 */
void guest_memfd_kvm_run_failed(const struct kvm_run *run, int err);

#endif
