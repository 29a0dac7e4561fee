/*
 * memory-backend-guest-memfd: QMP, hotplug, dumps and the test device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-util.h"
#include "libqos/pci-pc.h"
#include "qobject/qlist.h"

#define M0 "-object " BACKEND ",id=m0,size=128M,driver=emulated"

static void check_str(const QDict *d, const char *key, const char *val)
{
    g_assert_cmpstr(qdict_get_str(d, key), ==, val);
}

static void test_defaults(void)
{
    QTestState *qts = gm_start("-m 128M -object " BACKEND
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
    g_assert_cmpstr(qdict_get_str(block, "provider"), ==, "pages");
    g_assert_cmpuint(qdict_get_int(block, "shared-bytes"), ==, 128 * MiB);
    g_assert_cmpuint(qdict_get_int(block, "private-bytes"), ==, 0);
    g_assert_false(qdict_haskey(block, "restructure"));
    g_assert_false(qdict_haskey(block, "vmemmap-bytes"));
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
    QTestState *qts = gm_start("-m 128M " M0);
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
    QTestState *qts = gm_start("-m 128M " M0 ",init=private");

    gm_assert_map(qts, "m0", "P134217728");
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 0);
    gm_convert(qts, "m0", 0, 4096, false);
    qtest_system_reset(qts);
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 0);
    qtest_quit(qts);
}

static void test_bad_qmp(void)
{
    QTestState *qts = gm_start("-m 128M " M0 " -object "
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
    QTestState *qts = gm_start("-m 128M " M0);
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

static void test_hotplug(void)
{
    QTestState *qts = gm_start("-m 128M,slots=2,maxmem=1G " M0);

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

#define BAR 0xe0000000
#define BMDMA 0xc000
#define PRDT 0x10000

/* The IDE disk of machine pc reads a sector into the BAR; nobody waits. */
static void start_ide_read(QTestState *qts)
{
    const int ide = QPCI_DEVFN(1, 1);
    const uint32_t prd[] = { cpu_to_le32(BAR), cpu_to_le32(0x80000000 | 512) };

    gm_config_writel(qts, ide, PCI_BASE_ADDRESS_4, BMDMA);
    gm_config_writel(qts, ide, PCI_COMMAND,
                     PCI_COMMAND_IO | PCI_COMMAND_MASTER);
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

    gm_config_writel(qts, QPCI_DEVFN(4, 0), PCI_BASE_ADDRESS_3, 0);
    gm_config_writel(qts, QPCI_DEVFN(4, 0), PCI_BASE_ADDRESS_2, BAR);
    gm_config_writel(qts, QPCI_DEVFN(4, 0), PCI_COMMAND, PCI_COMMAND_MEMORY);
    qtest_writel(qts, BAR, 0x1234);
    g_assert_cmphex(qtest_readl(qts, BAR), ==, 0x1234);
    g_free(qtest_hmp(qts, "qemu-io -d hd \"break read_aio stop\""));
    start_ide_read(qts);

    qpci_unplug_acpi_device_test(qts, "shm", 4);
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
        g_assert_cmpint(i, <, 10);
        gm_drain_rcu(qts);
    }
    gm_convert(qts, "m1", 3 * MiB, 4096, true);
    gm_object_del(qts, "m1");
    qtest_quit(qts);
}

static void test_testdev(void)
{
    QTestState *qts = gm_start("-m 128M " M0
                               " -device guest-memfd-testdev,addr=4");
    GmTestdev t = gm_testdev_open(qts, 4);
    const uint64_t ram = gm_ram_base();
    /* Of q35, and of virt */
    const uint64_t mmio = gm_is_arm() ? 0x09000000 : 0xfee00000;
    const uint64_t rom = gm_is_arm() ? 0 : 0xfffff000;
    const uint64_t hole = gm_is_arm() ? 0x3e000000 : 0xd0000000;
    const struct {
        uint64_t gpa, size;
        uint32_t command;
    } bad[] = {
        { ram + 0x1000, 0x1000, 0 }, { ram + 0x1000, 0x1000, 3 },
        { ram + 0x1001, 0x1000, 1 }, { ram + 0x1000, 0x1001, 1 },
        { ram + 0x1000, 0, 1 },
        { UINT64_MAX, UINT64_MAX, 1 }, { UINT64_MAX, UINT64_MAX, 2 },
        { -4096ULL, 8192, 1 }, { ram + 0x1000, -4096ULL, 1 },
        /* MMIO holes, ROM, and RAM with a hole behind it */
        { mmio, 0x1000, 1 }, { hole, 0x1000, 1 },
        { rom, 0x1000, 1 }, { rom, 0x1000, 2 },
        { ram + 128 * MiB - 4096, 8192, 1 }, { ram, 8 * GiB, 1 },
    };

    g_assert_cmpint(gm_testdev_command(&t, ram + 0x200000, 0x200000, 1), ==, 0);
    g_assert_cmpint(gm_testdev_command(&t, ram + 0x201000, 0x1000, 2), ==, 0);
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==,
                     2 * MiB - 4096);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_cmpint(gm_testdev_command(&t, bad[i].gpa, bad[i].size,
                                        bad[i].command), ==, -EINVAL);
    }
    g_assert_cmpuint(gm_bytes(qts, "m0", "private-bytes"), ==,
                     2 * MiB - 4096);
    /* Sharing what is not RAM is granted: firmware does it for MMIO. */
    g_assert_cmpint(gm_testdev_command(&t, mmio, 0x1000, 2), ==, 0);

    gm_testdev_close(&t);
    qtest_quit(qts);
}

static void test_two_blocks(void)
{
    QTestState *qts = gm_start("-m 128M,slots=2,maxmem=1G " M0 " "
        "-device guest-memfd-testdev,addr=4 "
        "-object " BACKEND ",id=m1,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m1,addr=0x100000000 "
        "-object " BACKEND ",id=m2,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m2,addr=0x104000000");
    GmTestdev t = gm_testdev_open(qts, 4);

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
    QTestState *qts = gm_start("-m 128M " M0 " -object " BACKEND
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
    QTestState *qts = gm_start("-m 32M -object " BACKEND
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
    qtest_add_func("guest-memfd/testdev", test_testdev);
    qtest_add_func("guest-memfd/dump-detached", test_detached_dump);
    if (!gm_is_arm()) {         /* a PC's addresses, ACPI and devices */
        qtest_add_func("guest-memfd/pmemsave", test_pmemsave);
        qtest_add_func("guest-memfd/hotplug", test_hotplug);
        qtest_add_func("guest-memfd/same-id", test_same_id);
        qtest_add_func("guest-memfd/testdev/two-blocks", test_two_blocks);
        qtest_add_func("guest-memfd/dump", test_dump);
    }
    return g_test_run();
}
