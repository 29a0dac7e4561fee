/*
 * guest_memfd blocks: pointers to pages that have become private
 *
 * What is left of QEMU's own accesses to private memory (system/guest-memfd/host-
 * access.c) are pointers that were obtained while the page was shared, such as
 * that of a virtqueue whose guest makes the page private under it.  Such an
 * access is a SIGBUS in two cases:
 *  - memory is converted in place: the page is gone from QEMU's mapping;
 *  - there are two copies, the huge page of the shared one was given back to its
 *    pool, and the pool is empty.
 * The handler of SIGBUS lets empty memory stand in for the page, which nothing
 * else sees, and QEMU goes on; the page of the file comes back when it becomes
 * shared, and at a reset.
 *
 * A page of a hugetlb mapping can only be replaced as a whole, which takes address
 * space, not memory.  A guest_memfd is mapped in small pages.
 *
 * The bitmaps are written by the handler, in any thread, and by conversions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "hw/core/cpu.h"
#include "system/hostmem.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

/* Blocks are few; a signal handler can look at an array. */
#define MAX_WATCHED 256
/*
 * Each page that stands in takes two of the process's mappings, of which it has
 * 65,530.  A guest with as many makes no more pages private.
 */
#define MANY_STAND_INS 1024

typedef struct Watched {
    uint8_t *host;              /* NULL: free */
    uint64_t size;
    uint64_t page;
    unsigned long *standing;    /* a bit a page: memory stands in for it */
    unsigned long *freed;       /* a bit a page: it may; NULL: if it is gone */
    /* The NUMA policy of the mapping, which belongs to it, not to the file: */
    int mode;
    DECLARE_BITMAP(nodes, MAX_NODES + 1);
} Watched;

static Watched watched[MAX_WATCHED];
static unsigned nr_stand_ins;
static unsigned in_handler;     /* threads that look at the array */
static bool unblocked;          /* SIGBUS, in the main thread */

/* A thread that has it blocked dies of it, whatever handler there is. */
static void unblock_sigbus(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    unblocked = true;
}

/* What was written before this is seen by all handlers after it. */
static void wait_for_handlers(void)
{
    /* Pairs with qatomic_inc(&in_handler). */
    smp_mb();
    while (qatomic_read(&in_handler)) {
        sched_yield();
    }
}

static Watched *find_host(const uint8_t *addr)
{
    for (int i = 0; i < MAX_WATCHED; i++) {
        const uint8_t *host = qatomic_read(&watched[i].host);

        if (host && addr >= host && addr < host + watched[i].size) {
            return &watched[i];
        }
    }
    return NULL;
}

bool guest_memfd_watch(GuestMemfd *gm)
{
    assert(bql_locked());
    if (!guest_memfd_is_mapped(gm->ops) && !guest_memfd_gives_back(gm)) {
        return true;
    }
    for (int i = 0; i < MAX_WATCHED; i++) {
        Watched *w = &watched[i];

        if (!w->host) {
            w->size = gm->size;
            w->page = guest_memfd_is_mapped(gm->ops) ?
                      qemu_real_host_page_size() : gm->page_size;
            w->standing = bitmap_new(w->size / w->page);
            w->freed = guest_memfd_gives_back(gm) ?
                       bitmap_new(w->size / w->page) : NULL;
            w->mode = MPOL_DEFAULT;
            qatomic_set_mb(&w->host, gm->rb->host);
            unblock_sigbus();
            return true;
        }
    }
    return false;
}

void guest_memfd_unwatch(GuestMemfd *gm)
{
    Watched *w = find_host(gm->rb->host);

    assert(bql_locked());
    if (!w) {
        return;
    }
    qatomic_set(&w->host, NULL);
    wait_for_handlers();
    /* The mapping goes, and what stands in goes with it. */
    qatomic_sub(&nr_stand_ins, bitmap_count_one(w->standing,
                                                w->size / w->page));
    g_free(w->standing);
    g_free(w->freed);
}

bool guest_memfd_many_stand_ins(void)
{
    return qatomic_read(&nr_stand_ins) > MANY_STAND_INS;
}

/*
 * Memory that is broken is reported to the main thread, where QEMU's handler is
 * called by the main loop, from a signalfd, and may do what a signal handler
 * may not.  Now that the signal is not blocked there, it is sent once more,
 * blocked until the main loop has read it.
 */
static bool broken_memory(siginfo_t *siginfo, void *context)
{
    ucontext_t *uc = context;

    if (current_cpu) {
        return false;
    }
    if (!context) {             /* called by the main loop */
        if (unblocked) {
            unblock_sigbus();
        }
        return false;
    }
    if (syscall(SYS_gettid) != getpid()) {
        /* Nobody can help that thread: it dies of the access. */
        signal(SIGBUS, SIG_DFL);
        return true;
    }
    sigaddset(&uc->uc_sigmask, SIGBUS);
    return !syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGBUS, siginfo);
}

static bool is_set(unsigned long *bits, uint64_t nr)
{
    return qatomic_read(&bits[BIT_WORD(nr)]) & BIT_MASK(nr);
}

/* Called in a signal handler. */
static bool let_stand_in(Watched *w, uint8_t *addr)
{
    uintptr_t small = qemu_real_host_page_size();
    uint64_t nr = (addr - w->host) / w->page;
    uint8_t *page = w->host + nr * w->page;

    if (is_set(w->standing, nr)) {
        return true;            /* it is there, or on its way */
    }
    if (!madvise(QEMU_ALIGN_PTR_DOWN(addr, small), small,
                 MADV_POPULATE_WRITE)) {
        return true;            /* it is there by now */
    }
    /* EFAULT is SIGBUS again: gone. Else the host has no memory. */
    if (errno != EFAULT || (w->freed && !is_set(w->freed, nr))) {
        return false;
    }
    if (!(qatomic_fetch_or(&w->standing[BIT_WORD(nr)], BIT_MASK(nr)) &
          BIT_MASK(nr))) {
        qatomic_inc(&nr_stand_ins);
    }
    return mmap(page, w->page, PROT_READ | PROT_WRITE,
                MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0) == page;
}

bool guest_memfd_sigbus(siginfo_t *siginfo, void *context)
{
    int saved_errno = errno;
    bool done = false;
    Watched *w;

    if (siginfo->si_code == BUS_MCEERR_AO ||
        siginfo->si_code == BUS_MCEERR_AR) {
        return broken_memory(siginfo, context);
    }
    if (siginfo->si_code != BUS_ADRERR) {
        return false;
    }
    qatomic_inc(&in_handler);
    w = find_host(siginfo->si_addr);
    if (w) {
        done = let_stand_in(w, siginfo->si_addr);
    }
    qatomic_dec(&in_handler);
    errno = saved_errno;
    return done;
}

/* As system/physmem.c maps it. */
static int map_file_page(const GuestMemfd *gm, const Watched *w,
                         uint64_t offset)
{
    RAMBlock *rb = gm->rb;
    uint8_t *page = rb->host + offset;
    void *mapped;

    if (w->freed) {
        mapped = mmap(page, w->page, PROT_READ | PROT_WRITE,
                      MAP_FIXED | MAP_SHARED | MAP_NORESERVE, rb->fd,
                      rb->fd_offset + offset);
    } else {
        mapped = mmap(page, w->page, PROT_READ | PROT_WRITE,
                      MAP_FIXED | MAP_SHARED, rb->guest_memfd, offset);
        qemu_madvise(page, w->page, QEMU_MADV_HUGEPAGE);
    }
    if (mapped != page) {
        return -ENOMEM;
    }
    qemu_madvise(page, w->page, QEMU_MADV_DONTFORK);
    if (w->mode != MPOL_DEFAULT &&
        syscall(SYS_mbind, page, w->page, w->mode, w->nodes, MAX_NODES + 1,
                0)) {
        return -errno;
    }
    return 0;
}

/* The pages of @w that a range of its block is in. */
static void pages_of(const Watched *w, uint64_t offset, uint64_t size,
                     uint64_t *first, uint64_t *end)
{
    *first = offset / w->page;
    *end = DIV_ROUND_UP(offset + size, w->page);
}

int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    Watched *w = find_host(gm->rb->host);
    uint64_t nr, end;

    if (!w) {
        return 0;
    }
    /* Who comes after this finds the page there, if it is shared. */
    wait_for_handlers();
    if (!qatomic_read(&nr_stand_ins)) {
        return 0;
    }
    pages_of(w, offset, size, &nr, &end);
    while ((nr = find_next_bit(w->standing, end, nr)) < end) {
        int ret;

        trace_guest_memfd_restore_mapping(gm->id, nr * w->page);
        ret = map_file_page(gm, w, nr * w->page);
        if (ret) {
            return ret;
        }
        qatomic_and(&w->standing[BIT_WORD(nr)], ~BIT_MASK(nr));
        qatomic_dec(&nr_stand_ins);
    }
    return 0;
}

void guest_memfd_giving_back(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    Watched *w = find_host(gm->rb->host);
    uint64_t nr, end;

    if (!w || !w->freed) {
        return;
    }
    if (syscall(SYS_get_mempolicy, &w->mode, w->nodes, MAX_NODES + 1,
                gm->rb->host + offset, MPOL_F_ADDR)) {
        w->mode = MPOL_DEFAULT;
    }
    pages_of(w, offset, size, &nr, &end);
    bitmap_set_atomic(w->freed, nr, end - nr);
}

int guest_memfd_take_back(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    Watched *w = find_host(gm->rb->host);
    uint64_t nr, end;
    int ret = guest_memfd_restore_mapping(gm, offset, size);

    if (ret) {
        return ret;
    }
    if (RETRY_ON_EINTR(madvise(gm->rb->host + offset, size,
                               MADV_POPULATE_WRITE))) {
        return errno == EFAULT ? -ENOMEM : -errno;
    }
    if (!w || !w->freed) {
        return 0;
    }
    /* A handler may have been faster: then that is what was populated. */
    wait_for_handlers();
    pages_of(w, offset, size, &nr, &end);
    if (find_next_bit(w->standing, end, nr) < end) {
        return -EAGAIN;
    }
    bitmap_test_and_clear_atomic(w->freed, nr, end - nr);
    return 0;
}
