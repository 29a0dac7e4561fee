/*
 * Memory that a guest does not need: what of it is freed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "guest-memfd-core.h"
#include "guest-memfd-fake-kvm.h"
#include "guest-memfd-fakes.h"
#include "system/guest-memfd-plug.h"

static Block *const b = &block[0];

/* Bytes that were freed of each copy; pages keep their state. */
static void check_discard(uint64_t offset, uint64_t size, bool shared,
                          unsigned shared_pages, unsigned private_pages)
{
    DECLARE_BITMAP(before, PAGES) = {};
    DECLARE_BITMAP(after, PAGES) = {};
    unsigned calls = kvm.calls;

    read_map(b, before);
    memset(&core_discards, 0, sizeof(core_discards));
    guest_memfd_discard(b->gm, offset, size, shared);
    g_assert_cmpuint(core_discards.shared_bytes, ==, shared_pages * PAGE);
    g_assert_cmpuint(core_discards.private_bytes, ==, private_pages * PAGE);
    read_map(b, after);
    g_assert_true(bitmap_equal(before, after, SIZE / PAGE));
    g_assert_cmpuint(kvm.calls, ==, calls);
}

/* Pages 2, 3 and 5 are private. */
static void setup_mixed(uint64_t page_size, const GuestMemfdOps *ops)
{
    setup_kvm(page_size, 0, ops);
    g_assert_cmpint(convert(b, 2, 2, true), ==, 0);
    g_assert_cmpint(convert(b, 5, 1, true), ==, 0);
}

static void test_two_copies(void)
{
    setup_mixed(PAGE, NULL);
    check_discard(0, SIZE, false, 0, 3);
    check_discard(0, SIZE, true, SIZE / PAGE, 3);
    check_discard(0, 2 * PAGE, false, 0, 0);
    check_discard(0, 2 * PAGE, true, 2, 0);
    /* Parts of pages stay. */
    check_discard(2 * PAGE + 1, 2 * PAGE - 1, false, 0, 1);
    check_discard(2 * PAGE, 2 * PAGE - 1, false, 0, 1);
    check_discard(2 * PAGE + 1, PAGE, true, 0, 0);
    check_discard(2 * PAGE, 1, true, 0, 0);
    teardown_kvm();
}

/* The private copy has small pages, whatever the shared one has. */
static void test_two_copies_huge(void)
{
    setup_mixed(HUGE_PAGE, NULL);
    check_discard(2 * PAGE, PAGE, true, 0, 1);
    check_discard(0, HUGE_PAGE, false, 0, 2);
    check_discard(0, HUGE_PAGE, true, HUGE_PAGE / PAGE, 2);
    check_discard(PAGE, HUGE_PAGE, true, 0, 2);
    teardown_kvm();
}

static void test_in_place(void)
{
    setup_mixed(PAGE, &guest_memfd_in_place_ops);
    check_discard(0, SIZE, false, 3, 0);
    check_discard(0, SIZE, true, SIZE / PAGE, 0);
    check_discard(0, 2 * PAGE, false, 0, 0);
    check_discard(2 * PAGE + 1, 2 * PAGE - 1, false, 1, 0);
    teardown_kvm();
}

/* What is mapped by a device of a huge page keeps all of it. */
static void test_in_place_huge(void)
{
    setup_mixed(HUGE_PAGE, &guest_memfd_in_place_ops);
    check_discard(0, HUGE_PAGE, false, 0, 0);
    check_discard(0, HUGE_PAGE, true, HUGE_PAGE / PAGE, 0);
    check_discard(2 * PAGE, PAGE, true, 0, 0);
    g_assert_cmpint(convert(b, 0, HUGE_PAGE / PAGE, true), ==, 0);
    check_discard(0, SIZE, false, HUGE_PAGE / PAGE, 0);
    teardown_kvm();
}

/* Of what is unplugged neither copy stays. */
static void check_unplug(uint64_t page_size, const GuestMemfdOps *ops)
{
    setup_mixed(page_size, ops);
    memset(&core_discards, 0, sizeof(core_discards));
    g_assert_true(guest_memfd_plug_start(b->gm, &error_abort));
    g_assert_cmpuint(core_discards.shared_bytes, >=, SIZE);
    g_assert_cmpuint(core_discards.private_bytes, ==, ops ? 0 : SIZE);

    g_assert_cmpint(guest_memfd_plug(b->gm, 0, HUGE_PAGE), ==, 0);
    g_assert_cmpint(convert(b, 2, 1, true), ==, 0);
    b->rb.host[0] = 1;
    memset(&core_discards, 0, sizeof(core_discards));
    g_assert_cmpint(guest_memfd_unplug(b->gm, 0, HUGE_PAGE), ==, 0);
    g_assert_cmpuint(core_discards.private_bytes, ==, ops ? 0 : HUGE_PAGE);
    g_assert_cmpuint(core_discards.shared_bytes, >=, HUGE_PAGE);
    g_assert_cmpint(convert(b, 0, 1, false), ==, -EINVAL);
    for (unsigned i = 0; i < SIZE / PAGE; i++) {
        g_assert_cmpuint(kvm.attributes[0][i], ==,
                         KVM_MEMORY_ATTRIBUTE_PRIVATE);
    }
    g_assert_cmpint(guest_memfd_plug(b->gm, 0, HUGE_PAGE), ==, 0);
    g_assert_cmpint(b->rb.host[0], ==, 0);
    g_assert_cmpuint(kvm.attributes[0][0], ==, 0);
    guest_memfd_plug_end(b->gm);
    teardown_kvm();
}

static void test_unplug(void)
{
    check_unplug(PAGE, NULL);
    check_unplug(HUGE_PAGE, NULL);
    check_unplug(PAGE, &guest_memfd_in_place_ops);
    check_unplug(HUGE_PAGE, &guest_memfd_in_place_ops);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd-discard/two-copies", test_two_copies);
    g_test_add_func("/guest-memfd-discard/two-copies/huge",
                    test_two_copies_huge);
    g_test_add_func("/guest-memfd-discard/in-place", test_in_place);
    g_test_add_func("/guest-memfd-discard/in-place/huge", test_in_place_huge);
    g_test_add_func("/guest-memfd-discard/unplug", test_unplug);
    return g_test_run();
}
