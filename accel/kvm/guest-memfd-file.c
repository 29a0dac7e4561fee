/*
 * guest_memfd blocks: files, and where their pages come from
 *
 * A provider other than the kernel's own pages is asked for with a flag.  No
 * released kernel has one, and two interfaces give the same flag a meaning:
 *
 *  order     the page order is in the first byte of the first reserved word
 *  resource  the file descriptor of a mounted filesystem is in that word
 *
 * So what the VM's kernel speaks is found out by trying: a file descriptor of -1
 * is EBADF to the second, and no page order to the first.  Then a valid order
 * tells the first from a kernel that knows neither.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#ifdef CONFIG_NUMA
#include <numaif.h>
#endif
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "system/guest-memfd-kvm.h"
#include "system/hostmem.h"
#include "system/kvm.h"

#ifndef GUEST_MEMFD_FLAG_HUGETLB
#define GUEST_MEMFD_FLAG_HUGETLB (1ULL << 2)
#endif
#ifndef GUEST_MEMFD_FLAG_HUGEPAGE
#define GUEST_MEMFD_FLAG_HUGEPAGE (1ULL << 3)
#endif

#define SHARED_FILE_FLAGS (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

typedef enum HugeInterface {
    HUGE_UNKNOWN,
    HUGE_NONE,
    HUGE_ORDER,
    HUGE_RESOURCE,
} HugeInterface;

static uint8_t page_order(uint64_t page_size)
{
    return ctz64(page_size / qemu_real_host_page_size());
}

/* @arg: what the first reserved word begins with.  Returns: a negative errno. */
static int create(uint64_t size, uint64_t flags, const void *arg,
                  size_t arg_size)
{
    struct kvm_create_guest_memfd create = { .size = size, .flags = flags };

    if (arg) {
        memcpy(create.reserved, arg, arg_size);
    }
    return kvm_vm_ioctl(kvm_state, KVM_CREATE_GUEST_MEMFD, &create);
}

/* Returns: 0 or a negative errno. */
static int try_create(uint64_t size, uint64_t flags, const void *arg,
                      size_t arg_size)
{
    int fd = create(size, flags, arg, arg_size);

    if (fd >= 0) {
        close(fd);
        return 0;
    }
    return fd;
}

static bool cannot_find_out(int ret, const char *what, Error **errp)
{
    error_setg_errno(errp, -ret, "cannot find out whether the guest_memfd of "
                     "this kernel has %s", what);
    return false;
}

/* A pool that is short is ENOMEM: the whole file is reserved. */
static bool try_interfaces(uint64_t page_size, HugeInterface *found,
                           Error **errp)
{
    const uint64_t flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_HUGETLB;
    const uint8_t order = page_order(page_size);
    const int no_fd = -1;
    int ret = try_create(page_size, flags, &no_fd, sizeof(no_fd));

    *found = HUGE_NONE;
    if (ret == -EBADF) {
        *found = HUGE_RESOURCE;
    } else if (ret == -EINVAL) {
        ret = try_create(page_size, flags, &order, sizeof(order));
        if (!ret || ret == -ENOMEM) {
            *found = HUGE_ORDER;
        } else if (ret != -EINVAL) {
            return cannot_find_out(ret, "huge pages", errp);
        }
    } else if (ret) {
        return cannot_find_out(ret, "huge pages", errp);
    }
    return true;
}

static bool huge_interface(uint64_t page_size, HugeInterface *interface,
                           Error **errp)
{
    static HugeInterface known;
    static KVMState *known_of;

    if (known == HUGE_UNKNOWN || known_of != kvm_state) {
        HugeInterface found;

        if (!try_interfaces(page_size, &found, errp)) {
            return false;
        }
        known = found;
        known_of = kvm_state;
    }
    *interface = known;
    return true;
}

/* Does the kernel speak the interface that these pages are asked for by? */
static bool check_interface(const GuestMemfdPages *pages, Error **errp)
{
    bool thp = pages->provider == GUEST_MEMFD_PROVIDER_THP;
    HugeInterface interface;

    if (!huge_interface(thp ? guest_memfd_thp_size() : pages->size, &interface,
                        errp)) {
        return false;
    }
    if (interface == (pages->mounted ? HUGE_RESOURCE : HUGE_ORDER)) {
        return true;
    }
    switch (interface) {
    case HUGE_ORDER:
        error_setg(errp, "the guest_memfd of this kernel takes a page size, "
                   "not a mounted filesystem; use %s instead", thp ?
                   "x-provider=thp" : "hugetlb=on,hugetlbsize=SIZE");
        return false;
    case HUGE_RESOURCE:
        error_setg(errp, "the guest_memfd of this kernel takes huge pages from "
                   "a mounted filesystem only; use x-resource=DIR instead, "
                   "with the directory of a hugetlbfs");
        return false;
    default:
        error_setg(errp, "the guest_memfd of this kernel has no huge pages; "
                   "use driver=emulated or memory-backend-memfd");
        return false;
    }
}

static bool check_thp(Error **errp)
{
    int ret = try_create(guest_memfd_thp_size(), GUEST_MEMFD_FLAG_MMAP |
                         GUEST_MEMFD_FLAG_HUGEPAGE, NULL, 0);

    if (ret == -EINVAL) {
        error_setg(errp, "the guest_memfd of this kernel has no transparent "
                   "huge pages; leave the option out");
    } else if (ret) {
        cannot_find_out(ret, "transparent huge pages", errp);
    }
    return !ret;
}

bool guest_memfd_kvm_has_pages(const GuestMemfdPages *pages, Error **errp)
{
    if (pages->mounted || pages->provider == GUEST_MEMFD_PROVIDER_HUGETLB) {
        return check_interface(pages, errp);
    }
    return pages->provider != GUEST_MEMFD_PROVIDER_THP || check_thp(errp);
}

/* What to do about it, beyond what the errno says. */
static const char *create_remedy(int err)
{
    switch (err) {
    case EMFILE:
        return " (RLIMIT_NOFILE is too low: raise it with ulimit -n, or "
               "LimitNOFILE= of systemd)";
    case ENFILE:
        return " (raise sysctl fs.file-max of the host)";
    case ENOMEM:
        return " (the host's kernel has no memory for it, or the control group "
               "of QEMU may not use more)";
    default:
        return "";
    }
}

static const char *mount_reason(int err)
{
    switch (err) {
    case EINVAL:
        return "x-resource is not the root directory of a mount, or this "
               "kernel lets no such file start shared";
    case ENOMEM:
    case ENOSPC:
        return "there are not enough left, or the mount or the control group "
               "of QEMU may not use as many; reserve more, or try again if a "
               "VM has just ended, whose pages may still be on their way back";
    case EPERM:
    case EACCES:
        return "QEMU may not write to the directory of x-resource; change its "
               "owner or mode";
    case EOPNOTSUPP:
        return "this kernel does not support the mount's options; leave out "
               "min_size= of a hugetlbfs, and give a tmpfs size=0";
    default:
        return strerror(err);
    }
}

static const char *pool_reason(int err, uint64_t flags)
{
    switch (err) {
    case EINVAL:
        return !(flags & GUEST_MEMFD_FLAG_INIT_SHARED) ? strerror(err) :
               "this kernel lets no such file start shared, as init=shared, "
               "conversion=none and the launch of a confidential machine need "
               "it; leave out hugetlb";
    case ENOMEM:
    case ENOSPC:
        return "the pool has not enough left, or the control group of QEMU may "
               "not use as many; reserve more, or try again if a VM has just "
               "ended, whose pages may still be on their way back";
    case EPERM:
    case EACCES:
        return "the host does not let QEMU have them; look at its security "
               "policy, or leave out hugetlb";
    default:
        return strerror(err);
    }
}

/* Of huge pages, all are reserved when the file is created. */
static void create_error(int err, uint64_t flags, uint64_t size,
                         const GuestMemfdPages *pages, Error **errp)
{
    g_autofree char *page = pages ? size_to_str(pages->size) : NULL;
    bool limit = err == EMFILE || err == ENFILE;

    if (pages && !limit) {
        error_setg(errp, "cannot create a guest_memfd of %" PRIu64 " %spages "
                   "of %s: %s", size / pages->size,
                   pages->provider == GUEST_MEMFD_PROVIDER_HUGETLB ? "huge " :
                   "", page, pages->mounted ? mount_reason(err) :
                   pool_reason(err, flags));
    } else {
        error_setg(errp, "cannot create a guest_memfd of 0x%" PRIx64
                   " bytes: %s%s", size, strerror(err), create_remedy(err));
    }
}

int guest_memfd_kvm_create(const GuestMemfdOps *ops,
                           const GuestMemfdPages *pages, uint64_t size,
                           bool private, Error **errp)
{
    bool mapped = guest_memfd_is_mapped(ops), hugetlb, mounted;
    uint64_t flags = SHARED_FILE_FLAGS;
    uint8_t order;
    int fd;

    pages = mapped ? pages : NULL;
    mounted = pages && pages->mounted;
    hugetlb = pages && pages->provider == GUEST_MEMFD_PROVIDER_HUGETLB;
    if (!mapped) {
        flags = 0;
    } else if (private && !guest_memfd_starts_shared(ops)) {
        flags = GUEST_MEMFD_FLAG_MMAP;
    }
    if (hugetlb || mounted) {
        flags |= GUEST_MEMFD_FLAG_HUGETLB;
    } else if (pages && pages->provider == GUEST_MEMFD_PROVIDER_THP) {
        flags |= GUEST_MEMFD_FLAG_HUGEPAGE;
    }
    if (mounted) {
        fd = create(size, flags, &pages->mount, sizeof(pages->mount));
    } else {
        order = hugetlb ? page_order(pages->size) : 0;
        fd = create(size, flags, &order, sizeof(order));
    }
    if (fd < 0) {
        create_error(-fd, flags, size, hugetlb || mounted ? pages : NULL, errp);
        return -1;
    }
    return fd;
}

bool guest_memfd_kvm_restructure(const char *file, GuestMemfdRestructure *how)
{
    g_autofree char *text = NULL;
    int value = -1;

    if (g_file_get_contents(file, &text, NULL, NULL)) {
        value = qapi_enum_parse(&GuestMemfdRestructure_lookup,
                                g_strchomp(text), -1, NULL);
    }
    *how = value;
    return value >= 0;
}

#ifdef CONFIG_NUMA
/*
 * A mapping whose file takes no part in it keeps a NUMA policy to itself, and
 * the file allocates as it likes.  Where the file has the policy (7.3), another
 * mapping of the same file shows it.
 */
bool guest_memfd_kvm_honours_policy(void)
{
    size_t page = qemu_real_host_page_size();
    int fd = create(page, SHARED_FILE_FLAGS, NULL, 0);
    unsigned long nodes[BITS_TO_LONGS(MAX_NODES + 1)] = {};
    int mode = MPOL_DEFAULT;
    void *a, *b;

    if (fd < 0) {
        return false;
    }
    a = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    b = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (a != MAP_FAILED && b != MAP_FAILED &&
        !get_mempolicy(NULL, nodes, MAX_NODES + 1, NULL,
                       MPOL_F_MEMS_ALLOWED) &&
        !mbind(a, page, MPOL_BIND, nodes, MAX_NODES + 1, 0)) {
        get_mempolicy(&mode, NULL, 0, b, MPOL_F_ADDR);
    }
    if (a != MAP_FAILED) {
        munmap(a, page);
    }
    if (b != MAP_FAILED) {
        munmap(b, page);
    }
    close(fd);
    return mode == MPOL_BIND;
}
#endif
