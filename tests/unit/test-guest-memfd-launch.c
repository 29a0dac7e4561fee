/*
 * The launch of a machine whose memory is private and converted in place
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "guest-memfd-fakes.h"

static Block *const b = &block[0];

/* Both blocks private; their files are shared until the end. */
static void setup_launch(void)
{
    fake_launching(true);
    setup(true);
    b->rb.host = g_malloc0(PAGES * PAGE);
    bitmap_zero(b->private, PAGES);
}

static void teardown_launch(void)
{
    g_free(b->rb.host);
    b->rb.host = NULL;
    teardown();
    fake_launching(false);
}

static void check_private(unsigned long first, unsigned long nr)
{
    DECLARE_BITMAP(want, PAGES) = {};
    DECLARE_BITMAP(map, PAGES);

    bitmap_set(want, first, nr);
    g_assert_true(bitmap_equal(b->private, want, PAGES));
    read_map(b, map);
    g_assert_true(bitmap_full(map, PAGES));
    for (int i = 0; i < LISTENERS; i++) {
        g_assert_true(bitmap_empty(b->listener[i].mapped, PAGES));
    }
}

/* What is to become private itself is copied, to where the kernel can read. */
static void test_source(void)
{
    char elsewhere[] = "elsewhere";
    void *source;

    setup_launch();
    for (uint64_t i = 0; i < PAGES * PAGE; i += sizeof(i)) {
        memcpy(b->rb.host + i, &i, sizeof(i));
    }
    source = b->rb.host + 4 * PAGE;
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK0 + 4 * PAGE, 3 * PAGE, &source,
                                       &error_abort), ==, 0);
    g_assert_true(source != b->rb.host + 4 * PAGE);
    g_assert_true(QEMU_PTR_IS_ALIGNED(source, PAGE));
    g_assert_cmpmem(source, 3 * PAGE, b->rb.host + 4 * PAGE, 3 * PAGE);
    check_private(4, 3);

    source = elsewhere;
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK0 + 7 * PAGE, PAGE, &source,
                                       &error_abort), ==, 0);
    g_assert_true(source == elsewhere);
    check_private(4, 4);
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK0 + 8 * PAGE, PAGE, NULL,
                                       &error_abort), ==, 0);
    check_private(4, 5);
    teardown_launch();
}

static void test_bad_range(void)
{
    const struct {
        hwaddr gpa;
        uint64_t size;
    } bad[] = {
        { GPA_BLOCK0, 0 },
        { GPA_BLOCK0 + 1, PAGE },
        { GPA_BLOCK0, PAGE + 1 },
        { -PAGE, 2 * PAGE },
        { GPA_ROM, PAGE },
        { GPA_MMIO, PAGE },
        { GPA_END, PAGE },
        { GPA_BLOCK1 + (PAGES - 1) * PAGE, 2 * PAGE },
    };

    setup_launch();
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        Error *err = NULL;

        g_assert_cmpint(guest_memfd_launch(bad[i].gpa, bad[i].size, NULL, &err),
                        ==, -EINVAL);
        error_free_or_abort(&err);
    }
    check_private(0, 0);
    teardown_launch();
}

static void test_driver_fails(void)
{
    Error *err = NULL;

    setup_launch();
    fake.eagain = 3;
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK0, PAGE, NULL, &error_abort), ==,
                    0);
    g_assert_cmpuint(fake.eagain, ==, 0);
    fake_reset();
    fake.fail[0] = 1;
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK0 + PAGE, PAGE, NULL, &err), ==,
                    -ENOSPC);
    error_free_or_abort(&err);
    check_private(0, 1);
    teardown_launch();
}

/* A block that is not launched so: an ordinary conversion, if any is needed. */
static void test_other_block(void)
{
    setup(false);
    g_assert_cmpint(guest_memfd_launch(GPA_BLOCK1 + PAGE, 2 * PAGE, NULL,
                                       &error_abort), ==, 0);
    model_convert(block[1].model, 1, 2, true, 0);
    check_exact();
    g_assert_true(guest_memfd_all_private(block[1].gm, PAGE, 2 * PAGE));
    g_assert_false(guest_memfd_all_private(block[1].gm, 0, PAGE));
    teardown();
}

static struct {
    unsigned calls;
    bool fails;
} filler;

/* All that is to be private is, before it is filled. */
static bool fill(void *opaque, Error **errp)
{
    g_assert_true(opaque == &filler);
    g_assert_true(test_bit(31, b->private));
    g_assert_false(test_bit(32, b->private));
    filler.calls++;
    if (filler.fails) {
        error_setg(errp, "no page is left");
    }
    return !filler.fails;
}

/* All that nobody has made shared becomes private.  There is one launch only. */
static void test_finish(void)
{
    Error *err = NULL;
    void *source;

    setup_launch();
    source = b->rb.host;
    guest_memfd_launch(GPA_BLOCK0, PAGE, &source, &error_abort);
    g_assert_cmpint(convert(b, 32, 8, false), ==, 0);
    g_assert_true(guest_memfd_fill_after_launch(b->gm, fill, &filler));
    fake.calls = 0;
    fake.fail[0] = 2;
    g_assert_false(guest_memfd_finish_launch(&err));
    error_free_or_abort(&err);
    g_assert_true(guest_memfd_starts_shared(&fake_ops));
    g_assert_cmpuint(filler.calls, ==, 0);

    fake_reset();
    filler.fails = true;
    g_assert_false(guest_memfd_finish_launch(&err));
    g_assert_cmpstr(error_get_pretty(err), ==, "no page is left");
    error_free_or_abort(&err);
    g_assert_cmpuint(filler.calls, ==, 1);

    filler.fails = false;
    g_assert_true(guest_memfd_finish_launch(&error_abort));
    g_assert_cmpuint(filler.calls, ==, 2);
    g_assert_false(guest_memfd_starts_shared(&fake_ops));
    g_assert_false(guest_memfd_fill_after_launch(b->gm, fill, &filler));
    check_exact();
    g_assert_false(test_bit(32, b->private));
    g_assert_true(test_bit(31, b->private));
    g_assert_cmpint(convert(b, 32, 8, true), ==, 0);
    g_assert_cmpint(convert(b, 0, PAGES, false), ==, 0);
    check_exact();
    teardown_launch();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd/launch/source", test_source);
    g_test_add_func("/guest-memfd/launch/bad-range", test_bad_range);
    g_test_add_func("/guest-memfd/launch/driver-fails", test_driver_fails);
    g_test_add_func("/guest-memfd/launch/other-block", test_other_block);
    g_test_add_func("/guest-memfd/launch/finish", test_finish);
    return g_test_run();
}
