/*
 * memory-backend-guest-memfd: options, and what is refused with which words
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qemu/bitops.h"
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"

#define M0 "-object " BACKEND ",id=m0,size=128M,driver=emulated"

static void check_refused(const char *args, const char *needle)
{
    gm_check_refused("", args, needle);
}

static void check_machine_refused(const char *args, const char *needle)
{
    g_autofree char *all = gm_machine_args(args);

    check_refused(all, needle);
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
        { "size=2M,x-provider=bogus", "bogus" },
        { "size=2M,x-provider=hugetlb",
          "x-provider=hugetlb contradicts hugetlb=off" },
        { "size=2M,x-provider=thp,hugetlb=on",
          "x-provider=thp contradicts hugetlb=on" },
        { "size=2M,x-provider=pages,hugetlb=on",
          "x-provider=pages contradicts hugetlb=on" },
        { "size=2M,x-provider=thp",
          "x-provider=thp of 'm0' needs driver=kvm with" },
        { "size=2M,x-resource=/nowhere",
          "x-resource: Could not open '/nowhere': No such file" },
        { "size=2M,x-resource=/proc",
          "x-resource=/proc is not on a hugetlbfs or a tmpfs; mount one" },
        { "size=2M,x-resource=/dev/fdset/7", "x-resource: " },
        { "size=2M,x-resource=/dev/shm,hugetlb=on",
          "x-resource=/dev/shm contradicts hugetlb=on" },
        { "size=2M,x-resource=/dev/shm,hugetlbsize=2M",
          "hugetlbsize=2097152 contradicts x-resource=/dev/shm, whose pages "
          "are of 4 KiB" },
        { "size=2M,x-resource=/dev/shm,x-provider=hugetlb",
          "x-provider=hugetlb contradicts x-resource=/dev/shm, where a tmpfs" },
        { "size=2M,x-resource=/dev/shm",
          "x-resource of 'm0' needs driver=kvm with" },
        { "size=1M,x-dma-split=log",
          "x-dma-split=log is not an option of memory" },
        /* Larger than any file, or than what can be mapped */
        { "size=8191P", "'m0': " },
        { "size=4P", "'m0': " },
        { "size=1M,bogus=1", "bogus" },
        { "size=1M,prealloc-threads=0", "prealloc-threads" },
        { "size=1M,prealloc=on,reserve=off", "incompatible" },
        { "size=1M,prealloc-context=nobody", "nobody" },
#ifdef CONFIG_NUMA
        { "size=1M,host-nodes=0", "host-nodes must be empty" },
        { "size=1M,policy=bind", "host-nodes must be set" },
        { "size=1M,policy=bind,host-nodes=120",
          "host-nodes: 'm0' can have no memory of the host's node 120, which "
          "has none or is not in the cpuset of QEMU; it can of 0" },
        { "size=1M,policy=interleave,host-nodes=120,host-nodes=122",
          "of the host's node 120, 122, which" },
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
    check_machine_refused("-accel tcg -m 2M -object " BACKEND ",id=m0,size=1M",
                          "does not match the size of the memory backend 'm0': "
                          "-m says 0x200000 bytes, and the backend has 0x100000");
    if (gm_is_arm()) {
        return;
    }
    check_refused("-accel tcg -machine q35 -m 64M "
                  "-object " BACKEND ",id=m0,size=32M "
                  "-numa node,memdev=m0 -numa node,memdev=m0", "m0");
    check_refused("-accel tcg -machine q35,memory-backend=m0 -m 32M,slots=1,"
                  "maxmem=1G -object " BACKEND ",id=m0,size=32M "
                  "-device pc-dimm,memdev=m0", "m0");
}

/* What memory-backend-memfd says now, beside the errors that it had */
static void test_memfd(void)
{
    static const struct {
        const char *options, *needle;
    } bad[] = {
        { "size=512G,hugetlb=on,hugetlbsize=2M",
          "not enough free huge pages of 2 MiB: 262144 needed, " },
        { "size=512G,hugetlb=on,hugetlbsize=2M,prealloc=on",
          "262144 needed, " },
        { "size=8M,hugetlb=on,hugetlbsize=8M",
          "hugetlbsize=8388608 is not a huge page size of this host" },
        { "size=0,hugetlb=on", "doesn't take value '0'" },
#ifdef CONFIG_NUMA
        { "size=1M,policy=bind,host-nodes=120",
          "host-nodes: 'm0' can have no memory of the host's node 120, " },
        { "size=1M,host-nodes=0", "host-nodes must be empty" },
        { "size=1M,policy=bind", "host-nodes must be set" },
#endif
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *args =
            g_strdup_printf("-accel tcg -machine none -object "
                            "memory-backend-memfd,id=m0,%s", bad[i].options);

        check_refused(args, bad[i].needle);
    }
}

/* A capability of an ordinary VM of this host's KVM; -1 without KVM. */
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

static bool kvm_has_shared_files(void)
{
    int flags = kvm_vm_capability(KVM_CAP_GUEST_MEMFD_FLAGS);

    return flags > 0 && (flags & SHARED_FILE) == SHARED_FILE;
}

#define KVM_M0 "-accel kvm -machine none -object " BACKEND ",id=m0,size=2M,"

/* What this host's KVM cannot do is refused with the reason. */
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
    check_refused(KVM_M0 "hugetlb=on", "hugetlb=on of 'm0': the guest_memfd of "
                  "this kernel has no huge pages");
    check_refused(KVM_M0 "x-provider=thp", "x-provider=thp of 'm0': the "
                  "guest_memfd of this kernel has no transparent huge pages");
    check_refused(KVM_M0 "x-resource=/dev/shm", "x-resource of 'm0': the "
                  "guest_memfd of this kernel has no huge pages");
    check_refused(KVM_M0 "init=private", "init=private: this VM has no private "
                  "memory");
}

/* What is mapped of files that are a guest_memfd */
static uint64_t guest_memfd_bytes(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", qtest_pid(qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t bytes = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", 0);
    for (char **line = lines; *line; line++) {
        uint64_t start, end;

        if (strstr(*line, "[kvm-gmem]") &&
            sscanf(*line, "%" SCNx64 "-%" SCNx64, &start, &end) == 2) {
            bytes += end - start;
        }
    }
    return bytes;
}

/* An ordinary VM whose only memory is a mapped guest_memfd: ordinary RAM. */
static void check_kvm_shared(const char *m0, const char *ordinary)
{
    QTestState *qts;
    QDict *rsp;

    qts = qtest_initf("-accel kvm -nodefaults -S "
                      "-machine q35,memory-backend=m0 "
                      "-m 128M,slots=1,maxmem=1G -object %s -only-migratable "
                      "-object " BACKEND ",id=vm0,size=128M "
                      "-device virtio-mem-pci,memdev=vm0", m0);
    g_assert_null(gm_block(qts, "m0"));
    g_assert_cmpuint(guest_memfd_bytes(qts), ==, 256 * MiB);

    gm_convert_fails(qts, "m0", 0, 4096, false, ordinary);
    gm_convert_fails(qts, "m0", 0, 4096, true, ordinary);
    rsp = qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map',"
                    " 'arguments': { 'id': 'm0' } }");
    gm_assert_failure(qts, rsp, ordinary);

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

#define X_GUEST_MEMFD "memory-backend-memfd,id=m0,size=128M,share=on," \
                      "x-guest-memfd=on"

static void test_kvm_shared(void)
{
    QTestState *qts;

    if (!kvm_has_shared_files()) {
        g_test_skip("this kernel's KVM has no guest_memfd that can be mapped, "
                    "or /dev/kvm cannot be used");
        return;
    }
    check_kvm_shared(BACKEND ",id=m0,size=128M,prealloc=on", ORDINARY);
    check_kvm_shared(X_GUEST_MEMFD, "'m0' is ordinary memory "
                     "(memory-backend-memfd)");
    check_kvm_shared(X_GUEST_MEMFD ",prealloc=on", "'m0' is ordinary memory");

    qts = qtest_init("-accel kvm -nodefaults -S -machine q35,memory-backend=m0 "
                     "-m 128M -object " BACKEND ",id=m0,size=128M");
    gm_check_property(qts, "m0", "driver", "kvm");
    gm_check_property(qts, "m0", "conversion", "none");
    gm_check_property(qts, "m0", "init", "shared");
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

#define MEMFD(options) "-object memory-backend-memfd,id=m0,size=2M," options

/* memory-backend-memfd,x-guest-memfd=on where it cannot be had */
static void test_x_guest_memfd(void)
{
    const char *kvm = "-accel kvm -machine none " MEMFD("x-guest-memfd=on");
    g_autofree char *hugetlb = g_strconcat(kvm, ",share=on,hugetlb=on,size=1T",
                                            NULL);
    g_autofree char *private = g_strconcat(kvm, ",share=off", NULL);
    g_autofree char *size = g_strconcat(kvm, ",share=on,size=1000", NULL);
    QTestState *qts;

    check_refused("-accel tcg -machine none " MEMFD("share=on,x-guest-memfd=on"),
                  "x-guest-memfd=on of 'm0' needs the KVM accelerator (-accel "
                  "kvm); leave it out without KVM");
    qts = qtest_init("-accel tcg -machine none " MEMFD("x-guest-memfd=off"));
    check_fixed(qts, "m0", "x-guest-memfd", "true");
    qtest_quit(qts);

    if (kvm_vm_capability(KVM_CAP_GUEST_MEMFD) < 0) {
        g_test_skip("no access to /dev/kvm");
        return;
    }
    check_refused(hugetlb, "x-guest-memfd=on of 'm0' contradicts hugetlb=on");
    check_refused(private, "x-guest-memfd=on of 'm0' needs share=on");
    check_refused(size, "size=1000 of 'm0' is not a multiple of its page size");
    if (!kvm_has_shared_files()) {
        check_refused(kvm, "x-guest-memfd=on of 'm0' is conversion=none; leave "
                      "it out for a memfd: conversion=none needs "
                      "GUEST_MEMFD_FLAG_MMAP");
    }
}

/* What was refused leaves nothing behind in a running QEMU. */
static void test_bad_objects_at_run_time(void)
{
    QTestState *qts = gm_start("-m 128M " M0);
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

static void test_fixed_options(void)
{
    QTestState *qts = qtest_initf("-machine none " M0 " %s",
                                  gm_is_arm() ? "" :
                                  "-object x-sw-protected-guest,id=p0");
    const char *options[][2] = {
        { "size", "4096" }, { "share", "false" }, { "reserve", "false" },
        { "hugetlb", "true" }, { "hugetlbsize", "2097152" },
        { "driver", "'kvm'" }, { "conversion", "'none'" },
        { "init", "'private'" }, { "x-provider", "'thp'" },
        { "x-resource", "'/dev/shm'" },
#ifdef CONFIG_NUMA
        { "policy", "'bind'" }, { "host-nodes", "[ 0 ]" },
#endif
    };
    const QListEntry *e;
    QDict *rsp, *memdev;

    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        check_fixed(qts, "m0", options[i][0], options[i][1]);
    }
    if (!gm_is_arm()) {
        check_fixed(qts, "p0", "private-launch", "true");
    }

    rsp = qtest_qmp(qts, "{ 'execute': 'query-memdev' }");
    e = qlist_first(qdict_get_qlist(rsp, "return"));
    memdev = qobject_to(QDict, qlist_entry_obj(e));
    g_assert_cmpstr(qdict_get_str(memdev, "policy"), ==, "default");
    g_assert_true(qlist_empty(qdict_get_qlist(memdev, "host-nodes")));
    qobject_unref(rsp);
    qtest_quit(qts);
}

static void test_hugetlb(const void *opaque)
{
    uint64_t size = (uintptr_t)opaque;
    int lock = gm_lock_huge_pages();
    g_autofree char *args = NULL;
    QTestState *qts;
    QDict *block;

    if (gm_huge_pages_free(size) < 2) {
        g_autofree char *why = g_strdup_printf(
            "fewer than 2 free huge pages of %" PRIu64 " KiB", size / KiB);

        g_test_skip(why);
        close(lock);
        return;
    }
    args = g_strdup_printf("-m %" PRIu64 "M -object thread-context,id=tc "
                           "-object " BACKEND ",id=m0,size=%" PRIu64 "M,"
                           "hugetlb=on,hugetlbsize=%" PRIu64 "M,prealloc=on,"
                           "prealloc-threads=2,prealloc-context=tc",
                           2 * size / MiB, 2 * size / MiB, size / MiB);
    qts = gm_start(args);
    block = gm_block(qts, "m0");
    g_assert_cmpuint(qdict_get_int(block, "page-size"), ==, size);
    g_assert_cmpstr(qdict_get_str(block, "provider"), ==, "hugetlb");
    /* Pages of a memfd stay whole. */
    g_assert_false(qdict_haskey(block, "vmemmap-bytes"));
    qobject_unref(block);
    qtest_quit(qts);
    close(lock);
}

/* The most memory that QEMU had until it could answer, in KiB */
static uint64_t peak_of_start(const char *object, const char *size)
{
    g_autofree char *args =
        g_strdup_printf("-cpu max,phys-bits=52 -m %s -object %s,id=m0,"
                        "reserve=off,size=%s", size, object, size);
    g_autofree char *status = NULL, *path = NULL;
    QTestState *qts;
    const char *peak;
    uint64_t kib;

    /* With it calloc() touches all that it returns. */
    g_unsetenv("MALLOC_PERTURB_");
    qts = gm_start(args);
    path = g_strdup_printf("/proc/%d/status", (int)qtest_pid(qts));
    g_assert_true(g_file_get_contents(path, &status, NULL, NULL));
    peak = strstr(status, "VmHWM:");
    g_assert_nonnull(peak);
    kib = g_ascii_strtoull(peak + strlen("VmHWM:"), NULL, 10);
    g_assert_cmpuint(kib, >, 0);
    qtest_quit(qts);
    return kib;
}

/* A VM of 1 TiB starts with at most 5 % more memory than with memfd. */
static void test_large(void)
{
    uint64_t memfd = peak_of_start("memory-backend-memfd", "1T");
    uint64_t shared = peak_of_start(BACKEND ",init=shared", "1T");
    uint64_t private = peak_of_start(BACKEND ",init=private", "1T");

    g_test_message("KiB: memfd %" PRIu64 ", shared %" PRIu64 ", private %"
                   PRIu64, memfd, shared, private);
    g_assert_cmpuint(shared * 100, <=, memfd * 105);
    g_assert_cmpuint(private * 100, <=, memfd * 105);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-options/bad-options", test_bad_options);
    qtest_add_func("guest-memfd-options/memfd", test_memfd);
    if (!gm_is_arm()) {         /* whose KVM no test has */
        qtest_add_func("guest-memfd-options/kvm-refused", test_kvm_refused);
        qtest_add_func("guest-memfd-options/kvm-shared", test_kvm_shared);
        qtest_add_func("guest-memfd-options/large", test_large);
        qtest_add_func("guest-memfd-options/x-guest-memfd", test_x_guest_memfd);
    }
    qtest_add_func("guest-memfd-options/bad-objects",
                   test_bad_objects_at_run_time);
    qtest_add_func("guest-memfd-options/fixed", test_fixed_options);
    qtest_add_data_func("guest-memfd-options/hugetlb/2M",
                        (void *)(uintptr_t)(2 * MiB), test_hugetlb);
    qtest_add_data_func("guest-memfd-options/hugetlb/1G",
                        (void *)(uintptr_t)(1 * GiB), test_hugetlb);
    return g_test_run();
}
