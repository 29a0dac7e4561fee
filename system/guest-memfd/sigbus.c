/*
 * guest_memfd blocks: pointers to pages that have become private
 *
 * What is left of QEMU's own accesses to memory that is converted in place
 * (system/guest-memfd/host-access.c) are pointers that were obtained while the page
 * was shared, such as that of a virtqueue whose guest makes the page private
 * under it.  The handler of SIGBUS lets an empty page stand in for it, which
 * nobody else sees, and QEMU goes on; the page of the file comes back when it
 * becomes shared.
 *
 * The table of pages that stand in is written by the handler, in any thread,
 * and by conversions: entries are claimed and released atomically.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/syscall.h>
#include <ucontext.h>
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "hw/core/cpu.h"
#include "system/ramblock.h"
#include "internal.h"
#include "trace.h"

/* Blocks are few; a signal handler can look at an array. */
#define MAX_WATCHED 256
/*
 * Each page that stands in takes two of the process's mappings.  A guest with
 * half as many makes no more pages private, so there is room for what is on its
 * way.
 */
#define MAX_STAND_INS 2048

typedef struct Watched {
    uint8_t *host;              /* NULL: free */
    uint64_t size;
} Watched;

static Watched watched[MAX_WATCHED];
static uint8_t *stand_in[MAX_STAND_INS];
static unsigned nr_stand_ins;
static unsigned in_handler;     /* threads that are about to add one */
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

bool guest_memfd_watch(GuestMemfd *gm)
{
    assert(bql_locked());
    for (int i = 0; i < MAX_WATCHED; i++) {
        if (!watched[i].host) {
            watched[i].size = guest_memfd_size(gm);
            qatomic_set_mb(&watched[i].host, gm->rb->host);
            unblock_sigbus();
            return true;
        }
    }
    return false;
}

void guest_memfd_unwatch(GuestMemfd *gm)
{
    assert(bql_locked());
    for (int i = 0; i < MAX_WATCHED; i++) {
        if (watched[i].host == gm->rb->host) {
            qatomic_set_mb(&watched[i].host, NULL);
        }
    }
    /* The mapping goes, and what stands in goes with it. */
    for (int i = 0; i < MAX_STAND_INS; i++) {
        uint64_t offset = stand_in[i] - gm->rb->host;

        if (stand_in[i] && offset < guest_memfd_size(gm)) {
            qatomic_set_mb(&stand_in[i], NULL);
            qatomic_dec(&nr_stand_ins);
        }
    }
}

bool guest_memfd_many_stand_ins(void)
{
    return qatomic_read(&nr_stand_ins) > MAX_STAND_INS / 2;
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

static bool is_watched(const uint8_t *addr)
{
    for (int i = 0; i < MAX_WATCHED; i++) {
        const uint8_t *host = qatomic_read(&watched[i].host);

        if (host && addr >= host && addr < host + watched[i].size) {
            return true;
        }
    }
    return false;
}

/* An entry of the table, for a page that has none. */
static bool claim(uint8_t *page)
{
    for (int i = 0; i < MAX_STAND_INS; i++) {
        uint8_t *old = qatomic_cmpxchg(&stand_in[i], NULL, page);

        if (old == page) {
            return true;
        }
        if (!old) {
            qatomic_inc(&nr_stand_ins);
            return true;
        }
    }
    return false;
}

/* Called in a signal handler. */
static bool let_stand_in(uint8_t *page, uintptr_t size)
{
    if (!madvise(page, size, MADV_POPULATE_WRITE)) {
        return true;            /* it is there by now */
    }
    /* EFAULT is SIGBUS again: private. Else the host has no memory. */
    return errno == EFAULT && claim(page) &&
           mmap(page, size, PROT_READ | PROT_WRITE,
                MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == page;
}

bool guest_memfd_sigbus(siginfo_t *siginfo, void *context)
{
    uintptr_t size = qemu_real_host_page_size();
    uint8_t *page = QEMU_ALIGN_PTR_DOWN((uint8_t *)siginfo->si_addr, size);
    int saved_errno = errno;
    bool done;

    if (siginfo->si_code == BUS_MCEERR_AO ||
        siginfo->si_code == BUS_MCEERR_AR) {
        return broken_memory(siginfo, context);
    }
    if (siginfo->si_code != BUS_ADRERR || !is_watched(page)) {
        return false;
    }
    qatomic_inc(&in_handler);
    done = let_stand_in(page, size);
    qatomic_dec(&in_handler);
    errno = saved_errno;
    return done;
}

/* As system/physmem.c maps it. */
static int map_file_page(RAMBlock *rb, uint8_t *page, uintptr_t size)
{
    if (mmap(page, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED,
             rb->guest_memfd, page - rb->host) != page) {
        return -ENOMEM;
    }
    qemu_madvise(page, size, QEMU_MADV_HUGEPAGE);
    qemu_madvise(page, size, QEMU_MADV_DONTFORK);
    return 0;
}

int guest_memfd_restore_mapping(GuestMemfd *gm, uint64_t offset, uint64_t size)
{
    uintptr_t page_size = qemu_real_host_page_size();
    RAMBlock *rb = gm->rb;

    /* Who comes after this finds the page there: it is shared. */
    smp_mb();
    while (qatomic_read(&in_handler)) {
        sched_yield();
    }
    for (int i = 0; qatomic_read(&nr_stand_ins) && i < MAX_STAND_INS; i++) {
        uint8_t *page = qatomic_read(&stand_in[i]);
        int ret;

        if (!page || page < rb->host + offset ||
            page >= rb->host + offset + size) {
            continue;
        }
        trace_guest_memfd_restore_mapping(gm->id, page - rb->host);
        ret = map_file_page(rb, page, page_size);
        if (ret) {
            return ret;
        }
        qatomic_set_mb(&stand_in[i], NULL);
        qatomic_dec(&nr_stand_ins);
    }
    return 0;
}
