/*
 * Pools of huge pages: what QEMU says when there are too few pages for a VM
 *
 * Other files stand in for those that tell of the pools, the nodes and the control
 * group, in a mount namespace of QEMU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "guest-memfd-util.h"

#define NO_SYSFS \
    "unshare -rm sh -c 'mount -t tmpfs none /sys && " \
    "mount --bind /dev/null /proc/meminfo && exec \"$@\"' sh "

/* Can files stand in for those that tell of huge pages?  Skips the test if not. */
static bool can_replace_sysfs(void)
{
    g_autofree char *out = NULL, *err = NULL;
    int status;

    if (!g_file_test("/sys/kernel/mm/hugepages/hugepages-2048kB",
                     G_FILE_TEST_IS_DIR)) {
        g_test_skip("the host has no huge pages of 2 MiB");
        return false;
    }
    if (!g_spawn_command_line_sync(NO_SYSFS "true", &out, &err, &status,
                                   NULL) || status) {
        g_test_skip("no mount namespace can be created");
        return false;
    }
    return true;
}

/* The host has huge pages, but no files that tell of them. */
static void test_no_sysfs(void)
{
    if (!can_replace_sysfs()) {
        return;
    }
    gm_check_refused(NO_SYSFS, "-machine none -object " BACKEND ",id=m0,"
                     "size=1000,hugetlb=on", "size=1000 of 'm0' is not");
    gm_check_refused(NO_SYSFS, "-machine none -object " BACKEND ",id=m0,"
                     "size=8M,hugetlb=on,hugetlbsize=8M",
                     "whose sizes cannot be read from "
                     "/sys/kernel/mm/hugepages: No such file or directory");
}

#define FAKE_POOL \
    "unshare -rm sh -c 'mount -t tmpfs none /sys && " \
    "d=/sys/kernel/mm/hugepages/hugepages-2048kB && mkdir -p $d && " \
    "echo %u >$d/free_hugepages && echo %u >$d/resv_hugepages && " \
    "echo %u >$d/nr_overcommit_hugepages && echo %u >$d/surplus_hugepages && " \
    "echo %u >$d/nr_hugepages && " \
    "exec \"$@\"' sh "

/* How many huge pages there are for a VM, and would be if all came back */
static void test_pool(void)
{
    static const struct {
        unsigned nr_free, reserved, overcommit, surplus, all, available;
        bool late;
    } pools[] = {
        { 20, 0, 0, 0, 20, 20, false }, { 20, 5, 0, 0, 20, 15, false },
        { 3, 9, 0, 0, 9, 0, false }, { 20, 5, 10, 4, 24, 21, false },
        { 20, 20, 10, 0, 20, 10, false }, { 3, 0, 1, 7, 10, 3, false },
        { 31, 0, 0, 0, 31, 31, false }, { 31, 0, 0, 0, 32, 31, true },
        { 40, 9, 0, 0, 40, 31, true }, { 0, 0, 4, 1, 28, 3, false },
        { 0, 0, 4, 1, 29, 3, true },
    };

    if (!can_replace_sysfs()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++) {
        g_autofree char *prefix =
            g_strdup_printf(FAKE_POOL, pools[i].nr_free, pools[i].reserved,
                            pools[i].overcommit, pools[i].surplus,
                            pools[i].all);
        g_autofree char *needle =
            g_strdup_printf("32 needed, %u free; reserve more in "
                            "/sys/kernel/mm/hugepages/hugepages-2048kB/"
                            "nr_hugepages or, for the default size, with sysctl "
                            "vm.nr_hugepages%s\n", pools[i].available,
                            pools[i].late ? ", or try again if a VM has just "
                            "ended, whose pages may still be on their way back" :
                            "");

        gm_check_refused(prefix, "-machine none -object " BACKEND ",id=m0,"
                         "size=64M,hugetlb=on,hugetlbsize=2M", needle);
    }
}

#ifdef CONFIG_NUMA
#define FAKE_NODES \
    "unshare -rm sh -c 'mount -t tmpfs none /sys && " \
    "d=/sys/kernel/mm/hugepages/hugepages-2048kB && mkdir -p $d && " \
    "echo 100 >$d/free_hugepages && echo %u >$d/nr_overcommit_hugepages && " \
    "for n in 0 1; do d=/sys/devices/system/node/node$n/hugepages/" \
    "hugepages-2048kB && mkdir -p $d && " \
    "echo $((n * 20 + 11)) >$d/free_hugepages; done; exec \"$@\"' sh "

/* Node 0 has 11 huge pages, and node 1 has 31. */
static void test_pool_of_node(void)
{
    static const struct {
        const char *options;
        unsigned overcommit;
        const char *needle;
    } rows[] = {
        { "size=64M,host-nodes=0", 0,
          "not enough free huge pages of 2 MiB on the nodes that policy=bind "
          "allows (0): 32 needed, 11 free; reserve more in /sys/devices/system/"
          "node/node0/hugepages/hugepages-2048kB/nr_hugepages" },
        { "size=64M,host-nodes=1", 0, "(1): 32 needed, 31 free" },
        { "size=64M,host-nodes=0", 20, "(0): 32 needed, 31 free" },
        { "size=128M,host-nodes=0-1", 0, "(0, 1): 64 needed, 42 free" },
    };

    if (!can_replace_sysfs()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *prefix = g_strdup_printf(FAKE_NODES,
                                                  rows[i].overcommit);
        g_autofree char *args =
            g_strdup_printf("-machine none -object " BACKEND ",id=m0,"
                            "hugetlb=on,hugetlbsize=2M,policy=bind,prealloc=on,"
                            "%s", rows[i].options);

        gm_check_refused(prefix, args, rows[i].needle);
    }
    for (int i = 0; i < 2; i++) {
        g_autofree char *prefix = g_strdup_printf(FAKE_NODES, 0);
        g_autofree char *args =
            g_strdup_printf("-machine none -object %s,id=m0,hugetlb=on,"
                            "hugetlbsize=2M,policy=bind,size=64M,host-nodes=0 "
                            "-object memory-backend-ram,id=m1,size=1M,"
                            "policy=bind", i ? "memory-backend-memfd" :
                            BACKEND ",driver=emulated");

        gm_check_refused(prefix, args, "warning: the VM may end when it touches "
                         "all of 'm0', so use prealloc=on: not enough free huge "
                         "pages of 2 MiB on the nodes that policy=bind allows "
                         "(0): 32 needed, 11 free; ");
    }
}
#endif

/* Of 100 huge pages, @MAX for all groups of QEMU's cgroup v2, 5 are in use. */
#define FAKE_CGROUP \
    "unshare -rm sh -c 'p=/proc/$$ && mount -t tmpfs none /sys && " \
    "d=/sys/kernel/mm/hugepages/hugepages-2048kB && mkdir -p $d && " \
    "echo 100 >$d/free_hugepages && d=/sys/fs/cgroup/vm && mkdir -p $d && " \
    "echo $((%u << 21)) >$d/hugetlb.2MB.%smax && " \
    "echo $((5 << 21)) >$d/hugetlb.2MB.%scurrent && " \
    "echo 0::/vm >$d/cgroup && echo 1 0 0:1 / /sys/fs/cgroup rw - cgroup2 a rw" \
    " >$d/mountinfo && mount --bind $d/cgroup $p/cgroup && " \
    "mount --bind $d/mountinfo $p/mountinfo && exec \"$@\"' sh "

/* Both objects ask the control group for what they reserve or preallocate. */
static void test_cgroup(void)
{
    static const char *const objects[] = {
        "memory-backend-memfd", BACKEND ",driver=emulated",
    };
    static const char *const ways[] = { "", ",prealloc=on" };

    if (!can_replace_sysfs()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(objects) * 2; i++) {
        const char *counter = i % 2 ? "rsvd." : "";
        g_autofree char *prefix = g_strdup_printf(FAKE_CGROUP, 20, counter,
                                                  counter);
        g_autofree char *needle =
            g_strdup_printf("not enough huge pages of 2 MiB in the control group "
                            "of QEMU: 32 needed, 15 free, limit 20; raise "
                            "/sys/fs/cgroup/vm/hugetlb.2MB.%smax, or", counter);

        for (size_t j = 0; j < ARRAY_SIZE(ways); j++) {
            g_autofree char *args =
                g_strdup_printf("-machine none -object %s,id=m0,size=64M,"
                                "hugetlb=on,hugetlbsize=2M%s", objects[i / 2],
                                ways[j]);

            gm_check_refused(prefix, args, needle);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-pools/no-sysfs", test_no_sysfs);
    qtest_add_func("guest-memfd-pools/pool", test_pool);
#ifdef CONFIG_NUMA
    qtest_add_func("guest-memfd-pools/pool-of-node", test_pool_of_node);
#endif
    qtest_add_func("guest-memfd-pools/cgroup", test_cgroup);
    return g_test_run();
}
