/*
 * What KVM is told about guest_memfd memory, and what it asks for
 *
 * Huge pages are played by four pages of a memfd: a pool that is empty is a file
 * that has been cut off, since touching it, and populating it, fail like there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "system/system.h"
#include "guest-memfd-core.h"
#include "guest-memfd-fake-kvm.h"

static Block *const b = &block[0];

static void pool(bool empty)
{
    g_assert_cmpint(ftruncate(b->rb.fd, empty ? 0 : SIZE), ==, 0);
}

/* The map says what KVM has at an address. */
static void check_attributes(size_t address)
{
    DECLARE_BITMAP(map, PAGES);

    read_map(b, map);
    for (size_t i = 0; i < SIZE_PAGES; i++) {
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
    g_assert_cmpuint(core_discards.shared, ==, 0);      /* page 3 is shared */
    g_assert_cmpint(convert(b, 3, 1, true), ==, 0);
    g_assert_cmpuint(core_discards.shared, ==, 1);
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
    g_assert_cmpuint(core_discards.shared, ==, 1);
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
    g_assert_cmpuint(core_discards.shared, ==, 1);
    g_assert_cmpint(b->rb.host[0], ==, 1);
    g_assert_false(in_mapping(b->rb.host + HUGE_PAGE));
    teardown_kvm();

    setup_kvm(HUGE_PAGE, RAM_NORESERVE, NULL);
    memset(b->rb.host, 1, SIZE);
    g_assert_cmpint(convert(b, 0, 6, true), ==, 0);
    g_assert_cmpuint(core_discards.shared, ==, 1);
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
    g_assert_cmpuint(core_discards.shared, ==, 0);
    teardown_kvm();

    setup_kvm(PAGE, 0, NULL);
    g_assert_cmpint(convert(b, 0, 8, true), ==, 0);
    g_assert_cmpuint(core_discards.shared, ==, 1);
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

    setup_kvm(PAGE, 0, NULL);
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

    /* Another vCPU was faster. */
    g_assert_cmpint(fault(0, -ENOSPC), ==, -ENOSPC);
    g_assert_cmpint(fault(PAGE, -ENOSPC), ==, 0);
    g_assert_cmpint(convert(b, 0, 2, true), ==, 0);
    g_assert_cmpint(fault(0, -ENOSPC), ==, 0);
    g_assert_cmpint(fault(PAGE, -ENOSPC), ==, -ENOSPC);
    teardown_kvm();
}

/* There is no memory for what the guest touches. */
static void test_run_no_memory(void)
{
    struct kvm_run run = memory_fault(GPA_BLOCK0 + 3 * PAGE, false);

    if (g_test_subprocess()) {
        setup_kvm(PAGE, 0, NULL);
        guest_memfd_kvm_run_failed(&run, -ENOSPC);
        guest_memfd_kvm_run_failed(&run, -ENOMEM);
        _exit(kvm.poisoned);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*no huge page is left*'b0' offset 0x3000*"
                              "has no page left*'b0' offset 0x3000*");
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
    g_assert_cmpuint(core_discards.shared + core_discards.private, ==, 0);
    teardown_kvm();
}

/* After a failure that no waiting helps nothing has changed. */
static void test_in_place_no_memory(void)
{
    for (int to_private = 1; to_private >= 0; to_private--) {
        for (int names = NAMES_PAGE; names <= NAMES_NOTHING; names++) {
            setup_kvm(HUGE_PAGE, 0, &guest_memfd_in_place_ops);
            g_assert_cmpint(convert(b, 0, 8, !to_private), ==, 0);
            kvm.held = 5 * PAGE;
            kvm.held_calls = 1;
            kvm.held_errno = ENOMEM;
            kvm.names = names;
            g_assert_cmpint(convert(b, 1, 6, to_private), ==, -ENOMEM);
            g_assert_cmpuint(kvm.held_calls, ==, 0);
            check_attributes(0);
            g_assert_cmpint(kvm.attributes[0][1] != 0, ==, !to_private);

            /* Nor can it go back: the map says so, if the kernel does. */
            kvm.held_calls = 3;
            g_assert_cmpint(convert(b, 1, 6, to_private), ==, -ENOMEM);
            if (names != NAMES_NOTHING) {
                check_attributes(0);
            }
            teardown_kvm();
        }
    }
}

/* The huge page that a page in use is in begins before the range. */
static void test_in_place_folio(void)
{
    Error *err = NULL;

    setup_kvm(HUGE_PAGE, 0, &guest_memfd_in_place_ops);
    kvm.held = 1 * PAGE;
    kvm.names = NAMES_FOLIO;
    kvm.held_calls = UINT_MAX;
    g_assert_cmpint(guest_memfd_convert_block(b->gm, PAGE, 7 * PAGE, true,
                                              &err), ==, -EAGAIN);
    g_assert_nonnull(strstr(error_get_pretty(err),
                            "the page at offset 0x1000 is in use"));
    error_free(err);
    check_attributes(0);
    kvm.held = 6 * PAGE;
    g_assert_cmpint(convert(b, 1, 7, true), ==, -EAGAIN);
    check_attributes(0);
    kvm.held_calls = 2;
    g_assert_cmpint(convert(b, 1, 7, true), ==, 0);
    check_attributes(0);
    teardown_kvm();
}

/* What stands in for a private page hides no shared page beside it. */
static void test_in_place_stand_in(void)
{
    setup_kvm(HUGE_PAGE, 0, &guest_memfd_in_place_ops);
    b->rb.host[0] = 1;
    b->rb.host[HUGE_PAGE] = 2;
    g_assert_cmpint(convert(b, 5, 1, true), ==, 0);
    pool(true);
    b->rb.host[5 * PAGE] = 5;       /* gone from the mapping */
    g_assert_cmpint(b->rb.host[5 * PAGE], ==, 5);
    pool(false);
    b->rb.host[HUGE_PAGE] = 3;
    g_assert_cmpint(pread(b->rb.fd, b->rb.host, 1, HUGE_PAGE), ==, 1);
    g_assert_cmpint(b->rb.host[0], ==, 3);
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
    g_assert_cmpuint(core_discards.shared, ==, 1);
    g_assert_cmpuint(core_discards.private, ==, 0);
    g_assert_cmpint(convert(b, 2, 2, false), ==, 0);
    g_assert_cmpuint(core_discards.shared, ==, 1);
    g_assert_cmpuint(core_discards.private, ==, 1);
    teardown_kvm();
}

/* Memory that is locked has no copy that can be freed, whoever asks for it. */
static void test_mlock(void)
{
    for (int state = MLOCK_ON; state <= MLOCK_ON_FAULT; state++) {
        const GuestMemfdOps *ops;
        Error *err = NULL;

        setup_kvm(PAGE, 0, NULL);
        mlock_state = state;
        g_assert_null(guest_memfd_new_kvm(&b->rb, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), state == MLOCK_ON ?
                                "': conversion=two-copy: -overcommit "
                                "mem-lock=on would lock" : "mem-lock=on-fault"));
        g_assert_nonnull(strstr(error_get_pretty(err), "; use mem-lock=off"));
        error_free(err);
        err = NULL;
        g_assert_false(guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_AUTO, &ops,
                                              &err));
        error_free(err);
        mlock_state = MLOCK_OFF;
        teardown_kvm();
    }
}

/* Memory comes to an address where something else was. */
static void test_slot(void)
{
    setup_kvm(PAGE, 0, NULL);
    g_assert_cmpint(convert(b, 2, 2, true), ==, 0);
    for (int i = 0; i < SIZE_PAGES; i++) {
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
    g_test_add_func("/guest-memfd-kvm/run-no-memory", test_run_no_memory);
    g_test_add_func("/guest-memfd-kvm/taken-back", test_taken_back);
    g_test_add_func("/guest-memfd-kvm/hypercall", test_hypercall);
    g_test_add_func("/guest-memfd-kvm/fault", test_fault);
    g_test_add_func("/guest-memfd-kvm/broken", test_broken);
    g_test_add_func("/guest-memfd-kvm/in-place", test_in_place);
    g_test_add_func("/guest-memfd-kvm/in-place/folio", test_in_place_folio);
    g_test_add_func("/guest-memfd-kvm/in-place/no-memory",
                    test_in_place_no_memory);
    g_test_add_func("/guest-memfd-kvm/in-place/stand-in",
                    test_in_place_stand_in);
    g_test_add_func("/guest-memfd-kvm/two-copies", test_two_copies);
    g_test_add_func("/guest-memfd-kvm/mlock", test_mlock);
    g_test_add_func("/guest-memfd-kvm/slot", test_slot);
    g_test_add_func("/guest-memfd-kvm/free-source", test_free_source);
    return g_test_run();
}
