/*
 * What KVM is told about guest_memfd memory, and what it asks for
 *
 * The KVM of this test keeps the attribute of each page at two addresses, and
 * refuses the calls that it is told to.  Huge pages are played by four pages of
 * a memfd: a pool that is empty is a file that has been cut off, since touching
 * it, and populating it, fail like there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "qemu/memfd.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "system/address-spaces.h"
#include "system/kvm.h"
#include "guest-memfd-fakes.h"

#define HUGE_PAGE (4 * PAGE)
#define SIZE (8 * PAGE)

#define SHARED_FILE (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

/* As the driver knows it: the offset, size, attributes, flags, error_offset */
#define SET_MEMORY_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, uint64_t[16])

#define RAM_ADDR 0x10000000

/* Where the guest sees the block */
static const hwaddr gpas[] = { 0x100000, 0x40000000 };

static Block *const b = &block[0];

static struct {
    uint64_t attributes[ARRAY_SIZE(gpas)][SIZE / PAGE];
    unsigned calls;
    uint64_t refuse;            /* a bit for each call, from 1 on */
    unsigned discards;
    unsigned private_discards;
    int convert;                /* what conversions say */
    unsigned conversions;
    uint64_t gpa;               /* of the last one */
    uint64_t size;
    bool to_private;
    unsigned poisoned;
    ram_addr_t poison;          /* the last one */
    /* What it offers: */
    uint64_t file_flags;
    bool no_attribute;
    int in_place;               /* errno of conversions in place */
    /* Files: */
    int create;                 /* errno */
    uint64_t created;           /* flags of the last one */
    /* In place, the attributes are those of the first address. */
    uint64_t held;              /* a page, for so many calls: */
    unsigned held_calls;
} kvm;

KVMState *kvm_state;
AddressSpace address_space_memory;

int kvm_vm_check_extension(KVMState *s, unsigned int extension)
{
    switch (extension) {
    case KVM_CAP_GUEST_MEMFD:
    case KVM_CAP_USER_MEMORY2:
        return 1;
    case KVM_CAP_MEMORY_ATTRIBUTES:
        return kvm.no_attribute ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE;
    case KVM_CAP_GUEST_MEMFD_FLAGS:
        return kvm.file_flags;
    default:
        return 0;
    }
}

static int fake_set_attributes(const struct kvm_memory_attributes *a)
{
    if (kvm.refuse & BIT_ULL(++kvm.calls)) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < ARRAY_SIZE(gpas); i++) {
        for (uint64_t o = 0; o < SIZE; o += PAGE) {
            if (gpas[i] + o >= a->address &&
                gpas[i] + o < a->address + a->size) {
                kvm.attributes[i][o / PAGE] = a->attributes;
            }
        }
    }
    return 0;
}

static int fake_create(const struct kvm_create_guest_memfd *create)
{
    kvm.created = create->flags;
    return kvm.create ? -kvm.create :
           qemu_memfd_create("test", create->size, false, 0, 0, &error_abort);
}

int kvm_vm_ioctl(KVMState *s, unsigned long type, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, type);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (type == KVM_CREATE_GUEST_MEMFD) {
        return fake_create(arg);
    }
    g_assert_cmpuint(type, ==, KVM_SET_MEMORY_ATTRIBUTES);
    return fake_set_attributes(arg);
}

/* All of a range or nothing, but huge pages one by one. */
static int fake_in_place(uint64_t *a)
{
    uint64_t offset = a[0], size = a[1], attributes = a[2];
    uint64_t end = offset + size;
    int ret = kvm.in_place;

    if (kvm.held_calls && kvm.held >= offset && kvm.held < end) {
        kvm.held_calls--;
        a[4] = kvm.held;
        end = MAX(offset, QEMU_ALIGN_DOWN(kvm.held, b->rb.page_size));
        end = b->rb.page_size > PAGE ? end : offset;
        ret = EAGAIN;
    }
    for (uint64_t o = offset; !kvm.in_place && o < end; o += PAGE) {
        kvm.attributes[0][o / PAGE] = attributes;
    }
    errno = ret;
    return ret ? -1 : 0;
}

/* The C library's is not called by what is linked with this. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    return request == SET_MEMORY_ATTRIBUTES2 ? fake_in_place(arg) :
           syscall(SYS_ioctl, fd, request, arg);
}

void flatview_for_each_range(FlatView *fv, flatview_cb cb, void *opaque)
{
    for (size_t i = 0; i < ARRAY_SIZE(gpas); i++) {
        if (cb(int128_make64(gpas[i]), int128_make64(SIZE), &b->mr, 0,
               opaque)) {
            break;
        }
    }
}

int ram_block_discard_range(RAMBlock *rb, uint64_t offset, size_t length)
{
    kvm.discards++;
    return fallocate(rb->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                     length) ? -errno : 0;
}

int ram_block_discard_guest_memfd_range(RAMBlock *rb, uint64_t offset,
                                        size_t length)
{
    kvm.private_discards++;
    return 0;
}

int kvm_convert_memory(hwaddr start, hwaddr size, bool to_private)
{
    kvm.conversions++;
    kvm.gpa = start;
    kvm.size = size;
    kvm.to_private = to_private;
    return kvm.convert;
}

const char *memory_region_name(const MemoryRegion *mr)
{
    return "b0";
}

ram_addr_t memory_region_get_ram_addr(MemoryRegion *mr)
{
    return RAM_ADDR;
}

void kvm_hwpoison_page_add(ram_addr_t ram_addr)
{
    kvm.poisoned++;
    kvm.poison = ram_addr;
}

static void on_sigbus(int n, siginfo_t *siginfo, void *context)
{
    if (!guest_memfd_sigbus(siginfo, context)) {
        _exit(3);
    }
}

static void setup_kvm(uint64_t page_size, uint32_t flags,
                      const GuestMemfdOps *ops)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    sigaction(SIGBUS, &action, NULL);
    fake_reset();
    memset(&kvm, 0, sizeof(kvm));
    memset(b, 0, sizeof(*b));
    b->mr.ram = true;
    b->mr.ram_block = &b->rb;
    b->rb.mr = &b->mr;
    b->rb.page_size = page_size;
    b->rb.max_length = SIZE;
    b->rb.flags = RAM_SHARED | flags;
    b->rb.fd = qemu_memfd_create("test", SIZE, false, 0, 0, &error_abort);
    b->rb.guest_memfd = b->rb.fd;
    b->rb.host = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b->rb.fd,
                      0);
    g_assert_true(b->rb.host != MAP_FAILED);
    if (!ops) {
        guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_TWO_COPY, &ops,
                               &error_abort);
    }
    b->rb.fd_is_guest_memfd = ops == &guest_memfd_in_place_ops;
    b->gm = guest_memfd_new(&b->rb, "b0", ops, false, &error_abort);
}

static void teardown_kvm(void)
{
    guest_memfd_free(b->gm);
    munmap(b->rb.host, SIZE);
    close(b->rb.fd);
}

static void pool(bool empty)
{
    g_assert_cmpint(ftruncate(b->rb.fd, empty ? 0 : SIZE), ==, 0);
}

/* The map says what KVM has at an address. */
static void check_attributes(size_t address)
{
    DECLARE_BITMAP(map, PAGES);

    read_map(b, map);
    for (size_t i = 0; i < SIZE / PAGE; i++) {
        g_assert_cmpint(test_bit(i, map), ==,
                        kvm.attributes[address][i] != 0);
    }
}

/* Is there memory that was populated through the mapping? */
static bool in_mapping(const uint8_t *addr)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t entry;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &entry, sizeof(entry),
                          (uintptr_t)addr / PAGE * sizeof(entry)), ==,
                    sizeof(entry));
    close(fd);
    return entry >> 63;
}

/*
 * Huge pages that came back are the mapping's, whose NUMA policy counts.  The
 * file's would be the calling task's.
 */
static void test_huge_come_back(void)
{
    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    memset(b->rb.host, 1, SIZE);
    g_assert_cmpint(convert(b, 0, 3, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 0);      /* page 3 is shared */
    g_assert_cmpint(convert(b, 3, 1, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    g_assert_false(in_mapping(b->rb.host));
    kvm.refuse = BIT_ULL(kvm.calls + 1);
    g_assert_cmpint(convert(b, 2, 1, false), ==, -ENOMEM);
    g_assert_false(in_mapping(b->rb.host));
    g_assert_cmpint(convert(b, 2, 1, false), ==, 0);
    g_assert_true(in_mapping(b->rb.host));
    g_assert_cmpint(b->rb.host[2 * PAGE], ==, 0);
    g_assert_cmpint(b->rb.host[HUGE_PAGE], ==, 1);
    check_attributes(0);
    check_attributes(1);
    teardown_kvm();
}

/* They go again if a listener refuses the conversion. */
static void test_huge_refused(void)
{
    MemoryRegionSection s = section_of(b, 0, SIZE);
    Listener l;

    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    listener_init(&l);
    g_assert_cmpint(listener_add(b, &l, &s), ==, 0);
    g_assert_cmpint(convert(b, 0, 4, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    fake.fail[0] = fake.calls + 1;
    g_assert_cmpint(convert(b, 2, 1, false), ==, fake.error);
    g_assert_false(in_mapping(b->rb.host));
    check_attributes(0);
    g_assert_cmpint(convert(b, 2, 1, false), ==, 0);
    g_assert_true(in_mapping(b->rb.host));
    listener_remove(b, &l);
    teardown_kvm();
}

/* What is shared of a huge page stays, although its neighbour is freed. */
static void test_huge_ends(void)
{
    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    memset(b->rb.host, 1, SIZE);
    g_assert_cmpint(convert(b, 2, 6, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    g_assert_cmpint(b->rb.host[0], ==, 1);
    g_assert_false(in_mapping(b->rb.host + HUGE_PAGE));
    teardown_kvm();

    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    memset(b->rb.host, 1, SIZE);
    g_assert_cmpint(convert(b, 0, 6, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    g_assert_cmpint(b->rb.host[SIZE - PAGE], ==, 1);
    g_assert_false(in_mapping(b->rb.host));
    teardown_kvm();
}

/* What is reserved, or preallocated, is not given to somebody else. */
static void test_huge_reserved(void)
{
    setup_kvm(HUGE_PAGE, 0, NULL);
    memset(b->rb.host, 1, SIZE);
    g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
    g_assert_cmpint(guest_memfd_reset(b->gm, &error_abort), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 0);
    teardown_kvm();

    setup_kvm(PAGE, 0, NULL);
    g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    teardown_kvm();
}

/* An old pointer to a huge page that was freed, and the pool is empty. */
static void test_huge_stand_in(void)
{
    uint8_t *page;

    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    page = b->rb.host + HUGE_PAGE;
    g_assert_cmpint(convert(b, 4, 4, true), ==, 0);
    pool(true);
    page[PAGE + 1] = 5;
    g_assert_cmpint(page[PAGE + 1], ==, 5);
    page[0] = 6;

    g_assert_cmpint(convert(b, 4, 1, false), ==, -ENOMEM);
    check_attributes(0);
    page[0] = 7;
    pool(false);
    g_assert_cmpint(convert(b, 5, 1, false), ==, 0);
    g_assert_cmpint(page[0], ==, 0);
    g_assert_cmpint(page[PAGE + 1], ==, 0);
    teardown_kvm();
}

/* Nothing stands in for shared memory, not even if it was private once. */
static void test_huge_shared(void)
{
    if (g_test_subprocess()) {
        setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
        g_assert_cmpint(convert(b, 4, 4, true), ==, 0);
        g_assert_cmpint(convert(b, 5, 1, false), ==, 0);
        pool(true);
        _exit(b->rb.host[HUGE_PAGE]);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
}

/* A reset for which the pool has no pages is an error, and not the end. */
static void test_huge_reset(void)
{
    Error *err = NULL;

    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
    pool(true);
    b->rb.host[0] = 1;
    g_assert_cmpint(guest_memfd_reset(b->gm, &err), ==, -ENOMEM);
    g_assert_nonnull(strstr(error_get_pretty(err), "'b0'"));
    error_free(err);
    check_attributes(0);
    b->rb.host[0] = 1;
    pool(false);
    g_assert_cmpint(guest_memfd_reset(b->gm, &error_abort), ==, 0);
    g_assert_cmpint(b->rb.host[0], ==, 0);
    check_attributes(0);
    teardown_kvm();
}

/* KVM refuses at the second address, and does not take the first one back. */
static void test_taken_back(void)
{
    for (int to_private = 1; to_private >= 0; to_private--) {
        /* Refused; undone. */
        setup_kvm(PAGE, 0, NULL);
        if (!to_private) {
            g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
        }
        kvm.calls = 0;
        kvm.refuse = BIT_ULL(2);
        g_assert_cmpint(convert(b, 2, 2, to_private), ==, -ENOMEM);
        check_attributes(0);
        check_attributes(1);

        /* Not undone by the driver, but when the transaction asks again. */
        kvm.calls = 0;
        kvm.refuse = BIT_ULL(2) | BIT_ULL(3);
        g_assert_cmpint(convert(b, 2, 2, to_private), ==, -ENOMEM);
        check_attributes(0);
        check_attributes(1);

        /* Not then either: the range is in its new state. */
        kvm.calls = 0;
        kvm.refuse = BIT_ULL(2) | BIT_ULL(3) | BIT_ULL(4);
        g_assert_cmpint(convert(b, 2, 2, to_private), ==, -ENOMEM);
        check_attributes(0);
        check_attributes(1);
        g_assert_cmpint(kvm.attributes[0][2] != 0, ==, to_private);
        teardown_kvm();
    }
}

/* As arch/x86/kvm/x86.h has it: anything else stops TDX and SEV-SNP guests. */
static bool kvm_is_valid_map_gpa_range_ret(uint64_t hypercall_ret)
{
    return !hypercall_ret || hypercall_ret == EINVAL || hypercall_ret == EAGAIN;
}

static void test_hypercall(void)
{
    memset(&kvm, 0, sizeof(kvm));
    for (int private = 0; private < 2; private++) {
        g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(PAGE, 3, private), ==,
                         0);
        g_assert_cmpuint(kvm.gpa, ==, PAGE);
        g_assert_cmpuint(kvm.size, ==, 3 * PAGE);
        g_assert_cmpint(kvm.to_private, ==, private);
    }
    for (int err = 1; err < 4096; err++) {
        uint64_t ret;

        kvm.convert = -err;
        ret = guest_memfd_kvm_map_gpa_range(PAGE, 3, true);
        g_assert_cmpuint(ret, !=, 0);
        g_assert_true(kvm_is_valid_map_gpa_range_ret(ret));
    }
    kvm.convert = -EAGAIN;
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(0, 1, true), ==, EAGAIN);
    kvm.convert = -ENOMEM;
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(0, 1, false), ==, EAGAIN);
    kvm.convert = -EINVAL;
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(0, 1, false), ==, EINVAL);

    /* Sizes that wrap are another request than the guest's. */
    kvm.convert = kvm.conversions = 0;
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(PAGE, BIT_ULL(52) + 1, true),
                     ==, EINVAL);
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(PAGE, UINT64_MAX, true), ==,
                     EINVAL);
    g_assert_cmpuint(kvm.conversions, ==, 0);
}

static struct kvm_run memory_fault(uint64_t gpa, bool private)
{
    return (struct kvm_run) {
        .exit_reason = KVM_EXIT_MEMORY_FAULT,
        .memory_fault = {
            .flags = private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0,
            .gpa = gpa,
            .size = PAGE,
        },
    };
}

static int fault(uint64_t gpa, int result)
{
    struct kvm_run run = memory_fault(gpa, gpa == 0);
    int ret;

    kvm.convert = result;
    ret = guest_memfd_kvm_fault(&run);
    g_assert_cmpuint(kvm.gpa, ==, gpa);
    g_assert_cmpuint(kvm.size, ==, PAGE);
    g_assert_cmpint(kvm.to_private, ==, gpa == 0);
    return ret;
}

/* A page that is held for a while is no reason to stop; nor is one for ever. */
static void test_fault(void)
{
    unsigned n;

    memset(&kvm, 0, sizeof(kvm));
    g_assert_cmpint(fault(0, 0), ==, 0);
    g_assert_cmpint(fault(0, -EINVAL), ==, -EINVAL);
    g_assert_cmpint(fault(0, -EAGAIN), ==, 0);
    g_assert_cmpint(fault(0, -ENOSPC), ==, -ENOSPC);
    for (int round = 0; round < 2; round++) {
        for (n = 0; n < 100000 && !fault(0, -EAGAIN); n++) {
            g_assert_cmpint(kvm.conversions, >, 0);
        }
        g_assert_cmpuint(n, ==, 999);
    }
    for (n = 0; n < 10000; n++) {
        g_assert_cmpint(fault(n % 2 * PAGE, -EAGAIN), ==, 0);
    }
    for (n = 0; n < 10000; n++) {
        g_assert_cmpint(fault(0, n % 900 ? -EAGAIN : 0), ==, 0);
    }
}

/* The host's memory fails under the guest. */
static void test_broken(void)
{
    struct kvm_run run = memory_fault(GPA_BLOCK0 + 3 * PAGE, false);

    setup_kvm(PAGE, 0, NULL);
    guest_memfd_kvm_run_failed(&run, -EFAULT);
    run.exit_reason = KVM_EXIT_UNKNOWN;
    guest_memfd_kvm_run_failed(&run, -EHWPOISON);
    g_assert_cmpuint(kvm.poisoned, ==, 0);

    run = memory_fault(GPA_BLOCK0 + 3 * PAGE, true);
    guest_memfd_kvm_run_failed(&run, -EHWPOISON);
    run = memory_fault(GPA_END, false);
    guest_memfd_kvm_run_failed(&run, -EHWPOISON);
    g_assert_cmpuint(kvm.poisoned, ==, 0);

    /* A reset replaces this one. */
    run = memory_fault(GPA_BLOCK0 + 3 * PAGE, false);
    guest_memfd_kvm_run_failed(&run, -EHWPOISON);
    g_assert_cmpuint(kvm.poisoned, ==, 1);
    g_assert_cmphex(kvm.poison, ==, RAM_ADDR + 3 * PAGE);
    g_assert_cmpint(region_refs, ==, 0);
    teardown_kvm();
}

/* What one kernel offers, and what is made of it */
static void test_choose(void)
{
    const struct {
        uint64_t file_flags;
        int in_place;
        bool attribute;
        GuestMemfdConversion wish, got;
        const char *error;
    } rows[] = {
        { SHARED_FILE, 0, true, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_IN_PLACE },
        { SHARED_FILE, 0, false, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_IN_PLACE },
        { SHARED_FILE, 0, true, GUEST_MEMFD_CONVERSION_TWO_COPY,
          GUEST_MEMFD_CONVERSION_TWO_COPY },
        { SHARED_FILE, ENOTTY, true, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_TWO_COPY },
        { SHARED_FILE, EINVAL, true, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_TWO_COPY },
        { GUEST_MEMFD_FLAG_MMAP, 0, true, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_TWO_COPY },
        { SHARED_FILE, ENOTTY, false, GUEST_MEMFD_CONVERSION_AUTO,
          GUEST_MEMFD_CONVERSION_NONE },
        { SHARED_FILE, ENOTTY, true, GUEST_MEMFD_CONVERSION_NONE,
          GUEST_MEMFD_CONVERSION_NONE },
        { SHARED_FILE, ENOMEM, true, GUEST_MEMFD_CONVERSION_AUTO, 0,
          "cannot find out whether KVM converts memory in place" },
        { SHARED_FILE, ENOTTY, true, GUEST_MEMFD_CONVERSION_IN_PLACE, 0,
          "conversion=in-place needs KVM_SET_MEMORY_ATTRIBUTES2" },
        { SHARED_FILE, 0, false, GUEST_MEMFD_CONVERSION_TWO_COPY, 0,
          "because it converts in place" },
        { 0, ENOTTY, false, GUEST_MEMFD_CONVERSION_TWO_COPY, 0,
          "KVM_MEMORY_ATTRIBUTE_PRIVATE (Linux 6.8)" },
        { 0, ENOTTY, false, GUEST_MEMFD_CONVERSION_AUTO, 0,
          "conversion=none needs" },
        { GUEST_MEMFD_FLAG_MMAP, ENOTTY, false, GUEST_MEMFD_CONVERSION_NONE, 0,
          "conversion=none needs" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const GuestMemfdOps *ops = NULL;
        Error *err = NULL;
        bool ok;

        memset(&kvm, 0, sizeof(kvm));
        kvm.file_flags = rows[i].file_flags;
        kvm.in_place = rows[i].in_place;
        kvm.no_attribute = !rows[i].attribute;
        ok = guest_memfd_kvm_choose(rows[i].wish, &ops, &err);
        g_assert_cmpint(ok, ==, !rows[i].error);
        if (ok) {
            g_assert_cmpint(ops ? ops->conversion : GUEST_MEMFD_CONVERSION_NONE,
                            ==, rows[i].got);
        } else {
            g_assert_nonnull(strstr(error_get_pretty(err), rows[i].error));
        }
        error_free(err);
    }
}

static uint64_t created_with(const GuestMemfdOps *ops, bool private)
{
    int fd = guest_memfd_kvm_create(ops, PAGE, private, &error_abort);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    return kvm.created;
}

/* A file is mapped if it holds shared pages, and starts as it is to be. */
static void test_create(void)
{
    const GuestMemfdOps *two_copy, *in_place = &guest_memfd_in_place_ops;
    Error *err = NULL;

    memset(&kvm, 0, sizeof(kvm));
    guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_TWO_COPY, &two_copy,
                           &error_abort);
    g_assert_cmphex(created_with(two_copy, true), ==, 0);
    g_assert_cmphex(created_with(in_place, true), ==, GUEST_MEMFD_FLAG_MMAP);
    g_assert_cmphex(created_with(in_place, false), ==, SHARED_FILE);
    g_assert_cmphex(created_with(NULL, false), ==, SHARED_FILE);
    fake_launching(true);
    g_assert_cmphex(created_with(in_place, true), ==, SHARED_FILE);
    fake_launching(false);

    kvm.create = EMFILE;
    g_assert_cmpint(guest_memfd_kvm_create(in_place, PAGE, true, &err), <, 0);
    g_assert_nonnull(strstr(error_get_pretty(err), "RLIMIT_NOFILE"));
    error_free(err);
}

/* A kernel that converts in place, and somebody who holds a page. */
static void check_in_place(uint64_t page_size, bool mixed)
{
    Error *err = NULL;

    setup_kvm(page_size, 0, &guest_memfd_in_place_ops);
    g_assert_cmpint(convert(b, 2, 2, true), ==, 0);
    check_attributes(0);
    g_assert_cmpint(convert(b, 2, mixed ? 1 : 2, false), ==, 0);
    check_attributes(0);

    kvm.held = 5 * PAGE;
    kvm.held_calls = UINT_MAX;
    g_assert_cmpint(guest_memfd_convert_block(b->gm, 0, SIZE, true, &err), ==,
                    -EAGAIN);
    g_assert_nonnull(strstr(error_get_pretty(err),
                            "the page at offset 0x5000 is in use"));
    error_free(err);
    check_attributes(0);
    g_assert_cmpint(kvm.attributes[0][3] != 0, ==, mixed);
    g_assert_cmpuint(kvm.attributes[0][2], ==, 0);

    /* For a while only */
    kvm.held_calls = 4;
    g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
    g_assert_cmpuint(kvm.held_calls, ==, 0);
    check_attributes(0);
    g_assert_cmpuint(kvm.calls, ==, 0);         /* nothing for the VM */
    g_assert_cmpuint(kvm.discards + kvm.private_discards, ==, 0);
    teardown_kvm();
}

static void test_in_place(void)
{
    check_in_place(PAGE, false);
    check_in_place(PAGE, true);
    check_in_place(HUGE_PAGE, false);
    check_in_place(HUGE_PAGE, true);
}

/* The copy that lost is freed, and no other. */
static void test_two_copies(void)
{
    setup_kvm(PAGE, 0, NULL);
    g_assert_cmpint(convert(b, 2, 2, true), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    g_assert_cmpuint(kvm.private_discards, ==, 0);
    g_assert_cmpint(convert(b, 2, 2, false), ==, 0);
    g_assert_cmpuint(kvm.discards, ==, 1);
    g_assert_cmpuint(kvm.private_discards, ==, 1);
    teardown_kvm();
}

/* Memory comes to an address where something else was. */
static void test_slot(void)
{
    setup_kvm(PAGE, 0, NULL);
    g_assert_cmpint(convert(b, 2, 2, true), ==, 0);
    for (int i = 0; i < SIZE / PAGE; i++) {
        kvm.attributes[1][i] = KVM_MEMORY_ATTRIBUTE_PRIVATE;
    }
    g_assert_cmpint(guest_memfd_kvm_slot_added(&b->mr, PAGE, gpas[1] + PAGE,
                                               SIZE - PAGE), ==, 0);
    g_assert_cmpuint(kvm.attributes[1][0], !=, 0);
    kvm.attributes[1][0] = 0;
    check_attributes(1);
    kvm.calls = 0;
    kvm.refuse = BIT_ULL(2);
    g_assert_cmpint(guest_memfd_kvm_slot_added(&b->mr, 0, gpas[1], SIZE), ==,
                    -ENOMEM);
    g_assert_cmpuint(kvm.calls, ==, 2);
    teardown_kvm();

    setup_kvm(PAGE, 0, &guest_memfd_in_place_ops);
    g_assert_cmpint(guest_memfd_kvm_slot_added(&b->mr, 0, gpas[1], SIZE), ==,
                    0);
    g_assert_cmpuint(kvm.calls, ==, 0);
    teardown_kvm();
}

/* What was measured: a copy of it is freed, it itself is not. */
static void test_free_source(void)
{
    setup_kvm(PAGE, 0, &guest_memfd_in_place_ops);
    b->rb.host[0] = 1;
    guest_memfd_kvm_free_source(&b->rb);
    g_assert_cmpint(b->rb.host[0], ==, 1);
    teardown_kvm();

    setup_kvm(PAGE, 0, NULL);
    b->rb.host[0] = 1;
    guest_memfd_kvm_free_source(&b->rb);
    g_assert_cmpint(b->rb.host[0], ==, 0);
    teardown_kvm();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd-kvm/huge/come-back", test_huge_come_back);
    g_test_add_func("/guest-memfd-kvm/huge/refused", test_huge_refused);
    g_test_add_func("/guest-memfd-kvm/huge/ends", test_huge_ends);
    g_test_add_func("/guest-memfd-kvm/huge/reserved", test_huge_reserved);
    g_test_add_func("/guest-memfd-kvm/huge/stand-in", test_huge_stand_in);
    g_test_add_func("/guest-memfd-kvm/huge/shared", test_huge_shared);
    g_test_add_func("/guest-memfd-kvm/huge/reset", test_huge_reset);
    g_test_add_func("/guest-memfd-kvm/taken-back", test_taken_back);
    g_test_add_func("/guest-memfd-kvm/hypercall", test_hypercall);
    g_test_add_func("/guest-memfd-kvm/fault", test_fault);
    g_test_add_func("/guest-memfd-kvm/broken", test_broken);
    g_test_add_func("/guest-memfd-kvm/choose", test_choose);
    g_test_add_func("/guest-memfd-kvm/create", test_create);
    g_test_add_func("/guest-memfd-kvm/in-place", test_in_place);
    g_test_add_func("/guest-memfd-kvm/two-copies", test_two_copies);
    g_test_add_func("/guest-memfd-kvm/slot", test_slot);
    g_test_add_func("/guest-memfd-kvm/free-source", test_free_source);
    return g_test_run();
}
