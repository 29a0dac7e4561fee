/*
 * Huge pages and control groups: files of a test stand for those of the kernel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "qapi/error.h"
#include "qemu/units.h"
#include "../../backends/huge-page-pool.h"

#define UNLIMITED_V1 "9223372036854771712\n"

/* The directory of a test: that of a process, and a hierarchy in mnt */
static char *top;

static void write_file(const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(top, name, NULL);
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* @below: the group that is mounted in "mnt"; @type: filesystem and options */
static void write_process(const char *groups, const char *below,
                          const char *type)
{
    g_autofree char *mounts =
        g_strdup_printf("22 1 8:1 / / rw,noatime master:1 - ext4 /dev/a rw\n"
                        "bogus\n"
                        "30 22 0:9 / %s/other rw - cgroup cgroup rw,memory\n"
                        "31 22 0:9 %s %s/mnt rw,nosuid shared:4 master:9 - %s\n",
                        top, below, top, type);

    write_file("proc/cgroup", groups);
    write_file("proc/mountinfo", mounts);
}

static void remove_tree(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *entry = g_build_filename(path, name, NULL);

        remove_tree(entry);
    }
    g_clear_pointer(&dir, g_dir_close);
    g_assert_cmpint(g_remove(path), ==, 0);
}

static void setup(void)
{
    top = g_dir_make_tmp("guest-memfd-XXXXXX", NULL);
    g_assert_nonnull(top);
}

static void teardown(void)
{
    remove_tree(top);
    g_clear_pointer(&top, g_free);
}

/* @refused: a part of the error; NULL: there are enough */
static void check(uint64_t page_size, uint64_t needed, const char *refused)
{
    g_autofree char *proc = g_build_filename(top, "proc", NULL);
    Error *err = NULL;
    bool ok = huge_page_cgroup_check(proc, page_size, needed, &err);

    g_assert_cmpint(ok, ==, !err);
    if (refused) {
        g_assert_nonnull(err);
        if (!strstr(error_get_pretty(err), refused)) {
            g_error("'%s' is not in '%s'", refused, error_get_pretty(err));
        }
    } else if (err) {
        g_error("%s", error_get_pretty(err));
    }
    error_free(err);
}

#define V2 "cgroup2 none rw"

static void test_v2(void)
{
    g_autofree char *remedy = NULL;

    setup();
    write_process("3:memory:/elsewhere\n0::/a/b\n", "/", V2);
    check(2 * MiB, 1000, NULL);                     /* no file, no limit */

    write_file("mnt/a/b/hugetlb.2MB.max", "max\n");
    write_file("mnt/a/b/hugetlb.2MB.current", "0\n");
    write_file("mnt/a/b/hugetlb.2MB.rsvd.max", "max\n");
    write_file("mnt/a/b/hugetlb.2MB.rsvd.current", "0\n");
    check(2 * MiB, 1000, NULL);

    /* What is reserved: 20 pages, of which others have 8 */
    write_file("mnt/a/b/hugetlb.2MB.rsvd.max", "41943040\n");
    write_file("mnt/a/b/hugetlb.2MB.rsvd.current", "16777216\n");
    check(2 * MiB, 12, NULL);
    check(2 * MiB, 13, "not enough huge pages of 2 MiB in the control group of "
          "QEMU: 13 needed, 12 free, limit 20; raise ");
    remedy = g_strdup_printf("raise %s/mnt/a/b/hugetlb.2MB.rsvd.max, or make "
                             "the memory smaller", top);
    check(2 * MiB, 13, remedy);
    check(1 * GiB, 13, NULL);                       /* a pool of its own */

    /* The limit has been lowered below what is in use. */
    write_file("mnt/a/b/hugetlb.2MB.rsvd.max", "4194304\n");
    check(2 * MiB, 1, "1 needed, 0 free, limit 2; ");

    /* What is taken from the pool */
    write_file("mnt/a/b/hugetlb.2MB.rsvd.max", "max\n");
    write_file("mnt/a/b/hugetlb.2MB.max", "6291456\n");
    write_file("mnt/a/b/hugetlb.2MB.current", "2097152\n");
    check(2 * MiB, 2, NULL);
    check(2 * MiB, 3, "3 needed, 2 free, limit 3; ");
    check(2 * MiB, 3, "/mnt/a/b/hugetlb.2MB.max, ");
    teardown();
}

/* A page counts in all groups above, up to where the hierarchy is mounted */
static void test_parents(void)
{
    setup();
    write_process("0::/a/b/c\n", "/", V2);
    write_file("mnt/a/b/c/hugetlb.1GB.max", "4294967296\n");
    write_file("mnt/a/b/hugetlb.1GB.max", "max\n");
    write_file("mnt/a/hugetlb.1GB.max", "3221225472\n");
    write_file("mnt/a/hugetlb.1GB.current", "1073741824\n");
    write_file("hugetlb.1GB.max", "0\n");           /* not a group */
    check(1 * GiB, 2, NULL);
    check(1 * GiB, 3, "of 1 GiB in the control group of QEMU: 3 needed, 2 "
          "free, limit 3; ");
    check(1 * GiB, 3, "/mnt/a/hugetlb.1GB.max");
    check(1 * GiB, 5, "/mnt/a/b/c/hugetlb.1GB.max");

    write_file("mnt/hugetlb.1GB.max", "1073741824\n");
    check(1 * GiB, 2, "/mnt/hugetlb.1GB.max");
    write_process("0::/\n", "/", V2);
    check(1 * GiB, 2, "1 free, limit 1; ");
    teardown();
}

static void test_v1(void)
{
    setup();
    write_process("12:hugetlb:/vm\n4:memory:/other\n0::/unified\n", "/",
                  "cgroup cgroup rw,hugetlb");
    write_file("mnt/vm/hugetlb.2MB.limit_in_bytes", UNLIMITED_V1);
    write_file("mnt/vm/hugetlb.2MB.usage_in_bytes", "0\n");
    write_file("mnt/vm/hugetlb.2MB.rsvd.limit_in_bytes", "8388608\n");
    write_file("mnt/vm/hugetlb.2MB.rsvd.usage_in_bytes", "2097152\n");
    check(2 * MiB, 3, NULL);
    check(2 * MiB, 4, "4 needed, 3 free, limit 4; ");
    check(2 * MiB, 4, "/mnt/vm/hugetlb.2MB.rsvd.limit_in_bytes");
    write_file("mnt/vm/hugetlb.2MB.limit_in_bytes", "4194304\n");
    check(2 * MiB, 3, "/mnt/vm/hugetlb.2MB.limit_in_bytes");

    /* Beside another controller */
    write_process("12:cpu,hugetlb:/vm\n", "/", "cgroup cgroup rw,cpu,hugetlb");
    check(2 * MiB, 3, "3 needed, 2 free, limit 2; ");
    /* It is not mounted. */
    write_process("12:hugetlb:/vm\n0::/vm\n", "/", V2);
    check(2 * MiB, 3, NULL);
    write_process("12:hugetlb:/vm\n", "/", "cgroup cgroup rw,nohugetlb");
    check(2 * MiB, 3, NULL);
    teardown();
}

/* In a container only a part of the hierarchy is mounted. */
static void test_container(void)
{
    setup();
    write_process("0::/pod/x/y\n", "/pod/x", V2);
    write_file("mnt/y/hugetlb.2MB.max", "max\n");
    write_file("mnt/hugetlb.2MB.max", "2097152\n");
    check(2 * MiB, 1, NULL);
    check(2 * MiB, 2, "/mnt/hugetlb.2MB.max");
    write_process("0::/pod/x\n", "/pod/x", V2);
    check(2 * MiB, 2, "/mnt/hugetlb.2MB.max");

    /* Another group, above what is mounted, or outside of the namespace */
    write_process("0::/pod/xyz\n", "/pod/x", V2);
    check(2 * MiB, 2, NULL);
    write_process("0::/pod\n", "/pod/x", V2);
    check(2 * MiB, 2, NULL);
    write_process("0::/../y\n", "/", V2);
    check(2 * MiB, 2, NULL);
    teardown();
}

/* Nothing that a file says is a reason to stop. */
static void test_odd(void)
{
    g_autofree char *space = NULL;

    setup();
    check(2 * MiB, 1, NULL);                        /* no /proc */
    write_process("", "/", V2);
    check(2 * MiB, 1, NULL);
    write_process("0\n::\n:::\n0::/a:b\n", "/", V2);
    write_file("mnt/a:b/hugetlb.2MB.max", "0\n");
    check(2 * MiB, 1, "/mnt/a:b/hugetlb.2MB.max");
    write_file("mnt/a:b/hugetlb.2MB.max", "");
    check(2 * MiB, 1, NULL);
    write_file("mnt/a:b/hugetlb.2MB.max", "1x\n");
    check(2 * MiB, 1, NULL);
    write_file("proc/mountinfo", "a - b\n -\n1 2 3 / /x - cgroup2\n");
    check(2 * MiB, 1, NULL);

    /* A space in the name of a directory */
    write_file("a b/x/hugetlb.64KB.max", "65536\n");
    space = g_strdup_printf("31 22 0:9 / %s/a\\040b rw - " V2 "\n", top);
    write_file("proc/mountinfo", space);
    write_file("proc/cgroup", "0::/x");
    check(64 * KiB, 1, NULL);
    check(64 * KiB, 2, "/a b/x/hugetlb.64KB.max");
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-cgroup/v2", test_v2);
    g_test_add_func("/guest-memfd-cgroup/parents", test_parents);
    g_test_add_func("/guest-memfd-cgroup/v1", test_v1);
    g_test_add_func("/guest-memfd-cgroup/container", test_container);
    g_test_add_func("/guest-memfd-cgroup/odd", test_odd);
    return g_test_run();
}
