/*
 * QEMU's own access to memory that is converted in place
 *
 * The driver makes a page go away like such a kernel does: it cuts the file off
 * before it, so that an access through the mapping is SIGBUS.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memfd.h"
#include "qapi/error.h"
#include "guest-memfd-fakes.h"

#define SIZE (8 * PAGE)

static Block *const b = &block[0];

static int cut_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                       bool to_private, GuestMemfdStop *stop)
{
    g_assert_cmpint(ftruncate(b->rb.fd, to_private ? offset : SIZE), ==, 0);
    return to_private ? 0 : guest_memfd_restore_mapping(gm, offset, size);
}

static const GuestMemfdOps cut_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = cut_convert,
};

static bool comes_back;         /* before the handler looks */

static void on_sigbus(int n, siginfo_t *siginfo, void *context)
{
    if (comes_back) {
        comes_back = ftruncate(b->rb.fd, SIZE);
    }
    if (!guest_memfd_sigbus(siginfo, context)) {
        _exit(3);
    }
}

static void setup_cut(bool private)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    sigaction(SIGBUS, &action, NULL);
    fake_reset();
    memset(b, 0, sizeof(*b));
    b->mr.ram = true;
    b->mr.ram_block = &b->rb;
    b->rb.mr = &b->mr;
    b->rb.page_size = PAGE;
    b->rb.max_length = SIZE;
    b->rb.fd = qemu_memfd_create("test", SIZE, false, 0, 0, &error_abort);
    b->rb.guest_memfd = b->rb.fd;
    b->rb.host = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b->rb.fd,
                      0);
    g_assert_true(b->rb.host != MAP_FAILED);
    b->gm = guest_memfd_new(&b->rb, "b0", &cut_ops, private, &error_abort);
}

static void teardown_cut(void)
{
    guest_memfd_free(b->gm);
    munmap(b->rb.host, SIZE);
    close(b->rb.fd);
}

/* A pointer from before: QEMU survives, and nobody sees what it writes. */
static void test_stand_in(void)
{
    uint8_t *page;

    setup_cut(false);
    page = b->rb.host + 6 * PAGE;
    for (int round = 0; round < 2; round++) {
        page[0] = 1;
        g_assert_cmpint(convert(b, 6, 2, true), ==, 0);
        g_assert_cmpint(page[0], ==, 0);
        page[0] = 2;
        page[PAGE + 5] = 3;
        g_assert_cmpint(page[0], ==, 2);
        b->rb.host[5 * PAGE] = 4;

        g_assert_cmpint(convert(b, 6, 2, false), ==, 0);
        g_assert_cmpint(page[0], ==, 0);
        g_assert_cmpint(page[PAGE + 5], ==, 0);
        g_assert_cmpint(b->rb.host[5 * PAGE], ==, 4);
    }
    teardown_cut();
}

/* Converted back while the handler was on its way: nothing may stand in. */
static void test_comes_back(void)
{
    uint8_t *other;

    setup_cut(false);
    other = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, b->rb.fd, 0);
    g_assert_cmpint(convert(b, 6, 2, true), ==, 0);
    comes_back = true;
    b->rb.host[6 * PAGE] = 7;
    g_assert_cmpint(other[6 * PAGE], ==, 7);
    munmap(other, SIZE);
    teardown_cut();
}

/* Anything else is not ours to deal with. */
static void test_not_ours(void)
{
    if (g_test_subprocess()) {
        uint8_t *host;

        setup_cut(false);
        g_assert_cmpint(convert(b, 6, 2, true), ==, 0);
        host = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, b->rb.fd, 0);
        _exit(host[7 * PAGE]);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
}

static void check_access(uint64_t offset, uint64_t len, bool may,
                         uint64_t answered)
{
    uint64_t l = len;

    g_assert_cmpint(guest_memfd_host_access(b->gm, offset, &l), ==, may);
    g_assert_cmpuint(l, ==, answered);
}

static void test_host_access(void)
{
    setup_cut(false);
    check_access(0, SIZE, true, SIZE);
    g_assert_cmpint(convert(b, 6, 1, true), ==, 0);
    check_access(0, SIZE, true, 6 * PAGE);
    check_access(5 * PAGE + 1, 10, true, 10);
    check_access(6 * PAGE - 4, 8, true, 4);
    check_access(6 * PAGE, SIZE - 6 * PAGE, false, PAGE);
    check_access(6 * PAGE + 100, 1, false, 1);
    check_access(7 * PAGE, PAGE, true, PAGE);
    g_assert_cmpint(convert(b, 6, 1, false), ==, 0);
    check_access(6 * PAGE, 1, true, 1);
    teardown_cut();

    /* Where private pages have a copy of their own, nothing is in the way. */
    setup(true);
    check_access(0, PAGES * PAGE, true, PAGES * PAGE);
    teardown();
}

/* QEMU fills private memory until the machine is launched, once. */
static void test_launch(void)
{
    fake_launching(true);
    setup_cut(true);
    check_access(0, SIZE, true, SIZE);
    memset(b->rb.host, 1, SIZE);
    g_assert_true(guest_memfd_finish_launch(&error_abort));
    check_access(0, SIZE, false, SIZE);
    teardown_cut();
    fake_launching(false);
}

static void test_save(void)
{
    Error *err = NULL;

    setup(false);
    g_assert_true(guest_memfd_check_save(0, GPA_END, &error_abort));
    g_assert_cmpint(convert(&block[1], 3, 1, true), ==, 0);
    g_assert_true(guest_memfd_check_save(0, GPA_BLOCK1 + 3 * PAGE,
                                         &error_abort));
    g_assert_true(guest_memfd_check_save(GPA_BLOCK1 + 4 * PAGE, GPA_END,
                                         &error_abort));
    g_assert_false(guest_memfd_check_save(PAGE, GPA_END, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "offset 0x3000 of 'b1'"));
    error_free(err);
    g_assert_cmpint(region_refs, ==, 0);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd-access/stand-in", test_stand_in);
    g_test_add_func("/guest-memfd-access/comes-back", test_comes_back);
    g_test_add_func("/guest-memfd-access/not-ours", test_not_ours);
    g_test_add_func("/guest-memfd-access/host-access", test_host_access);
    g_test_add_func("/guest-memfd-access/launch", test_launch);
    g_test_add_func("/guest-memfd-access/save", test_save);
    return g_test_run();
}
