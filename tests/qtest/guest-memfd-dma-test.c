/*
 * memory-backend-guest-memfd and a device that does DMA (vfio-user)
 *
 * The device is a server of its own (tests/vfio-user/edu-server.c), which says
 * what it has mapped: that is compared with QEMU's map after each step.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-misbehave.h"
#include "guest-memfd-server.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

static void test_convert(QTestState *qts, Server *s)
{
    const uint64_t gpa = FIRMWARE_END;

    check_maps(s, gpa, 127 * MiB, "");

    /* A range is one mapping, as it was asked for, and goes in one piece. */
    gm_convert(qts, "m0", 64 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 66 * MiB, 4 * MiB, false);
    check_maps(s, 64 * MiB, 64 * MiB, "0+2097152 2097152+4194304");
    gm_convert(qts, "m0", 66 * MiB, 4 * MiB, true);
    check_maps(s, 64 * MiB, 64 * MiB, "0+2097152");
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "splits"), ==, 0);
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "map-calls"), ==, 2);
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "unmap-calls"), ==, 1);

    /* A part of one: the rest in naturally aligned powers of two. */
    gm_convert(qts, "m0", 64 * MiB + 20 * KiB, 4 * KiB, true);
    check_maps(s, 64 * MiB, 64 * MiB,
               "0+16384 16384+4096 24576+8192 32768+32768 65536+65536 "
               "131072+131072 262144+262144 524288+524288 1048576+1048576");
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "splits"), ==, 1);
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "extents"), ==, 9);
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "mapped-bytes"), ==,
                     2 * MiB - 4096);
    check_exact(qts, s, "m0", 0);

    /* Back again, over pieces that are there already. */
    gm_convert(qts, "m0", 63 * MiB, 4 * MiB, false);
    check_exact(qts, s, "m0", 0);
    gm_convert(qts, "m0", 0, 128 * MiB, true);
    check_exact(qts, s, "m0", 0);
    g_assert_cmpuint(gm_listener(qts, "m0", gpa, "extents"), ==, 0);

    /* Reset: private again, so nothing is mapped. */
    gm_convert(qts, "m0", 8 * MiB, 8 * MiB, false);
    qtest_system_reset(qts);
    check_exact(qts, s, "m0", 0);

}

/* The figures of query-guest-memfd, for people. */
static void test_hmp(QTestState *qts, Server *s)
{
    const char *words[] = {
        "m0: 128 MiB in pages of 4 KiB, driver=emulated conversion=in-place "
        "init=private\r\n",
        "  shared 1.99 MiB, private 126 MiB, ",
        "  to private           1       8 KiB         0         0          0\r\n",
        "  to shared            2       2 MiB         0         0          0\r\n",
        "  2 MiB                0          63         1\r\n",
        "  vfio-iommu-user@0x100000                 8    1.99 MiB           9"
        "           1         1\r\n",
    };
    g_autofree char *bad = NULL;

    gm_convert(qts, "m0", 64 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 64 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 64 * MiB + 16 * KiB, 8 * KiB, true);
    for (int i = 0; i < 2; i++) {
        g_autofree char *out = qtest_hmp(qts, "info guest-memfd%s",
                                         i ? " m0" : "");

        for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
            if (!strstr(out, words[w])) {
                g_error("no '%s' in:\n%s", words[w], out);
            }
        }
    }
    bad = qtest_hmp(qts, "info guest-memfd m1");
    g_assert_cmpstr(bad, ==, "'m1' is not a block of guest_memfd memory; info "
                    "guest-memfd lists those there are\r\n");
}

static void test_random(QTestState *qts, Server *s)
{
    for (int i = 0; i < 600; i++) {
        uint64_t first = g_test_rand_int_range(256, 32768);
        uint64_t nr = g_test_rand_int_range(1, MIN(1024, 32768 - first) + 1);

        gm_convert(qts, "m0", first * 4096, nr * 4096, g_test_rand_bit());
        if (i % 20 == 0) {
            check_exact(qts, s, "m0", 0);
        }
    }
    check_exact(qts, s, "m0", 0);
}

/* More mappings than libvfio-user holds unless it is told to. */
static void test_thousands(QTestState *qts, Server *s)
{
    for (int i = 0; i < 3000; i++) {
        gm_convert(qts, "m0", 16 * MiB + i * 8192, 4096, false);
    }
    g_assert_cmpuint(gm_listener(qts, "m0", FIRMWARE_END, "extents"), ==, 3000);
    check_exact(qts, s, "m0", 0);
}

/* The device comes and goes while memory is in every state. */
static void test_device_hotplug(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 20 * MiB, 8192, false);
    for (int i = 0; i < 3; i++) {
        QDict *block;

        qtest_qmp_device_del(qts, "dev");
        block = gm_block(qts, "m0");
        g_assert_true(qlist_empty(qdict_get_qlist(block, "listeners")));
        qobject_unref(block);

        gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
        gm_convert(qts, "m0", 17 * MiB, 4096, true);
        server_plug(qts, s);
        check_exact(qts, s, "m0", 0);
        gm_convert(qts, "m0", 17 * MiB, 4096, false);
        check_exact(qts, s, "m0", 0);
    }
}

/* A DIMM goes although parts of it are shared and mapped. */
static void test_dimm_hotplug(QTestState *qts, Server *s)
{
    const uint64_t gpa = 0x100000000;

    for (int i = 0; i < 2; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                                 " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                                 " 'driver': 'emulated', 'size': %" PRIu64
                                 " } }", 2 * GiB);
        qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        /* Large ranges are cut at 1 GiB. */
        check_maps(s, gpa, 2 * GiB, "0+1073741824 1073741824+1073741824");
        gm_convert(qts, "m1", 512 * MiB, 512 * MiB, true);
        gm_convert(qts, "m1", 0, 4096, true);
        check_exact(qts, s, "m1", gpa);
        gm_eject_dimm(qts, "dimm1", 0);
        check_maps(s, gpa, 2 * GiB, "");
        gm_object_del(qts, "m1");
    }
}

/*
 * Memory that leaves is freed although other memory, which devices follow, came
 * after it: a listener must not keep the address space it was born into.
 */
static void test_two_dimms(QTestState *qts, Server *s)
{
    for (int i = 1; i <= 2; i++) {
        g_autofree char *mem = g_strdup_printf("m%d", i);
        g_autofree char *dimm = g_strdup_printf("dimm%d", i);

        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                                 " { 'qom-type': '" BACKEND "', 'id': %s,"
                                 " 'driver': 'emulated', 'size': %" PRIu64
                                 " } }", mem, 128 * MiB);
        qtest_qmp_device_add(qts, "pc-dimm", dimm, "{ 'memdev': %s }", mem);
    }
    gm_eject_dimm(qts, "dimm1", 0);
    gm_object_del(qts, "m1");
    gm_eject_dimm(qts, "dimm2", 1);
    gm_object_del(qts, "m2");
}

/*
 * The guest remaps memory below 1 MiB (q35's PAM registers), which splits
 * and joins the sections of RAM that the device follows.
 */
static void test_remap(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    for (int i = 0; i < 64; i++) {
        /* Memory or ROM, readable, writable or both, in 16 KiB steps. */
        gm_pam_write(qts, g_test_rand_int_range(0, GM_PAM_REGS),
                     g_test_rand_int_range(0, 256) & 0x33);
        gm_convert(qts, "m0", 16 * MiB + i * 8192, 4096, i & 1);
        check_exact(qts, s, "m0", 0);
    }
    /* All of it RAM, and shared: now what is below 1 MiB is seen, too. */
    gm_pam_write(qts, 0, 0x30);
    for (int i = 1; i < GM_PAM_REGS; i++) {
        gm_pam_write(qts, i, 0x33);
    }
    gm_convert(qts, "m0", 0xc0000, 0x40000, false);
    check_mapped(s, 0xc0000, 0x40000);
    gm_convert(qts, "m0", 0xc4000, 4096, true);
    check_unmapped(s, 0xc4000, 4096);
    check_mapped(s, 0xc5000, 0x3b000);
}

/*
 * What a guest has shared page by page stays so when sections change and when a
 * second device comes, since it gives it back page by page.
 */
static void test_boundaries(QTestState *qts, Server *s)
{
    static const char pages[] = "0+4096 4096+4096 8192+4096 12288+4096";
    Server *second = server_start();

    for (int i = 0; i < 4; i++) {
        gm_convert(qts, "m0", 16 * MiB + i * 4096, 4096, false);
    }
    check_maps(s, 16 * MiB, 2 * MiB, pages);
    gm_pam_write(qts, 0, 0x30);
    check_maps(s, 16 * MiB, 2 * MiB, pages);
    gm_convert(qts, "m0", 16 * MiB + 4096, 4096, true);
    gm_convert(qts, "m0", 16 * MiB + 4096, 4096, false);
    gm_pam_write(qts, 0, 0);
    check_maps(s, 16 * MiB, 2 * MiB, pages);

    qtest_qmp_assert_success(qts, "{ 'execute': 'device_add', 'arguments': {"
                             " 'driver': 'vfio-user-pci', 'id': 'second',"
                             " 'bus': 'rp2', 'socket': { 'type': 'unix',"
                             " 'path': %s } } }", second->socket);
    check_maps(second, 16 * MiB, 2 * MiB, pages);
    gm_convert(qts, "m0", 16 * MiB + 8192, 4096, true);
    check_exact(qts, s, "m0", 0);
    check_exact(qts, second, "m0", 0);
    g_assert_cmpuint(gm_listener(qts, "m0", FIRMWARE_END, "splits"), ==, 0);

    /* A reset makes them whole, if they are shared then; here they are not. */
    qtest_qmp_device_del(qts, "second");
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, true);
    check_maps(s, 16 * MiB, 2 * MiB, "");
    server_stop(second);
}

/* A dead device fails conversions, and nothing else; without it they work. */
static void test_server_dies(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 4 * MiB, false);
    server_kill(s);

    /* It has nothing mapped any more, so it is in nobody's way. */
    gm_convert(qts, "m0", 32 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 16 * MiB, 4096, true);
    gm_convert(qts, "m0", 16 * MiB, 4 * MiB, true);
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 2 * MiB);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-shared", "failures"), ==, 0);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-private", "failures"), ==, 0);

    /* Memory plugged now is no reason to stop: the device cannot reach it. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'driver': 'emulated', 'size': %" PRIu64 " } }",
                             128 * MiB);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
    gm_convert(qts, "m1", 0, 4096, true);
    gm_convert(qts, "m1", 0, 4096, false);
    gm_eject_dimm(qts, "dimm1", 0);
    gm_object_del(qts, "m1");

    qtest_qmp_device_del(qts, "dev");
    gm_convert(qts, "m0", 32 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 0, 128 * MiB, true);
}

/* A reset does not need it, either. */
static void test_server_dies_reset(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 4 * MiB, false);
    server_kill(s);
    qtest_system_reset(qts);
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 0);
}

/* The device comes back, with another policy; and the path of its socket. */
#define REPLUG SERVER_DEVICE_ADD_WITH(" 'x-dma-split': %s,")

/*
 * A page of 4 MiB goes, and another range is shared already when the device
 * arrives.  With page, nothing is ever split.
 */
static void test_policies(QTestState *qts, Server *s)
{
    const struct {
        const char *policy;
        unsigned extents, splits, unmaps;
    } policies[] = {
        { "auto", 1 + 10, 1, 1 },
        { "page", 512 + 1023, 0, 1 },
    };

    gm_convert(qts, "m0", 32 * MiB, 2 * MiB, false);
    for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
        qtest_qmp_device_del(qts, "dev");
        qtest_qmp_assert_success(qts, REPLUG, policies[i].policy, s->socket);
        gm_convert(qts, "m0", 64 * MiB, 4 * MiB, false);
        gm_convert(qts, "m0", 64 * MiB + 20 * KiB, 4 * KiB, true);
        check_exact(qts, s, "m0", 0);
        g_assert_cmpuint(gm_listener(qts, "m0", FIRMWARE_END, "extents"), ==,
                         policies[i].extents);
        g_assert_cmpuint(gm_listener(qts, "m0", FIRMWARE_END, "splits"), ==,
                         policies[i].splits);
        g_assert_cmpuint(gm_listener(qts, "m0", FIRMWARE_END, "unmap-calls"),
                         ==, policies[i].unmaps);
        gm_convert(qts, "m0", 64 * MiB, 4 * MiB, true);
        check_exact(qts, s, "m0", 0);
    }
}

/* Only an iommufd cuts mappings; there were more policies, and of the memory. */
static void test_bad_policies(QTestState *qts, Server *s)
{
    qtest_qmp_device_del(qts, "dev");
    gm_assert_failure(qts, qtest_qmp(qts, REPLUG, "cut", s->socket),
                      "x-dma-split=cut needs iommufd");
    gm_assert_failure(qts, qtest_qmp(qts, REPLUG, "staged", s->socket),
                      "'staged'");
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'object-add',"
                                     " 'arguments': { 'qom-type': '" BACKEND
                                     "', 'id': 'm1', 'size': 4096,"
                                     " 'x-dma-split': 'auto' } }"),
                      "x-dma-split=auto is not an option of memory: give it "
                      "to each vfio-pci and vfio-user-pci device");
    server_plug(qts, s);
    gm_convert(qts, "m0", 16 * MiB, 4096, false);
    check_exact(qts, s, "m0", 0);
}

/* An ivshmem-plain */
#define SHMEM QPCI_DEVFN(4, 0)

/*
 * A guest lays 256 bytes of MMIO over memory that is in a BAR: the page that
 * has them cannot be mapped, and what is left begins and ends within it.  It
 * may do so when the server is dead.
 */
static void test_unaligned(QTestState *qts, Server *s)
{
    const uint64_t gpa = 0xe0000000, inside = gpa + 0x1400;

    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_0, gpa + 16 * MiB);
    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_3, 0);
    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_2, gpa);
    gm_config_writel(qts, SHMEM, PCI_COMMAND, PCI_COMMAND_MEMORY);
    check_maps(s, gpa, 2 * MiB, "0+2097152");
    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_0, inside);
    check_maps(s, gpa, 2 * MiB, "0+4096 8192+2088960");
    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_0, gpa + 16 * MiB);
    check_maps(s, gpa, 2 * MiB, "0+2097152");

    server_kill(s);
    gm_config_writel(qts, SHMEM, PCI_BASE_ADDRESS_0, inside);
    gm_convert(qts, "m1", 0, 4096, true);
    gm_convert(qts, "m1", 0, 4096, false);
    qtest_qmp_device_del(qts, "dev");
    gm_convert(qts, "m1", 0, 4096, true);
}

/* The server would not answer before the first device has gone. */
static void test_same_socket(QTestState *qts, Server *s)
{
    const char add[] = "{ 'execute': 'device_add', 'arguments': {"
                       " 'driver': 'vfio-user-pci', 'id': %s, 'bus': 'rp2',"
                       " 'socket': { 'type': 'unix', 'path': %s } } }";

    gm_assert_failure(qts, qtest_qmp(qts, add, "dev", s->socket),
                      "Duplicate device ID");
    /* A slot that was powered on, by a reset, waits for the guest. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    check_exact(qts, s, "m0", 0);
    qtest_qmp_device_del_send(qts, "dev");
    gm_assert_failure(qts, qtest_qmp(qts, add, "dev2", s->socket),
                      "is that of a device that is being unplugged");
    gm_slot_power_off(qts, 1);
    qtest_qmp_assert_success(qts, add, "dev2", s->socket);
    check_exact(qts, s, "m0", 0);
}

/* A file that is no device is refused, whether or not the device has an id. */
static void test_fd(void)
{
    QTestState *qts;
    int fd;

    if (!qtest_has_device("vfio-pci")) {
        g_test_skip("no vfio-pci");
        return;
    }
    qts = qtest_init("-nodefaults -machine q35 "
                     "-device pcie-root-port,id=rp,chassis=1");
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    qtest_qmp_fds_assert_success(qts, &fd, 1, "{ 'execute': 'getfd',"
                                 " 'arguments': { 'fdname': 'iommu' } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': 'iommufd', 'id': 'iommufd0',"
                             " 'fd': 'iommu' } }");
    for (int i = 0; i < 2; i++) {
        qtest_qmp_fds_assert_success(qts, &fd, 1, "{ 'execute': 'getfd',"
                                     " 'arguments': { 'fdname': 'dev' } }");
        gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'device_add',"
                                         " 'arguments': { %s: %s,"
                                         " 'driver': 'vfio-pci', 'bus': 'rp',"
                                         " 'iommufd': 'iommufd0',"
                                         " 'fd': 'dev' } }",
                                         i ? "id" : "x-dma-split",
                                         i ? "dev" : "auto"),
                          "error bind device fd=");
    }
    close(fd);
    qtest_quit(qts);
}

/* A server that says so of itself, and remembers what is mapped. */
static BadServer *start_limited(Server *s, const char *capabilities)
{
    BadServer *front = bad_server_start(s);

    bad_server_keep_maps(front);
    bad_server_negotiate(front, capabilities);
    return front;
}

/*
 * The device arrives when there are more runs than it can have mappings, and
 * when there are not.  The server would need an open file for each.
 */
static void test_limit(void)
{
    const uint64_t base = 16 * MiB;
    const unsigned runs = 2000, limit = 1500, fit = 1400;
    g_autofree char *caps = g_strdup_printf("{ \"capabilities\": {"
                                            " \"max_dma_maps\": %u } }",
                                            limit);
    g_autofree char *needs =
        g_strdup_printf("it takes %u mappings, and 0 of %u", runs, limit);
    g_autofree char *maps = NULL;
    BadServer *front;
    QTestState *qts;
    Server *s = server_start();

    if (!s) {
        return;
    }
    front = start_limited(s, caps);
    qts = qtest_init("-nodefaults -m 1G -machine q35,memory-backend=m0 "
                       "-object " BACKEND ",id=m0,size=1G,driver=emulated,"
                       "init=private -device pcie-root-port,id=rp,chassis=1");
    for (unsigned i = 0; i < runs; i++) {
        gm_convert(qts, "m0", base + i * 8192, 4096, false);
    }
    gm_assert_failure(qts, qtest_qmp(qts, SERVER_DEVICE_ADD,
                                     bad_server_socket(front)), needs);
    bad_server_wait_disconnected(front);
    gm_convert(qts, "m0", base, 4096, true);
    gm_convert(qts, "m0", base, 4096, false);

    gm_convert(qts, "m0", base + fit * 8192, (runs - fit) * 8192, true);
    g_test_timer_start();
    qtest_qmp_assert_success(qts, SERVER_DEVICE_ADD, bad_server_socket(front));
    g_test_message("%u mappings in %.1f s", fit, g_test_timer_elapsed());
    maps = bad_server_maps(front);
    check_exact_maps(qts, maps, "m0", 0);
    gm_convert(qts, "m0", base, runs * 8192, true);
    g_free(maps);
    maps = bad_server_maps(front);
    check_exact_maps(qts, maps, "m0", 0);
    qtest_quit(qts);
    bad_server_stop(front);
    server_stop(s);
}

/*
 * A VM of more pieces of 2 MiB than a device may have mappings: it has larger
 * pieces.  Page by page it is refused.
 */
static void test_large(void)
{
    const uint64_t limit = 65535, low = 2 * GiB, high = 138 * GiB;
    BadServer *front;
    QTestState *qts;
    Server *s = server_start();

    if (!s) {
        return;
    }
    front = start_limited(s, "{ \"capabilities\": {"
                          " \"max_dma_maps\": 65535 } }");
    qts = qtest_init("-nodefaults -m 140G -machine q35,memory-backend=m0 "
                     "-object " BACKEND ",id=m0,size=140G,driver=emulated,"
                     "init=shared,reserve=off "
                     "-device pcie-root-port,id=rp,chassis=1");
    gm_assert_failure(qts, qtest_qmp(qts, SERVER_DEVICE_ADD_WITH(
                                     " 'x-dma-split': 'page',"),
                                     bad_server_socket(front)),
                      "use x-dma-split=auto");
    bad_server_wait_disconnected(front);
    qtest_qmp_assert_success(qts, SERVER_DEVICE_ADD, bad_server_socket(front));
    g_assert_cmpuint(high / (2 * MiB), >, limit);
    g_assert_cmpuint(gm_listener(qts, "m0", 4 * GiB, "mapped-bytes"), ==, high);
    g_assert_cmpuint(gm_listener(qts, "m0", 4 * GiB, "extents"), <=, limit);
    gm_convert(qts, "m0", low + 4096, 4096, true);
    g_assert_cmpuint(gm_listener(qts, "m0", 4 * GiB, "mapped-bytes"), ==,
                     high - 4096);
    qtest_quit(qts);
    bad_server_stop(front);
    server_stop(s);
}

static const ServerTest tests[] = {
    { "guest-memfd-dma/convert", NULL, test_convert },
    { "guest-memfd-dma/hmp", NULL, test_hmp },
    { "guest-memfd-dma/random", NULL, test_random },
    { "guest-memfd-dma/thousands", NULL, test_thousands },
    { "guest-memfd-dma/policies", NULL, test_policies },
    { "guest-memfd-dma/bad-policies", NULL, test_bad_policies },
    { "guest-memfd-dma/device-hotplug", NULL, test_device_hotplug },
    { "guest-memfd-dma/dimm-hotplug", NULL, test_dimm_hotplug },
    { "guest-memfd-dma/two-dimms", NULL, test_two_dimms },
    { "guest-memfd-dma/remap", NULL, test_remap },
    { "guest-memfd-dma/boundaries",
      "-device pcie-root-port,id=rp2,chassis=2,addr=2", test_boundaries },
    { "guest-memfd-dma/same-socket",
      "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off "
      "-device pcie-root-port,id=rp2,chassis=2,addr=2", test_same_socket },
    { "guest-memfd-dma/server-dies", NULL, test_server_dies },
    { "guest-memfd-dma/server-dies-reset", NULL, test_server_dies_reset },
    { "guest-memfd-dma/unaligned", "-object " BACKEND ",id=m1,size=2M,"
      "driver=emulated -device ivshmem-plain,memdev=m1,addr=4",
      test_unaligned },
    { }
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    server_add_tests(tests);
    qtest_add_func("guest-memfd-dma/limit", test_limit);
    qtest_add_func("guest-memfd-dma/large", test_large);
    qtest_add_func("guest-memfd-dma/fd", test_fd);
    return g_test_run();
}
