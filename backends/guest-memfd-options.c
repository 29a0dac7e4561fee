/*
 * Options of memory-backend-guest-memfd: what they mean, and what is refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/magic.h>
#include <sys/vfs.h>
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "system/kvm.h"
#include "guest-memfd-options.h"
#include "hostmem-pools.h"
#include "huge-page-pool.h"

/* The size of the pages that back shared memory; 0 with @errp set. */
static uint64_t choose_page_size(const GuestMemfdOptions *o, Error **errp)
{
    if (o->hugetlb) {
        return huge_page_size(o->hugetlbsize, errp);
    }
    if (o->hugetlbsize) {
        error_setg(errp, "hugetlbsize=%" PRIu64 " needs hugetlb=on",
                   o->hugetlbsize);
        return 0;
    }
    return qemu_real_host_page_size();
}

/* Where the memory is created, all that is said of it is "Invalid argument". */
static bool check_size(HostMemoryBackend *backend, uint64_t page_size,
                       Error **errp)
{
    g_autofree char *name = host_memory_backend_get_name(backend);
    g_autofree char *size_str = size_to_str(page_size);

    if (!QEMU_IS_ALIGNED(backend->size, page_size)) {
        error_setg(errp, "size=%" PRIu64 " of '%s' is not a multiple of its "
                   "page size, %s; round it up", backend->size, name, size_str);
        return false;
    }
    return true;
}

/* What the pages of a mounted filesystem are */
static bool open_mount(const char *path, GuestMemfdPages *pages, Error **errp)
{
    struct statfs fs;
    ERRP_GUARD();

    pages->mount = qemu_open(path, O_RDONLY, errp);
    if (pages->mount < 0) {
        error_prepend(errp, "x-resource: ");
        return false;
    }
    pages->mounted = true;
    if (RETRY_ON_EINTR(fstatfs(pages->mount, &fs))) {
        error_setg_errno(errp, errno, "x-resource=%s: cannot find out what is "
                         "mounted there", path);
        return false;
    }
    switch ((uint32_t)fs.f_type) {
    case HUGETLBFS_MAGIC:
        pages->provider = GUEST_MEMFD_PROVIDER_HUGETLB;
        pages->size = fs.f_bsize;
        return true;
    case TMPFS_MAGIC:
        pages->provider = GUEST_MEMFD_PROVIDER_THP;
        pages->size = qemu_real_host_page_size();
        return true;
    default:
        error_setg(errp, "x-resource=%s is not on a hugetlbfs or a tmpfs; "
                   "mount one there, such as with mount -t hugetlbfs -o "
                   "pagesize=2M none %s", path, path);
        return false;
    }
}

/* The mount says what other options say otherwise, which may agree with it. */
static bool choose_mount(GuestMemfdOptions *o, GuestMemfdPages *pages,
                         Error **errp)
{
    g_autofree char *size = NULL;

    if (o->hugetlb) {
        error_setg(errp, "x-resource=%s contradicts hugetlb=on, because the "
                   "mount says what pages there are; leave hugetlb out",
                   o->resource);
        return false;
    }
    if (!open_mount(o->resource, pages, errp)) {
        return false;
    }
    size = size_to_str(pages->size);
    if (o->hugetlbsize && o->hugetlbsize != pages->size) {
        error_setg(errp, "hugetlbsize=%" PRIu64 " contradicts x-resource=%s, "
                   "whose pages are of %s; leave hugetlbsize out",
                   o->hugetlbsize, o->resource, size);
        return false;
    }
    if (o->provider != GUEST_MEMFD_PROVIDER_AUTO &&
        o->provider != pages->provider) {
        error_setg(errp, "x-provider=%s contradicts x-resource=%s, where a %s "
                   "is mounted; leave x-provider out",
                   GuestMemfdProvider_str(o->provider), o->resource,
                   pages->provider == GUEST_MEMFD_PROVIDER_THP ? "tmpfs" :
                   "hugetlbfs");
        return false;
    }
    o->provider = pages->provider;
    o->hugetlb = pages->provider == GUEST_MEMFD_PROVIDER_HUGETLB;
    return true;
}

void guest_memfd_close_mount(GuestMemfdChoice *choice)
{
    if (choice->pages.mounted) {
        qemu_close(choice->pages.mount);
        choice->pages.mounted = false;
    }
}

static bool choose_provider(GuestMemfdOptions *o, Error **errp)
{
    if (o->provider == GUEST_MEMFD_PROVIDER_AUTO) {
        o->provider = o->hugetlb ? GUEST_MEMFD_PROVIDER_HUGETLB :
                                   GUEST_MEMFD_PROVIDER_PAGES;
    }
    if (o->hugetlb != (o->provider == GUEST_MEMFD_PROVIDER_HUGETLB)) {
        error_setg(errp, "x-provider=%s contradicts hugetlb=%s; leave "
                   "x-provider out", GuestMemfdProvider_str(o->provider),
                   o->hugetlb ? "on" : "off");
        return false;
    }
    return true;
}

static bool choose_pages(GuestMemfdOptions *o, GuestMemfdPages *pages,
                         Error **errp)
{
    if (o->resource) {
        return choose_mount(o, pages, errp);
    }
    pages->size = choose_page_size(o, errp);
    if (!pages->size || !choose_provider(o, errp)) {
        return false;
    }
    pages->provider = o->provider;
    return true;
}

static bool choose_emulated(const GuestMemfdOptions *o,
                            const GuestMemfdOps **ops, Error **errp)
{
    if (current_machine->cgs) {
        error_setg(errp, "driver=emulated cannot back a confidential machine, "
                   "because it protects no memory; leave the option out");
        return false;
    }
    if (o->conversion != GUEST_MEMFD_CONVERSION_AUTO &&
        o->conversion != GUEST_MEMFD_CONVERSION_IN_PLACE) {
        error_setg(errp, "conversion=%s: driver=emulated can only convert "
                   "in-place", GuestMemfdConversion_str(o->conversion));
        return false;
    }
    if (o->driver == GUEST_MEMFD_DRIVER_AUTO) {
        warn_report_once(TYPE_MEMORY_BACKEND_GUEST_MEMFD ": driver=emulated is "
                         "used, as there is no KVM: private memory is not "
                         "protected from the host");
    }
    *ops = &guest_memfd_emulated_ops;
    return true;
}

/* What only memory can have whose pages are converted. */
static bool check_ordinary(const GuestMemfdOptions *o, Error **errp)
{
    if (machine_require_guest_memfd(current_machine)) {
        error_setg(errp, "conversion=none cannot back a confidential machine, "
                   "because its guest makes memory private; leave the option "
                   "out");
        return false;
    }
    if (o->init == GUEST_MEMFD_INIT_PRIVATE) {
        error_setg(errp, "init=private: this VM has no private memory "
                   "(conversion=none); use a confidential machine or "
                   "driver=emulated");
        return false;
    }
    return true;
}

static bool choose_kvm(const GuestMemfdOptions *o, const GuestMemfdOps **ops,
                       Error **errp)
{
    if (!kvm_enabled()) {
        error_setg(errp, "driver=kvm needs the KVM accelerator (-accel kvm); "
                   "use driver=emulated without it");
        return false;
    }
    if (!guest_memfd_kvm_choose(o->conversion, ops, errp)) {
        return false;
    }
    return *ops || check_ordinary(o, errp);
}

/*
 * Resolve driver=, conversion= and init=; refuse what cannot be done.  Nothing
 * converts memory whose @ops are NULL.
 */
static bool choose_driver(GuestMemfdOptions *o, const GuestMemfdOps **ops,
                          Error **errp)
{
    bool kvm = o->driver == GUEST_MEMFD_DRIVER_KVM ||
               (o->driver == GUEST_MEMFD_DRIVER_AUTO && kvm_enabled());

    if (kvm ? !choose_kvm(o, ops, errp) : !choose_emulated(o, ops, errp)) {
        return false;
    }
    o->driver = kvm ? GUEST_MEMFD_DRIVER_KVM : GUEST_MEMFD_DRIVER_EMULATED;
    o->conversion = *ops ? (*ops)->conversion : GUEST_MEMFD_CONVERSION_NONE;
    if (o->init == GUEST_MEMFD_INIT_AUTO) {
        o->init = machine_require_guest_memfd(current_machine) ?
                  GUEST_MEMFD_INIT_PRIVATE : GUEST_MEMFD_INIT_SHARED;
    }
    return true;
}

/* What is not refused, but may not be what was meant. */
static void warn_of_pages(HostMemoryBackend *backend,
                          const GuestMemfdOptions *o, const GuestMemfdOps *ops)
{
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (ops && o->init == GUEST_MEMFD_INIT_SHARED) {
        warn_report("init=shared: '%s' starts with all of its huge pages "
                    "split, as the kernel keeps whole only those that are "
                    "private; use init=private where the guest allows it",
                    name);
    }
    if (o->hugetlb && !backend->reserve) {
        warn_report("reserve=off: the huge pages of '%s' are reserved all the "
                    "same, because the kernel reserves those of a guest_memfd",
                    name);
    }
}

/* Huge pages of a guest_memfd that is mapped.  Those of a memfd always work. */
static bool check_provider(HostMemoryBackend *backend,
                           const GuestMemfdOptions *o, GuestMemfdChoice *c,
                           Error **errp)
{
    bool thp = o->provider == GUEST_MEMFD_PROVIDER_THP;
    g_autofree char *name = host_memory_backend_get_name(backend);
    ERRP_GUARD();

    if (o->provider == GUEST_MEMFD_PROVIDER_PAGES) {
        return true;
    }
    if (!guest_memfd_is_mapped(c->ops)) {
        if (thp || o->resource) {
            error_setg(errp, "%s of '%s' needs driver=kvm with "
                       "conversion=in-place or none; leave it out",
                       thp && !o->resource ? "x-provider=thp" : "x-resource",
                       name);
            return false;
        }
        return true;
    }
    if (!guest_memfd_kvm_has_pages(&c->pages, errp)) {
        error_prepend(errp, o->resource ? "x-resource of '%s': " :
                      thp ? "x-provider=thp of '%s': " : "hugetlb=on of '%s': ",
                      name);
        return false;
    }
    c->huge_size = thp ? guest_memfd_thp_size() : c->pages.size;
    warn_of_pages(backend, o, c->ops);
    return true;
}

/* Where the pages of a mapped guest_memfd come from, of all nodes. */
static bool check_policy(HostMemoryBackend *backend,
                         const GuestMemfdOptions *o, const GuestMemfdChoice *c,
                         Error **errp)
{
#ifdef CONFIG_NUMA
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (!guest_memfd_is_mapped(c->ops) ||
        bitmap_empty(backend->host_nodes, MAX_NODES)) {
        return true;
    }
    /* It would be at the first touch that a node has none left. */
    if (c->huge_size && o->hugetlb && !backend->prealloc &&
        backend->policy == HOST_MEM_POLICY_BIND) {
        error_setg(errp, "policy=bind of '%s' needs prealloc=on, because the "
                   "kernel reserves the huge pages of a guest_memfd on any "
                   "node", name);
        return false;
    }
    if (!guest_memfd_kvm_honours_policy()) {
        error_setg(errp, "host-nodes: the guest_memfd of this kernel does not "
                   "follow NUMA policies (Linux 7.3 does); use "
                   "driver=emulated or memory-backend-memfd");
        return false;
    }
#endif
    return true;
}

bool guest_memfd_choose(HostMemoryBackend *backend, GuestMemfdOptions *o,
                        GuestMemfdChoice *c, Error **errp)
{
    *c = (GuestMemfdChoice) { };
    return choose_pages(o, &c->pages, errp) &&
           check_size(backend, c->pages.size, errp) &&
           choose_driver(o, &c->ops, errp) &&
           check_provider(backend, o, c, errp) &&
           check_policy(backend, o, c, errp) &&
           /* The kernel reserves all huge pages of a guest_memfd at once. */
           hostmem_check_pools(backend, c->pages.size, c->huge_size, errp);
}

/* What memory-backend-memfd does not have to offer for a guest_memfd. */
static bool check_x_guest_memfd(HostMemoryBackend *backend, bool hugetlb,
                                Error **errp)
{
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (!kvm_enabled()) {
        error_setg(errp, "x-guest-memfd=on of '%s' needs the KVM accelerator "
                   "(-accel kvm); leave it out without KVM", name);
    } else if (!backend->share) {
        error_setg(errp, "x-guest-memfd=on of '%s' needs share=on, because a "
                   "guest_memfd has no private mapping", name);
    } else if (hugetlb) {
        error_setg(errp, "x-guest-memfd=on of '%s' contradicts hugetlb=on, "
                   "which asks for huge pages of a memfd; leave one of them out",
                   name);
    } else if (current_machine->cgs) {
        error_setg(errp, "x-guest-memfd=on of '%s' cannot back a confidential "
                   "machine, because none of it can become private; use "
                   TYPE_MEMORY_BACKEND_GUEST_MEMFD, name);
    } else {
        return true;
    }
    return false;
}

int guest_memfd_create_ordinary(HostMemoryBackend *backend, bool hugetlb,
                                Error **errp)
{
    GuestMemfdOptions o = {
        .driver = GUEST_MEMFD_DRIVER_KVM,
        .conversion = GUEST_MEMFD_CONVERSION_NONE,
    };
    g_autofree char *name = host_memory_backend_get_name(backend);
    GuestMemfdChoice c;
    ERRP_GUARD();

    if (!check_x_guest_memfd(backend, hugetlb, errp)) {
        return -1;
    }
    if (!guest_memfd_choose(backend, &o, &c, errp)) {
        error_prepend(errp, "x-guest-memfd=on of '%s' is conversion=none; leave "
                      "it out for a memfd: ", name);
        return -1;
    }
    return guest_memfd_kvm_create(NULL, &c.pages, backend->size, false, errp);
}
