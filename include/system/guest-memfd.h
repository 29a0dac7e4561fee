/*
 * guest_memfd memory: blocks whose pages are shared or private
 *
 * One GuestMemfd belongs to each RAMBlock whose pages a guest can convert.  It
 * is the RamDiscardManager of the block's memory region ("populated" is
 * shared, "discarded" is private), remembers the state of every page, and runs
 * conversions as transactions over a driver (which changes the state of the
 * memory) and listeners (which keep DMA mappings).  docs/devel/guest-memfd.rst
 * has the whole picture.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_H
#define SYSTEM_GUEST_MEMFD_H

#include "qemu/queue.h"
#include "qom/object.h"
#include "exec/hwaddr.h"
#include "qapi/qapi-types-guest-memfd.h"
#include "system/guest-memfd-map.h"
#include "system/memory.h"

#define TYPE_GUEST_MEMFD "guest-memfd"
OBJECT_DECLARE_SIMPLE_TYPE(GuestMemfd, GUEST_MEMFD)

struct KVMMemoryListener;
struct KVMSlot;
struct kvm_run;

/**
 * struct GuestMemfdStop - where a driver stopped, as it failed
 *
 * Both are the start of the range before the call.
 *
 * @done: the end of what has been converted, and stays so: a kernel that
 *        converts huge pages does so one by one
 * @held: with -EAGAIN: the first page that somebody holds
 */
typedef struct GuestMemfdStop {
    uint64_t done;
    uint64_t held;
} GuestMemfdStop;

/**
 * struct GuestMemfdOps - what changes the state of a block's memory
 *
 * All offsets and sizes are bytes within the block, multiples of the host's
 * page size, inside the block and not empty.  Every member is called with the
 * lock of guest_memfd_lock() held and may be called without the BQL; none may
 * take the BQL.
 */
typedef struct GuestMemfdOps {
    /** @driver: the name of the option that chooses it */
    GuestMemfdDriver driver;
    /** @conversion: how it converts; never 'auto' */
    GuestMemfdConversion conversion;

    /**
     * @convert: change the state of a range
     *
     * Pages that are in that state already stay as they are.
     *
     * @stop: out, on failure, see there
     *
     * Returns: 0 or a negative errno.  -EAGAIN asks to be called again.
     */
    int (*convert)(GuestMemfd *gm, uint64_t offset, uint64_t size,
                   bool to_private, GuestMemfdStop *stop);

    /**
     * @converted: optional; everybody agreed and the map has changed
     *
     * The place to free the copy that lost.  It cannot fail any more.  Pages of
     * the range may have been in their state before.
     */
    void (*converted)(GuestMemfd *gm, uint64_t offset, uint64_t size,
                      bool to_private);
} GuestMemfdOps;

/** guest_memfd_is_mapped - is the guest_memfd mapped, and holds all pages? */
static inline bool guest_memfd_is_mapped(const GuestMemfdOps *ops)
{
    return ops->driver == GUEST_MEMFD_DRIVER_KVM &&
           ops->conversion == GUEST_MEMFD_CONVERSION_IN_PLACE;
}

/*
 * A listener is a RamDiscardListener like those of any other manager, and gets
 * more from this one:
 *  - It is called with the lock of guest_memfd_lock(), at times without the BQL.
 *    It must not take the BQL, nor call the manager except for
 *    guest_memfd_next_shared() and guest_memfd_listener_stale().
 *  - Populate may meet parts that are mapped, discard parts that are not.
 *  - When discard returns, the hardware (IOMMU, IOTLB, remote peer) has let go.
 *  - On failure either may leave any part of the section mapped or not.  It is
 *    asked again for what is shared, soon or before the next conversion.
 *  - What lies outside of the section stays mapped, or the listener says so
 *    (guest_memfd_listener_stale()).
 */

/**
 * guest_memfd_new - make the pages of a block convertible
 *
 * @rb: its memory region is not mapped yet and has no RamDiscardManager;
 *      @rb->gmem points to the result from now on
 * @id: the name that QMP uses
 * @ops: what converts
 * @private: the state every page starts in, and returns to with
 *           guest_memfd_reset(); see also guest_memfd_starts_shared()
 * @errp: set when discarding of RAM is blocked by another device, when there
 *        is a manager already, or when migration cannot be blocked, or is
 *        expected
 *
 * Migration and snapshots are blocked while the block exists, because they
 * would leave its private pages out without a word; for the same reason there
 * is no block where -incoming waits for one.
 *
 * Returns: the block, to be released by guest_memfd_free(); NULL on error.
 * Called with the BQL held.
 */
GuestMemfd *guest_memfd_new(RAMBlock *rb, const char *id,
                            const GuestMemfdOps *ops, bool private,
                            Error **errp);

/**
 * guest_memfd_free - the end of a block; NULL is allowed
 *
 * All listeners have left.  The memory region is not looked at, it may be half
 * gone.  Called with the BQL held.
 */
void guest_memfd_free(GuestMemfd *gm);

/** guest_memfd_from_mr - the block of @mr, or NULL */
GuestMemfd *guest_memfd_from_mr(const MemoryRegion *mr);

/** guest_memfd_find - the block with that QMP name, or NULL; BQL held */
GuestMemfd *guest_memfd_find(const char *id);

/** guest_memfd_next - iterate over all blocks, NULL to start; BQL held */
GuestMemfd *guest_memfd_next(GuestMemfd *gm);

const char *guest_memfd_id(const GuestMemfd *gm);
MemoryRegion *guest_memfd_mr(const GuestMemfd *gm);

/** guest_memfd_host_geometry - the page sizes that the host can have */
GuestMemfdMapGeometry guest_memfd_host_geometry(void);

/**
 * guest_memfd_set_dma_split - how listeners split what they mapped in one piece
 *
 * To be called before the first listener arrives.
 */
void guest_memfd_set_dma_split(GuestMemfd *gm, GuestMemfdDmaSplit split);

/** guest_memfd_dma_split - the policy for listeners */
GuestMemfdDmaSplit guest_memfd_dma_split(const GuestMemfd *gm);

/**
 * guest_memfd_convert - a guest asks for a conversion
 *
 * @gpa: guest physical address
 * @size: bytes
 * @to_private: the state wanted
 *
 * The range may cross memory regions: it converts as a whole or not at all.
 * Holes and MMIO cannot become private; that they be shared is granted, since
 * firmware asks for it (TDX guests share MMIO to get their #VE).
 *
 * Every value is the guest's and may be hostile.  Can be called with or
 * without the BQL.
 *
 * Returns: 0; -EINVAL for a range that is empty, unaligned, overflows or holds
 * something that cannot be converted; else what driver or listener said, and
 * then nothing has changed.
 */
int guest_memfd_convert(hwaddr gpa, uint64_t size, bool to_private);

/**
 * guest_memfd_convert_block - convert a part of one block
 *
 * @offset, @size: bytes, multiples of the host's page size
 * @errp: says which argument is wrong, or who refused
 *
 * Returns: 0 or a negative errno, as guest_memfd_convert().
 */
int guest_memfd_convert_block(GuestMemfd *gm, uint64_t offset, uint64_t size,
                              bool to_private, Error **errp);

/**
 * guest_memfd_reset - all pages back to their initial state
 *
 * Listeners let go of everything and map again in whole runs, so that what a
 * guest has fragmented does not outlive it.
 *
 * Returns: 0, or the errno of who refused, with @errp set: not all pages are in
 * their initial state, and the VM must not run.  Called with the BQL held and no
 * vCPU running.
 */
int guest_memfd_reset(GuestMemfd *gm, Error **errp);

/**
 * guest_memfd_starts_shared - is the file of a private block shared at first?
 *
 * So with drivers that convert in place, in machines that launch from private
 * memory.  The pages are private to everybody but QEMU, which fills them, until
 * guest_memfd_finish_launch().  Called with the BQL held.
 */
bool guest_memfd_starts_shared(const GuestMemfdOps *ops);

/**
 * guest_memfd_launch - make memory private that the kernel is about to fill
 *
 * @gpa, @size: where it is to go, in bytes, multiples of the host's page size
 * @source: in: what the kernel is to copy, @size bytes; out: the same, or a copy
 *          of it if it would become private itself.  The copy lasts until
 *          guest_memfd_finish_launch().  NULL if there is none
 *
 * Returns: 0 or a negative errno.  Called with the BQL held.
 */
int guest_memfd_launch(hwaddr gpa, uint64_t size, void **source, Error **errp);

/**
 * guest_memfd_finish_launch - all that the map calls private is private now
 *
 * Returns: false on error: the machine cannot run.  Called with the BQL held,
 * before a vCPU runs.
 */
bool guest_memfd_finish_launch(Error **errp);

/**
 * guest_memfd_lock - no conversions of a block, until guest_memfd_unlock()
 *
 * For listeners that begin or cease to cover a part of their section.  A
 * conversion that waits for a peer is waited for.  Outer locks: the BQL.
 */
void guest_memfd_lock(GuestMemfd *gm);
void guest_memfd_unlock(GuestMemfd *gm);

/**
 * guest_memfd_next_shared - the next run of shared pages
 *
 * @start: in: offset to look from; out: where it starts
 * @end: where to stop
 *
 * Returns: its end, not beyond @end, or 0 if there is none.
 */
uint64_t guest_memfd_next_shared(GuestMemfd *gm, uint64_t *start, uint64_t end);

/**
 * guest_memfd_listener_stale - what is shared of a range is not mapped
 *
 * @rdl: registered for the block
 * @start, @end: offsets in the memory region, in bytes
 *
 * For listeners that lost a mapping.  They are asked to map it again before the
 * next conversion of the block; one to shared fails if that does.  Called with
 * the lock of guest_memfd_lock() held, as it is in the calls of a listener.
 */
void guest_memfd_listener_stale(GuestMemfd *gm, RamDiscardListener *rdl,
                                uint64_t start, uint64_t end);

/**
 * guest_memfd_foreach_run - act on each run of equal pages of a range
 *
 * The lock of guest_memfd_lock() is held around all of them.
 *
 * Returns: the first value of @fn that is not 0, else 0.
 */
int guest_memfd_foreach_run(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            int (*fn)(uint64_t offset, uint64_t size,
                                      bool private, void *opaque),
                            void *opaque);

/**
 * guest_memfd_verify - compare what is kept twice (invariant I3)
 *
 * @errp: names the first page on which the map and a listener differ
 *
 * Costs the size of the block; for tests.
 */
bool guest_memfd_verify(GuestMemfd *gm, Error **errp);

/**
 * guest_memfd_host_access - may QEMU touch the memory of @gm at @offset?
 *
 * @len: in: bytes; out: as far as the answer goes, at least 1
 *
 * Not if it is private to a guest of KVM's, whichever way it converts, unless
 * the machine is yet to be launched.  The answer can be outdated as soon as it
 * is there, for which there is guest_memfd_sigbus().  Every value of @offset and
 * @len is allowed.
 */
bool guest_memfd_host_access(GuestMemfd *gm, uint64_t offset, uint64_t *len);

/**
 * guest_memfd_gives_back - are huge pages whose memory is private freed?
 *
 * With two copies only, and not if they are preallocated or reserved: what goes
 * back to the pool may be somebody else's the next moment.
 */
bool guest_memfd_gives_back(const GuestMemfd *gm);

#ifdef CONFIG_LINUX
/**
 * guest_memfd_sigbus - somebody touched memory that is not there
 *
 * For the handler of SIGBUS, with its arguments.
 *
 * Returns: true if that has been dealt with.
 */
bool guest_memfd_sigbus(siginfo_t *siginfo, void *context);

/**
 * guest_memfd_restore_mapping - show the pages of the file again
 *
 * What stands in for them goes.  To be called for a range that has become shared,
 * and before a reset; with the lock held.
 *
 * Returns: 0 or a negative errno.
 */
int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset,
                                uint64_t size);

/**
 * guest_memfd_giving_back - huge pages are about to be freed
 *
 * Called by drivers, with the lock held, for memory that is wholly private and
 * for which guest_memfd_gives_back().
 */
void guest_memfd_giving_back(GuestMemfd *gm, uint64_t offset, uint64_t size);

/**
 * guest_memfd_take_back - let there be memory for huge pages
 *
 * @offset, @size: multiples of the block's page size
 *
 * Called by drivers, with the lock held, for a range of which some is about to
 * become shared.  The memory follows the NUMA policy of the mapping.
 *
 * Returns: 0; -ENOMEM if the pool has none; -EAGAIN if it was touched meanwhile.
 */
int guest_memfd_take_back(GuestMemfd *gm, uint64_t offset, uint64_t size);

/**
 * guest_memfd_many_stand_ins - does a guest touch its private pages too much?
 *
 * Such a guest makes no more pages private, before QEMU has no room for more
 * pages that stand in.
 */
bool guest_memfd_many_stand_ins(void);
#else
static inline int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset,
                                              uint64_t size)
{
    return 0;
}

static inline bool guest_memfd_many_stand_ins(void)
{
    return false;
}
#endif

/**
 * guest_memfd_check_save - is the memory at a guest physical address readable?
 *
 * @gpa, @size: bytes, anything.  There may be more than memory in the range, and
 *              nothing: that does not count
 *
 * Returns: false, with @errp set, if a page of it is private.
 */
bool guest_memfd_check_save(hwaddr gpa, uint64_t size, Error **errp);

/**
 * guest_memfd_may_load - may a snapshot be loaded into all memory?
 *
 * Returns: false, with @errp set, if there is a block: no snapshot carries its
 * private pages.  Called with the BQL held.
 */
bool guest_memfd_may_load(Error **errp);

/** guest_memfd_query - what query-guest-memfd shows of @gm; BQL held */
GuestMemfdInfo *guest_memfd_query(GuestMemfd *gm);

/**
 * guest_memfd_query_map - up to @limit runs of equal pages from @offset on
 *
 * @next: out: where the next call goes on; the size of the block at the end
 */
GuestMemfdRunList *guest_memfd_query_map(GuestMemfd *gm, uint64_t offset,
                                         uint32_t limit, uint64_t *next);

/** guest_memfd_size - size of the block in bytes */
uint64_t guest_memfd_size(const GuestMemfd *gm);

/** guest_memfd_emulated_ops - the software driver: bookkeeping only */
extern const GuestMemfdOps guest_memfd_emulated_ops;

/** guest_memfd_all_private - is a range wholly private? */
bool guest_memfd_all_private(GuestMemfd *gm, uint64_t offset, uint64_t size);

/**
 * guest_memfd_map_by_address - must DMA to @rb be mapped by address?
 *
 * The kernel does not map a guest_memfd by its file descriptor
 * (IOMMU_IOAS_MAP_FILE: EINVAL).  True also for a guest_memfd that is ordinary
 * RAM, and so no block.
 */
bool guest_memfd_map_by_address(const RAMBlock *rb);

/**
 * guest_memfd_kvm_choose - the driver for memory that this VM's KVM converts
 *
 * @wish: how to convert; 'auto' is the best that the kernel has
 * @ops: out: NULL for 'none': memory that is always shared needs no driver, and
 *       no block
 * @errp: names what the kernel lacks, and the remedy
 *
 * Asks the VM what it can do.  Returns: false on error.
 */
bool guest_memfd_kvm_choose(GuestMemfdConversion wish,
                            const GuestMemfdOps **ops, Error **errp);

/**
 * guest_memfd_kvm_create - create the guest_memfd of a block
 *
 * @ops: from guest_memfd_kvm_choose(), NULL included.  Two-copy: a file for
 *       private pages, which cannot be mapped.  Else a file that is mapped, and
 *       holds all of the memory
 * @size: bytes, a multiple of the host's page size
 * @private: the state of pages of a mapped file
 *
 * Returns: a file descriptor; -1 on error.
 */
int guest_memfd_kvm_create(const GuestMemfdOps *ops, uint64_t size,
                           bool private, Error **errp);

/**
 * guest_memfd_kvm_honours_policy - does a mapped guest_memfd follow mbind()?
 */
bool guest_memfd_kvm_honours_policy(void);

/**
 * guest_memfd_new_kvm - create the guest_memfd of a RAM_GUEST_MEMFD block
 *
 * For blocks that are no memory-backend-guest-memfd (all memory of TDX and
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
 * Returns: 0 or a negative errno.  Called with the BQL held.
 */
int guest_memfd_kvm_slot_added(MemoryRegion *mr, uint64_t offset, hwaddr gpa,
                               uint64_t size);

/**
 * guest_memfd_kvm_free_source - free QEMU's copy of what was measured
 *
 * Where @rb shows the guest_memfd itself there is no copy, and nothing happens.
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
 * use, or there is no room); EINVAL for all other reasons.
 */
uint64_t guest_memfd_kvm_map_gpa_range(hwaddr gpa, uint64_t npages,
                                       bool to_private);

/**
 * guest_memfd_kvm_fault - a vCPU accessed memory in the other state
 *
 * @run: of the vCPU, with KVM_EXIT_MEMORY_FAULT
 *
 * Converts it, as such an access asks for.  If a page is in use the vCPU may
 * fault again, about 10 s long.  Called without the BQL, in the thread of the vCPU.
 *
 * Returns: 0 to go on; a negative errno, reported, to stop the VM.
 */
int guest_memfd_kvm_fault(const struct kvm_run *run);

/**
 * guest_memfd_kvm_run_failed - say which memory it was that failed
 *
 * @run: of the vCPU
 * @err: what KVM_RUN returned; nothing is said but for -EHWPOISON with
 *       KVM_EXIT_MEMORY_FAULT
 *
 * Called without the BQL.
 */
void guest_memfd_kvm_run_failed(const struct kvm_run *run, int err);

#endif
