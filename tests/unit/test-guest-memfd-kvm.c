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
#include "qemu/memfd.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "system/address-spaces.h"
#include "system/kvm.h"
#include "guest-memfd-fakes.h"
#include "../../accel/kvm/guest-memfd-kvm.h"

#define HUGE_PAGE (4 * PAGE)
#define SIZE (8 * PAGE)

/* Where the guest sees the block */
static const hwaddr gpas[] = { 0x100000, 0x40000000 };

static Block *const b = &block[0];

static struct {
    uint64_t attributes[ARRAY_SIZE(gpas)][SIZE / PAGE];
    unsigned calls;
    uint64_t refuse;            /* a bit for each call, from 1 on */
    unsigned discards;
    int convert;                /* what conversions say */
    unsigned conversions;
    uint64_t size;
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
        return KVM_MEMORY_ATTRIBUTE_PRIVATE;
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

int kvm_vm_ioctl(KVMState *s, unsigned long type, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, type);
    arg = va_arg(ap, void *);
    va_end(ap);
    g_assert_cmpuint(type, ==, KVM_SET_MEMORY_ATTRIBUTES);
    return fake_set_attributes(arg);
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
    return 0;
}

int kvm_convert_memory(hwaddr start, hwaddr size, bool to_private)
{
    kvm.conversions++;
    kvm.size = size;
    return kvm.convert;
}

const char *memory_region_name(const MemoryRegion *mr)
{
    return "b0";
}

ram_addr_t memory_region_get_ram_addr(MemoryRegion *mr)
{
    return 0;
}

void kvm_hwpoison_page_add(ram_addr_t ram_addr)
{
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
    uint64_t next = 0;

    bitmap_zero(map, PAGES);
    while (next < SIZE) {
        g_autoptr(GuestMemfdRunList) list =
            guest_memfd_query_map(b->gm, next, 7, &next);

        for (GuestMemfdRunList *r = list; r; r = r->next) {
            if (r->value->q_private) {
                bitmap_set(map, r->value->offset / PAGE, r->value->size / PAGE);
            }
        }
    }
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
    g_assert_cmpuint(guest_memfd_kvm_map_gpa_range(PAGE, 3, true), ==, 0);
    g_assert_cmpuint(kvm.size, ==, 3 * PAGE);
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

static int fault(uint64_t gpa, int result)
{
    struct kvm_run run = {
        .exit_reason = KVM_EXIT_MEMORY_FAULT,
        .memory_fault = {
            .flags = KVM_MEMORY_EXIT_FLAG_PRIVATE,
            .gpa = gpa,
            .size = PAGE,
        },
    };

    kvm.convert = result;
    return guest_memfd_kvm_fault(&run);
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
    g_test_add_func("/guest-memfd-kvm/huge/reserved", test_huge_reserved);
    g_test_add_func("/guest-memfd-kvm/huge/stand-in", test_huge_stand_in);
    g_test_add_func("/guest-memfd-kvm/huge/shared", test_huge_shared);
    g_test_add_func("/guest-memfd-kvm/huge/reset", test_huge_reset);
    g_test_add_func("/guest-memfd-kvm/taken-back", test_taken_back);
    g_test_add_func("/guest-memfd-kvm/hypercall", test_hypercall);
    g_test_add_func("/guest-memfd-kvm/fault", test_fault);
    g_test_add_func("/guest-memfd-kvm/free-source", test_free_source);
    return g_test_run();
}
