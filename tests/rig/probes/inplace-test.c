/*
 * In-place conversion of guest_memfd (the patch in tests/rig/kernel), seen by
 * the host, by devices and by a guest (inplace-guest.c): one line for each
 * check, "ok - " or "not ok - ". The argument says how
 * kvm.gmem_in_place_conversion is: on, off.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/kvm.h>
#include <linux/vfio.h>

#include "inplace-test.h"

#define MIB     (1024 * 1024ull)
#define TIMEOUT 300     /* seconds: against guests that do not stop */
#define MAPPED  (FLAG_MMAP | FLAG_INIT_SHARED)

int kvm;
int vm;

int need(int ret, const char *what)
{
    if (ret < 0) {
        result(false, "%s: %s", what, strerror(errno));
        exit(1);
    }
    return ret;
}

/* Access to memory that may be private */

static sigjmp_buf on_sigbus;

static void sigbus(int signal)
{
    siglongjmp(on_sigbus, signal);
}

int peek(const uint8_t *byte)
{
    if (sigsetjmp(on_sigbus, 1)) {
        return -1;
    }
    /* volatile: the access has to happen, here */
    return *(const volatile uint8_t *)byte;
}

bool poke(uint8_t *byte, uint8_t value)
{
    if (sigsetjmp(on_sigbus, 1)) {
        return false;
    }
    /* volatile: as above */
    *(volatile uint8_t *)byte = value;
    return true;
}

/* Files */

static int create_memfd(int vm_fd, uint64_t flags, uint64_t size)
{
    struct kvm_create_guest_memfd create = { .size = size, .flags = flags };

    return ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, &create);
}

struct file new_file(uint64_t flags, uint64_t size)
{
    struct file file = { .size = size };

    file.fd = need(create_memfd(vm, flags, size), "creating a guest_memfd");
    if (flags & FLAG_MMAP) {
        file.map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
                        file.fd, 0);
        need(file.map == MAP_FAILED ? -1 : 0, "mapping a guest_memfd");
    }
    return file;
}

void drop_file(struct file *file)
{
    if (file->map) {
        munmap(file->map, file->size);
    }
    close(file->fd);
}

uint8_t pattern(uint64_t i)
{
    return i % 255 + 1;
}

struct file new_filled(uint64_t pages)
{
    struct file file = new_file(MAPPED, pages * PAGE);

    for (uint64_t i = 0; i < pages; i++) {
        need(poke(file.map + i * PAGE, pattern(i)) - 1, "filling a page");
    }
    return file;
}

static int set_attributes(int fd, struct attributes2 *attributes)
{
    return ioctl(fd, SET_ATTRIBUTES2, attributes) ? errno : 0;
}

int convert(struct file *file, uint64_t page, uint64_t pages, bool private,
            uint64_t *error)
{
    return convert_pages(file->fd, page, pages, private, error);
}

/* [@start, @start + @pages) is private, the rest shared; all as filled */
static bool private_are(struct file *file, uint64_t start, uint64_t pages)
{
    for (uint64_t i = 0; i < file->size / PAGE; i++) {
        bool private = i - start < pages;

        if (peek(file->map + i * PAGE) != (private ? -1 : pattern(i))) {
            return false;
        }
    }
    return true;
}

/* What the kernel offers and refuses */

static int set_in_vm(uint64_t attributes)
{
    struct kvm_memory_attributes old = {
        .size = PAGE,
        .attributes = attributes,
    };

    return ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &old) ? errno : 0;
}

/* Of huge pages there are others, which gmem-hugepage-test checks. */
static void check_flags(uint64_t wanted)
{
    uint64_t offered = ioctl(vm, KVM_CHECK_EXTENSION, CAP_GUEST_MEMFD_FLAGS);
    bool ok = true;

    result((offered & MAPPED) == wanted, "its guest_memfd flags are 0x%llx",
           (unsigned long long)offered);
    for (uint64_t flags = 0; flags <= MAPPED; flags++) {
        int fd = create_memfd(vm, flags, PAGE);

        ok &= fd >= 0 ? !(flags & ~offered)
                      : (flags & ~offered) && errno == EINVAL;
        close(fd);
    }
    result(ok, "a file is created if all of its flags are offered, else not");
}

static void check_off(void)
{
    struct file file = new_file(0, PAGE);
    int cap = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES);
    int ret;

    result(cap & PRIVATE, "KVM_CAP_MEMORY_ATTRIBUTES of the VM is %d", cap);
    check_flags(FLAG_MMAP);
    ret = set_in_vm(PRIVATE);
    result(!ret, "private by the VM's ioctl: %s", strerror(ret));
    ret = convert(&file, 0, 1, true, NULL);
    result(ret == ENOTTY, "private by the file's ioctl: %s", strerror(ret));
    drop_file(&file);
}

static void check_on(void)
{
    int cap = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES);
    int ret, other;

    result(!cap, "KVM_CAP_MEMORY_ATTRIBUTES of the VM is %d", cap);
    check_flags(MAPPED);
    ret = set_in_vm(PRIVATE);
    result(ret == EINVAL, "private by the VM's ioctl: %s", strerror(ret));
    ret = set_in_vm(0);
    result(!ret, "shared by the VM's ioctl: %s", strerror(ret));
    for (uint64_t flags = 0; flags <= MAPPED; flags++) {
        struct file file = new_file(flags, PAGE);

        ret = convert(&file, 0, 1, !(flags & FLAG_INIT_SHARED), NULL);
        result(!ret, "the probe of a file with flags %d: %s", (int)flags,
               strerror(ret));
        drop_file(&file);
    }
    other = need(ioctl(kvm, KVM_CREATE_VM, 0), "an ordinary VM");
    struct file file = { .fd = create_memfd(other, MAPPED, PAGE) };
    ret = convert(&file, 0, 1, false, NULL);
    result(ret == EINVAL, "the probe of an ordinary VM's file: %s",
           strerror(ret));
    close(file.fd);
    close(other);
}

static void check_arguments(void)
{
    static const struct {
        const char *what;
        struct attributes2 attributes;
    } tests[] = {
        { "size 0", { .offset = 0 } },
        { "an unaligned offset", { .offset = 1, .size = PAGE } },
        { "an unaligned size", { .size = PAGE - 1 } },
        { "a size beyond the file", { .size = 5 * PAGE } },
        { "an offset beyond the file", { .offset = 4 * PAGE, .size = PAGE } },
        { "an end of 0", { .offset = -PAGE, .size = PAGE } },
        { "an end of PAGE", { .offset = -PAGE, .size = 2 * PAGE } },
        { "a negative size", { .offset = 2 * PAGE, .size = -PAGE } },
        { "the attribute 1", { .size = PAGE, .attributes = 1 } },
        { "PRIVATE and another one",
          { .size = PAGE, .attributes = PRIVATE | PRIVATE << 1 } },
        { "flags", { .size = PAGE, .flags = 1 } },
        { "the first reserved word", { .size = PAGE, .reserved = { 1 } } },
        { "the last reserved word",
          { .size = PAGE, .reserved = { [10] = 1ull << 63 } } },
    };
    struct file file = new_filled(4);
    int ret;

    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        struct attributes2 attributes = tests[i].attributes;

        ret = set_attributes(file.fd, &attributes);
        attributes.attributes ^= PRIVATE;
        result(ret == EINVAL && private_are(&file, 0, 0) &&
               set_attributes(file.fd, &attributes) == ret, "%s: %s",
               tests[i].what, strerror(ret));
    }
    ret = ioctl(file.fd, SET_ATTRIBUTES2, NULL) ? errno : 0;
    result(ret == EFAULT, "no struct: %s", strerror(ret));
    ret = ioctl(file.fd, KVM_SET_MEMORY_ATTRIBUTES, NULL) ? errno : 0;
    result(ret == ENOTTY, "another ioctl: %s", strerror(ret));
    drop_file(&file);
}

/* What the host sees */

static void check_pages(void)
{
    for (int i = 0; i < 4; i++) {
        struct file file = new_filled(4);
        uint8_t *again = mmap(NULL, file.size, PROT_READ, MAP_SHARED, file.fd,
                              0);
        bool ok = peek(again + i * PAGE) == pattern(i);

        ok &= !convert(&file, i, 1, true, NULL) && private_are(&file, i, 1);
        ok &= peek(again + i * PAGE) == -1;
        ok &= !convert(&file, i, 1, true, NULL) && private_are(&file, i, 1);
        result(ok, "page %d of 4 is private, in both mappings", i);
        ok = !convert(&file, i, 1, false, NULL) && private_are(&file, 0, 0);
        ok &= peek(again + i * PAGE) == pattern(i);
        result(ok, "page %d of 4 is shared again, nothing is lost", i);
        munmap(again, file.size);
        drop_file(&file);
    }
}

static void check_unallocated(void)
{
    struct file file = new_file(MAPPED, 2 * PAGE);
    bool ok = !convert(&file, 0, 1, true, NULL) && peek(file.map) == -1;

    ok &= peek(file.map + PAGE) == 0;
    ok &= !convert(&file, 0, 1, false, NULL) && peek(file.map) == 0;
    result(ok, "private and shared before there is memory");
    drop_file(&file);

    file = new_file(FLAG_MMAP, 2 * PAGE);
    ok = peek(file.map) == -1 && !poke(file.map + PAGE, 1);
    ok &= !convert(&file, 0, 1, false, NULL) && peek(file.map) == 0;
    ok &= poke(file.map, 1) && peek(file.map + PAGE) == -1;
    result(ok, "a file that begins private, shared before there is memory");
    drop_file(&file);
}

/* All layouts of eight pages, each made out of the one before */
static void check_layouts(void)
{
    struct file file = new_filled(8);
    bool ok = true;

    for (unsigned layout = 1; layout <= 256; layout++) {
        for (int i = 0; i < 8; i++) {
            ok &= !convert(&file, i, 1, layout >> i & 1, NULL);
        }
        for (int i = 0; i < 8; i++) {
            ok &= peek(file.map + i * PAGE) ==
                (layout >> i & 1 ? -1 : pattern(i));
        }
    }
    result(ok && private_are(&file, 0, 0), "all layouts of 8 pages");
    drop_file(&file);
}

static void check_ranges(void)
{
    const uint64_t offsets[] = { 0, PAGE, 2 * MIB };
    const uint64_t sizes[] = { PAGE, 2 * MIB };
    struct file file = new_filled(6 * MIB / PAGE);

    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            uint64_t page = offsets[i] / PAGE, pages = sizes[k] / PAGE;
            bool ok = !convert(&file, page, pages, true, NULL);

            ok &= private_are(&file, page, pages);
            ok &= !convert(&file, page, pages, false, NULL);
            result(ok && private_are(&file, 0, 0), "%lluK at %lluK",
                   sizes[k] / 1024ull, offsets[i] / 1024ull);
        }
    }
    drop_file(&file);
}

static void check_punch(void)
{
    struct file file = new_filled(4);
    bool ok = !convert(&file, 1, 2, true, NULL);

    ok &= !fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                     2 * PAGE);
    ok &= peek(file.map) == 0 && peek(file.map + PAGE) == -1;
    ok &= peek(file.map + 2 * PAGE) == -1;
    result(ok, "a hole keeps its attributes");
    ok = !convert(&file, 0, 4, false, NULL) && peek(file.map + PAGE) == 0;
    ok &= peek(file.map + 2 * PAGE) == pattern(2);
    ok &= peek(file.map + 3 * PAGE) == pattern(3);
    result(ok, "a hole is zero, the rest is as it was");
    drop_file(&file);
}

/* Every allocation of a conversion fails once; a kernel may need none. */
static void check_enomem(void)
{
    static const char *const setup[] = {
        "echo N >/sys/kernel/debug/failslab/ignore-gfp-wait",
        "echo 0 >/sys/kernel/debug/failslab/verbose",
    };
    struct file file = new_filled(8);
    int nth = need(open("/proc/thread-self/fail-nth", O_RDWR), "fail-nth");
    int refused = 0, ret;
    char left[16];
    bool ok = !system(setup[0]) && !system(setup[1]);

    for (int i = 1; i < 100; i++) {
        uint64_t error;
        int size = snprintf(left, sizeof(left), "%d", i);

        ok &= pwrite(nth, left, size, 0) == size;
        ret = convert(&file, 2, 3, true, &error);
        ok &= pread(nth, left, sizeof(left), 0) > 0;
        ok &= pwrite(nth, "0", 1, 0) == 1;
        if (ret == ENOMEM) {
            refused++;
            ok &= error == 2 && private_are(&file, 0, 0);
        } else {
            ok &= !ret && private_are(&file, 2, 3);
            ok &= !convert(&file, 2, 3, false, NULL);
        }
        if (atoi(left)) {
            break;
        }
    }
    result(ok, "without memory nothing is converted (%d times)",
           refused);
    close(nth);
    drop_file(&file);
}

/* What holds a page: a pipe, or the page table of a device */

static int pipe_ends[2];

static bool hold_in_pipe(uint8_t *page)
{
    struct iovec iov = { page, PAGE };

    return vmsplice(pipe_ends[1], &iov, 1, 0) == (ssize_t)PAGE;
}

static bool release_pipe(void)
{
    return !close(pipe_ends[0]) && !close(pipe_ends[1]);
}

static int iommu;
static uint32_t ioas;

static void open_device(void)
{
    struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
    struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
    struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
    int device = need(open("/dev/vfio/devices/vfio0", O_RDWR), "vfio0");

    iommu = bind.iommufd = need(open("/dev/iommu", O_RDWR), "/dev/iommu");
    need(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind), "binding vfio0");
    need(ioctl(iommu, IOMMU_IOAS_ALLOC, &alloc), "an IOAS");
    attach.pt_id = ioas = alloc.out_ioas_id;
    need(ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), "attaching");
}

static bool hold_for_device(uint8_t *page)
{
    struct iommu_ioas_map map = {
        .size = sizeof(map),
        .flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
        .ioas_id = ioas,
        .user_va = (uintptr_t)page,
        .length = PAGE,
    };

    return !ioctl(iommu, IOMMU_IOAS_MAP, &map);
}

static bool release_device(void)
{
    struct iommu_ioas_unmap unmap = {
        .size = sizeof(unmap),
        .ioas_id = ioas,
        .length = UINT64_MAX,
    };

    return !ioctl(iommu, IOMMU_IOAS_UNMAP, &unmap);
}

static void check_held(const char *name, bool (*hold)(uint8_t *page),
                       bool (*release)(void))
{
    struct file file = new_filled(8);
    uint64_t error;
    bool ok;
    int ret;

    ok = hold(file.map + 5 * PAGE) && hold(file.map + 3 * PAGE);
    result(ok, "pages 3 and 5 of 8 are held by %s", name);
    ret = convert(&file, 1, 7, true, &error);
    result(ret == EAGAIN && error == 3, "pages 1 to 7: %s, because of page %d",
           strerror(ret), (int)error);
    result(private_are(&file, 0, 0), "none of them has been converted");
    ok = !convert(&file, 0, 3, true, NULL) && private_are(&file, 0, 3);
    result(ok, "pages 0 to 2 can be private");
    ok = !hold(file.map + 2 * PAGE);
    result(ok && errno == EFAULT, "then %s cannot have them: %s", name,
           strerror(errno));
    ret = convert(&file, 0, 6, true, &error);
    ok = ret == EAGAIN && error == 3 && private_are(&file, 0, 3);
    result(ok, "pages 0 to 5 stay half private");
    ok = !convert(&file, 0, 8, false, NULL) && private_are(&file, 0, 0);
    result(ok, "all of them can be shared");
    ok = release() && !convert(&file, 0, 8, true, NULL);
    result(ok && private_are(&file, 0, 8), "all are private after %s", name);
    drop_file(&file);
}

int main(int argc, char **argv)
{
    const struct sigaction action = { .sa_handler = sigbus };
    bool on = argc == 2 && !strcmp(argv[1], "on");

    if (!on && (argc != 2 || strcmp(argv[1], "off"))) {
        fprintf(stderr, "usage: %s on|off\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(TIMEOUT);
    sigaction(SIGBUS, &action, NULL);
    kvm = need(open("/dev/kvm", O_RDWR), "/dev/kvm");
    vm = need(ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM),
              "a software-protected VM");
    if (!on) {
        check_off();
        return failed;
    }
    check_on();
    check_arguments();
    check_pages();
    check_unallocated();
    check_layouts();
    check_ranges();
    check_punch();
    check_enomem();
    need(pipe(pipe_ends), "a pipe");
    check_held("a pipe", hold_in_pipe, release_pipe);
    open_device();
    check_held("a device", hold_for_device, release_device);
    check_guest();
    return failed;
}
