/*
 * Preallocation of a guest_memfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_NUMA
#include <numa.h>
#include <numaif.h>
#endif
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "qemu/thread-context.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/ramblock.h"
#include "guest-memfd-prealloc.h"
#include "guest-memfd-progress.h"

/*
 * A thread is worth it for so many bytes.  It fills as many at a time, so that
 * there is progress to report: a call of the kernel costs nothing beside them.
 */
#define LEAST (64 * MiB)

typedef struct Fill {
    HostMemoryBackend *backend;
    uint64_t piece;             /* bytes to fill at a time */
    Stat64 done;                /* bytes that are filled */
    QemuSemaphore ended;        /* each thread posts it once */
} Fill;

/* A part of the file, and the thread that fills it */
typedef struct Part {
    Fill *fill;
    uint64_t offset;
    uint64_t size;
    QemuThread thread;
    bool policy_refused;
    int err;
} Part;

#ifdef CONFIG_NUMA
/* This thread, which ends soon, allocates like the backend. */
static bool set_policy(const HostMemoryBackend *backend)
{
    unsigned long max = find_last_bit(backend->host_nodes, MAX_NODES) + 1;
    int mode = backend->policy;

#ifdef HAVE_NUMA_HAS_PREFERRED_MANY
    if (mode == MPOL_PREFERRED && numa_has_preferred_many() > 0) {
        mode = MPOL_PREFERRED_MANY;     /* as QEMU's own code does */
    }
#endif
    return bitmap_empty(backend->host_nodes, MAX_NODES) ||
           !set_mempolicy(mode, backend->host_nodes,
                          max % (MAX_NODES + 1) + 1);
}
#else
static bool set_policy(const HostMemoryBackend *backend)
{
    return true;
}
#endif

/* Returns: 0 or an errno. */
static int fill_pieces(Fill *f, uint64_t offset, uint64_t end)
{
    int fd = f->backend->mr.ram_block->guest_memfd;

    for (uint64_t size; offset < end; offset += size) {
        size = MIN(f->piece, end - offset);
        if (RETRY_ON_EINTR(fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size))) {
            return errno;
        }
        stat64_add(&f->done, size);
    }
    return 0;
}

static void *fill(void *opaque)
{
    Part *p = opaque;

    if (!set_policy(p->fill->backend)) {
        p->policy_refused = true;
        p->err = errno;
    } else {
        p->err = fill_pieces(p->fill, p->offset, p->offset + p->size);
    }
    qemu_sem_post(&p->fill->ended);
    return NULL;
}

static void start(Part *p)
{
    ThreadContext *tc = p->fill->backend->prealloc_context;

    if (tc) {
        thread_context_create_thread(tc, &p->thread, "prealloc", fill, p,
                                     QEMU_THREAD_JOINABLE);
    } else {
        qemu_thread_create(&p->thread, "prealloc", fill, p,
                           QEMU_THREAD_JOINABLE);
    }
}

/* The thread that waits reports: it has nothing else to do. */
static void wait_for(Fill *f, unsigned nr_threads)
{
    GuestMemfdProgress progress = {
        .id = object_get_canonical_path_component(OBJECT(f->backend)),
        .total = f->backend->size,
        .tty = isatty(STDERR_FILENO) ? stderr : NULL,
        .next = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                GUEST_MEMFD_PROGRESS_FIRST_MS,
    };

    while (nr_threads) {
        int ms = guest_memfd_progress_step(&progress, stat64_get(&f->done),
                     qemu_clock_get_ms(QEMU_CLOCK_REALTIME));

        if (!qemu_sem_timedwait(&f->ended, ms)) {
            nr_threads--;
        }
    }
    guest_memfd_progress_end(&progress, stat64_get(&f->done));
}

static const char *remedy(int err)
{
    switch (err) {
    case ENOSPC:
        return " (no huge page is left where the NUMA policy allows one: "
               "reserve more on the nodes of host-nodes)";
    case ENOMEM:
        return " (the host, or the control group of QEMU, has no memory left: "
               "make the memory smaller, or raise the limit)";
    case EPERM:
        return " (the host does not let QEMU allocate it: look at its security "
               "policy)";
    default:
        return "";
    }
}

static void report(const Part *p, Error **errp)
{
    HostMemoryBackend *backend = p->fill->backend;
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (p->policy_refused) {
        error_setg_errno(errp, p->err, "host-nodes: cannot allocate '%s' by "
                         "policy '%s'", name,
                         HostMemPolicy_str(backend->policy));
    } else {
        error_setg(errp, "prealloc=on: cannot allocate 0x%" PRIx64 " bytes of "
                   "the guest_memfd of '%s': %s%s", p->size, name,
                   strerror(p->err), remedy(p->err));
    }
}

bool guest_memfd_prealloc(HostMemoryBackend *backend, uint64_t page_size,
                          Error **errp)
{
    uint64_t nr_pages = backend->size / page_size;
    unsigned nr = MIN(DIV_ROUND_UP(backend->size, MAX(page_size, LEAST)),
                      backend->prealloc_threads);
    g_autofree Part *parts = g_new0(Part, nr);
    const Part *failed = NULL;
    uint64_t offset = 0;
    Fill f = {
        .backend = backend,
        .piece = MAX(page_size, LEAST),
    };

    qemu_sem_init(&f.ended, 0);
    for (unsigned i = 0; i < nr; i++) {
        Part *p = &parts[i];

        p->fill = &f;
        p->offset = offset;
        p->size = i == nr - 1 ? backend->size - offset :
                  (nr_pages / nr + (i < nr_pages % nr)) * page_size;
        offset += p->size;
        start(p);
    }
    wait_for(&f, nr);
    for (unsigned i = 0; i < nr; i++) {
        qemu_thread_join(&parts[i].thread);
        failed = failed ?: parts[i].err ? &parts[i] : NULL;
    }
    qemu_sem_destroy(&f.ended);
    if (failed) {
        report(failed, errp);
    }
    return !failed;
}
