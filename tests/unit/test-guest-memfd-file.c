/*
 * What a kernel offers for guest_memfd memory, and the files that are created
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "guest-memfd-fake-kvm.h"

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

static void check_refused(bool ok, Error **err, const char *needle)
{
    g_assert_false(ok);
    g_assert_nonnull(*err);
    if (!strstr(error_get_pretty(*err), needle)) {
        g_error("'%s' is not in '%s'", needle, error_get_pretty(*err));
    }
    g_clear_pointer(err, error_free);
}

static uint64_t created_with(const GuestMemfdOps *ops, bool private)
{
    int fd = guest_memfd_kvm_create(ops, NULL, PAGE, private, &error_abort);

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
    check_refused(guest_memfd_kvm_create(in_place, NULL, PAGE, true, &err) >= 0,
                  &err, "RLIMIT_NOFILE");
}

/* Another VM, whose kernel is another one */
static void new_vm(FakePages pages)
{
    static char vms[64];
    static size_t nr;

    g_assert_cmpuint(nr, <, sizeof(vms));
    kvm_state = (KVMState *)&vms[nr++];
    memset(&kvm, 0, sizeof(kvm));
    kvm.file_flags = SHARED_FILE;
    kvm.pages = pages;
}

static const GuestMemfdPages huge_2m = {
    GUEST_MEMFD_PROVIDER_HUGETLB, 2 * MiB
}, huge_1g = {
    GUEST_MEMFD_PROVIDER_HUGETLB, 1 * GiB
}, thp = {
    GUEST_MEMFD_PROVIDER_THP, 4 * KiB
}, small = {
    GUEST_MEMFD_PROVIDER_PAGES, 4 * KiB
};

/* What a kernel speaks is found out once for each VM. */
static void test_interface(void)
{
    Error *err = NULL;
    int nine;

    new_vm(FAKE_ORDER);
    g_assert_true(guest_memfd_kvm_has_pages(&small, &error_abort));
    g_assert_cmpuint(kvm.creates, ==, 0);
    g_assert_true(guest_memfd_kvm_has_pages(&huge_1g, &error_abort));
    g_assert_cmpuint(kvm.creates, ==, 2);
    g_assert_cmpuint(kvm.created_word, ==, 18);
    g_assert_true(guest_memfd_kvm_has_pages(&huge_2m, &error_abort));
    g_assert_cmpuint(kvm.creates, ==, 2);

    /* The order of 2 MiB is a file descriptor that is open. */
    new_vm(FAKE_RESOURCE);
    nine = dup2(STDERR_FILENO, 9);
    check_refused(guest_memfd_kvm_has_pages(&huge_2m, &err), &err,
                  "from a mounted filesystem only; use x-resource=");
    close(nine);
    g_assert_cmpuint(kvm.creates, ==, 1);
    g_assert_cmphex(kvm.created_word, ==, UINT32_MAX);

    new_vm(FAKE_SMALL);
    check_refused(guest_memfd_kvm_has_pages(&huge_2m, &err), &err,
                  "has no huge pages");
    g_assert_cmpuint(kvm.creates, ==, 2);
    check_refused(guest_memfd_kvm_has_pages(&huge_1g, &err), &err,
                  "has no huge pages");
    g_assert_cmpuint(kvm.creates, ==, 2);
}

/* What the file of a mount is, and what is refused */
static void test_mount(void)
{
    const struct {
        int err;
        const char *needle;
    } rows[] = {
        { ENOMEM, "or the mount or the control group" },
        { EACCES, "may not write to the directory" },
        { EOPNOTSUPP, "leave out min_size=" },
        { EINVAL, "not the root directory of a mount" },
        { EIO, "Input/output error" },
    };
    GuestMemfdPages pages = huge_2m, small_pages = thp;
    Error *err = NULL;
    int fd;

    pages.mounted = small_pages.mounted = true;
    pages.mount = small_pages.mount = open("/", O_RDONLY | O_DIRECTORY);

    new_vm(FAKE_ORDER);
    check_refused(guest_memfd_kvm_has_pages(&pages, &err), &err,
                  "use hugetlb=on,hugetlbsize=");
    check_refused(guest_memfd_kvm_has_pages(&small_pages, &err), &err,
                  "use x-provider=thp");
    new_vm(FAKE_SMALL);
    check_refused(guest_memfd_kvm_has_pages(&small_pages, &err), &err,
                  "has no huge pages");

    new_vm(FAKE_RESOURCE);
    g_assert_true(guest_memfd_kvm_has_pages(&small_pages, &error_abort));
    g_assert_true(guest_memfd_kvm_has_pages(&pages, &error_abort));
    g_assert_cmpuint(kvm.creates, ==, 1);
    fd = guest_memfd_kvm_create(NULL, &pages, 4 * MiB, false, &error_abort);
    g_assert_cmphex(kvm.created, ==, SHARED_FILE | FILE_HUGETLB);
    g_assert_cmpuint(kvm.created_word, ==, pages.mount);
    close(fd);
    fd = guest_memfd_kvm_create(NULL, &small_pages, 3 * PAGE, false,
                                &error_abort);
    g_assert_cmphex(kvm.created, ==, SHARED_FILE | FILE_HUGETLB);
    g_assert_cmpuint(kvm.created_word, ==, pages.mount);
    close(fd);

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        kvm.create_huge = rows[i].err;
        check_refused(guest_memfd_kvm_create(NULL, &pages, 4 * MiB, false,
                                             &err) >= 0, &err, rows[i].needle);
    }
    close(pages.mount);
}

/* A pool that is short is no reason to say that there is none. */
static void test_interface_short(void)
{
    Error *err = NULL;

    new_vm(FAKE_ORDER);
    kvm.create_huge = ENOMEM;
    g_assert_true(guest_memfd_kvm_has_pages(&huge_2m, &error_abort));

    /* What says nothing is asked again. */
    new_vm(FAKE_ORDER);
    kvm.create = EMFILE;
    check_refused(guest_memfd_kvm_has_pages(&huge_2m, &err), &err,
                  "cannot find out whether");
    kvm.create = 0;
    kvm.create_huge = EPERM;
    check_refused(guest_memfd_kvm_has_pages(&huge_2m, &err), &err,
                  "cannot find out whether");
    kvm.create_huge = 0;
    g_assert_true(guest_memfd_kvm_has_pages(&huge_2m, &error_abort));
}

/* What the kernel's file says, and what is not in it */
static void test_restructure(void)
{
    const struct {
        const char *text;
        int how;
    } rows[] = {
        { "flat\n", GUEST_MEMFD_RESTRUCTURE_FLAT },
        { "staged\n", GUEST_MEMFD_RESTRUCTURE_STAGED },
        { "log", GUEST_MEMFD_RESTRUCTURE_LOG },
        { "lo\n", -1 },
        { "", -1 },
    };
    g_autofree char *file = NULL;
    GuestMemfdRestructure how;

    close(g_file_open_tmp(NULL, &file, NULL));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        g_assert_true(g_file_set_contents(file, rows[i].text, -1, NULL));
        g_assert_cmpint(guest_memfd_kvm_restructure(file, &how), ==,
                        rows[i].how >= 0);
        g_assert_cmpint((int)how, ==, rows[i].how);
    }
    unlink(file);
    g_assert_false(guest_memfd_kvm_restructure(file, &how));
}

static void test_thp(void)
{
    Error *err = NULL;
    int fd;

    new_vm(FAKE_RESOURCE);
    check_refused(guest_memfd_kvm_has_pages(&thp, &err), &err,
                  "has no transparent huge pages");
    kvm.create = EMFILE;
    check_refused(guest_memfd_kvm_has_pages(&thp, &err), &err,
                  "cannot find out whether");
    kvm.create = 0;
    kvm.thp = true;
    g_assert_true(guest_memfd_kvm_has_pages(&thp, &error_abort));
    fd = guest_memfd_kvm_create(NULL, &thp, 3 * PAGE, false, &error_abort);
    g_assert_cmphex(kvm.created, ==, SHARED_FILE | FILE_THP);
    g_assert_cmphex(kvm.created_word, ==, 0);
    close(fd);
}

static void test_create_huge(void)
{
    const GuestMemfdOps *two_copy, *in_place = &guest_memfd_in_place_ops;
    const struct {
        int err;
        const char *needle;
    } rows[] = {
        { ENOMEM, "of 2 huge pages of 2 MiB: the pool has not enough" },
        { ENOSPC, "the pool has not enough" },
        { EPERM, "security policy" },
        { EMFILE, "RLIMIT_NOFILE" },
        { EIO, "Input/output error" },
        { EINVAL, "2 MiB: Invalid argument" },
    };
    Error *err = NULL;
    int fd;

    new_vm(FAKE_ORDER);
    fd = guest_memfd_kvm_create(in_place, &huge_2m, 4 * MiB, true,
                                &error_abort);
    g_assert_cmphex(kvm.created, ==, GUEST_MEMFD_FLAG_MMAP | FILE_HUGETLB);
    g_assert_cmphex(kvm.created_word, ==, 9);
    close(fd);
    fd = guest_memfd_kvm_create(in_place, &huge_1g, 1 * GiB, true,
                                &error_abort);
    g_assert_cmphex(kvm.created_word, ==, 18);
    close(fd);

    /* What starts shared: not with every kernel. */
    check_refused(guest_memfd_kvm_create(NULL, &huge_2m, 4 * MiB, false,
                                         &err) >= 0, &err,
                  "lets no such file start shared");
    kvm.huge_shared = true;
    fd = guest_memfd_kvm_create(NULL, &huge_2m, 4 * MiB, false, &error_abort);
    g_assert_cmphex(kvm.created, ==, SHARED_FILE | FILE_HUGETLB);
    close(fd);

    /* Private pages of two copies are small. */
    guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_TWO_COPY, &two_copy,
                           &error_abort);
    fd = guest_memfd_kvm_create(two_copy, &huge_2m, 4 * MiB, true,
                                &error_abort);
    g_assert_cmphex(kvm.created, ==, 0);
    g_assert_cmphex(kvm.created_word, ==, 0);
    close(fd);

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        kvm.create_huge = rows[i].err;
            check_refused(guest_memfd_kvm_create(in_place, &huge_2m, 4 * MiB, true,
                                             &err) >= 0, &err, rows[i].needle);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_init();
    g_test_add_func("/guest-memfd-file/choose", test_choose);
    g_test_add_func("/guest-memfd-file/create", test_create);
    g_test_add_func("/guest-memfd-file/create-huge", test_create_huge);
    g_test_add_func("/guest-memfd-file/interface", test_interface);
    g_test_add_func("/guest-memfd-file/interface-short", test_interface_short);
    g_test_add_func("/guest-memfd-file/mount", test_mount);
    g_test_add_func("/guest-memfd-file/restructure", test_restructure);
    g_test_add_func("/guest-memfd-file/thp", test_thp);
    return g_test_run();
}
