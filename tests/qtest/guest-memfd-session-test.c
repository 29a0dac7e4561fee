/*
 * memory-backend-guest-memfd and the connection to a vfio-user server
 *
 * A server is not trusted.  It says nonsense about itself, answers with errors
 * while its device comes, sends requests without end, and does DMA by messages.
 * QEMU has to live, holds nothing that the server has sent, does not fill its
 * log, and reads and writes only memory that is shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-trial.h"

/* The file descriptors that QEMU has open. */
static unsigned nr_fds(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(qts));
    GDir *dir = g_dir_open(path, 0, NULL);
    unsigned nr = 0;

    while (g_dir_read_name(dir)) {
        nr++;
    }
    g_dir_close(dir);
    return nr;
}

/* What a server sends along does not stay open. */
static void test_fds(void)
{
    static const Case c = { "requests", MISBEHAVE_REQUESTS, 0, FINE };
    Trial t = { .c = &c };
    unsigned before;

    if (!trial_start(&t, NULL)) {
        return;
    }
    trial_convert_beside(&t, BASE, 4096, false);
    before = nr_fds(t.p.qts);
    trial_arm(&t, MAP_OR_UNMAP, 0, FOREVER);
    for (int i = 0; i < 20; i++) {
        trial_convert_beside(&t, BASE, 4096, i % 2 == 0);
    }
    /* QEMU has answered them all when it has answered what came after. */
    bad_server_disarm(t.p.front);
    gm_convert(t.p.qts, "m0", BASE, 4096, true);
    qtest_system_reset(t.p.qts);
    g_assert_cmpuint(nr_fds(t.p.qts), ==, before);
    trial_stop(&t);
}

/* A server sends requests all the time and reads no reply; QEMU has time. */
static void test_flood(void)
{
    static const Case c = { "flood", MISBEHAVE_FLOOD, 0, LOST };
    Trial t = { .c = &c };

    if (!trial_start_quiet(&t, NULL)) {
        return;
    }
    /* more than the socket and QEMU hold, but never many at once */
    for (int i = 0; i < 100; i++) {
        bad_server_flood(t.p.front, 1000);
        qtest_qmp_assert_success(t.p.qts, "{ 'execute': 'query-status' }");
    }
    trial_recover(&t);
    trial_stop_quiet(&t);
}

/*
 * A guest that goes on converting, or moves memory, does not fill the log; nor
 * does a flood.
 */
static void test_log(void)
{
    static const Case cases[] = {
        { "close-first", MISBEHAVE_CLOSE_FIRST, 0, LOST },
        { "flood", MISBEHAVE_FLOOD, 0, LOST },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        Trial t = { .c = &cases[i] };

        if (!trial_start_quiet(&t, NULL)) {
            return;
        }
        trial_arm(&t, MAP_OR_UNMAP, 0, 1);
        for (int n = 0; n < 100; n++) {
            trial_convert_beside(&t, BASE, 4096, false);
        }
        for (int n = 0; n < 100; n++) {
            gm_pam_write(t.p.qts, n % GM_PAM_REGS, n % 2 ? 0x33 : 0);
        }
        trial_stop_quiet(&t);
    }
}

/*
 * Other memory that comes or moves while a server is gone or does not answer:
 * the device does not reach it, which is not a reason to stop.
 */
static void test_other_memory(void)
{
    static const Case silent = { "drop", MISBEHAVE_DROP, 0, LOST, true };
    static const Case gone = { "close-unread", MISBEHAVE_CLOSE_UNREAD, 0,
                               LOST };
    const Case *both[] = { &silent, &gone };

    for (int i = 0; i < ARRAY_SIZE(both); i++) {
        Trial t = { .c = both[i] };

        if (!trial_start(&t, NULL)) {
            return;
        }
        trial_arm(&t, MAP_OR_UNMAP, 0, FOREVER);
        for (int n = 0; n < GM_PAM_REGS; n++) {
            gm_pam_write(t.p.qts, n, 0x33);
        }
        trial_convert_beside(&t, BASE, 4096, false);
        qtest_qmp_assert_success(t.p.qts, "{ 'execute': 'object-add',"
                                 " 'arguments': { 'id': 'm1', 'size': %" PRIu64
                                 ", 'qom-type': 'memory-backend-ram' } }",
                                 128 * MiB);
        qtest_qmp_device_add(t.p.qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        check_mapped(t.p.good, DIMM_GPA, 128 * MiB);
        gm_eject_dimm(t.p.qts, "dimm1", 0);
        check_exact(t.p.qts, t.p.good, "m0", 0);
        bad_server_disarm(t.p.front);
        trial_replace_bad(&t);
        trial_settled(&t);
        trial_stop(&t);
    }
}

/* A server that says nonsense about itself is no device. */
static void test_negotiation(void)
{
    static const char *const nonsense[] = {
        "", "{", "[]", "{ \"capabilities\": [] }",
        "{ \"capabilities\": { \"pgsizes\": 0 } }",
        "{ \"capabilities\": { \"pgsizes\": 4097 } }",
        "{ \"capabilities\": { \"migration\": 5 } }",
        "{ \"capabilities\": { \"max_dma_maps\": -1 } }",
        "{ \"capabilities\": { \"max_dma_maps\": 65536 } }",
        "{ \"capabilities\": { \"max_data_xfer_size\": 1e30 } }",
    };
    /* Not nonsense, but of no use for memory that is converted in pages */
    const uint64_t page = qemu_real_host_page_size();
    g_autofree char *coarse =
        g_strdup_printf("{ \"capabilities\": { \"pgsizes\": %" PRIu64 " } }",
                        6 * page);
    g_autofree char *says =
        g_strdup_printf("which is converted in pages of %" PRIu64 " KiB, "
                        "because it maps %" PRIu64 " KiB at least", page / KiB,
                        2 * page / KiB);
    Trial t = { };

    if (!trial_start(&t, NULL)) {
        return;
    }
    trial_unplug_bad(&t);
    for (int i = 0; i < ARRAY_SIZE(nonsense); i++) {
        /* The capability that is at fault is named. */
        const char *name = strstr(nonsense[i], "migration") ? "migration" : "";

        bad_server_negotiate(t.p.front, nonsense[i]);
        gm_assert_failure(t.p.qts, pair_device_add(&t.p, true), name);
        gm_convert(t.p.qts, "m0", BASE, 4096, i % 2);
        check_exact(t.p.qts, t.p.good, "m0", 0);
    }
    bad_server_negotiate(t.p.front, coarse);
    gm_assert_failure(t.p.qts, pair_device_add(&t.p, true), says);
    check_exact(t.p.qts, t.p.good, "m0", 0);
    bad_server_negotiate(t.p.front, NULL);
    pair_plug(&t.p, true);
    trial_settled(&t);
    trial_stop(&t);
}

/* What failed, and why, are two parts of an error. */
static void test_connect_error(void)
{
    static const Case c = { "connect-error", MISBEHAVE_ERROR, ENOMEM, REFUSED };
    Trial t = { .c = &c };

    if (!trial_start(&t, NULL)) {
        return;
    }
    gm_convert(t.p.qts, "m0", BASE, 4096, false);
    trial_unplug_bad(&t);
    trial_arm(&t, VFIO_USER_DMA_MAP, 0, FOREVER);
    gm_assert_failure(t.p.qts, pair_device_add(&t.p, true),
                      "failed to connect proxy: ");
    bad_server_disarm(t.p.front);
    trial_stop(&t);
}

/* Plug the bad device, and unplug it; how often it has misbehaved. */
static unsigned try_plug(Trial *t)
{
    QDict *rsp = pair_device_add(&t->p, true);
    bool plugged = qdict_haskey(rsp, "return");
    unsigned done = bad_server_disarm(t->p.front);

    if (plugged) {
        trial_unplug_bad(t);
    } else {
        g_assert_cmpuint(done, >, 0);
    }
    qobject_unref(rsp);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    return done;
}

/* One that answers with errors while its device is realized. */
static void test_plug_errors(void)
{
    static const Case c = { "plug-errors", MISBEHAVE_ERROR, EIO, REFUSED };
    Trial t = { .c = &c };

    if (!trial_start(&t, NULL)) {
        return;
    }
    trial_unplug_bad(&t);
    for (unsigned command = VFIO_USER_DEVICE_GET_INFO;
         command <= VFIO_USER_DEVICE_RESET; command++) {
        for (unsigned skip = 0, done = 1; done; skip++) {
            trial_arm(&t, command, skip, 1);
            try_plug(&t);
            trial_arm(&t, command, skip, FOREVER);
            done = try_plug(&t);
        }
    }
    pair_plug(&t.p, true);
    trial_settled(&t);
    trial_stop(&t);
}

/* Let the bad server do DMA while QEMU, with the BQL, waits for it. */
static void dma_while_waiting(Trial *t, ServerDma *dma)
{
    bad_server_set_dma(t->p.front, dma);
    trial_arm(t, VFIO_USER_DMA_MAP, 0, 1);
    gm_convert(t->p.qts, "m0", BASE + 4 * MiB, 4096, false);
    g_assert_cmpuint(bad_server_disarm(t->p.front), ==, 1);
    gm_convert(t->p.qts, "m0", BASE + 4 * MiB, 4096, true);
}

/*
 * DMA by messages is done while QEMU waits for the server, in what is shared,
 * with the data where the specification has them.
 */
static void test_dma_messages(void)
{
    static const Case c = { "dma-messages", MISBEHAVE_DMA, 0, FINE };
    static const struct {
        uint64_t addr, count;
        uint32_t error;
    } tries[] = {
        { BASE + 256, 512, 0 },
        { BASE + 4096 - 8, 8, 0 },
        { BASE + 4096 - 8, 9, EPERM },          /* its end is private */
        { BASE - 1, 2, EPERM },                 /* its start is */
        { BASE + 4096, 1, EPERM },
        { BASE + 8192, 0, 0 },
        { 128 * MiB - 4, 4, EPERM },
    };
    uint8_t before[512], after[512];
    Trial t = { .c = &c };

    if (!trial_start(&t, NULL)) {
        return;
    }
    /*
     * A reset powers its slot on.  Bus 1 is behind the port of the bad device,
     * which becomes bus master.
     */
    qtest_system_reset(t.p.qts);
    gm_config_writel(t.p.qts, QPCI_DEVFN(PAIR_BAD_SLOT, 0), PCI_PRIMARY_BUS,
                     0x010100);
    gm_config_writel(t.p.qts, 1 << 8, PCI_COMMAND, PCI_COMMAND_MASTER);
    gm_convert(t.p.qts, "m0", BASE, 4096, false);

    for (int i = 0; i < ARRAY_SIZE(tries); i++) {
        for (int write = 0; write < 2; write++) {
            ServerDma dma = { .addr = tries[i].addr, .count = tries[i].count,
                            .write = write };

            for (int n = 0; n < sizeof(before); n++) {
                before[n] = g_test_rand_int();
                dma.data[n] = g_test_rand_int();
            }
            memcpy(after, write ? dma.data : before, sizeof(after));
            if (tries[i].addr < 64 * MiB) {
                qtest_memwrite(t.p.qts, tries[i].addr, before, sizeof(before));
            }
            dma_while_waiting(&t, &dma);
            g_assert_cmpuint(dma.error, ==, tries[i].error);
            if (!dma.error) {
                g_assert_cmpmem(dma.data, dma.count, after, dma.count);
            } else {
                memcpy(after, before, sizeof(after));
            }
            if (tries[i].addr < 64 * MiB) {
                uint8_t now[512];

                qtest_memread(t.p.qts, tries[i].addr, now, sizeof(now));
                g_assert_cmpmem(now, dma.count, after, dma.count);
                g_assert_cmpmem(now + dma.count, sizeof(now) - dma.count,
                                before + dma.count, sizeof(now) - dma.count);
            }
        }
    }
    trial_settled(&t);
    trial_stop(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    trial_init();
    qtest_add_func("guest-memfd-session/fds", test_fds);
    qtest_add_func("guest-memfd-session/flood-idle", test_flood);
    qtest_add_func("guest-memfd-session/log", test_log);
    qtest_add_func("guest-memfd-session/other-memory", test_other_memory);
    qtest_add_func("guest-memfd-session/negotiation", test_negotiation);
    qtest_add_func("guest-memfd-session/connect-error", test_connect_error);
    qtest_add_func("guest-memfd-session/plug-errors", test_plug_errors);
    qtest_add_func("guest-memfd-session/dma-messages", test_dma_messages);
    return g_test_run();
}
