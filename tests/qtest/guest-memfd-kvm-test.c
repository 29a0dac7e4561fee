/*
 * memory-backend-guest-memfd with two copies, and who chooses them
 *
 * On a KVM that only seems to have private memory (guest-memfd-fake-kvm.c).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

#define FAKE_KVM "libguest-memfd-fake-kvm.so"
#define HUGE (2 * MiB)

/* Another huge page than that of the descriptor of fw_cfg's DMA */
#define VICTIM (8 * MiB)
#define DESCRIPTOR (64 * KiB)

#define PROTECTED "-nodefaults -S -accel kvm -cpu host -m 64M " \
                  "-object x-sw-protected-guest,id=p0 " \
                  "-machine q35,confidential-guest-support=p0,memory-backend=m0 " \
                  "-object " BACKEND ",id=m0,size=64M,init=shared,"

static const char *problem(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm, files = 0;

    if (kvm < 0) {
        return "no access to /dev/kvm";
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm >= 0) {
        files = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD);
        close(vm);
    }
    close(kvm);
    return files > 0 ? NULL : "this kernel's KVM has no guest_memfd";
}

static QTestState *start(const char *options)
{
    g_autofree char *args = g_strconcat(PROTECTED, options, NULL);
    QTestState *qts;

    gm_preload(FAKE_KVM);
    qts = qtest_init(args);
    gm_preload(NULL);
    return qts;
}

/* fw_cfg writes its signature, "QEMU", to guest memory. */
static bool dma(QTestState *qts, uint64_t gpa)
{
    struct {
        uint32_t control, length;
        uint64_t address;
    } QEMU_PACKED access = {
        .control = cpu_to_be32(0x0a),           /* select item 0, read */
        .length = cpu_to_be32(4),
        .address = cpu_to_be64(gpa),
    };

    qtest_memwrite(qts, DESCRIPTOR, &access, sizeof(access));
    qtest_outl(qts, 0x514, 0);
    qtest_outl(qts, 0x518, cpu_to_be32(DESCRIPTOR));
    return !qtest_readl(qts, DESCRIPTOR);
}

/* DMA of a device model neither reaches private memory nor leaves a trace. */
static void test_dma(void)
{
    QTestState *qts;

    if (problem()) {
        g_test_skip(problem());
        return;
    }
    qts = start("driver=kvm");
    g_assert_true(dma(qts, VICTIM));
    g_assert_cmphex(qtest_readl(qts, VICTIM), ==, 0x554d4551);
    gm_convert(qts, "m0", VICTIM, 4096, true);
    g_assert_false(dma(qts, VICTIM));
    gm_convert(qts, "m0", VICTIM, 4096, false);
    g_assert_cmphex(qtest_readl(qts, VICTIM), ==, 0);
    g_assert_true(dma(qts, VICTIM));
    qtest_quit(qts);
}

/* A request over two blocks, the second of which KVM refuses. */
static void test_second_block(void)
{
    const uint64_t border = 0x104000000;
    QTestState *qts;
    GmTestdev t;

    if (problem()) {
        g_test_skip(problem());
        return;
    }
    g_setenv("FAKE_KVM_REFUSES", "0x104001000", true);
    qts = start("driver=kvm -m 64M,slots=2,maxmem=1G "
                "-device guest-memfd-testdev,addr=4 "
                "-object " BACKEND ",id=m1,size=64M,init=shared "
                "-device pc-dimm,memdev=m1,addr=0x100000000 "
                "-object " BACKEND ",id=m2,size=64M,init=shared "
                "-device pc-dimm,memdev=m2,addr=0x104000000");
    g_unsetenv("FAKE_KVM_REFUSES");
    t = gm_testdev_open(qts, 4);
    g_assert_cmpint(gm_testdev_command(&t, border - 3 * 4096, 4 * 4096,
                                       GM_TO_PRIVATE), ==, 0);
    g_assert_cmpint(gm_testdev_command(&t, border - 4 * 4096, 6 * 4096,
                                       GM_TO_PRIVATE), ==, -ENOMEM);
    gm_assert_failed_event(qts, "m2", 0, 2 * 4096, true, "the driver refused: "
                           "Cannot allocate memory");
    gm_assert_map(qts, "m1", "S67096576 P12288");
    gm_assert_map(qts, "m2", "P4096 S67104768");
    gm_testdev_close(&t);
    qtest_quit(qts);
}

/* All huge pages that are left; the end of the file descriptor gives them back. */
static int empty_pool(void)
{
    int fd = memfd_create("pool", MFD_HUGETLB | MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    for (uint64_t at = 0; !fallocate(fd, 0, at, HUGE); at += HUGE) {
        /* one more */
    }
    return fd;
}

/* The pool has no page left for what a guest has made private. */
static void test_empty_pool(void)
{
    int lock = gm_lock_huge_pages();
    QTestState *qts;
    int fd;

    if (problem() || gm_huge_pages_free(HUGE) < 4) {
        close(lock);
        g_test_skip(problem() ?: "fewer than 4 free huge pages of 2 MiB");
        return;
    }
    qts = start("hugetlb=on,hugetlbsize=2M,reserve=off "
                "-device loader,addr=0x800000,data=0x1234,data-len=4");
    g_assert_true(dma(qts, VICTIM));
    gm_convert(qts, "m0", VICTIM, HUGE, true);
    fd = empty_pool();

    g_assert_false(dma(qts, VICTIM));
    gm_convert_fails(qts, "m0", VICTIM, 4096, false, "Cannot allocate memory");
    qtest_system_reset(qts);
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==, HUGE);

    close(fd);
    qtest_system_reset(qts);
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==, 0);
    g_assert_cmphex(qtest_readl(qts, VICTIM), ==, 0x1234);
    qtest_quit(qts);
    close(lock);
}

/* What was promised is kept, whatever the guest does. */
static void test_promise(const void *options)
{
    int lock = gm_lock_huge_pages();
    uint64_t before;
    QTestState *qts;

    if (problem() || gm_huge_pages_free(HUGE) < 32) {
        close(lock);
        g_test_skip(problem() ?: "fewer than 32 free huge pages of 2 MiB");
        return;
    }
    before = gm_huge_pages_free(HUGE);
    qts = start(options);
    g_assert_cmpuint(gm_huge_pages_free(HUGE), ==, before - 32);
    g_assert_true(dma(qts, VICTIM));
    gm_convert(qts, "m0", VICTIM, 4 * HUGE, true);
    g_assert_cmpuint(gm_huge_pages_free(HUGE), ==, before - 32);
    gm_convert(qts, "m0", VICTIM, 4 * HUGE, false);
    g_assert_cmpuint(gm_huge_pages_free(HUGE), ==, before - 32);
    qtest_quit(qts);
    close(lock);
}

static void check_fake_refused(const char *args, const char *needle)
{
    gm_preload(FAKE_KVM);
    gm_check_refused("", args, needle);
    gm_preload(NULL);
}

/* Nothing would be protected. */
static void test_emulated(void)
{
    if (problem()) {
        g_test_skip(problem());
        return;
    }
    check_fake_refused(PROTECTED "driver=emulated",
                       "driver=emulated cannot back a confidential machine");
}

#define M0 "-accel kvm -machine none -object " BACKEND ",id=m0,size=2M,"

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
static void test_two_copy(void)
{
    QTestState *qts;
    QDict *block;

    if (problem()) {
        g_test_skip(problem());
        return;
    }
    check_fake_refused("-overcommit mem-lock=on " M0 "init=private",
                       "conversion=two-copy: -overcommit mem-lock=on would "
                       "lock");
    check_fake_refused("-overcommit mem-lock=on-fault " M0
                       "conversion=two-copy", "conversion=two-copy: -overcommit "
                       "mem-lock=on-fault would lock the copy that is not used, "
                       "too; use mem-lock=off");

    gm_preload(FAKE_KVM);
    qts = qtest_init("-accel kvm -nodefaults -S -machine q35,memory-backend=m0 "
                     "-m 32M -object " BACKEND ",id=m0,size=32M,init=private,"
                     "prealloc=on");
    gm_preload(NULL);
    block = gm_block(qts, "m0");
    g_assert_cmpstr(qdict_get_str(block, "conversion"), ==, "two-copy");
    g_assert_cmpstr(qdict_get_str(block, "init"), ==, "private");
    qobject_unref(block);
    g_assert_true(query_prealloc(qts));
    /* nothing needs the shared copy */
    g_assert_cmpuint(resident_shmem(qts), <, 16 * MiB);
    qtest_quit(qts);
}

/* As AMD's testers write it, except the kind of guest */
#define AMD(convert, options) \
    "-nodefaults -S -accel kvm -cpu host -m 64M " \
    "-object " BACKEND ",id=ram1,size=64M,share=true,reserve=false" options " " \
    "-object x-sw-protected-guest,id=p0" convert " " \
    "-machine q35,confidential-guest-support=p0,memory-backend=ram1"

#ifdef CONFIG_NUMA
#define NODES ",host-nodes=0,policy=bind"
#else
#define NODES ""
#endif

/* convert-in-place= of a confidential guest, on all kinds of kernels */
static void test_convert_in_place(void)
{
    static const struct {
        const char *kernel, *args, *conversion, *refusal;
    } rows[] = {
        { "in-place", AMD(",convert-in-place=on", ""), "in-place" },
        { "in-place", AMD(",convert-in-place=on", NODES), "in-place" },
        { "in-place", AMD(",convert-in-place=true", ",conversion=in-place"),
          "in-place" },
        { "in-place", AMD("", ""), "in-place" },
        { "in-place", AMD(",convert-in-place=off", ""), NULL,
          "convert-in-place=off of 'p0' needs guest_memfd and KVM_MEMORY_"
          "ATTRIBUTE_PRIVATE (Linux 6.8), which this kernel's KVM does not "
          "offer to this type of VM; use convert-in-place=on" },
        { "two-copy", AMD(",convert-in-place=off", ""), "two-copy" },
        { "two-copy", AMD(",convert-in-place=off", NODES), "two-copy" },
        { "two-copy", AMD("", ""), "two-copy" },
        { "two-copy", AMD(",convert-in-place=on", ""), NULL,
          "convert-in-place=on of 'p0' needs KVM_SET_MEMORY_ATTRIBUTES2 (in no "
          "released kernel), which this kernel's KVM does not offer to this "
          "type of VM; use convert-in-place=off" },
        { "either", AMD(",convert-in-place=on", ""), "in-place" },
        { "either", AMD(",convert-in-place=off", ""), "two-copy" },
        { "either", AMD("", ""), "in-place" },
        { "either", AMD(",convert-in-place=off", ",conversion=none"), "none" },
        { "either", AMD(",convert-in-place=on", ",conversion=two-copy"), NULL,
          "conversion=two-copy contradicts convert-in-place=on of the "
          "confidential guest 'p0'; leave one of them out" },
        { "either", AMD(",convert-in-place=off", ",conversion=in-place"), NULL,
          "conversion=in-place contradicts convert-in-place=off" },
        { "never", AMD(",convert-in-place=on", ""), NULL,
          "convert-in-place=on of 'p0' needs KVM_SET_MEMORY_ATTRIBUTES2" },
        { "never", AMD(",convert-in-place=on", ""), NULL,
          "leave the option out" },
        { "never", AMD(",convert-in-place=off", ""), NULL,
          "leave the option out" },
        { "either", "-accel kvm -cpu host -m 64M -object x-sw-protected-guest,"
          "id=p0 -object memory-backend-memfd,id=ram1,size=64M,share=on,"
          "x-guest-memfd=on -machine q35,confidential-guest-support=p0,"
          "memory-backend=ram1", NULL, "x-guest-memfd=on of 'ram1' cannot back "
          "a confidential machine, because none of it can become private; use "
          BACKEND },
        /* Whatever memory there is. */
        { "two-copy", "-accel kvm -cpu host -m 64M -object x-sw-protected-guest,"
          "id=p0,convert-in-place=on -machine q35,confidential-guest-support=p0",
          NULL, "convert-in-place=on of 'p0' needs" },
    };

    if (problem()) {
        g_test_skip(problem());
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        QTestState *qts;

        g_test_message("%s: %s", rows[i].kernel, rows[i].args);
        g_setenv("FAKE_KVM_PRIVATE", rows[i].kernel, true);
        if (rows[i].refusal) {
            check_fake_refused(rows[i].args, rows[i].refusal);
            continue;
        }
        gm_preload(FAKE_KVM);
        qts = qtest_init(rows[i].args);
        gm_preload(NULL);
        gm_check_property(qts, "ram1", "conversion", rows[i].conversion);
        qtest_quit(qts);
    }
    g_unsetenv("FAKE_KVM_PRIVATE");
}

/* The guests that this host may have no hardware for take the option, too. */
static void test_convert_in_place_objects(void)
{
    QTestState *qts =
        qtest_init("-machine none "
                   "-object sev-snp-guest,id=snp0,cbitpos=51,"
                   "reduced-phys-bits=1,convert-in-place=on "
                   "-object tdx-guest,id=tdx0,convert-in-place=on "
                   "-object x-sw-protected-guest,id=p0,convert-in-place=off");
    const char *ids[] = { "snp0", "tdx0", "p0" };

    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        g_autofree char *path = g_strdup_printf("/objects/%s", ids[i]);
        QDict *rsp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': {"
                               " 'path': %s, 'property': 'convert-in-place' } }",
                               path);

        g_assert_cmpint(qdict_get_bool(rsp, "return"), ==, i < 2);
        qobject_unref(rsp);
        gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'qom-set',"
                          " 'arguments': { 'path': %s, 'property':"
                          " 'convert-in-place', 'value': true } }", path),
                          "cannot change any more");
    }
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-kvm/dma", test_dma);
    qtest_add_func("guest-memfd-kvm/second-block", test_second_block);
    qtest_add_func("guest-memfd-kvm/empty-pool", test_empty_pool);
    qtest_add_data_func("guest-memfd-kvm/promise/reserve",
                        "hugetlb=on,hugetlbsize=2M", test_promise);
    qtest_add_data_func("guest-memfd-kvm/promise/prealloc",
                        "hugetlb=on,hugetlbsize=2M,prealloc=on", test_promise);
    qtest_add_func("guest-memfd-kvm/emulated", test_emulated);
    qtest_add_func("guest-memfd-kvm/two-copy", test_two_copy);
    qtest_add_func("guest-memfd-kvm/convert-in-place", test_convert_in_place);
    qtest_add_func("guest-memfd-kvm/convert-in-place/objects",
                   test_convert_in_place_objects);
    return g_test_run();
}
