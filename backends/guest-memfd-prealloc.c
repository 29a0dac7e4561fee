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
#include "qemu/thread.h"
#include "qemu/thread-context.h"
#include "qemu/units.h"
#include "system/ramblock.h"
#include "guest-memfd-prealloc.h"

/* A thread is worth it for so many bytes. */
#define LEAST (64 * MiB)

/* A part of the file, and the thread that fills it */
typedef struct Part {
    HostMemoryBackend *backend;
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

static void *fill(void *opaque)
{
    Part *p = opaque;
    int fd = p->backend->mr.ram_block->guest_memfd;

    if (!set_policy(p->backend)) {
        p->policy_refused = true;
        p->err = errno;
    } else if (RETRY_ON_EINTR(fallocate(fd, FALLOC_FL_KEEP_SIZE, p->offset,
                                        p->size))) {
        p->err = errno;
    }
    return NULL;
}

static void start(Part *p)
{
    ThreadContext *tc = p->backend->prealloc_context;

    if (tc) {
        thread_context_create_thread(tc, &p->thread, "prealloc", fill, p,
                                     QEMU_THREAD_JOINABLE);
    } else {
        qemu_thread_create(&p->thread, "prealloc", fill, p,
                           QEMU_THREAD_JOINABLE);
    }
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
    g_autofree char *name = host_memory_backend_get_name(p->backend);

    if (p->policy_refused) {
        error_setg_errno(errp, p->err, "host-nodes: cannot allocate '%s' by "
                         "policy '%s'", name,
                         HostMemPolicy_str(p->backend->policy));
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

    for (unsigned i = 0; i < nr; i++) {
        Part *p = &parts[i];

        p->backend = backend;
        p->offset = offset;
        p->size = i == nr - 1 ? backend->size - offset :
                  (nr_pages / nr + (i < nr_pages % nr)) * page_size;
        offset += p->size;
        start(p);
    }
    for (unsigned i = 0; i < nr; i++) {
        qemu_thread_join(&parts[i].thread);
        failed = failed ?: parts[i].err ? &parts[i] : NULL;
    }
    if (failed) {
        report(failed, errp);
    }
    return !failed;
}
