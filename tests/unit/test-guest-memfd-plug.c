/*
 * Memory that is plugged and unplugged while it is converted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "guest-memfd-core.h"
#include "guest-memfd-fakes.h"
#include "system/guest-memfd-plug.h"

#define HALF (PAGES / 2)

static Block *const b = &block[0];
static bool init_private;

static int plug(unsigned first, unsigned nr)
{
    int ret = guest_memfd_plug(b->gm, first * PAGE, nr * PAGE);

    model_convert(b->model, first, nr, init_private, ret);
    return ret;
}

static int unplug(unsigned first, unsigned nr)
{
    int ret = guest_memfd_unplug(b->gm, first * PAGE, nr * PAGE);

    model_convert(b->model, first, nr, true, ret);
    return ret;
}

/* Nothing is plugged. */
static void start(bool private)
{
    setup(private);
    init_private = private;
    g_assert_true(guest_memfd_plug_start(b->gm, &error_abort));
    model_convert(b->model, 0, PAGES, true, 0);
    check_exact();
}

/* Neither of the states can be had, and nothing has changed. */
static void check_refused(unsigned first, unsigned nr)
{
    unsigned calls = fake.calls;

    for (int private = 0; private < 2; private++) {
        Error *err = NULL;

        g_assert_cmpint(convert(b, first, nr, private), ==, -EINVAL);
        g_assert_cmpint(guest_memfd_convert_block(b->gm, first * PAGE,
                                                  nr * PAGE, private, &err),
                        ==, -EINVAL);
        model_convert(b->model, first, nr, private, -EINVAL);
        g_assert_nonnull(strstr(error_get_pretty(err),
                                "virtio-mem has not plugged all of it"));
        error_free(err);
        g_assert_cmpint(convert_gpa(GPA_BLOCK0 + first * PAGE, nr * PAGE,
                                    private), ==, -EINVAL);
        model_convert(b->model, first, nr, private, -EINVAL);
    }
    g_assert_cmpuint(fake.calls, ==, calls);
    check_exact();
}

static void test_refused(void)
{
    for (int private = 0; private < 2; private++) {
        start(private);
        check_refused(0, PAGES);
        check_refused(7, 1);
        g_assert_cmpint(plug(16, 32), ==, 0);
        check_exact();
        check_refused(15, 2);
        check_refused(47, 2);
        check_refused(0, PAGES);
        g_assert_cmpint(convert(b, 16, 32, true), ==, 0);
        g_assert_cmpint(convert(b, 20, 4, false), ==, 0);
        check_exact();
        g_assert_cmpint(unplug(16, 16), ==, 0);
        check_refused(31, 1);
        g_assert_cmpint(convert(b, 32, 1, false), ==, 0);
        check_exact();
        guest_memfd_plug_end(b->gm);
        g_clear_pointer(&b->model, model_free);
        check_exact();
        g_assert_cmpint(bitmap_count_one(b->private, PAGES), ==,
                        private ? PAGES : 0);
        g_assert_cmpint(convert(b, 0, PAGES, !private), ==, 0);
        teardown();
    }
}

/* The driver or a listener refuses, whichever it is: nothing has changed. */
static void check_each_call(bool to_plug, int (*what)(unsigned, unsigned))
{
    unsigned n = 0, failed;

    do {
        start(false);
        if (!to_plug) {
            g_assert_cmpint(plug(0, PAGES), ==, 0);
            for (unsigned i = 8; i < PAGES - 50; i += 100) {
                g_assert_cmpint(convert(b, i, 50, true), ==, 0);
            }
        }
        fake_reset();
        fake.fail[0] = ++n;
        what(4, PAGES - 8);
        failed = fake.failed;
        check_exact();
        fake_reset();
        /* What was refused is in the other state for all others, too. */
        if (failed) {
            g_assert_cmpint(convert(b, 8, 1, false), ==,
                            to_plug ? -EINVAL : 0);
            g_assert_cmpint(what(4, PAGES - 8), ==, 0);
            check_exact();
        }
        teardown();
    } while (failed);
    g_assert_cmpuint(n, >, LISTENERS);
}

static void test_each_call(void)
{
    check_each_call(true, plug);
    check_each_call(false, unplug);
}

/* What is not plugged has no state to go back to. */
static void test_reset(void)
{
    for (int private = 0; private < 2; private++) {
        start(private);
        g_assert_cmpint(plug(HALF, HALF), ==, 0);
        g_assert_cmpint(convert(b, HALF, 8, true), ==, 0);
        g_assert_cmpint(convert(b, HALF + 2, 4, false), ==, 0);
        check_exact();
        g_clear_pointer(&b->model, model_free);
        g_assert_cmpint(guest_memfd_reset(b->gm, &error_abort), ==, 0);
        check_exact();
        g_assert_cmpint(find_next_zero_bit(b->private, PAGES, 0), ==,
                        private ? PAGES : HALF);
        g_assert_cmpint(find_next_bit(b->private, PAGES, HALF), ==,
                        private ? HALF : PAGES);
        teardown();
    }
}

static int stop_converting;

static void *convert_all(void *opaque)
{
    uint64_t page = GPOINTER_TO_UINT(opaque);

    while (!qatomic_read(&stop_converting)) {
        page = (page + 7) % (PAGES - 16);
        guest_memfd_convert(GPA_BLOCK0 + page * PAGE, 16 * PAGE, page & 1);
    }
    return NULL;
}

/* vCPUs convert what goes and comes. */
static void test_threads(void)
{
    QemuThread thread[2];

    start(false);
    g_clear_pointer(&b->model, model_free);
    qatomic_set(&stop_converting, false);
    for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_create(&thread[i], "convert", convert_all,
                           GUINT_TO_POINTER(i), QEMU_THREAD_JOINABLE);
    }
    for (unsigned i = 0; i < 2000; i++) {
        unsigned first = (i * 64) % PAGES;

        if (i % 3) {
            g_assert_cmpint(guest_memfd_unplug(b->gm, first * PAGE, 64 * PAGE),
                            ==, 0);
        } else {
            g_assert_cmpint(guest_memfd_plug(b->gm, first * PAGE, 64 * PAGE),
                            ==, 0);
        }
    }
    qatomic_set(&stop_converting, true);
    for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_join(&thread[i]);
    }
    check_exact();
    g_assert_cmpint(guest_memfd_unplug(b->gm, 0, PAGES * PAGE), ==, 0);
    check_exact();
    g_assert_true(bitmap_full(b->private, PAGES));
    teardown();
}

/* A device that comes later maps what is plugged and shared. */
static void test_listener(void)
{
    MemoryRegionSection s = section_of(b, 0, PAGES * PAGE);
    Listener l;

    start(false);
    g_assert_cmpint(plug(100, 100), ==, 0);
    g_assert_cmpint(convert(b, 150, 20, true), ==, 0);
    listener_init(&l);
    g_assert_cmpint(listener_add(b, &l, &s), ==, 0);
    g_assert_cmpint(bitmap_count_one(l.mapped, PAGES), ==, 80);
    g_assert_cmpint(find_next_bit(l.mapped, PAGES, 0), ==, 100);
    listener_remove(b, &l);
    teardown();
}

/* Private memory is saved by nobody; what is not plugged is not missed. */
static void test_save(void)
{
    Error *err = NULL;

    start(false);
    g_assert_cmpint(plug(0, 10), ==, 0);
    g_assert_true(guest_memfd_check_save(GPA_BLOCK0, PAGES * PAGE,
                                         &error_abort));
    g_assert_cmpint(convert(b, 9, 1, true), ==, 0);
    g_assert_false(guest_memfd_check_save(GPA_BLOCK0, PAGES * PAGE, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "offset 0x9000 of 'b0'"));
    error_free(err);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd-plug/refused", test_refused);
    g_test_add_func("/guest-memfd-plug/each-call", test_each_call);
    g_test_add_func("/guest-memfd-plug/reset", test_reset);
    g_test_add_func("/guest-memfd-plug/threads", test_threads);
    g_test_add_func("/guest-memfd-plug/listener", test_listener);
    g_test_add_func("/guest-memfd-plug/save", test_save);
    return g_test_run();
}
