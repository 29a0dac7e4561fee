/*
 * Conversion transactions of guest_memfd blocks
 *
 * The block is real, what surrounds it is in guest-memfd-fakes.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "guest-memfd-fakes.h"
#include "../../system/guest-memfd/internal.h"

/* Three private runs with shared pages between them, seen by all listeners. */
static void make_runs(Block *b, bool private)
{
    g_assert_cmpint(convert(b, 0, PAGES, !private), ==, 0);
    g_assert_cmpint(convert(b, 100, 10, private), ==, 0);
    g_assert_cmpint(convert(b, 120, 5, private), ==, 0);
    g_assert_cmpint(convert(b, 500, 30, private), ==, 0);
    check_exact();
}

static void test_convert(const void *partial)
{
    GuestMemfdInfoList *list;
    GuestMemfdInfo *info;

    for (int private = 0; private < 2; private++) {
        setup(private);
        check_exact();
        for (int i = 0; i < 2; i++) {
            bool to_private = i ^ !private;

            g_assert_cmpint(convert(&block[0], 3, 40, to_private), ==, 0);
            check_exact();
            g_assert_cmpint(convert(&block[0], 0, PAGES, to_private), ==, 0);
            check_exact();
            /* Nothing to do: no one is asked. */
            fake_reset();
            g_assert_cmpint(convert(&block[0], 5, 9, to_private), ==, 0);
            g_assert_cmpuint(fake.calls, ==, 0);
        }
        list = qmp_query_guest_memfd(&error_abort);
        info = list->value;
        g_assert_cmpuint(info->to_private->requests, ==, 3);
        g_assert_cmpuint(info->to_private->bytes, ==, PAGES * PAGE);
        g_assert_cmpuint(info->to_shared->requests, ==, 3);
        g_assert_cmpuint(info->to_shared->bytes, ==, PAGES * PAGE);
        g_assert_cmpuint(info->to_shared->failures, ==, 0);
        g_assert_cmpuint(info->shared_bytes, ==,
                         private ? 0 : PAGES * PAGE);
        qapi_free_GuestMemfdInfoList(list);
        teardown();
    }
}

/* Number of calls that the request of test_failures makes when all is well. */
static unsigned count_calls(bool to_private)
{
    make_runs(&block[0], !to_private);
    fake_reset();
    g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
    check_exact();
    return fake.calls;
}

/* One failure, at every position: everything is as before. */
static void test_failures(gconstpointer partial)
{
    fake.partial = GPOINTER_TO_INT(partial);
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        g_assert_cmpuint(calls, ==, 3 + LISTENERS);
        for (unsigned k = 1; k <= calls; k++) {
            DECLARE_BITMAP(before, PAGES);
            DECLARE_BITMAP(after, PAGES);

            make_runs(&block[0], !to_private);
            read_map(&block[0], before);
            fake_reset();
            fake.fail[0] = k;
            fake.error = -ENOSPC;
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                            -ENOSPC);
            g_assert_cmpuint(fake.failed, ==, 1);
            read_map(&block[0], after);
            g_assert_true(bitmap_equal(before, after, PAGES));
            check_exact();

            /* It was this request, not the block: the next one works. */
            fake_reset();
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
            check_exact();
        }
        teardown();
    }
}

/*
 * A second failure while the first is undone: never unsafe, and mended by the
 * next request that finds everybody in order again.
 */
static void test_failed_undo(gconstpointer partial)
{
    fake.partial = GPOINTER_TO_INT(partial);
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        for (unsigned k = 1; k <= calls; k++) {
            for (unsigned m = k + 1; m <= k + calls + LISTENERS; m++) {
                make_runs(&block[0], !to_private);
                fake_reset();
                fake.fail[0] = k;
                fake.fail[1] = m;
                g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                                -ENOSPC);
                model_undo_failed(block[0].model, 90, 600);
                check_safe();
                fake_reset();
                g_assert_cmpint(convert(&block[0], 1000, 1, to_private), ==, 0);
                check_exact();
            }
        }
        teardown();
    }
}

/* Somebody died: everything fails from some point on. */
static void test_dead(gconstpointer partial)
{
    fake.partial = GPOINTER_TO_INT(partial);
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        for (unsigned k = 1; k <= calls; k++) {
            make_runs(&block[0], !to_private);
            fake_reset();
            fake.fail[0] = k;
            fake.fail_all_after = true;
            for (int i = 0; i < 3; i++) {
                g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                                -ENOSPC);
                model_undo_failed(block[0].model, 90, 600);
                check_safe();
            }
            fake_reset();
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
            check_exact();
        }
        teardown();
    }
}

/* When one listener refuses, those after it are not told. */
static void test_refused(const void *partial)
{
    setup(false);
    fake_reset();
    fake.fail[0] = 1;
    g_assert_cmpint(convert(&block[0], 0, 10, true), ==, -ENOSPC);
    /* the refusal, and what two listeners see of it mapped again */
    g_assert_cmpuint(fake.calls, ==, 3);
    check_exact();
    teardown();
}

/* What a listener lost in two requests is mended together. */
static void test_stale_twice(const void *partial)
{
    Block *b = &block[0];

    fake.partial = false;
    setup(false);
    fake_reset();
    /* Two listeners see these pages; the driver refuses, and they are dead. */
    fake.fail[0] = 3;
    fake.fail_all_after = true;
    g_assert_cmpint(convert(b, 0, 10, true), ==, -ENOSPC);
    check_safe();
    fake_reset();
    fake.fail[0] = 1;
    fake.fail_all_after = true;
    g_assert_cmpint(convert(b, 500, 10, true), ==, -ENOSPC);
    check_safe();

    fake_reset();
    g_assert_cmpint(convert(b, 1000, 1, true), ==, 0);
    check_exact();
    teardown();
}

static void test_retry(const void *partial)
{
    GuestMemfdInfoList *list;
    GuestMemfdInfo *info;

    setup(false);
    fake.eagain = 3;
    g_assert_cmpint(convert(&block[0], 0, 8, true), ==, 0);
    check_exact();
    list = qmp_query_guest_memfd(&error_abort);
    info = list->value;
    g_assert_cmpuint(info->to_private->retries, ==, 3);
    g_assert_cmpuint(info->to_private->rollbacks, ==, 0);
    g_assert_cmpuint(info->to_private->bytes, ==, 8 * PAGE);
    g_assert_cmpuint(info->to_shared->bytes, ==, 0);
    qapi_free_GuestMemfdInfoList(list);

    /* Held for good: bounded, undone, told. */
    fake.eagain = 11;
    g_assert_cmpint(convert(&block[0], 8, 8, true), ==, -EAGAIN);
    check_exact();
    list = qmp_query_guest_memfd(&error_abort);
    info = list->value;
    g_assert_cmpuint(info->to_private->failures, ==, 1);
    g_assert_cmpuint(info->to_private->rollbacks, ==, 1);
    g_assert_cmpuint(info->private_bytes, ==, 8 * PAGE);
    qapi_free_GuestMemfdInfoList(list);
    teardown();
}

static void test_bad_ranges(const void *partial)
{
    const struct {
        uint64_t offset, size;
    } bad[] = {
        { 1, PAGE }, { 0, 1 }, { 0, 0 }, { PAGE, 0 },
        { PAGES * PAGE, PAGE }, { 0, (PAGES + 1) * PAGE },
        { (PAGES - 1) * PAGE, 2 * PAGE }, { -PAGE, PAGE }, { -PAGE, 2 * PAGE },
        { PAGE, -PAGE }, { UINT64_MAX, UINT64_MAX }, { 0, UINT64_MAX },
    };

    setup(false);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        for (int to_private = 0; to_private < 2; to_private++) {
            Error *err = NULL;

            g_assert_cmpint(guest_memfd_convert_block(block[0].gm,
                                                      bad[i].offset,
                                                      bad[i].size, to_private,
                                                      &err), ==, -EINVAL);
            g_assert_nonnull(err);
            error_free(err);
        }
    }
    g_assert_null(qmp_query_guest_memfd_map(guest_memfd_id(block[0].gm), false,
                                            0, true, 0, NULL));
    check_exact();
    teardown();
}

static uint64_t first_block_bytes(void)
{
    g_autoptr(GuestMemfdInfoList) list = qmp_query_guest_memfd(&error_abort);

    return list->value->to_shared->bytes;
}

static void test_gpa(const void *partial)
{
    const uint64_t max = UINT64_MAX;
    uint64_t bytes;

    setup(false);
    /* Across two blocks: one request, one outcome. */
    g_assert_cmpint(convert_gpa(GPA_BLOCK1 - 4 * PAGE, 8 * PAGE, true),
                    ==, 0);
    check_exact();
    g_assert_true(test_bit(PAGES - 1, block[0].private));
    g_assert_true(test_bit(0, block[1].private));
    g_assert_cmpint(convert_gpa(0, 2 * PAGES * PAGE, false), ==, 0);
    check_exact();
    for (unsigned k = 1; k <= 8; k++) {
        fake_reset();
        fake.fail[0] = k;
        g_assert_cmpint(convert_gpa(GPA_BLOCK1 - 4 * PAGE, 8 * PAGE,
                                            true), ==,
                        k <= 6 ? -ENOSPC : 0);
        check_exact();
        fake_reset();
        g_assert_cmpint(convert_gpa(0, 2 * PAGES * PAGE, false), ==, 0);
    }

    /* Pages seen twice convert once, whatever the order of addresses. */
    fake_reset();
    bytes = first_block_bytes();
    g_assert_cmpint(convert_gpa(GPA_ALIAS, ALIAS_SIZE, true), ==, 0);
    check_exact();
    g_assert_true(test_bit(15, block[0].private));
    g_assert_cmpint(convert_gpa(0, GPA_ALIAS + ALIAS_SIZE, false), ==,
                    0);
    check_exact();
    g_assert_cmpuint(first_block_bytes() - bytes, ==, ALIAS_SIZE);

    /* Holes, ROM and MMIO become private never, shared where it is harmless. */
    fake_reset();
    g_assert_cmpint(convert_gpa(GPA_ALIAS - PAGE, 2 * PAGE, true), ==,
                    -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_ROM - PAGE, PAGE, true), ==,
                    -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_BLOCK1 + (PAGES - 1) * PAGE,
                                        2 * PAGE, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_ROM, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_ROM, PAGE, false), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_MMIO, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(0, GPA_END, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(GPA_MMIO, PAGE, false), ==, 0);
    g_assert_cmpint(convert_gpa(GPA_END, 4 * GiB, false), ==, 0);

    g_assert_cmpint(convert_gpa(0, 0, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(0, 0, false), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(1, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(0, PAGE + 1, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(max, max, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(-PAGE, 2 * PAGE, false), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(-PAGE, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(convert_gpa(-PAGE, PAGE, false), ==, 0);
    g_assert_cmpuint(fake.calls, ==, 0);
    check_exact();
    teardown();
}

static void test_late_listener(const void *partial)
{
    Block *b = &block[0];
    MemoryRegionSection s;
    Listener late;

    listener_init(&late);
    setup(false);
    s = section_of(b, 5 * PAGE + 512, 600 * PAGE);
    make_runs(b, true);

    /* Refused at any run: it is there all the same, and leaves nothing. */
    for (unsigned k = 1; k <= 4; k++) {
        fake_reset();
        fake.fail[0] = k;
        g_assert_cmpint(listener_add(b, &late, &s), ==, -ENOSPC);
        check_safe();
        g_assert_cmpuint(fake.calls, ==, k);
        listener_remove(b, &late);
        g_assert_true(bitmap_empty(late.mapped, PAGES));
        check_exact();
    }
    fake_reset();
    g_assert_cmpint(listener_add(b, &late, &s), ==, 0);
    check_exact();
    /* Pages cut by the edges of the section are not its business. */
    g_assert_false(test_bit(5, late.mapped));
    g_assert_true(test_bit(6, late.mapped));
    g_assert_true(test_bit(604, late.mapped));
    g_assert_false(test_bit(605, late.mapped));
    g_assert_cmpint(convert(b, 0, PAGES, false), ==, 0);
    check_exact();
    listener_remove(b, &late);
    g_assert_true(bitmap_empty(late.mapped, PAGES));

    /* One that stays is synced before the next conversion of the block. */
    make_runs(b, true);
    fake_reset();
    fake.fail[0] = 2;
    g_assert_cmpint(listener_add(b, &late, &s), ==, -ENOSPC);
    check_safe();
    fake_reset();
    g_assert_cmpint(convert(b, 0, 1, true), ==, 0);
    check_exact();
    listener_remove(b, &late);
    teardown();
}

/* Memory that is unplugged between the search for it and the locks */
static void test_unplugged(const void *partial)
{
    const uint64_t size = GPA_BLOCK1 + PAGES * PAGE - GPA_BLOCK0;

    for (int i = 0; i < BLOCKS; i++) {
        GuestMemfdRequest req;
        Error *err = NULL;

        setup(false);
        g_assert_cmpint(guest_memfd_request_find(&req, GPA_BLOCK0, size, true),
                        ==, 0);
        g_assert_cmpint(region_refs, ==, 0);
        for (int j = 0; j < LISTENERS; j++) {
            listener_remove(&block[i], &block[i].listener[j]);
            model_remove_listener(block[i].model, block[i].listener[j].mapped);
        }
        guest_memfd_free(block[i].gm);
        fake_reset();
        g_assert_cmpint(guest_memfd_transact(&req, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(error_get_pretty(err), i ? "'b1'" : "'b0'"));
        g_assert_nonnull(strstr(error_get_pretty(err), "unplugged"));
        error_free(err);
        g_assert_cmpuint(fake.calls, ==, 0);
        guest_memfd_request_end(&req);
        g_clear_pointer(&block[i].model, model_free);
        block[i].gm = NULL;
        teardown();
    }
}

static int reset(Block *b)
{
    int ret = guest_memfd_reset(b->gm, NULL);

    model_reset(b->model, ret);
    return ret;
}

static void test_reset(const void *partial)
{
    for (int private = 0; private < 2; private++) {
        DECLARE_BITMAP(map, PAGES);

        setup(private);
        make_runs(&block[0], private);
        g_assert_cmpint(reset(&block[0]), ==, 0);
        check_exact();
        read_map(&block[0], map);
        g_assert_true(private ? bitmap_full(map, PAGES) :
                                bitmap_empty(map, PAGES));

        /* One that fails half-way is safe, and the next one is complete. */
        for (unsigned k = 1; k <= 20; k++) {
            make_runs(&block[0], private);
            fake_reset();
            fake.partial = k % 2;
            fake.fail[0] = k;
            reset(&block[0]);
            check_safe();
            fake_reset();
            g_assert_cmpint(convert(&block[0], 0, 1, !private), ==, 0);
            check_exact();
            g_assert_cmpint(reset(&block[0]), ==, 0);
            check_exact();
        }

        fake.partial = false;

        /* A listener that does not let go: nothing that it has gets private. */
        make_runs(&block[0], private);
        fake_reset();
        fake.fail[0] = 1;
        fake.fail_all_after = true;
        g_assert_cmpint(reset(&block[0]), ==, fake.error);
        check_safe();
        fake_reset();
        g_assert_cmpint(reset(&block[0]), ==, 0);
        check_exact();
        teardown();
    }
}

/* What others ask the manager. */
static int count_pages(MemoryRegionSection *s, void *opaque)
{
    *(uint64_t *)opaque += int128_get64(s->size) / PAGE;
    return 0;
}

static int fail_at_once(MemoryRegionSection *s, void *opaque)
{
    ++*(uint64_t *)opaque;
    return -EIO;
}

static void test_ram_discard_manager(const void *partial)
{
    Block *b = &block[0];
    RamDiscardManagerClass *rdmc;
    RamDiscardManager *rdm;
    MemoryRegionSection s, part;
    uint64_t pages = 0;

    setup(false);
    rdm = RAM_DISCARD_MANAGER(b->gm);
    rdmc = RAM_DISCARD_MANAGER_GET_CLASS(rdm);
    s = section_of(b, 0, PAGES * PAGE);
    g_assert_cmpint(convert(b, 7, 90, true), ==, 0);

    part = section_of(b, 7 * PAGE - 1, 1);
    g_assert_true(rdmc->is_populated(rdm, &part));
    part = section_of(b, 7 * PAGE - 1, 2);
    g_assert_false(rdmc->is_populated(rdm, &part));
    part = section_of(b, 7 * PAGE, 0);
    g_assert_true(rdmc->is_populated(rdm, &part));
    g_assert_cmpint(rdmc->replay_populated(rdm, &s, count_pages, &pages), ==,
                    0);
    g_assert_cmpuint(pages, ==, PAGES - 90);
    pages = 0;
    g_assert_cmpint(rdmc->replay_populated(rdm, &s, fail_at_once, &pages), ==,
                    -EIO);
    g_assert_cmpuint(pages, ==, 1);
    pages = 0;
    part = section_of(b, 90 * PAGE, 100 * PAGE);
    g_assert_cmpint(rdmc->replay_discarded(rdm, &part, count_pages, &pages), ==,
                    0);
    g_assert_cmpuint(pages, ==, 7);
    teardown();
}

/* Random requests with random failures, everything compared after each. */
static void test_random(const void *partial)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());

    setup(true);
    for (int i = 0; i < 20000; i++) {
        uint64_t first = g_rand_int_range(rand, 0, 2 * PAGES);
        uint64_t nr = g_rand_int_range(rand, 1, 2 * PAGES - first + 1);
        bool to_private = g_rand_boolean(rand);
        int ret;

        if (g_rand_boolean(rand)) {
            nr = MIN(nr, 8);
        }
        fake_reset();
        fake.fail[0] = g_rand_int_range(rand, 0, 30);
        ret = convert_gpa(first * PAGE, nr * PAGE, to_private);
        g_assert_true(ret == 0 || ret == -ENOSPC);
        check_exact();
    }
    teardown();
}

static void *one_conversion(void *opaque)
{
    g_assert_cmpint(convert(&block[0], 0, 8, true), ==, 0);
    return NULL;
}

/*
 * A conversion waits for a listener.  Whoever reads, or converts another block,
 * does not; if one did, this test would not end.
 */
static void test_readers(const void *partial)
{
    Block *b = &block[0];
    RamDiscardManagerClass *rdmc;
    RamDiscardManager *rdm;
    MemoryRegionSection s;
    uint64_t len = PAGE, pages = 0;
    QemuThread thread;

    setup(false);
    rdm = RAM_DISCARD_MANAGER(b->gm);
    rdmc = RAM_DISCARD_MANAGER_GET_CLASS(rdm);
    s = section_of(b, 0, PAGES * PAGE);
    fake.waits = true;
    qemu_thread_create(&thread, "vcpu", one_conversion, NULL,
                       QEMU_THREAD_JOINABLE);
    qemu_sem_wait(&fake.waiting);
    fake.waits = false;

    qapi_free_GuestMemfdInfoList(qmp_query_guest_memfd(&error_abort));
    qapi_free_GuestMemfdMapInfo(
        qmp_query_guest_memfd_map(guest_memfd_id(b->gm), false, 0, false, 0,
                                  &error_abort));
    g_assert_true(guest_memfd_host_access(b->gm, 0, &len));
    g_assert_true(guest_memfd_check_save(0, 16 * PAGE, &error_abort));
    g_assert_true(rdmc->is_populated(rdm, &s));
    g_assert_cmpint(rdmc->replay_populated(rdm, &s, count_pages, &pages), ==,
                    0);
    g_assert_cmpuint(pages, ==, PAGES);
    g_assert_false(guest_memfd_all_private(b->gm, 0, PAGE));
    g_assert_cmpint(convert(&block[1], 0, 8, true), ==, 0);

    qemu_sem_post(&fake.go_on);
    qemu_thread_join(&thread);
    check_exact();
    teardown();
}

/* I6: vCPUs convert at once, ranges that overlap and cross blocks included. */
static void *vcpu_thread(void *opaque)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(GPOINTER_TO_UINT(opaque));

    for (int i = 0; i < 5000; i++) {
        uint64_t first = g_rand_int_range(rand, 0, 2 * PAGES - 64);
        uint64_t nr = g_rand_int_range(rand, 1, 64);

        g_assert_cmpint(guest_memfd_convert(first * PAGE, nr * PAGE,
                                            g_rand_boolean(rand)), ==, 0);
    }
    return NULL;
}

static void test_vcpus(const void *partial)
{
    QemuThread thread[4];

    setup(false);
    for (int i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_create(&thread[i], "vcpu", vcpu_thread,
                           GUINT_TO_POINTER(g_test_rand_int()),
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_join(&thread[i]);
    }
    for (int i = 0; i < BLOCKS; i++) {
        model_undo_failed(block[i].model, 0, PAGES);
    }
    check_exact();
    teardown();
}

/* A test, on a host with such pages */
typedef struct Case {
    void (*run)(const void *partial);
    bool partial;
    uint64_t page_size;
} Case;

static void run_case(const void *opaque)
{
    const Case *c = opaque;
    uint64_t host = fake_page_size;

    fake_page_size = c->page_size;
    c->run(GINT_TO_POINTER(c->partial));
    fake_page_size = host;
}

static void add_case(const char *name, void (*run)(const void *partial),
                     bool partial, uint64_t page_size)
{
    g_autofree char *path = g_strdup_printf("/guest-memfd/%" PRIu64 "k/%s",
                                            page_size / KiB, name);
    const Case c = { run, partial, page_size };

    g_test_add_data_func_full(path, g_memdup2(&c, sizeof(c)), run_case, g_free);
}

/* With a driver that converts all or nothing, and one that stops half-way. */
static void add_both(const char *name, void (*run)(const void *partial),
                     uint64_t page_size)
{
    g_autofree char *whole = g_strdup_printf("%s/whole", name);
    g_autofree char *partial = g_strdup_printf("%s/partial", name);

    add_case(whole, run, false, page_size);
    add_case(partial, run, true, page_size);
}

static void add_tests(uint64_t page_size)
{
    add_case("convert", test_convert, false, page_size);
    add_both("failures", test_failures, page_size);
    add_both("failed-undo", test_failed_undo, page_size);
    add_both("dead", test_dead, page_size);
    add_case("refused", test_refused, false, page_size);
    add_case("stale-twice", test_stale_twice, false, page_size);
    add_case("retry", test_retry, false, page_size);
    add_case("bad-ranges", test_bad_ranges, false, page_size);
    add_case("gpa", test_gpa, false, page_size);
    add_case("late-listener", test_late_listener, false, page_size);
    add_case("unplugged", test_unplugged, false, page_size);
    add_case("reset", test_reset, false, page_size);
    add_case("ram-discard-manager", test_ram_discard_manager, false, page_size);
    add_case("random", test_random, false, page_size);
    add_case("readers", test_readers, false, page_size);
    add_case("vcpus", test_vcpus, false, page_size);
}

int main(int argc, char **argv)
{
    fake_init();
    g_test_init(&argc, &argv, NULL);

    add_tests(4 * KiB);
    add_tests(16 * KiB);
    add_tests(64 * KiB);
    return g_test_run();
}
