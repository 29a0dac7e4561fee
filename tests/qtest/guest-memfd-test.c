/*
 * memory-backend-guest-memfd: options, QMP, hotplug and the test device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"

#define Q35 "-nodefaults -machine q35,memory-backend=m0 "
#define M0 "-object " BACKEND ",id=m0,size=128M,driver=emulated"
#define HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-%lukB/%s"

static uint64_t huge_page_counter(uint64_t size, const char *counter)
{
    g_autofree char *path = g_strdup_printf(HUGEPAGES, size / KiB, counter);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ?
           g_ascii_strtoull(text, NULL, 10) : 0;
}

static void check_str(const QDict *d, const char *key, const char *val)
{
    g_assert_cmpstr(qdict_get_str(d, key), ==, val);
}

static void test_defaults(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M -object " BACKEND
                                 ",id=m0,size=128M");
    QDict *block = gm_block(qts, "m0");
    const QListEntry *e;
    QDict *huge;

    g_assert_nonnull(block);
    check_str(block, "driver", "emulated");
    check_str(block, "conversion", "in-place");
    check_str(block, "init", "shared");
    g_assert_cmpuint(qdict_get_int(block, "size"), ==, 128 * MiB);
    g_assert_cmpuint(qdict_get_int(block, "page-size"), ==, 4 * KiB);
    g_assert_cmpuint(qdict_get_int(block, "shared-bytes"), ==, 128 * MiB);
    g_assert_cmpuint(qdict_get_int(block, "private-bytes"), ==, 0);
    g_assert_cmpuint(qdict_get_int(block, "vmemmap-bytes"), ==, 0);
    g_assert_cmpuint(qdict_get_int(block, "metadata-bytes"), >, 0);
    g_assert_true(qlist_empty(qdict_get_qlist(block, "listeners")));
    g_assert_cmpuint(qdict_get_int(qdict_get_qdict(block, "to-shared"),
                                   "requests"), ==, 0);

    e = qlist_first(qdict_get_qlist(block, "huge-pages"));
    huge = qobject_to(QDict, qlist_entry_obj(e));
    g_assert_cmpuint(qdict_get_int(huge, "size"), ==, 1 * GiB);
    g_assert_cmpuint(qdict_get_int(huge, "shared"), ==, 0);
    huge = qobject_to(QDict, qlist_entry_obj(qlist_next(e)));
    g_assert_cmpuint(qdict_get_int(huge, "size"), ==, 2 * MiB);
    g_assert_cmpuint(qdict_get_int(huge, "shared"), ==, 64);

    qobject_unref(block);
    qtest_quit(qts);
}

static void test_convert(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0);
    g_autofree char *map = NULL;

    gm_convert(qts, "m0", 64 * MiB, 2 * MiB, true);
    gm_convert(qts, "m0", 64 * MiB + 4096, 8192, false);
    gm_convert(qts, "m0", 0, 4096, true);
    for (unsigned limit = 1; limit < 8; limit++) {
        g_free(map);
        map = gm_map_string(qts, "m0", limit);
        g_assert_cmpstr(map, ==, "P4096 S67104768 P4096 S8192 P2084864 "
                        "S65011712");
    }
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==,
                     2 * MiB - 4096);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-private", "bytes"), ==,
                     2 * MiB + 4096);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-private", "requests"), ==, 2);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-shared", "bytes"), ==, 8192);

    /* A reset brings back the initial state. */
    qtest_system_reset(qts);
    gm_assert_map(qts, "m0", "S134217728");
    qtest_quit(qts);
}

static void test_init_private(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0 ",init=private");

    gm_assert_map(qts, "m0", "P134217728");
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 0);
    gm_convert(qts, "m0", 0, 4096, false);
    qtest_system_reset(qts);
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 0);
    qtest_quit(qts);
}

static void test_bad_qmp(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0 " -object "
                                 "memory-backend-ram,id=plain,size=1M");
    const uint64_t size = 128 * MiB;
    g_autofree char *map = NULL;

    gm_convert_fails(qts, "m0", 1, 4096, true, "multiples");
    gm_convert_fails(qts, "m0", 0, 4097, true, "multiples");
    gm_convert_fails(qts, "m0", 0, 0, true, "must not be 0");
    gm_convert_fails(qts, "m0", size, 4096, true, "not inside 'm0'");
    gm_convert_fails(qts, "m0", size - 4096, 8192, true, "not inside 'm0'");
    gm_convert_fails(qts, "m0", -4096ULL, 4096, true, "not inside 'm0'");
    gm_convert_fails(qts, "m0", 4096, -4096ULL, false, "not inside 'm0'");
    gm_convert_fails(qts, "m0", UINT64_MAX, UINT64_MAX, true, "multiples");
    gm_convert_fails(qts, "nobody", 0, 4096, true, "'nobody' is not a block");
    gm_convert_fails(qts, "plain", 0, 4096, true,
                     "'plain' is ordinary memory (memory-backend-ram)");

    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map'"
                      ", 'arguments': { 'id': 'nobody' } }"), "'nobody'");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map'"
                      ", 'arguments': { 'id': 'm0', 'offset': 1 } }"),
                      "offset 0x1 ");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map'"
                      ", 'arguments': { 'id': 'm0', 'offset': %" PRIu64 " } }",
                      size), "below the size");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map'"
                      ", 'arguments': { 'id': 'm0', 'limit': 0 } }"), "limit 0");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map'"
                      ", 'arguments': { 'id': 'm0', 'limit': 4097 } }"),
                      "limit 4097 must be between 1 and 4096");
    map = gm_map_string(qts, "m0", 4096);
    g_assert_cmpstr(map, ==, "S134217728");
    gm_assert_map(qts, "m0", "S134217728");

    /* Private pages would be left out of a migration stream. */
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments':"
                      " { 'uri': 'exec:cat>/dev/null' } }"),
                      "'m0' is guest_memfd memory");
    qtest_quit(qts);
}

/* QEMU must exit with status 1 and these words; @prefix is what starts it. */
static void check_refused_by(const char *prefix, const char *args,
                             const char *needle)
{
    g_autofree char *cmd = g_strdup_printf("%s%s -nodefaults -display none -S "
                                           "%s", prefix,
                                           qtest_qemu_binary(NULL), args);
    g_autofree char *out = NULL, *err = NULL;
    int status;

    g_assert_true(g_spawn_command_line_sync(cmd, &out, &err, &status, NULL));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) {
        g_error("'%s' ended with status 0x%x: %s", args, status, err);
    }
    if (!strstr(err, needle)) {
        g_error("'%s': expected '%s' in '%s'", args, needle, err);
    }
}

static void check_refused(const char *args, const char *needle)
{
    check_refused_by("", args, needle);
}

static void test_bad_options(void)
{
    static const struct {
        const char *options, *needle;
    } bad[] = {
        { "size=0", "'size' of " BACKEND " doesn't take value '0'" },
        { "size=1000",
          "size=1000 of 'm0' is not a multiple of its page size, 4 KiB" },
        { "size=1M,share=off", "share=off is impossible" },
        { "size=1M,hugetlbsize=2M", "hugetlbsize=2097152 needs hugetlb=on" },
        { "size=6M,hugetlb=on,hugetlbsize=3M",
          "hugetlbsize=3145728 is not a power of two" },
        { "size=8M,hugetlb=on,hugetlbsize=8M",
          "hugetlbsize=8388608 is not a huge page size of this host, which "
          "offers: " },
        { "size=1M,hugetlb=on,hugetlbsize=1", "hugetlbsize=1 is not a huge" },
        { "size=1M,hugetlb=on,hugetlbsize=0", "hugetlbsize=0" },
        { "size=3M,hugetlb=on,hugetlbsize=2M",
          "size=3145728 of 'm0' is not a multiple of its page size, 2 MiB" },
        { "size=512G,hugetlb=on,hugetlbsize=2M,prealloc=on",
          "262144 needed, " },
        { "size=512G,hugetlb=on,hugetlbsize=2M,prealloc=on",
          "vm.nr_hugepages" },
        { "size=1M,driver=kvm", "driver=kvm needs the KVM accelerator" },
        { "size=1M,driver=bogus", "bogus" },
        { "size=1M,conversion=two-copy",
          "conversion=two-copy: driver=emulated can only convert in-place" },
        { "size=1M,conversion=none", "conversion=none: driver=emulated" },
        { "size=1M,conversion=bogus", "bogus" },
        { "size=1M,init=bogus", "bogus" },
        { "size=1M,x-dma-split=log",
          "x-dma-split=log is not an option of memory" },
        { "size=1M,bogus=1", "bogus" },
        { "size=1M,prealloc-threads=0", "prealloc-threads" },
        { "size=1M,prealloc=on,reserve=off", "incompatible" },
        { "size=1M,prealloc-context=nobody", "nobody" },
#ifdef CONFIG_NUMA
        { "size=1M,host-nodes=0", "host-nodes must be empty" },
        { "size=1M,policy=bind", "host-nodes must be set" },
        { "size=1M,policy=bind,host-nodes=120", "cannot bind memory" },
        { "size=1M,policy=bind,host-nodes=10000", "10000" },
#endif
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *object = g_strdup_printf("-object " BACKEND
                                                  ",id=m0,%s", bad[i].options);
        g_autofree char *args = g_strdup_printf("-accel tcg -machine none "
                                                "-object memory-backend-ram,"
                                                "id=m1,size=1M %s", object);
        g_autofree char *located = g_strdup_printf("%s: ", object);

        check_refused(args, bad[i].needle);
        check_refused(args, located);
    }

    check_refused("-accel tcg -machine none -only-migratable "
                  "-object " BACKEND ",id=m0,size=1M", "--only-migratable");
    check_refused("-accel tcg -machine none -incoming defer "
                  "-object " BACKEND ",id=m0,size=1M",
                  "cannot be the destination of a migration");
    check_refused("-accel tcg -machine q35,memory-backend=m0 -m 2M "
                  "-object " BACKEND ",id=m0,size=1M",
                  "does not match the size of the memory backend");
    check_refused("-accel tcg -machine q35 -m 64M "
                  "-object " BACKEND ",id=m0,size=32M "
                  "-numa node,memdev=m0 -numa node,memdev=m0", "m0");
    check_refused("-accel tcg -machine q35,memory-backend=m0 -m 32M,slots=1,"
                  "maxmem=1G -object " BACKEND ",id=m0,size=32M "
                  "-device pc-dimm,memdev=m0", "m0");
}

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
    check_refused_by(NO_SYSFS, "-machine none -object " BACKEND ",id=m0,"
                     "size=1000,hugetlb=on", "size=1000 of 'm0' is not");
    check_refused_by(NO_SYSFS, "-machine none -object " BACKEND ",id=m0,"
                     "size=8M,hugetlb=on,hugetlbsize=8M",
                     "whose sizes cannot be read from "
                     "/sys/kernel/mm/hugepages: No such file or directory");
}

#define FAKE_POOL \
    "unshare -rm sh -c 'mount -t tmpfs none /sys && " \
    "d=/sys/kernel/mm/hugepages/hugepages-2048kB && mkdir -p $d && " \
    "echo %u >$d/free_hugepages && echo %u >$d/resv_hugepages && " \
    "echo %u >$d/nr_overcommit_hugepages && echo %u >$d/surplus_hugepages && " \
    "exec \"$@\"' sh "

/* How many huge pages there are for a VM */
static void test_pool(void)
{
    static const struct {
        unsigned nr_free, reserved, overcommit, surplus, available;
    } pools[] = {
        { 20, 0, 0, 0, 20 }, { 20, 5, 0, 0, 15 }, { 3, 9, 0, 0, 0 },
        { 20, 5, 10, 4, 21 }, { 20, 20, 10, 0, 10 }, { 3, 0, 1, 7, 3 },
        { 31, 0, 0, 0, 31 },
    };

    if (!can_replace_sysfs()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++) {
        g_autofree char *prefix =
            g_strdup_printf(FAKE_POOL, pools[i].nr_free, pools[i].reserved,
                            pools[i].overcommit, pools[i].surplus);
        g_autofree char *needle = g_strdup_printf("32 needed, %u free;",
                                                  pools[i].available);

        check_refused_by(prefix, "-machine none -object " BACKEND ",id=m0,"
                         "size=64M,hugetlb=on,hugetlbsize=2M", needle);
    }
}

static void pmemsave(QTestState *qts, int64_t val, int64_t size,
                     const char *refused)
{
    QDict *response = qtest_qmp(qts, "{ 'execute': 'pmemsave', 'arguments': {"
                                " 'val': %" PRId64 ", 'size': %" PRId64 ","
                                " 'filename': '/dev/null' } }", val, size);

    if (refused) {
        gm_assert_failure(qts, response, refused);
    } else {
        g_assert_true(qdict_haskey(response, "return"));
        qobject_unref(response);
    }
}

/* Any bytes can be asked for, wherever they start and end. */
static void test_pmemsave(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0);
    const char *refused = "offset 0x200000 of 'm0' is private";
    const int64_t page = 2 * MiB;

    for (int i = 0; i < 2; i++) {
        pmemsave(qts, 4097, 100, NULL);
        pmemsave(qts, 4095, 2, NULL);
        pmemsave(qts, 4095, 4098, NULL);
        pmemsave(qts, 1, 1, NULL);
        pmemsave(qts, 128 * MiB - 1, 4096, NULL);
        pmemsave(qts, -4096, 8192, NULL);
        pmemsave(qts, -1, 100, NULL);
        pmemsave(qts, page - 1, 1, NULL);
        pmemsave(qts, page + 4096, 4097, NULL);
        gm_convert(qts, "m0", page, 4096, true);
    }
    pmemsave(qts, page - 1, 2, refused);
    pmemsave(qts, page + 1, 1, refused);
    pmemsave(qts, page + 4095, 1, refused);
    pmemsave(qts, 1, INT64_MAX, refused);
    pmemsave(qts, 0, -1, refused);
    pmemsave(qts, 4097, -4096, refused);
    pmemsave(qts, -4097, 1 * GiB, refused);
    qtest_quit(qts);
}

/* A capability of an ordinary VM of this machine's KVM; -1 without KVM. */
static int kvm_vm_capability(long cap)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm, ret = -1;

    if (kvm < 0) {
        return -1;
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm >= 0) {
        ret = ioctl(vm, KVM_CHECK_EXTENSION, cap);
        close(vm);
    }
    close(kvm);
    return ret;
}

#define SHARED_FILE (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

#define ORDINARY "'m0' is ordinary memory (" BACKEND ",conversion=none)"

/* What became of an option of an object. */
static void check_property(QTestState *qts, const char *id, const char *name,
                           const char *value)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", id);
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': {"
                           " 'path': %s, 'property': %s } }", path, name);

    g_assert_cmpstr(qdict_get_str(rsp, "return"), ==, value);
    qobject_unref(rsp);
}

static bool kvm_has_shared_files(void)
{
    int flags = kvm_vm_capability(KVM_CAP_GUEST_MEMFD_FLAGS);

    return flags > 0 && (flags & SHARED_FILE) == SHARED_FILE;
}

#define KVM_M0 "-accel kvm -machine none -object " BACKEND ",id=m0,size=2M,"

/* What this machine's KVM cannot do is refused with the reason. */
static void test_kvm_refused(void)
{
    if (kvm_vm_capability(KVM_CAP_GUEST_MEMFD) < 0) {
        g_test_skip("no access to /dev/kvm");
        return;
    }
    check_refused(KVM_M0 "conversion=in-place",
                  "conversion=in-place needs KVM_SET_MEMORY_ATTRIBUTES2");
    if (!(kvm_vm_capability(KVM_CAP_MEMORY_ATTRIBUTES) &
          KVM_MEMORY_ATTRIBUTE_PRIVATE)) {
        check_refused(KVM_M0 "conversion=two-copy",
                      "conversion=two-copy needs guest_memfd and "
                      "KVM_MEMORY_ATTRIBUTE_PRIVATE");
    }
    if (!(kvm_vm_capability(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM))) {
        check_refused("-accel kvm -object x-sw-protected-guest,id=p0 "
                      "-machine q35,confidential-guest-support=p0",
                      "needs KVM_X86_SW_PROTECTED_VM");
    }
    if (!kvm_has_shared_files()) {
        check_refused(KVM_M0 "driver=kvm", "conversion=none needs "
                      "GUEST_MEMFD_FLAG_MMAP");
        return;
    }
    check_refused(KVM_M0 "hugetlb=on", "has no huge pages");
    check_refused(KVM_M0 "init=private", "init=private: this VM has no private "
                  "memory");
}

/* An ordinary VM whose only memory is a mapped guest_memfd: ordinary RAM. */
static void test_kvm_shared(void)
{
    QTestState *qts;
    QDict *rsp;

    if (!kvm_has_shared_files()) {
        g_test_skip("this kernel's KVM has no guest_memfd that can be mapped, "
                    "or /dev/kvm cannot be used");
        return;
    }
    qts = qtest_init("-accel kvm -nodefaults -S -machine q35,memory-backend=m0 "
                     "-m 128M,slots=1,maxmem=1G -object " BACKEND
                     ",id=m0,size=128M,prealloc=on -only-migratable "
                     "-object " BACKEND ",id=vm0,size=128M "
                     "-device virtio-mem-pci,memdev=vm0");
    g_assert_null(gm_block(qts, "m0"));
    check_property(qts, "m0", "driver", "kvm");
    check_property(qts, "m0", "conversion", "none");
    check_property(qts, "m0", "init", "shared");

    gm_convert_fails(qts, "m0", 0, 4096, false, ORDINARY);
    gm_convert_fails(qts, "m0", 0, 4096, true, ORDINARY);
    rsp = qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map',"
                    " 'arguments': { 'id': 'm0' } }");
    gm_assert_failure(qts, rsp, ORDINARY);

    /* Memory slots come and go. */
    for (int i = 0; i < 2; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                                 " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                                 " 'driver': 'kvm', 'size': %" PRIu64 " } }",
                                 128 * MiB);
        qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        gm_eject_dimm(qts, "dimm1", 0);
        gm_object_del(qts, "m1");
    }
    qtest_quit(qts);
}

#define FAKE_KVM "tests/guest-memfd/libguest-memfd-fake-kvm.so"

static bool query_prealloc(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-memdev' }");
    const QListEntry *e = qlist_first(qdict_get_qlist(rsp, "return"));
    bool prealloc = qdict_get_bool(qobject_to(QDict, qlist_entry_obj(e)),
                                   "prealloc");

    qobject_unref(rsp);
    return prealloc;
}

/* What QEMU has touched of memory that is shared */
static uint64_t resident_shmem(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", qtest_pid(qts));
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "RssShmem:");
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("RssShmem:"), NULL, 10) * KiB;
}

/* How memory with two copies starts. */
static void test_kvm_two_copy(void)
{
    QTestState *qts;
    QDict *block;

#ifdef __SANITIZE_ADDRESS__
    g_test_skip("a sanitizer has to be loaded before the KVM of this test");
    return;
#endif
    if (!kvm_has_shared_files()) {
        g_test_skip("this kernel's KVM has no guest_memfd for ordinary VMs, or "
                    "/dev/kvm cannot be used");
        return;
    }
    check_refused_by("env LD_PRELOAD=" FAKE_KVM " ", "-overcommit mem-lock=on "
                     KVM_M0 "init=private", "conversion=two-copy: -overcommit "
                     "mem-lock=on would lock");
    check_refused_by("env LD_PRELOAD=" FAKE_KVM " ", "-overcommit "
                     "mem-lock=on-fault " KVM_M0 "conversion=two-copy",
                     "use mem-lock=off");

    g_setenv("LD_PRELOAD", FAKE_KVM, true);
    qts = qtest_init("-accel kvm -nodefaults -S -machine q35,memory-backend=m0 "
                     "-m 32M -object " BACKEND ",id=m0,size=32M,init=private,"
                     "prealloc=on");
    g_unsetenv("LD_PRELOAD");
    block = gm_block(qts, "m0");
    check_str(block, "conversion", "two-copy");
    check_str(block, "init", "private");
    qobject_unref(block);
    g_assert_true(query_prealloc(qts));
    /* nothing needs the shared copy */
    g_assert_cmpuint(resident_shmem(qts), <, 16 * MiB);
    qtest_quit(qts);
}

/* What was refused leaves nothing behind in a running QEMU. */
static void test_bad_objects_at_run_time(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0);
    const char *bad[] = { "'size': 0", "'size': 1000",
                          "'size': 4096, 'share': false",
                          "'size': 4096, 'policy': 'bind'" };

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
            g_autofree char *cmd =
                g_strdup_printf("{ 'execute': 'object-add', 'arguments': {"
                                " 'qom-type': '" BACKEND "', 'id': 'm1', %s } }",
                                bad[i]);
            QDict *rsp = qtest_qmp(qts, "%p", qobject_from_json(cmd, NULL));

            g_assert_true(qdict_haskey(rsp, "error"));
            qobject_unref(rsp);
        }
    }
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'size': 4096 } }");
    gm_convert(qts, "m1", 0, 4096, true);

    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'object-add',"
                      " 'arguments': { 'qom-type': '" BACKEND "', 'id': 'm1',"
                      " 'size': 4096 } }"), "m1");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'object-del',"
                      " 'arguments': { 'id': 'm0' } }"), "in use");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments':"
                      " { 'path': '/objects/m1', 'property': 'init',"
                      " 'value': 'private' } }"), "cannot change any more");
    gm_object_del(qts, "m1");
    g_assert_null(gm_block(qts, "m1"));
    qtest_quit(qts);
}

/* The options of @id are those it was created with. */
static void check_fixed(QTestState *qts, const char *id, const char *property,
                        const char *value)
{
    g_autofree char *cmd =
        g_strdup_printf("{ 'execute': 'qom-set', 'arguments': { 'path':"
                        " '/objects/%s', 'property': '%s', 'value': %s } }",
                        id, property, value);

    gm_assert_failure(qts, qtest_qmp(qts, "%p", qobject_from_json(cmd, NULL)),
                      "change");
}

static void test_fixed_options(void)
{
    QTestState *qts = qtest_init("-machine none " M0 " "
                                 "-object x-sw-protected-guest,id=p0");
    const char *options[][2] = {
        { "size", "4096" }, { "share", "false" }, { "reserve", "false" },
        { "hugetlb", "true" }, { "hugetlbsize", "2097152" },
        { "driver", "'kvm'" }, { "conversion", "'none'" },
        { "init", "'private'" },
#ifdef CONFIG_NUMA
        { "policy", "'bind'" }, { "host-nodes", "[ 0 ]" },
#endif
    };
    const QListEntry *e;
    QDict *rsp, *memdev;

    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        check_fixed(qts, "m0", options[i][0], options[i][1]);
    }
    check_fixed(qts, "p0", "private-launch", "true");

    rsp = qtest_qmp(qts, "{ 'execute': 'query-memdev' }");
    e = qlist_first(qdict_get_qlist(rsp, "return"));
    memdev = qobject_to(QDict, qlist_entry_obj(e));
    check_str(memdev, "policy", "default");
    g_assert_true(qlist_empty(qdict_get_qlist(memdev, "host-nodes")));
    qobject_unref(rsp);
    qtest_quit(qts);
}

static void test_hotplug(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M,slots=2,maxmem=1G " M0);

    for (int round = 0; round < 2; round++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                                 " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                                 " 'init': 'private', 'size': %" PRIu64 " } }",
                                 128 * MiB);
        qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'device_add',"
                          " 'arguments': { 'driver': 'pc-dimm', 'id': 'dimm2',"
                          " 'memdev': 'm1' } }"), "m1");
        gm_convert(qts, "m1", 4 * MiB, 2 * MiB, false);
        gm_convert(qts, "m1", 5 * MiB, 4096, true);
        gm_assert_map(qts, "m1",
                      "P4194304 S1048576 P4096 S1044480 P127926272");
        gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'object-del',"
                          " 'arguments': { 'id': 'm1' } }"), "in use");
        gm_eject_dimm(qts, "dimm1", 0);
        gm_object_del(qts, "m1");
    }
    qtest_quit(qts);
}

static unsigned nr_blocks(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-guest-memfd' }");
    unsigned nr = qlist_size(qdict_get_qlist(rsp, "return"));

    qobject_unref(rsp);
    return nr;
}

static void set_config(QTestState *qts, unsigned devfn, uint8_t reg,
                       uint32_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | devfn << 8 | reg);
    qtest_outl(qts, 0xcfc, value);
}

#define BAR 0xe0000000
#define BMDMA 0xc000
#define PRDT 0x10000

/* The IDE disk of machine pc reads a sector into the BAR; nobody waits. */
static void start_ide_read(QTestState *qts)
{
    const unsigned ide = 1 << 3 | 1;
    const uint32_t prd[] = { cpu_to_le32(BAR), cpu_to_le32(0x80000000 | 512) };

    set_config(qts, ide, 0x20, BMDMA);
    set_config(qts, ide, 0x04, 5);      /* I/O ports, DMA */
    qtest_memwrite(qts, PRDT, prd, sizeof(prd));
    qtest_outl(qts, BMDMA + 4, PRDT);
    qtest_outb(qts, 0x1f6, 0x40);       /* LBA, disk 0 */
    qtest_outb(qts, 0x1f2, 1);          /* sectors */
    for (int port = 0x1f3; port < 0x1f6; port++) {
        qtest_outb(qts, port, 0);
    }
    qtest_outb(qts, 0x1f7, 0xc8);       /* READ DMA */
    qtest_outb(qts, BMDMA, 9);          /* start; to memory */
}

static void object_add_m1(QTestState *qts, uint64_t size)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'size': %" PRIu64 " } }", size);
}

/* I/O that is not done yet keeps memory whose object is deleted. */
static void test_same_id(void)
{
    QTestState *qts = qtest_init("-nodefaults -machine pc,memory-backend=m0 "
        "-m 128M " M0 " -object " BACKEND ",id=m1,size=2M,driver=emulated "
        "-device ivshmem-plain,id=shm,memdev=m1,addr=4 "
        "-blockdev null-co,node-name=null,size=1048576 "
        "-blockdev blkdebug,node-name=debug,image=null "
        "-blockdev raw,node-name=disk,file=debug "
        "-device ide-hd,id=hd,drive=disk,bus=ide.0");
    g_autofree char *map = NULL;
    unsigned nr;
    QDict *rsp;

    set_config(qts, 4 << 3, 0x1c, 0);
    set_config(qts, 4 << 3, 0x18, BAR);
    set_config(qts, 4 << 3, 0x04, 2);   /* memory */
    qtest_writel(qts, BAR, 0x1234);
    g_assert_cmphex(qtest_readl(qts, BAR), ==, 0x1234);
    g_free(qtest_hmp(qts, "qemu-io -d hd \"break read_aio stop\""));
    start_ide_read(qts);

    qtest_qmp_device_del_send(qts, "shm");
    qtest_outl(qts, 0xae08, 1 << 4);    /* ACPI: eject slot 4 */
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': {"
                             " 'id': 'm1' } }");
    object_add_m1(qts, 4 * MiB);

    /* Nothing is asserted before QEMU is able to end. */
    nr = nr_blocks(qts);
    rsp = qtest_qmp(qts, "{ 'execute': 'x-guest-memfd-convert', 'arguments': {"
                    " 'id': 'm1', 'offset': %" PRIu64 ", 'size': 4096,"
                    " 'private': true } }", 2 * MiB);
    map = gm_map_string(qts, "m1", 10);
    g_free(qtest_hmp(qts, "qemu-io -d hd \"resume stop\""));

    /* There were two; the name is that of the new one, which is larger. */
    g_assert_cmpuint(nr, ==, 3);
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    g_assert_cmpstr(map, ==, "S2097152 P4096 S2093056");
    for (int i = 0; nr_blocks(qts) > 2; i++) {
        g_assert_cmpint(i, <, 100000);
    }
    gm_convert(qts, "m1", 3 * MiB, 4096, true);
    gm_object_del(qts, "m1");
    qtest_quit(qts);
}

static void test_hugetlb(const void *opaque)
{
    uint64_t size = (uintptr_t)opaque;
    int lock = gm_lock_huge_pages();
    g_autofree char *args = NULL;
    QTestState *qts;
    QDict *block;

    if (huge_page_counter(size, "free_hugepages") < 2) {
        g_autofree char *why = g_strdup_printf(
            "fewer than 2 free huge pages of %" PRIu64 " KiB", size / KiB);

        g_test_skip(why);
        close(lock);
        return;
    }
    args = g_strdup_printf(Q35 "-m %" PRIu64 "M -object thread-context,id=tc "
                           "-object " BACKEND ",id=m0,size=%" PRIu64 "M,"
                           "hugetlb=on,hugetlbsize=%" PRIu64 "M,prealloc=on,"
                           "prealloc-threads=2,prealloc-context=tc",
                           2 * size / MiB, 2 * size / MiB, size / MiB);
    qts = qtest_init(args);
    block = gm_block(qts, "m0");
    g_assert_cmpuint(qdict_get_int(block, "page-size"), ==, size);
    /* Two shared pages, which an in-place kernel would keep split. */
    g_assert_cmpuint(qdict_get_int(block, "vmemmap-bytes"), ==,
                     2 * (size / 64 - 4096));
    qobject_unref(block);
    gm_convert(qts, "m0", size, size, true);
    g_assert_cmpuint(gm_bytes(qts, "m0", "vmemmap-bytes"), ==,
                     size / 64 - 4096);
    qtest_quit(qts);
    close(lock);
}

static void test_testdev(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M,slots=2,maxmem=1G " M0 " "
        "-device guest-memfd-testdev,addr=4 "
        "-object " BACKEND ",id=m1,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m1,addr=0x100000000 "
        "-object " BACKEND ",id=m2,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m2,addr=0x104000000");
    GmTestdev t = gm_testdev_open(qts, 4);
    const struct {
        uint64_t gpa, size;
        uint32_t command;
    } bad[] = {
        { 0x1000, 0x1000, 0 }, { 0x1000, 0x1000, 3 },
        { 0x1001, 0x1000, 1 }, { 0x1000, 0x1001, 1 }, { 0x1000, 0, 1 },
        { UINT64_MAX, UINT64_MAX, 1 }, { UINT64_MAX, UINT64_MAX, 2 },
        { -4096ULL, 8192, 1 }, { 0x1000, -4096ULL, 1 },
        /* MMIO holes, ROM, and RAM with a hole behind it */
        { 0xfee00000, 0x1000, 1 }, { 0xd0000000, 0x1000, 1 },
        { 0xfffff000, 0x1000, 1 }, { 0xfffff000, 0x1000, 2 },
        { 128 * MiB - 4096, 8192, 1 }, { 0, 8 * GiB, 1 },
    };

    g_assert_cmpint(gm_testdev_command(&t, 0x200000, 0x200000, 1), ==, 0);
    g_assert_cmpint(gm_testdev_command(&t, 0x201000, 0x1000, 2), ==, 0);
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==,
                     2 * MiB - 4096);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_cmpint(gm_testdev_command(&t, bad[i].gpa, bad[i].size,
                                        bad[i].command), ==, -EINVAL);
    }
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==,
                     2 * MiB - 4096);
    g_assert_cmpuint(gm_bytes(qts, "m1", "private-bytes"), ==, 0);
    /* Sharing what is not RAM is granted: firmware does it for MMIO. */
    g_assert_cmpint(gm_testdev_command(&t, 0xfee00000, 0x1000, 2), ==, 0);

    /* Across two blocks. */
    g_assert_cmpint(gm_testdev_command(&t, 0x104000000 - 0x3000, 0x4000, 1), ==,
                    0);
    gm_assert_map(qts, "m1", "S67096576 P12288");
    gm_assert_map(qts, "m2", "P4096 S67104768");

    gm_testdev_close(&t);
    qtest_quit(qts);
}

#define DUMP "{ 'execute': 'dump-guest-memory', 'arguments': {" \
             " 'paging': false, 'protocol': %s "

/* A dump has all of the memory that was asked for, or there is none. */
static void test_dump(void)
{
    QTestState *qts = qtest_init(Q35 "-m 128M " M0 " -object " BACKEND
                                 ",id=spare,size=4M,init=private");
    g_autofree char *dir = g_dir_make_tmp("guest-memfd-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "dump", NULL);
    g_autofree char *protocol = g_strdup_printf("file:%s", path);
    const struct {
        uint64_t begin, length;
        bool private;
    } ranges[] = {
        { 0, 1 * MiB, false }, { 0, 1 * MiB + 1, true },
        { 1 * MiB + 8191, 1, true }, { 1 * MiB + 8192, 4 * MiB, false },
        { 1 * MiB, 8192, true }, { 2 * MiB + 1, 4097, false },
    };
    struct stat st;

    gm_convert(qts, "m0", 1 * MiB, 8192, true);
    gm_assert_failure(qts, qtest_qmp(qts, DUMP "} }", protocol),
                      "offset 0x100000 of 'm0' is private");
    /* It stopped the VM to look: before that the guest can convert. */
    qtest_qmp_eventwait(qts, "STOP");
    qtest_qmp_eventwait(qts, "RESUME");

    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        QDict *rsp = qtest_qmp(qts, DUMP ", 'begin': %" PRIu64 ", 'length': %"
                               PRIu64 " } }", protocol, ranges[i].begin,
                               ranges[i].length);

        if (ranges[i].private) {
            gm_assert_failure(qts, rsp, "of 'm0' is private");
        } else {
            g_assert_true(qdict_haskey(rsp, "return"));
            qobject_unref(rsp);
        }
    }

    gm_convert(qts, "m0", 0, 128 * MiB, false);
    qtest_qmp_assert_success(qts, DUMP "} }", protocol);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, >, 128 * MiB);

    unlink(path);
    rmdir(dir);
    qtest_quit(qts);
}

/* What a dump goes on to write stays shared. */
static void test_detached_dump(void)
{
    QTestState *qts = qtest_init(Q35 "-m 32M -object " BACKEND
                                 ",id=m0,size=32M");
    g_autofree char *dir = g_dir_make_tmp("guest-memfd-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "dump", NULL);
    g_autofree char *protocol = g_strdup_printf("file:%s", path);
    static char buf[64 * KiB];
    ssize_t got;
    int fd;

    /* The dump is not over before somebody reads it. */
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    qtest_qmp_assert_success(qts, DUMP ", 'detach': true } }", protocol);

    gm_convert_fails(qts, "m0", 0, 4096, true, "DUMP_COMPLETED");
    gm_convert(qts, "m0", 0, 4096, false);

    g_assert_cmpint(fcntl(fd, F_SETFL, 0), ==, 0);
    do {
        got = read(fd, buf, sizeof(buf));
    } while (got > 0);
    g_assert_cmpint(got, ==, 0);
    qtest_qmp_eventwait(qts, "DUMP_COMPLETED");
    qtest_qmp_eventwait(qts, "RESUME");
    gm_convert(qts, "m0", 0, 4096, true);

    close(fd);
    unlink(path);
    rmdir(dir);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd/defaults", test_defaults);
    qtest_add_func("guest-memfd/convert", test_convert);
    qtest_add_func("guest-memfd/init-private", test_init_private);
    qtest_add_func("guest-memfd/bad-qmp", test_bad_qmp);
    qtest_add_func("guest-memfd/pmemsave", test_pmemsave);
    qtest_add_func("guest-memfd/bad-options", test_bad_options);
    qtest_add_func("guest-memfd/no-sysfs", test_no_sysfs);
    qtest_add_func("guest-memfd/pool", test_pool);
    qtest_add_func("guest-memfd/kvm-refused", test_kvm_refused);
    qtest_add_func("guest-memfd/kvm-shared", test_kvm_shared);
    qtest_add_func("guest-memfd/kvm-two-copy", test_kvm_two_copy);
    qtest_add_func("guest-memfd/bad-objects", test_bad_objects_at_run_time);
    qtest_add_func("guest-memfd/fixed-options", test_fixed_options);
    qtest_add_func("guest-memfd/hotplug", test_hotplug);
    qtest_add_func("guest-memfd/same-id", test_same_id);
    qtest_add_func("guest-memfd/testdev", test_testdev);
    qtest_add_func("guest-memfd/dump", test_dump);
    qtest_add_func("guest-memfd/dump-detached", test_detached_dump);
    qtest_add_data_func("guest-memfd/hugetlb/2M",
                        (void *)(uintptr_t)(2 * MiB), test_hugetlb);
    qtest_add_data_func("guest-memfd/hugetlb/1G",
                        (void *)(uintptr_t)(1 * GiB), test_hugetlb);
    return g_test_run();
}
