/*
 * Memory backend whose pages the guest can convert between shared and private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/memfd.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "hw/qdev-core.h"
#include "migration/blocker.h"
#include "migration/cpr.h"
#include "system/ramblock.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/system.h"
#include "qom/object.h"
#include "qom/object_interfaces.h"
#include "guest-memfd-options.h"
#include "guest-memfd-prealloc.h"

OBJECT_DECLARE_SIMPLE_TYPE(HostMemoryBackendGuestMemfd,
                           MEMORY_BACKEND_GUEST_MEMFD)

struct HostMemoryBackendGuestMemfd {
    HostMemoryBackend parent_obj;

    GuestMemfdOptions options;
    GuestMemfdChoice choice;    /* what comes of them; set when it is created */
    bool prealloc_file;         /* preallocate here, not in the base class */
    GuestMemfd *gm;             /* set once the memory is there */
    Error *migration_blocker;   /* of memory that KVM does not log */
    Notifier machine_done;
};

static void (*parent_complete)(UserCreatable *uc, Error **errp);

static void guest_memfd_backend_reset(void *opaque)
{
    HostMemoryBackendGuestMemfd *m = opaque;
    Error *local_err = NULL;

    if (guest_memfd_reset(m->gm, &local_err)) {
        error_report_err(local_err);
        qemu_system_reset_failed();
    }
}

/* The file that is mapped, and holds what is shared. */
static int create_file(HostMemoryBackendGuestMemfd *m, bool private,
                       Error **errp)
{
    const GuestMemfdChoice *c = &m->choice;
    uint64_t size = MEMORY_BACKEND(m)->size;
    bool hugetlb = m->options.hugetlb;

    if (guest_memfd_is_mapped(c->ops)) {
        return guest_memfd_kvm_create(c->ops, &c->pages, size, private, errp);
    }
    return qemu_memfd_create(TYPE_MEMORY_BACKEND_GUEST_MEMFD, size, hugetlb,
                             hugetlb ? c->pages.size : 0,
                             F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL, errp);
}

/* The file that KVM's memory slots are bound to. */
static bool add_guest_memfd(HostMemoryBackend *backend,
                            const GuestMemfdOps *ops, Error **errp)
{
    RAMBlock *rb = backend->mr.ram_block;

    if (guest_memfd_is_mapped(ops)) {
        rb->guest_memfd = qemu_dup(rb->fd);
        if (rb->guest_memfd < 0) {
            error_setg_errno(errp, errno, "cannot duplicate the guest_memfd");
        }
    } else {
        rb->guest_memfd = guest_memfd_kvm_create(ops, NULL, backend->size,
                                                 true, errp);
    }
    return rb->guest_memfd >= 0;
}

/* It costs memory, and a machine without it may well have other memory. */
static void warn_if_unused(Notifier *notifier, void *unused)
{
    HostMemoryBackendGuestMemfd *m =
        container_of(notifier, HostMemoryBackendGuestMemfd, machine_done);
    const char *id = object_get_canonical_path_component(OBJECT(m));

    if (!host_memory_backend_is_mapped(MEMORY_BACKEND(m))) {
        warn_report("memory '%s' backs nothing; give it to -machine "
                    "memory-backend=%s, to -numa node,memdev=%s or to a device "
                    "(memdev=%s), or leave it out", id, id, id, id);
    }
}

static bool fill(void *opaque, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = opaque;
    HostMemoryBackend *backend = MEMORY_BACKEND(m);

    backend->prealloc = guest_memfd_prealloc(backend, m->choice.huge_size ?:
                                             qemu_real_host_page_size(), errp);
    return backend->prealloc;
}

/*
 * What QEMU does for all backends knows nothing of private memory, nor of the
 * huge pages of a guest_memfd: it touches the mapping.  In two-copy there is no
 * shared copy yet, and none is needed.
 */
static void guest_memfd_backend_complete(UserCreatable *uc, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(uc);
    ERRP_GUARD();

    parent_complete(uc, errp);
    if (!*errp && !phase_check(PHASE_MACHINE_READY)) {
        m->machine_done.notify = warn_if_unused;
        qemu_add_machine_init_done_notifier(&m->machine_done);
    }
    if (!*errp && m->prealloc_file &&
        !(m->gm && guest_memfd_fill_after_launch(m->gm, fill, m))) {
        fill(m, errp);
    }
}

/*
 * What the base class cannot do for this memory.  Private pages of two-copy are
 * not in the mapping that has the NUMA policy.
 */
static void prepare(HostMemoryBackendGuestMemfd *m, bool private)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);

    if (backend->prealloc && (private || m->choice.huge_size)) {
        m->prealloc_file = true;
        backend->prealloc = false;
    } else if (!guest_memfd_is_mapped(m->choice.ops) &&
               !bitmap_empty(backend->host_nodes, MAX_NODES)) {
        warn_report("host-nodes: private pages of '%s' will follow the NUMA "
                    "policy of the vCPU that touches them first, as this "
                    "kernel has no other (conversion=two-copy)",
                    object_get_canonical_path_component(OBJECT(backend)));
    }
}

/* KVM uses the huge pages of a file only where its slots are bound to it. */
static bool bind_ordinary(HostMemoryBackendGuestMemfd *m, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (!add_guest_memfd(backend, NULL, errp)) {
        return false;
    }
    error_setg(&m->migration_blocker, "Memory '%s' has huge pages of a "
               "guest_memfd, for which KVM logs no writes", name);
    return !migrate_add_blocker(&m->migration_blocker, errp);
}

static bool map_file(HostMemoryBackendGuestMemfd *m, const char *name, int fd,
                     Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    const GuestMemfdChoice *c = &m->choice;
    uint32_t ram_flags = RAM_SHARED | (backend->reserve ? 0 : RAM_NORESERVE);

    if (!memory_region_init_ram_from_fd_aligned(&backend->mr, OBJECT(backend),
                                                name, backend->size,
                                                c->huge_size, ram_flags, fd, 0,
                                                errp)) {
        return false;
    }
    backend->mr.ram_block->fd_is_guest_memfd = guest_memfd_is_mapped(c->ops);
    if (c->huge_size && c->pages.provider == GUEST_MEMFD_PROVIDER_HUGETLB) {
        backend->mr.ram_block->page_size = c->huge_size;
    }
    return true;
}

static bool alloc_chosen(HostMemoryBackend *backend, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(backend);
    g_autofree char *name = host_memory_backend_get_name(backend);
    const char *id = object_get_canonical_path_component(OBJECT(backend));
    const GuestMemfdChoice *c = &m->choice;
    bool private = m->options.init == GUEST_MEMFD_INIT_PRIVATE, inherited;
    GuestMemfdRestructure how;
    int fd;
    ERRP_GUARD();

    /* A new QEMU in the place of one that has ended (CPR) goes on with it. */
    fd = c->ops || c->huge_size ? -1 : cpr_find_fd(name, 0);
    inherited = fd >= 0;
    if (!inherited) {
        fd = create_file(m, private, errp);
    }
    if (fd < 0 || !map_file(m, name, fd, errp)) {
        error_prepend(errp, "'%s': ", name);
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    if (!c->ops) {                 /* all else is for memory that converts */
        if (c->huge_size) {
            prepare(m, false);
            return bind_ordinary(m, errp);
        }
        if (!inherited) {
            cpr_save_fd(name, 0, fd);
        }
        return true;
    }
    if (c->ops->driver == GUEST_MEMFD_DRIVER_KVM) {
        if (!add_guest_memfd(backend, c->ops, errp)) {
            return false;
        }
        prepare(m, private);
    }

    m->gm = guest_memfd_new(backend->mr.ram_block, id ?: name, c->ops,
                            private, errp);
    if (!m->gm) {
        return false;
    }
    guest_memfd_set_provider(m->gm, c->pages.provider);
    if (c->huge_size &&
        guest_memfd_kvm_restructure(GUEST_MEMFD_RESTRUCTURE_FILE, &how)) {
        guest_memfd_set_restructure(m->gm, how);
    }
    qemu_register_reset(guest_memfd_backend_reset, m);
    return true;
}

static bool guest_memfd_backend_alloc(HostMemoryBackend *backend, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(backend);
    bool ok;

    if (!backend->share) {
        error_setg(errp, "share=off is impossible: devices can only reach the "
                   "shared pages of " TYPE_MEMORY_BACKEND_GUEST_MEMFD
                   " through a shared mapping");
        return false;
    }
    ok = guest_memfd_choose(backend, &m->options, &m->choice, errp) &&
         alloc_chosen(backend, errp);
    guest_memfd_close_mount(&m->choice);
    return ok;
}

/* Options are fixed as soon as there is memory. */
static bool can_still_set(Object *obj, const char *name, Error **errp)
{
    if (host_memory_backend_mr_inited(MEMORY_BACKEND(obj))) {
        error_setg(errp, "property '%s' of '%s' cannot change any more", name,
                   object_get_typename(obj));
        return false;
    }
    return true;
}

static bool get_hugetlb(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_GUEST_MEMFD(obj)->options.hugetlb;
}

static void set_hugetlb(Object *obj, bool value, Error **errp)
{
    if (can_still_set(obj, "hugetlb", errp)) {
        MEMORY_BACKEND_GUEST_MEMFD(obj)->options.hugetlb = value;
    }
}

static void get_hugetlbsize(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(obj);

    visit_type_size(v, name, &m->options.hugetlbsize, errp);
}

static void set_hugetlbsize(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    uint64_t value;

    if (!can_still_set(obj, name, errp) ||
        !visit_type_size(v, name, &value, errp)) {
        return;
    }
    if (!value) {
        error_setg(errp, "hugetlbsize=0 is not a page size; leave the option "
                   "out for the host's default");
        return;
    }
    MEMORY_BACKEND_GUEST_MEMFD(obj)->options.hugetlbsize = value;
}

static char *get_resource(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_BACKEND_GUEST_MEMFD(obj)->options.resource);
}

static void set_resource(Object *obj, const char *value, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(obj);

    if (can_still_set(obj, "x-resource", errp)) {
        g_free(m->options.resource);
        m->options.resource = g_strdup(value);
    }
}

/* One pair of accessors for each option whose values are an enumeration. */
#define ENUM_OPTION(field, name)                                            \
static int get_##field(Object *obj, Error **errp)                           \
{                                                                           \
    return MEMORY_BACKEND_GUEST_MEMFD(obj)->options.field;                  \
}                                                                           \
                                                                            \
static void set_##field(Object *obj, int value, Error **errp)               \
{                                                                           \
    if (can_still_set(obj, name, errp)) {                                   \
        MEMORY_BACKEND_GUEST_MEMFD(obj)->options.field = value;             \
    }                                                                       \
}

ENUM_OPTION(driver, "driver")
ENUM_OPTION(conversion, "conversion")
ENUM_OPTION(init, "init")
ENUM_OPTION(provider, "x-provider")

/* It was one of the memory; who maps decides. */
static void refuse_dma_split(Object *obj, const char *value, Error **errp)
{
    error_setg(errp, "x-dma-split=%s is not an option of memory: give it to "
               "each vfio-pci and vfio-user-pci device", value);
}

static void guest_memfd_backend_instance_init(Object *obj)
{
    MEMORY_BACKEND(obj)->share = true;
}

static void guest_memfd_backend_finalize(Object *obj)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(obj);

    if (m->gm) {
        qemu_unregister_reset(guest_memfd_backend_reset, m);
    }
    if (m->machine_done.notify) {
        qemu_remove_machine_init_done_notifier(&m->machine_done);
    }
    migrate_del_blocker(&m->migration_blocker);
    g_free(m->options.resource);
}

static void guest_memfd_backend_class_init(ObjectClass *oc, const void *data)
{
    HostMemoryBackendClass *bc = MEMORY_BACKEND_CLASS(oc);
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    bc->alloc = guest_memfd_backend_alloc;
    parent_complete = ucc->complete;
    ucc->complete = guest_memfd_backend_complete;

    object_class_property_add_bool(oc, "hugetlb", get_hugetlb, set_hugetlb);
    object_class_property_set_description(oc, "hugetlb", "Use huge pages");
    object_class_property_add(oc, "hugetlbsize", "int", get_hugetlbsize,
                              set_hugetlbsize, NULL, NULL);
    object_class_property_set_description(oc, "hugetlbsize",
                                          "Huge pages size (ex: 2M, 1G)");
    object_class_property_add_enum(oc, "driver", "GuestMemfdDriver",
                                   &GuestMemfdDriver_lookup,
                                   get_driver, set_driver);
    object_class_property_set_description(oc, "driver",
        "What converts memory: auto, kvm, emulated");
    object_class_property_add_enum(oc, "conversion", "GuestMemfdConversion",
                                   &GuestMemfdConversion_lookup,
                                   get_conversion, set_conversion);
    object_class_property_set_description(oc, "conversion",
        "How it converts: auto, in-place, two-copy, none");
    object_class_property_add_enum(oc, "init", "GuestMemfdInit",
                                   &GuestMemfdInit_lookup,
                                   get_init, set_init);
    object_class_property_set_description(oc, "init",
        "State of pages at start and after reset: auto, shared, private");
    object_class_property_add_enum(oc, "x-provider", "GuestMemfdProvider",
                                   &GuestMemfdProvider_lookup,
                                   get_provider, set_provider);
    object_class_property_set_description(oc, "x-provider",
        "Where pages come from: auto, pages, hugetlb, thp");
    object_class_property_add_str(oc, "x-resource", get_resource, set_resource);
    object_class_property_set_description(oc, "x-resource",
        "Where a hugetlbfs or tmpfs is mounted that pages come from");
    object_class_property_add_str(oc, "x-dma-split", NULL, refuse_dma_split);
    object_class_property_set_description(oc, "x-dma-split",
        "Refused: an option of vfio-pci and vfio-user-pci");
}

static const TypeInfo guest_memfd_backend_info = {
    .name = TYPE_MEMORY_BACKEND_GUEST_MEMFD,
    .parent = TYPE_MEMORY_BACKEND,
    .instance_size = sizeof(HostMemoryBackendGuestMemfd),
    .instance_init = guest_memfd_backend_instance_init,
    .instance_finalize = guest_memfd_backend_finalize,
    .class_init = guest_memfd_backend_class_init,
};

static void register_types(void)
{
    type_register_static(&guest_memfd_backend_info);
}

type_init(register_types);
