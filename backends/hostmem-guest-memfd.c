/*
 * Memory backend whose pages the guest can convert between shared and private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memfd.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "qapi/qapi-types-guest-memfd-options.h"
#include "qapi/visitor.h"
#include "hw/boards.h"
#include "migration/blocker.h"
#include "migration/cpr.h"
#include "system/guest-memfd-kvm.h"
#include "system/hostmem.h"
#include "system/kvm.h"
#include "system/ramblock.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/system.h"
#include "qom/object.h"
#include "qom/object_interfaces.h"
#include "guest-memfd-prealloc.h"
#include "huge-page-pool.h"

#define TYPE_MEMORY_BACKEND_GUEST_MEMFD "memory-backend-guest-memfd"
OBJECT_DECLARE_SIMPLE_TYPE(HostMemoryBackendGuestMemfd,
                           MEMORY_BACKEND_GUEST_MEMFD)

struct HostMemoryBackendGuestMemfd {
    HostMemoryBackend parent_obj;

    bool hugetlb;
    uint64_t hugetlbsize;
    GuestMemfdDriver driver;
    GuestMemfdConversion conversion;
    GuestMemfdInit init;
    GuestMemfdProvider provider;

    uint64_t huge_size;         /* of the pages of a mapped guest_memfd, or 0 */
    bool prealloc_file;         /* preallocate here, not in the base class */
    GuestMemfd *gm;             /* set once the memory is there */
    Error *migration_blocker;   /* of memory that KVM does not log */
};

static void (*parent_complete)(UserCreatable *uc, Error **errp);

/* The size of the pages that back @m's shared memory; 0 with @errp set. */
static uint64_t choose_page_size(HostMemoryBackendGuestMemfd *m, Error **errp)
{
    if (m->hugetlb) {
        return huge_page_size(m->hugetlbsize, errp);
    }
    if (m->hugetlbsize) {
        error_setg(errp, "hugetlbsize=%" PRIu64 " needs hugetlb=on",
                   m->hugetlbsize);
        return 0;
    }
    return qemu_real_host_page_size();
}

/* The kernel reserves all huge pages of a guest_memfd when it is created. */
static bool check_pool(HostMemoryBackendGuestMemfd *m, uint64_t page_size,
                       Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);

    return page_size == qemu_real_host_page_size() ||
           (!backend->prealloc && !backend->reserve && !m->huge_size) ||
           huge_page_pool_check(page_size, backend->size / page_size, errp);
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

static bool choose_provider(HostMemoryBackendGuestMemfd *m, Error **errp)
{
    if (m->provider == GUEST_MEMFD_PROVIDER_AUTO) {
        m->provider = m->hugetlb ? GUEST_MEMFD_PROVIDER_HUGETLB :
                                   GUEST_MEMFD_PROVIDER_PAGES;
    }
    if (m->hugetlb != (m->provider == GUEST_MEMFD_PROVIDER_HUGETLB)) {
        error_setg(errp, "x-provider=%s contradicts hugetlb=%s; leave "
                   "x-provider out", GuestMemfdProvider_str(m->provider),
                   m->hugetlb ? "on" : "off");
        return false;
    }
    return true;
}

static bool choose_emulated(HostMemoryBackendGuestMemfd *m,
                            const GuestMemfdOps **ops, Error **errp)
{
    if (current_machine->cgs) {
        error_setg(errp, "driver=emulated cannot back a confidential machine, "
                   "because it protects no memory; leave the option out");
        return false;
    }
    if (m->conversion != GUEST_MEMFD_CONVERSION_AUTO &&
        m->conversion != GUEST_MEMFD_CONVERSION_IN_PLACE) {
        error_setg(errp, "conversion=%s: driver=emulated can only convert "
                   "in-place", GuestMemfdConversion_str(m->conversion));
        return false;
    }
    if (m->driver == GUEST_MEMFD_DRIVER_AUTO) {
        warn_report_once(TYPE_MEMORY_BACKEND_GUEST_MEMFD ": driver=emulated is "
                         "used, as there is no KVM: private memory is not "
                         "protected from the host");
    }
    *ops = &guest_memfd_emulated_ops;
    return true;
}

/*
 * Locked pages cannot be freed one by one: the copy that is not used would stay
 * where it is, and the log would tell of each attempt.
 */
static bool check_mlock(GuestMemfdConversion conversion, Error **errp)
{
    if (conversion != GUEST_MEMFD_CONVERSION_TWO_COPY ||
        !should_mlock(mlock_state)) {
        return true;
    }
    error_setg(errp, "conversion=two-copy: -overcommit mem-lock=on would lock "
               "the copy that is not used, too; use mem-lock=off");
    return false;
}

/* What only memory can have whose pages are converted. */
static bool check_ordinary(HostMemoryBackendGuestMemfd *m, Error **errp)
{
    if (machine_require_guest_memfd(current_machine)) {
        error_setg(errp, "conversion=none cannot back a confidential machine, "
                   "because its guest makes memory private; leave the option "
                   "out");
        return false;
    }
    if (m->init == GUEST_MEMFD_INIT_PRIVATE) {
        error_setg(errp, "init=private: this VM has no private memory "
                   "(conversion=none); use a confidential machine or "
                   "driver=emulated");
        return false;
    }
    return true;
}

static bool choose_kvm(HostMemoryBackendGuestMemfd *m,
                       const GuestMemfdOps **ops, Error **errp)
{
    if (!kvm_enabled()) {
        error_setg(errp, "driver=kvm needs the KVM accelerator (-accel kvm); "
                   "use driver=emulated without it");
        return false;
    }
    if (!guest_memfd_kvm_choose(m->conversion, ops, errp)) {
        return false;
    }
    return *ops ? check_mlock((*ops)->conversion, errp) :
                  check_ordinary(m, errp);
}

/*
 * Resolve driver=, conversion= and init=; refuse what cannot be done.  Nothing
 * converts memory whose @ops are NULL.
 */
static bool choose_driver(HostMemoryBackendGuestMemfd *m,
                          const GuestMemfdOps **ops, Error **errp)
{
    bool kvm = m->driver == GUEST_MEMFD_DRIVER_KVM ||
               (m->driver == GUEST_MEMFD_DRIVER_AUTO && kvm_enabled());

    if (kvm ? !choose_kvm(m, ops, errp) : !choose_emulated(m, ops, errp)) {
        return false;
    }
    m->driver = kvm ? GUEST_MEMFD_DRIVER_KVM : GUEST_MEMFD_DRIVER_EMULATED;
    m->conversion = *ops ? (*ops)->conversion : GUEST_MEMFD_CONVERSION_NONE;
    if (m->init == GUEST_MEMFD_INIT_AUTO) {
        m->init = machine_require_guest_memfd(current_machine) ?
                  GUEST_MEMFD_INIT_PRIVATE : GUEST_MEMFD_INIT_SHARED;
    }
    return true;
}

/* What is not refused, but may not be what was meant. */
static void warn_of_pages(HostMemoryBackendGuestMemfd *m,
                          const GuestMemfdOps *ops)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (ops && m->init == GUEST_MEMFD_INIT_SHARED) {
        warn_report("init=shared: '%s' starts with all of its huge pages "
                    "split, as the kernel keeps whole only those that are "
                    "private; use init=private where the guest allows it",
                    name);
    }
    if (m->hugetlb && !backend->reserve) {
        warn_report("reserve=off: the huge pages of '%s' are reserved all the "
                    "same, because the kernel reserves those of a guest_memfd",
                    name);
    }
}

/* Huge pages of a guest_memfd that is mapped.  Those of a memfd always work. */
static bool check_provider(HostMemoryBackendGuestMemfd *m,
                           const GuestMemfdOps *ops,
                           const GuestMemfdPages *pages, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    bool thp = m->provider == GUEST_MEMFD_PROVIDER_THP;
    g_autofree char *name = host_memory_backend_get_name(backend);
    ERRP_GUARD();

    if (m->provider == GUEST_MEMFD_PROVIDER_PAGES) {
        return true;
    }
    if (!guest_memfd_is_mapped(ops)) {
        if (thp) {
            error_setg(errp, "x-provider=thp of '%s' needs driver=kvm with "
                       "conversion=in-place or none; leave it out", name);
        }
        return !thp;
    }
    if (!guest_memfd_kvm_has_pages(pages, errp)) {
        error_prepend(errp, thp ? "x-provider=thp of '%s': " :
                                  "hugetlb=on of '%s': ", name);
        return false;
    }
    m->huge_size = thp ? GUEST_MEMFD_THP_SIZE : pages->size;
    warn_of_pages(m, ops);
    return true;
}

/* Where the pages of a mapped guest_memfd come from, of all nodes. */
static bool check_policy(HostMemoryBackendGuestMemfd *m,
                         const GuestMemfdOps *ops, Error **errp)
{
#ifdef CONFIG_NUMA
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    g_autofree char *name = host_memory_backend_get_name(backend);

    if (!guest_memfd_is_mapped(ops) ||
        bitmap_empty(backend->host_nodes, MAX_NODES)) {
        return true;
    }
    /* It would be at the first touch that a node has none left. */
    if (m->huge_size && m->hugetlb && !backend->prealloc &&
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
static int create_file(HostMemoryBackendGuestMemfd *m, const GuestMemfdOps *ops,
                       const GuestMemfdPages *pages, bool private,
                       Error **errp)
{
    uint64_t size = MEMORY_BACKEND(m)->size;

    if (guest_memfd_is_mapped(ops)) {
        return guest_memfd_kvm_create(ops, pages, size, private, errp);
    }
    return qemu_memfd_create(TYPE_MEMORY_BACKEND_GUEST_MEMFD, size, m->hugetlb,
                             m->hugetlb ? pages->size : 0,
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
    if (!*errp && m->prealloc_file) {
        MEMORY_BACKEND(uc)->prealloc =
            guest_memfd_prealloc(MEMORY_BACKEND(uc), m->huge_size ?:
                                 qemu_real_host_page_size(), errp);
    }
}

/*
 * What the base class cannot do for this memory.  Private pages of two-copy are
 * not in the mapping that has the NUMA policy.
 */
static void prepare(HostMemoryBackendGuestMemfd *m, const GuestMemfdOps *ops,
                    bool private)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);

    if (backend->prealloc && (private || m->huge_size)) {
        m->prealloc_file = true;
        backend->prealloc = false;
    } else if (!guest_memfd_is_mapped(ops) &&
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

static bool map_file(HostMemoryBackendGuestMemfd *m, const GuestMemfdOps *ops,
                     const char *name, int fd, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    uint32_t ram_flags = RAM_SHARED | (backend->reserve ? 0 : RAM_NORESERVE);

    if (!memory_region_init_ram_from_fd_aligned(&backend->mr, OBJECT(backend),
                                                name, backend->size,
                                                m->huge_size, ram_flags, fd, 0,
                                                errp)) {
        return false;
    }
    backend->mr.ram_block->fd_is_guest_memfd = guest_memfd_is_mapped(ops);
    if (m->huge_size && m->provider == GUEST_MEMFD_PROVIDER_HUGETLB) {
        backend->mr.ram_block->page_size = m->huge_size;
    }
    return true;
}

static bool guest_memfd_backend_alloc(HostMemoryBackend *backend, Error **errp)
{
    HostMemoryBackendGuestMemfd *m = MEMORY_BACKEND_GUEST_MEMFD(backend);
    g_autofree char *name = host_memory_backend_get_name(backend);
    const char *id = object_get_canonical_path_component(OBJECT(backend));
    const GuestMemfdOps *ops;
    GuestMemfdRestructure how;
    GuestMemfdPages pages;
    bool private, inherited;
    int fd;

    if (!backend->share) {
        error_setg(errp, "share=off is impossible: devices can only reach the "
                   "shared pages of " TYPE_MEMORY_BACKEND_GUEST_MEMFD
                   " through a shared mapping");
        return false;
    }
    pages.size = choose_page_size(m, errp);
    if (!pages.size || !check_size(backend, pages.size, errp)) {
        return false;
    }
    if (!choose_provider(m, errp)) {
        return false;
    }
    pages.provider = m->provider;
    if (!choose_driver(m, &ops, errp) ||
        !check_provider(m, ops, &pages, errp) ||
        !check_policy(m, ops, errp) ||
        !check_pool(m, pages.size, errp)) {
        return false;
    }
    private = m->init == GUEST_MEMFD_INIT_PRIVATE;

    /* A new QEMU in the place of one that has ended (CPR) goes on with it. */
    fd = ops || m->huge_size ? -1 : cpr_find_fd(name, 0);
    inherited = fd >= 0;
    if (!inherited) {
        fd = create_file(m, ops, &pages, private, errp);
    }
    if (fd < 0) {
        return false;
    }
    if (!map_file(m, ops, name, fd, errp)) {
        close(fd);
        return false;
    }
    if (!ops) {                 /* all else is for memory that converts */
        if (m->huge_size) {
            prepare(m, ops, false);
            return bind_ordinary(m, errp);
        }
        if (!inherited) {
            cpr_save_fd(name, 0, fd);
        }
        return true;
    }
    if (ops->driver == GUEST_MEMFD_DRIVER_KVM) {
        if (!add_guest_memfd(backend, ops, errp)) {
            return false;
        }
        prepare(m, ops, private);
    }

    m->gm = guest_memfd_new(backend->mr.ram_block, id ?: name, ops, private,
                            errp);
    if (!m->gm) {
        return false;
    }
    guest_memfd_set_provider(m->gm, m->provider);
    if (m->huge_size &&
        guest_memfd_kvm_restructure(GUEST_MEMFD_RESTRUCTURE_FILE, &how)) {
        guest_memfd_set_restructure(m->gm, how);
    }
    qemu_register_reset(guest_memfd_backend_reset, m);
    return true;
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
    return MEMORY_BACKEND_GUEST_MEMFD(obj)->hugetlb;
}

static void set_hugetlb(Object *obj, bool value, Error **errp)
{
    if (can_still_set(obj, "hugetlb", errp)) {
        MEMORY_BACKEND_GUEST_MEMFD(obj)->hugetlb = value;
    }
}

static void get_hugetlbsize(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    visit_type_size(v, name, &MEMORY_BACKEND_GUEST_MEMFD(obj)->hugetlbsize,
                    errp);
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
    MEMORY_BACKEND_GUEST_MEMFD(obj)->hugetlbsize = value;
}

/* One pair of accessors for each option whose values are an enumeration. */
#define ENUM_OPTION(field, name)                                            \
static int get_##field(Object *obj, Error **errp)                           \
{                                                                           \
    return MEMORY_BACKEND_GUEST_MEMFD(obj)->field;                          \
}                                                                           \
                                                                            \
static void set_##field(Object *obj, int value, Error **errp)               \
{                                                                           \
    if (can_still_set(obj, name, errp)) {                                   \
        MEMORY_BACKEND_GUEST_MEMFD(obj)->field = value;                     \
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
    migrate_del_blocker(&m->migration_blocker);
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
