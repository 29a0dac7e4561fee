/*
 * QEMU's own access to memory that is converted in place
 *
 * The driver makes a page go away like such a kernel does: it cuts the file off
 * before it, so that an access through the mapping is SIGBUS.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/mempolicy.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include "qemu/memfd.h"
#include "qapi/error.h"
#include "guest-memfd-core.h"
#include "guest-memfd-fakes.h"
#include "../../system/guest-memfd/internal.h"

#define SIZE (8 * PAGE)
#define MANY (2 * PAGES)
#define HUGE_PAGE (2 * MiB)

static Block *const b = &block[0];

static int cut_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                       bool to_private, GuestMemfdStop *stop)
{
    g_assert_cmpint(ftruncate(b->rb.fd, to_private ? offset :
                              b->rb.max_length), ==, 0);
    return to_private ? 0 : guest_memfd_restore_mapping(gm, offset, size);
}

static const GuestMemfdOps cut_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = cut_convert,
};

/* Two copies: the private one is not here. */
static int copy_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                        bool to_private, GuestMemfdStop *stop)
{
    return 0;
}

static const GuestMemfdOps copy_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_TWO_COPY,
    .convert = copy_convert,
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

static void setup_fd(const GuestMemfdOps *ops, int fd, uint64_t page_size,
                     uint64_t size, bool private)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    sigaction(SIGBUS, &action, NULL);
    fake_reset();
    memset(b, 0, sizeof(*b));
    core_init_block(&b->rb, &b->mr, size);
    b->rb.page_size = page_size;
    b->rb.flags = RAM_SHARED | RAM_NORESERVE;
    b->rb.fd = fd;
    b->rb.guest_memfd = b->rb.fd;
    b->rb.host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, b->rb.fd,
                      0);
    g_assert_true(b->rb.host != MAP_FAILED);
    b->gm = guest_memfd_new(&b->rb, "b0", ops, private, &error_abort);
}

static void setup_ops(const GuestMemfdOps *ops, uint64_t size, bool private)
{
    setup_fd(ops, qemu_memfd_create("test", size, false, 0, 0, &error_abort),
             PAGE, size, private);
}

static void setup_cut(bool private)
{
    setup_ops(&cut_ops, SIZE, private);
}

static void teardown_cut(void)
{
    guest_memfd_free(b->gm);
    munmap(b->rb.host, b->rb.max_length);
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

/*
 * A guest whose devices touch too many of its private pages makes no more
 * private.  What QEMU does is not refused, and a reset ends it.
 */
static void test_many(void)
{
    setup_ops(&cut_ops, MANY * PAGE, false);
    g_assert_cmpint(convert(b, 0, MANY, true), ==, 0);
    for (int i = 0; i < MANY; i++) {
        b->rb.host[i * PAGE] = 1;
    }
    g_assert_true(guest_memfd_many_stand_ins());
    g_assert_cmpint(guest_memfd_convert(0, PAGE, false), ==, 0);
    g_assert_cmpint(guest_memfd_convert(0, PAGE, true), ==, -ENOSPC);
    g_assert_cmpint(convert(b, 0, 1, true), ==, 0);

    g_assert_cmpint(guest_memfd_reset(b->gm, &error_abort), ==, 0);
    g_assert_false(guest_memfd_many_stand_ins());
    for (int i = 0; i < MANY; i++) {
        g_assert_cmpint(b->rb.host[i * PAGE], ==, 0);
    }
    g_assert_cmpint(guest_memfd_convert(0, PAGE, true), ==, 0);
    teardown_cut();
    g_assert_cmpint(region_refs, ==, 0);

    /* Pages that a reset leaves private, too: the devices have been reset. */
    setup_ops(&cut_ops, MANY * PAGE, true);
    g_assert_cmpint(ftruncate(b->rb.fd, 0), ==, 0);
    for (int i = 0; i < MANY; i++) {
        b->rb.host[i * PAGE] = 1;
    }
    g_assert_true(guest_memfd_many_stand_ins());
    g_assert_cmpint(guest_memfd_reset(b->gm, &error_abort), ==, 0);
    g_assert_false(guest_memfd_many_stand_ins());
    b->rb.host[0] = 1;
    teardown_cut();
    g_assert_false(guest_memfd_many_stand_ins());
}

static int huge_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                        bool to_private, GuestMemfdStop *stop)
{
    if (!to_private) {
        return guest_memfd_take_back(gm, offset, size);
    }
    guest_memfd_giving_back(gm, offset, size);
    return fallocate(b->rb.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     offset, size) ? -errno : 0;
}

static const GuestMemfdOps huge_ops = {
    .driver = GUEST_MEMFD_DRIVER_KVM,
    .conversion = GUEST_MEMFD_CONVERSION_TWO_COPY,
    .convert = huge_convert,
};

/* The NUMA policy is the mapping's: one that is restored has it again. */
static void test_policy(void)
{
    uint64_t size = 2 * HUGE_PAGE;
    unsigned long nodes = 1;
    int lock = open("/sys/kernel/mm/hugepages", O_RDONLY | O_CLOEXEC);
    int fd = qemu_memfd_create("test", size, true, HUGE_PAGE, 0, NULL);
    int hog = qemu_memfd_create("hog", size, true, HUGE_PAGE, 0, NULL);
    int mode = MPOL_DEFAULT;

    /* As in the qtests: nobody else has to do with the pool. */
    if (fd < 0 || hog < 0 || flock(lock, LOCK_EX) ||
        fallocate(fd, 0, 0, size)) {
        g_test_skip("fewer than 2 free huge pages of 2 MiB");
        close(lock);
        return;
    }
    setup_fd(&huge_ops, fd, HUGE_PAGE, size, false);
    if (syscall(SYS_mbind, b->rb.host, size, MPOL_BIND, &nodes, 64, 0)) {
        g_test_skip("the host has no NUMA policies");
    } else {
        uint64_t at = 0;

        b->rb.host[0] = 1;
        g_assert_cmpint(convert(b, 0, 512, true), ==, 0);
        g_assert_cmpint(ftruncate(hog, 1 * TiB), ==, 0);
        while (!fallocate(hog, 0, at, HUGE_PAGE)) {
            at += HUGE_PAGE;
        }
        b->rb.host[0] = 2;      /* there is one page, which stands in */
        close(hog);
        g_assert_cmpint(convert(b, 0, 512, false), ==, 0);
        g_assert_cmpint(b->rb.host[0], ==, 0);
        g_assert_cmpint(syscall(SYS_get_mempolicy, &mode, NULL, 0, b->rb.host,
                                MPOL_F_ADDR), ==, 0);
        g_assert_cmpint(mode, ==, MPOL_BIND);
    }
    teardown_cut();
    close(lock);
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

    /* A private page with a copy of its own is none of QEMU's business, too. */
    setup_ops(&copy_ops, SIZE, false);
    g_assert_cmpint(convert(b, 6, 1, true), ==, 0);
    check_access(0, SIZE, true, 6 * PAGE);
    check_access(6 * PAGE + 100, 1, false, 1);
    teardown_cut();

    /* But where nothing is protected. */
    setup(true);
    check_access(0, PAGES * PAGE, true, PAGES * PAGE);
    teardown();
}

/* No range trips over itself, whoever may ask for it. */
static void test_ranges(void)
{
    const uint64_t edges[] = {
        0, 1, 100, PAGE - 1, PAGE, PAGE + 1, SIZE / 2 + 1, SIZE - 1, SIZE,
        SIZE + 1, INT64_MAX, (uint64_t)INT64_MAX + 1, -PAGE, -2, -1,
    };

    setup_cut(false);
    g_assert_cmpint(convert(b, 6, 2, true), ==, 0);
    for (size_t i = 0; i < ARRAY_SIZE(edges); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(edges); j++) {
            uint64_t len = edges[j];
            bool may = guest_memfd_host_access(b->gm, edges[i], &len);

            g_assert_cmpuint(len, <=, edges[j]);
            g_assert_cmpint(len == 0, ==, edges[j] == 0);
            if (len) {
                g_assert_cmpint(may, ==, edges[i] < 6 * PAGE);
            }
        }
    }
    teardown_cut();

    setup(false);
    for (size_t i = 0; i < ARRAY_SIZE(edges); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(edges); j++) {
            g_assert_true(guest_memfd_check_save(edges[i], edges[j],
                                                 &error_abort));
        }
    }
    g_assert_cmpint(convert(&block[0], 1, 1, true), ==, 0);
    g_assert_false(guest_memfd_check_save(PAGE + 1, 100, NULL));
    g_assert_false(guest_memfd_check_save(2 * PAGE - 1, 1, NULL));
    g_assert_false(guest_memfd_check_save(PAGE - 1, 2, NULL));
    g_assert_false(guest_memfd_check_save(0, UINT64_MAX, NULL));
    g_assert_false(guest_memfd_check_save(1, UINT64_MAX, NULL));
    g_assert_false(guest_memfd_check_save(2 * PAGE, -3 * PAGE, NULL));
    g_assert_true(guest_memfd_check_save(2 * PAGE, GPA_ALIAS - 2 * PAGE, NULL));
    g_assert_true(guest_memfd_check_save(PAGE - 100, 100, NULL));
    g_assert_true(guest_memfd_check_save(2 * PAGE, 1, NULL));
    /* What wraps goes on at 0. */
    g_assert_true(guest_memfd_check_save(-PAGE, 2 * PAGE, NULL));
    g_assert_false(guest_memfd_check_save(-PAGE, 2 * PAGE + 1, NULL));
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
    g_test_add_func("/guest-memfd-access/many", test_many);
    g_test_add_func("/guest-memfd-access/policy", test_policy);
    g_test_add_func("/guest-memfd-access/not-ours", test_not_ours);
    g_test_add_func("/guest-memfd-access/host-access", test_host_access);
    g_test_add_func("/guest-memfd-access/ranges", test_ranges);
    g_test_add_func("/guest-memfd-access/launch", test_launch);
    g_test_add_func("/guest-memfd-access/save", test_save);
    return g_test_run();
}
