/*
 * memory-backend-guest-memfd and devices that misbehave (vfio-user)
 *
 * A machine with two devices: "good" is served as it should be, "bad" by a
 * server that answers late, wrong, twice, never, or dies
 * (guest-memfd-misbehave.c), at one point of something that is done to the
 * memory.  QEMU has to live, the
 * mappings of the good device have to be exact, and private memory is mapped
 * for neither.  When the bad one has become good again, or has been replaced,
 * its mappings are exact too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-misbehave.h"
#include "guest-memfd-server.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

#define MACHINE "-nodefaults -machine q35,memory-backend=m0 " \
                "-m 128M,slots=2,maxmem=4G " \
                "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off " \
                "-object " BACKEND ",id=m0,size=128M,driver=emulated," \
                "init=private -device pcie-root-port,id=rp-good,chassis=1 " \
                "-device ioh3420,id=rp-bad,chassis=2,addr=4"

#define BASE (16 * MiB)
#define DIMM_GPA 0x100000000

/* A server has twice as long.  The short one is for where that has to pass. */
#define SHORT_TIMEOUT_MS 1000
#define LONG_TIMEOUT_MS 20000

/* A peer that does not answer is asked for nothing more than was sent at once. */
#define MAX_ASKED 128

typedef enum Outcome {
    FINE,               /* what is wrong does no harm */
    REFUSED,            /* an error, for this once */
    DEAD,               /* it is lost, until the device is replaced */
} Outcome;

typedef struct Case {
    const char *name;
    EvilDeed deed;
    uint32_t arg;
    Outcome outcome;
    bool slow;          /* QEMU has to wait for its time-out */
} Case;

typedef struct World {
    QTestState *qts;
    Server *good, *bad;
    Evil *evil;
    const Case *c;
    unsigned lost;          /* events about it */
    const char *args;       /* of QEMU, more than MACHINE */
    char *log;              /* of QEMU; NULL: that of the test */
} World;

static const Case cases[] = {
    { "error-0", EVIL_ERROR, 0, REFUSED },
    { "error-enomem", EVIL_ERROR, ENOMEM, REFUSED },
    { "error-4095", EVIL_ERROR, 4095, REFUSED },
    { "error-4096", EVIL_ERROR, 4096, REFUSED },
    { "error-int-min", EVIL_ERROR, 0x80000000, REFUSED },
    { "error-minus-1", EVIL_ERROR, UINT32_MAX, REFUSED },
    { "lie", EVIL_LIE, EBUSY, REFUSED },
    { "other-command", EVIL_COMMAND, 0, FINE },
    { "requests", EVIL_REQUESTS, 0, FINE },
    { "burst", EVIL_BURST, 5000, FINE },
    { "with-body", EVIL_SIZE, 32, FINE },
    { "twice", EVIL_TWICE, 0, DEAD },
    { "other-id", EVIL_ID, 0, DEAD },
    { "with-fd", EVIL_FDS, 0, DEAD },
    { "size-huge", EVIL_SIZE, UINT32_MAX, DEAD },
    { "size-too-large", EVIL_SIZE, 64, DEAD },
    { "size-0", EVIL_SIZE, 0, DEAD },
    { "size-short", EVIL_SIZE, 15, DEAD },
    { "no-reply", EVIL_TYPE, 0, DEAD },
    { "half-header-close", EVIL_HALF_CLOSE, 8, DEAD },
    { "half-body-close", EVIL_HALF_CLOSE, 24, DEAD },
    { "close-first", EVIL_CLOSE_FIRST, 0, DEAD },
    { "close-unread", EVIL_CLOSE_UNREAD, 0, DEAD },
    { "close-last", EVIL_CLOSE_LAST, 0, DEAD },
    { "flood", EVIL_FLOOD, 0, DEAD },
    { "flood-answers", EVIL_FLOOD, 1, DEAD },
    { "half-header", EVIL_HALF, 8, DEAD },
    { "half-body", EVIL_HALF, 24, DEAD, true },
    { "drop", EVIL_DROP, 0, DEAD, true },
    { "mute", EVIL_MUTE, 0, DEAD, true },
    { "late", EVIL_LATE, 0, DEAD, true },
    { "stall", EVIL_STALL, 0, DEAD, true },
};

static QDict *device_add(QTestState *qts, const char *id, const char *socket,
                         unsigned timeout)
{
    g_autofree char *bus = g_strdup_printf("rp-%s", id);

    return qtest_qmp(qts, "{ 'execute': 'device_add', 'arguments': {"
                     " 'driver': 'vfio-user-pci', 'id': %s, 'bus': %s,"
                     " 'x-msg-timeout': %u,"
                     " 'socket': { 'type': 'unix', 'path': %s } } }", id, bus,
                     timeout, socket);
}

static bool succeeded(QDict *rsp)
{
    bool ok = qdict_haskey(rsp, "return");

    g_assert_true(ok || qdict_haskey(rsp, "error"));
    qobject_unref(rsp);
    return ok;
}

static void plug(World *w, const char *id, const char *socket, bool slow)
{
    g_assert_true(succeeded(device_add(w->qts, id, socket,
                                       slow ? SHORT_TIMEOUT_MS :
                                       LONG_TIMEOUT_MS)));
}

static bool convert(World *w, uint64_t offset, uint64_t size, bool private)
{
    return succeeded(qtest_qmp(w->qts, "{ 'execute': 'x-guest-memfd-convert',"
                               " 'arguments': { 'id': 'm0', 'offset': %" PRIu64
                               ", 'size': %" PRIu64 ", 'private': %i } }",
                               offset, size, private));
}

/* With two good devices. */
static void must_convert(World *w, uint64_t offset, uint64_t size, bool private)
{
    g_assert_true(convert(w, offset, size, private));
}

/* With the bad device misbehaving.  One that is lost is in nobody's way. */
static void try_convert(World *w, uint64_t offset, uint64_t size, bool private)
{
    g_assert_cmpint(convert(w, offset, size, private), ==,
                    w->c->outcome != REFUSED);
}

static void arm(World *w, unsigned command, unsigned skip, unsigned count)
{
    evil_arm(w->evil, w->c->deed, w->c->arg, command, skip, count);
}

/* The server has noticed that its client is gone. */
static void wait_detached(World *w)
{
    evil_gone(w->evil);
    for (int i = 0; ; i++) {
        g_autofree char *maps = server_ask(w->bad, "maps\n");

        if (!*maps) {
            return;
        }
        g_assert_cmpint(i, <, 1000000);
    }
}

static bool note_event(QTestState *qts, const char *name, QDict *event,
                       void *opaque)
{
    World *w = opaque;

    if (strcmp(name, "VFIO_USER_LOST")) {
        return false;
    }
    event = qdict_get_qdict(event, "data");
    g_assert_cmpstr(qdict_get_str(event, "device"), ==, "bad");
    g_assert_true(g_str_has_suffix(qdict_get_str(event, "socket"),
                                   evil_socket(w->evil)));
    w->lost++;
    return true;
}

/* A slot that was powered on, by a reset, waits for the guest. */
static void unplug_bad(World *w)
{
    qtest_qmp_device_del_send(w->qts, "bad");
    gm_slot_power_off(w->qts, 4);
    w->lost = 0;
}

static void replace_bad(World *w)
{
    unplug_bad(w);
    must_convert(w, 64 * MiB, 4096, false);
    must_convert(w, 64 * MiB, 4096, true);
    check_exact(w->qts, w->good, "m0", 0);
    plug(w, "bad", evil_socket(w->evil), w->c && w->c->slow);
}

/*
 * Has QEMU given the bad one up?  Conversions do not tell: a page that is made
 * shared now is not mapped by a server that is lost.
 */
static bool is_lost(World *w, uint64_t offset)
{
    g_autofree char *maps = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t iova, size;

    must_convert(w, offset, 4096, false);
    maps = server_ask(w->bad, "maps\n");
    lines = g_strsplit(maps, "\n", -1);
    for (int i = 0; lines[i]; i++) {
        if (sscanf(lines[i], "0x%" PRIx64 " 0x%" PRIx64, &iova, &size) == 2 &&
            offset >= iova && offset < iova + size) {
            return false;
        }
    }
    return true;
}

/* All is well in the end: something works, and the mappings are exact. */
static void check_settled(World *w)
{
    must_convert(w, BASE + 8 * MiB, 4096, false);
    check_exact(w->qts, w->good, "m0", 0);
    check_exact(w->qts, w->bad, "m0", 0);
    must_convert(w, 0, 128 * MiB, true);
    check_exact(w->qts, w->good, "m0", 0);
    check_exact(w->qts, w->bad, "m0", 0);
}

/* What has to be true after each misbehaviour; the bad one is good again. */
static void recover(World *w)
{
    check_exact(w->qts, w->good, "m0", 0);
    if (w->c->outcome == DEAD) {
        wait_detached(w);
        must_convert(w, 64 * MiB, 4096, false);
        check_exact(w->qts, w->good, "m0", 0);
        /* It was said before the server could notice. */
        g_assert_cmpuint(w->lost, ==, 1);
        replace_bad(w);
    } else {
        g_assert_cmpuint(w->lost, ==, 0);
        check_safe(w->qts, w->bad, "m0", 0);
    }
    check_settled(w);
}

static void check_after(World *w)
{
    g_assert_cmpuint(evil_disarm(w->evil), >, 0);
    recover(w);
}

static void scene_to_shared(World *w)
{
    arm(w, EVIL_MAP, 0, 1);
    try_convert(w, BASE, 2 * MiB, false);
    check_after(w);
}

static void scene_to_private(World *w)
{
    must_convert(w, BASE, 2 * MiB, false);
    arm(w, EVIL_UNMAP, 0, 1);
    try_convert(w, BASE, 2 * MiB, true);
    check_after(w);
}

static void scene_split(World *w)
{
    must_convert(w, BASE, 2 * MiB, false);
    arm(w, EVIL_UNMAP, 0, 1);
    try_convert(w, BASE + 20 * KiB, 4096, true);
    check_after(w);
}

/* In the middle of mapping the rest of an extent. */
static void scene_split_rest(World *w)
{
    must_convert(w, BASE, 2 * MiB, false);
    arm(w, EVIL_MAP, 3, 1);
    try_convert(w, BASE + 20 * KiB, 4096, true);
    check_after(w);
}

/* Every second page of the first 64 KiB is shared. */
static void make_runs(World *w)
{
    for (int i = 0; i < 8; i++) {
        must_convert(w, BASE + i * 8192, 4096, false);
    }
}

/* Some runs are done, and are undone. */
static void scene_rollback(World *w)
{
    make_runs(w);
    arm(w, EVIL_MAP, 3, 1);
    try_convert(w, BASE, 64 * KiB, false);
    check_after(w);

    make_runs(w);
    arm(w, EVIL_UNMAP, 3, 1);
    try_convert(w, BASE, 64 * KiB, true);
    check_after(w);
}

/* The same, and undoing fails as well. */
static void scene_no_rollback(World *w)
{
    make_runs(w);
    arm(w, 0, 3, EVIL_FOR_EVER);
    try_convert(w, BASE, 64 * KiB, false);
    check_after(w);

    make_runs(w);
    arm(w, 0, 3, EVIL_FOR_EVER);
    try_convert(w, BASE, 64 * KiB, true);
    check_after(w);
}

static void scene_reset(World *w)
{
    make_runs(w);
    arm(w, EVIL_UNMAP, 3, 1);
    qtest_system_reset(w->qts);
    check_after(w);
}

/* Nobody asks a peer that does not answer for each of its mappings. */
static void check_bounded(World *w)
{
    unsigned asked = evil_disarm(w->evil);

    g_assert_cmpuint(asked, >, 0);
    if (w->c->slow) {
        g_assert_cmpuint(asked, <=, MAX_ASKED);
    }
}

static void scene_reset_for_ever(World *w)
{
    make_runs(w);
    arm(w, 0, 0, EVIL_FOR_EVER);
    qtest_system_reset(w->qts);
    check_bounded(w);
    recover(w);
}

/* One that answers only what it is asked because it has not answered before. */
static void scene_reset_half(World *w)
{
    make_runs(w);
    arm(w, EVIL_UNMAP, 0, EVIL_FOR_EVER);
    qtest_system_reset(w->qts);
    check_bounded(w);
    recover(w);
}

static void scene_unplug(World *w)
{
    make_runs(w);
    arm(w, 0, 0, EVIL_FOR_EVER);
    unplug_bad(w);
    check_bounded(w);
    check_exact(w->qts, w->good, "m0", 0);
    must_convert(w, BASE, 2 * MiB, false);
    check_exact(w->qts, w->good, "m0", 0);
    plug(w, "bad", evil_socket(w->evil), w->c->slow);
    check_settled(w);
}

/* The device arrives, and misbehaves while it is given the memory. */
static void scene_plug(World *w)
{
    make_runs(w);
    unplug_bad(w);
    arm(w, EVIL_MAP, 5, EVIL_FOR_EVER);
    g_assert_cmpint(succeeded(device_add(w->qts, "bad", evil_socket(w->evil),
                                         w->c->slow ? SHORT_TIMEOUT_MS :
                                         LONG_TIMEOUT_MS)),
                    ==, w->c->outcome == FINE);
    check_bounded(w);
    check_exact(w->qts, w->good, "m0", 0);
    must_convert(w, BASE + 4 * MiB, 4096, false);
    if (w->c->outcome != FINE) {
        plug(w, "bad", evil_socket(w->evil), w->c->slow);
    }
    check_settled(w);
}

static void plug_dimm(World *w)
{
    qtest_qmp_assert_success(w->qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'driver': 'emulated', 'size': %" PRIu64 " } }",
                             128 * MiB);
    qtest_qmp_device_add(w->qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
}

static void unplug_dimm(World *w)
{
    gm_eject_dimm(w->qts, "dimm1", 0);
    gm_object_del(w->qts, "m1");
    check_unmapped(w->good, DIMM_GPA, 128 * MiB);
}

static void scene_dimm(World *w)
{
    /* It comes */
    arm(w, 0, 0, EVIL_FOR_EVER);
    plug_dimm(w);
    check_exact(w->qts, w->good, "m1", DIMM_GPA);
    check_bounded(w);
    if (w->c->outcome == DEAD) {
        replace_bad(w);
    }
    gm_convert(w->qts, "m1", 0, 4096, true);
    gm_convert(w->qts, "m1", 0, 4096, false);
    check_exact(w->qts, w->bad, "m1", DIMM_GPA);

    /* and goes, with the server in the dark or with a lie. */
    arm(w, 0, 0, EVIL_FOR_EVER);
    unplug_dimm(w);
    check_bounded(w);
    check_exact(w->qts, w->good, "m0", 0);
    replace_bad(w);
    check_settled(w);
}

static void (*const scenes[])(World *w) = {
    scene_to_shared, scene_to_private, scene_split, scene_split_rest,
    scene_rollback, scene_no_rollback, scene_reset, scene_reset_for_ever,
    scene_reset_half, scene_unplug, scene_plug, scene_dimm,
};

static bool world_start(World *w)
{
    w->good = server_start();
    if (!w->good) {
        return false;
    }
    w->bad = server_start();
    w->evil = evil_start(w->bad);
    w->qts = qtest_initf(MACHINE " %s%s%s", w->args ?: "", w->log ? " 2>" : "",
                         w->log ?: "");
    qtest_qmp_set_event_callback(w->qts, note_event, w);
    plug(w, "good", w->good->socket, false);
    plug(w, "bad", evil_socket(w->evil), w->c && w->c->slow);
    return true;
}

static void world_stop(World *w)
{
    qtest_quit(w->qts);
    evil_stop(w->evil);
    server_stop(w->bad);
    server_stop(w->good);
}

static void test_case(const void *opaque)
{
    World w = { .c = opaque };

    if (!world_start(&w)) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(scenes); i++) {
        scenes[i](&w);
    }
    world_stop(&w);
}

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
    static const Case c = { "requests", EVIL_REQUESTS, 0, FINE };
    World w = { .c = &c };
    unsigned before;

    if (!world_start(&w)) {
        return;
    }
    try_convert(&w, BASE, 4096, false);
    before = nr_fds(w.qts);
    arm(&w, 0, 0, EVIL_FOR_EVER);
    for (int i = 0; i < 20; i++) {
        try_convert(&w, BASE, 4096, i % 2 == 0);
    }
    /* QEMU has answered them all when it has answered what came after. */
    evil_disarm(w.evil);
    must_convert(&w, BASE, 4096, true);
    qtest_system_reset(w.qts);
    g_assert_cmpuint(nr_fds(w.qts), ==, before);
    world_stop(&w);
}

/* A world whose QEMU writes to a file, not to the log of the test. */
static bool world_start_quiet(World *w)
{
    int fd = g_file_open_tmp("guest-memfd-XXXXXX", &w->log, NULL);
    bool started;

    close(fd);
    started = world_start(w);
    if (!started) {
        unlink(w->log);
        g_free(w->log);
    }
    return started;
}

/* A few lines and no more are what QEMU has to say. */
static void world_stop_quiet(World *w)
{
    g_autofree char *said = NULL;
    g_auto(GStrv) lines = NULL;

    world_stop(w);
    g_assert_true(g_file_get_contents(w->log, &said, NULL, NULL));
    lines = g_strsplit(said, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), <, 20);
    unlink(w->log);
    g_free(w->log);
}

/* A peer that asks all the time and reads no answer, though QEMU has time. */
static void test_flood(void)
{
    static const Case c = { "flood", EVIL_FLOOD, 0, DEAD };
    World w = { .c = &c };

    if (!world_start_quiet(&w)) {
        return;
    }
    /* more than the socket and QEMU hold, but never many at once */
    for (int i = 0; i < 100; i++) {
        evil_flood(w.evil, 1000);
        qtest_qmp_assert_success(w.qts, "{ 'execute': 'query-status' }");
    }
    recover(&w);
    world_stop_quiet(&w);
}

static void pam_write(QTestState *qts, uint8_t reg, uint8_t val)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | (reg & ~3));
    qtest_outb(qts, 0xcfc + (reg & 3), val);
}

/*
 * A guest that goes on converting, or moves memory, does not fill the log; nor
 * does a flood.
 */
static void test_log(void)
{
    static const Case cases[] = {
        { "close-first", EVIL_CLOSE_FIRST, 0, DEAD },
        { "flood", EVIL_FLOOD, 0, DEAD },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        World w = { .c = &cases[i] };

        if (!world_start_quiet(&w)) {
            return;
        }
        arm(&w, 0, 0, 1);
        for (int n = 0; n < 100; n++) {
            try_convert(&w, BASE, 4096, false);
        }
        for (int n = 0; n < 100; n++) {
            pam_write(w.qts, 0x90 + n % 7, n % 2 ? 0x33 : 0);
        }
        world_stop_quiet(&w);
    }
}

/*
 * Other memory that comes or moves while a server is gone or hangs: the device
 * does not reach it, which is no reason to stop.
 */
static void test_other_memory(void)
{
    static const Case hung = { "drop", EVIL_DROP, 0, DEAD, true };
    static const Case gone = { "close-unread", EVIL_CLOSE_UNREAD, 0, DEAD };
    const Case *both[] = { &hung, &gone };

    for (int i = 0; i < ARRAY_SIZE(both); i++) {
        World w = { .c = both[i] };

        if (!world_start(&w)) {
            return;
        }
        arm(&w, 0, 0, EVIL_FOR_EVER);
        for (int reg = 0x90; reg < 0x97; reg++) {
            pam_write(w.qts, reg, 0x33);
        }
        try_convert(&w, BASE, 4096, false);
        qtest_qmp_assert_success(w.qts, "{ 'execute': 'object-add',"
                                 " 'arguments': { 'id': 'm1', 'size': %" PRIu64
                                 ", 'qom-type': 'memory-backend-ram' } }",
                                 128 * MiB);
        qtest_qmp_device_add(w.qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        check_mapped(w.good, DIMM_GPA, 128 * MiB);
        gm_eject_dimm(w.qts, "dimm1", 0);
        check_exact(w.qts, w.good, "m0", 0);
        evil_disarm(w.evil);
        replace_bad(&w);
        check_settled(&w);
        world_stop(&w);
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
    World w = { };

    if (!world_start(&w)) {
        return;
    }
    unplug_bad(&w);
    for (int i = 0; i < ARRAY_SIZE(nonsense); i++) {
        /* The capability that is at fault is named. */
        const char *name = strstr(nonsense[i], "migration") ? "migration" : "";

        evil_negotiate(w.evil, nonsense[i]);
        gm_assert_failure(w.qts, device_add(w.qts, "bad", evil_socket(w.evil),
                                            LONG_TIMEOUT_MS), name);
        must_convert(&w, BASE, 4096, i % 2);
        check_exact(w.qts, w.good, "m0", 0);
    }
    evil_negotiate(w.evil, NULL);
    plug(&w, "bad", evil_socket(w.evil), false);
    check_settled(&w);
    world_stop(&w);
}

static void check_status(QTestState *qts, const char *status)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "return"), "status"), ==,
                    status);
    qobject_unref(rsp);
}

/*
 * A reset that one refuses to unmap memory for leaves it shared.  No guest may
 * boot from it, until another reset works.
 */
static void test_refused_reset(void)
{
    static const Case c = { "refused-reset", EVIL_ERROR, EBUSY, REFUSED };
    World w = { .c = &c };
    g_autofree char *said = NULL;

    if (!world_start_quiet(&w)) {
        return;
    }
    /* What has to be shared is, whoever has it mapped. */
    plug_dimm(&w);
    make_runs(&w);
    check_status(w.qts, "running");

    arm(&w, EVIL_UNMAP, 0, EVIL_FOR_EVER);
    qtest_system_reset(w.qts);
    check_status(w.qts, "internal-error");
    qtest_qmp_eventwait(w.qts, "STOP");
    g_assert_cmpuint(gm_bytes(w.qts, "m0", "shared-bytes"), ==, 8 * 4096);
    check_exact(w.qts, w.good, "m0", 0);
    check_exact(w.qts, w.good, "m1", DIMM_GPA);
    check_safe(w.qts, w.bad, "m0", 0);

    /* The monitor works, and the VM does not go on. */
    gm_assert_failure(w.qts, qtest_qmp(w.qts, "{ 'execute': 'cont' }"),
                      "Resetting the Virtual Machine is required");
    check_status(w.qts, "internal-error");
    g_assert_true(g_file_get_contents(w.log, &said, NULL, NULL));
    g_assert_nonnull(strstr(said, "cannot bring all of 'm0' back to its initial "
                            "state: "));
    g_assert_null(strstr(said, "all of 'm1'"));

    /* Nor does it after another one like that. */
    qtest_system_reset(w.qts);
    gm_assert_failure(w.qts, qtest_qmp(w.qts, "{ 'execute': 'cont' }"),
                      "Resetting the Virtual Machine is required");
    check_status(w.qts, "internal-error");

    g_assert_cmpuint(evil_disarm(w.evil), >, 0);
    qtest_system_reset(w.qts);
    g_assert_cmpuint(gm_bytes(w.qts, "m0", "shared-bytes"), ==, 0);
    check_exact(w.qts, w.bad, "m0", 0);
    check_exact(w.qts, w.bad, "m1", DIMM_GPA);
    qtest_qmp_assert_success(w.qts, "{ 'execute': 'cont' }");
    qtest_qmp_eventwait(w.qts, "RESUME");
    check_status(w.qts, "running");
    unplug_dimm(&w);
    check_settled(&w);
    world_stop_quiet(&w);
}

/* A guest asks for pages of two blocks at once, and the second is refused. */
static void test_second_block(void)
{
    static const Case c = { "second-block", EVIL_ERROR, EBUSY, REFUSED };
    const uint64_t border = DIMM_GPA + 64 * MiB;
    World w = {
        .c = &c,
        .args = "-device guest-memfd-testdev,addr=5 "
                "-object " BACKEND ",id=m1,size=64M,driver=emulated "
                "-device pc-dimm,memdev=m1,addr=0x100000000 "
                "-object " BACKEND ",id=m2,size=64M,driver=emulated "
                "-device pc-dimm,memdev=m2,addr=0x104000000",
    };
    GmTestdev t;

    if (!world_start(&w)) {
        return;
    }
    t = gm_testdev_open(w.qts, 5);
    for (int to_private = 0; to_private < 2; to_private++) {
        const char *before = to_private ? "S67108864" : "P67108864";
        unsigned command = to_private ? GM_TO_PRIVATE : GM_TO_SHARED;

        qtest_clock_step(w.qts, NANOSECONDS_PER_SECOND);    /* the next event */
        gm_convert(w.qts, "m1", 0, 64 * MiB, !to_private);
        gm_convert(w.qts, "m2", 0, 64 * MiB, !to_private);
        arm(&w, to_private ? EVIL_UNMAP : EVIL_MAP, 1, 1);
        g_assert_cmpint(gm_testdev_command(&t, border - 3 * 4096, 5 * 4096,
                                           command), ==, -EBUSY);
        gm_assert_failed_event(w.qts, "m2", 0, 2 * 4096, to_private,
                               "a DMA listener refused");
        g_assert_cmpuint(evil_disarm(w.evil), ==, 1);
        gm_assert_map(w.qts, "m1", before);
        gm_assert_map(w.qts, "m2", before);
        for (int i = 0; i < 2; i++) {
            Server *s = i ? w.bad : w.good;

            check_exact(w.qts, s, "m1", DIMM_GPA);
            check_exact(w.qts, s, "m2", border);
        }
        g_assert_cmpint(gm_testdev_command(&t, border - 3 * 4096, 5 * 4096,
                                           command), ==, 0);
    }
    gm_testdev_close(&t);
    world_stop(&w);
}

/* What failed, and why, are two parts of an error. */
static void test_connect_error(void)
{
    static const Case c = { "connect-error", EVIL_ERROR, ENOMEM, REFUSED };
    World w = { .c = &c };

    if (!world_start(&w)) {
        return;
    }
    must_convert(&w, BASE, 4096, false);
    unplug_bad(&w);
    arm(&w, EVIL_MAP, 0, EVIL_FOR_EVER);
    gm_assert_failure(w.qts, device_add(w.qts, "bad", evil_socket(w.evil),
                                        LONG_TIMEOUT_MS),
                      "failed to connect proxy: ");
    evil_disarm(w.evil);
    world_stop(&w);
}

/* One that answers with errors while its device is realized. */
static void test_plug_errors(void)
{
    static const Case c = { "plug-errors", EVIL_ERROR, EIO, REFUSED };
    World w = { .c = &c };

    if (!world_start(&w)) {
        return;
    }
    unplug_bad(&w);
    for (unsigned command = EVIL_GET_INFO; command <= EVIL_RESET; command++) {
        for (unsigned skip = 0, done = 1; done; skip++) {
            for (int for_ever = 0; for_ever < 2; for_ever++) {
                arm(&w, command, skip, for_ever ? EVIL_FOR_EVER : 1);
                if (succeeded(device_add(w.qts, "bad", evil_socket(w.evil),
                                         LONG_TIMEOUT_MS))) {
                    done = evil_disarm(w.evil);
                    unplug_bad(&w);
                } else {
                    done = evil_disarm(w.evil);
                    g_assert_cmpuint(done, >, 0);
                }
                check_exact(w.qts, w.good, "m0", 0);
            }
        }
    }
    plug(&w, "bad", evil_socket(w.evil), false);
    check_settled(&w);
    world_stop(&w);
}

/* Let the bad server do DMA while QEMU, with the BQL, waits for it. */
static void dma_while_waiting(World *w, EvilDma *dma)
{
    evil_set_dma(w->evil, dma);
    arm(w, EVIL_MAP, 0, 1);
    must_convert(w, BASE + 4 * MiB, 4096, false);
    g_assert_cmpuint(evil_disarm(w->evil), ==, 1);
    must_convert(w, BASE + 4 * MiB, 4096, true);
}

/*
 * DMA by messages is done while QEMU waits for the server, in what is shared, with
 * the data where the specification has them.
 */
static void test_dma_messages(void)
{
    static const Case c = { "dma-messages", EVIL_DMA, 0, FINE };
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
    World w = { .c = &c };

    if (!world_start(&w)) {
        return;
    }
    /*
     * A reset powers its slot on.  Bus 1 is behind the port of the bad device,
     * which becomes bus master.
     */
    qtest_system_reset(w.qts);
    qtest_outl(w.qts, 0xcf8, 0x80000000 | 4 << 11 | PCI_PRIMARY_BUS);
    qtest_outl(w.qts, 0xcfc, 0x010100);
    qtest_outl(w.qts, 0xcf8, 0x80000000 | 1 << 16 | PCI_COMMAND);
    qtest_outw(w.qts, 0xcfc, PCI_COMMAND_MASTER);
    must_convert(&w, BASE, 4096, false);

    for (int i = 0; i < ARRAY_SIZE(tries); i++) {
        for (int write = 0; write < 2; write++) {
            EvilDma dma = { .addr = tries[i].addr, .count = tries[i].count,
                            .write = write };

            for (int n = 0; n < sizeof(before); n++) {
                before[n] = g_test_rand_int();
                dma.data[n] = g_test_rand_int();
            }
            memcpy(after, write ? dma.data : before, sizeof(after));
            if (tries[i].addr < 64 * MiB) {
                qtest_memwrite(w.qts, tries[i].addr, before, sizeof(before));
            }
            dma_while_waiting(&w, &dma);
            g_assert_cmpuint(dma.error, ==, tries[i].error);
            if (!dma.error) {
                g_assert_cmpmem(dma.data, dma.count, after, dma.count);
            } else {
                memcpy(after, before, sizeof(after));
            }
            if (tries[i].addr < 64 * MiB) {
                uint8_t now[512];

                qtest_memread(w.qts, tries[i].addr, now, sizeof(now));
                g_assert_cmpmem(now, dma.count, after, dma.count);
                g_assert_cmpmem(now + dma.count, sizeof(now) - dma.count,
                                before + dma.count, sizeof(now) - dma.count);
            }
        }
    }
    check_settled(&w);
    world_stop(&w);
}

/* Everything at once. */
static void test_random(void)
{
    World w = { };
    unsigned misbehaved = 0;

    if (!world_start(&w)) {
        return;
    }
    for (int i = 0; i < 400; i++) {
        uint64_t first = g_test_rand_int_range(4096, 4096 + 512);
        uint64_t nr = g_test_rand_int_range(1, 65);

        w.c = &cases[g_test_rand_int_range(0, ARRAY_SIZE(cases))];
        if (w.c->slow || (w.c->outcome == DEAD && g_test_rand_int() % 4)) {
            continue;
        }
        arm(&w, g_test_rand_int_range(0, 2) * g_test_rand_int_range(2, 4),
            g_test_rand_int_range(0, 8), g_test_rand_int_range(1, 8));
        convert(&w, first * 4096, nr * 4096, g_test_rand_bit());
        check_exact(w.qts, w.good, "m0", 0);
        misbehaved += evil_disarm(w.evil);
        check_safe(w.qts, w.bad, "m0", 0);
        if (is_lost(&w, BASE + 8 * MiB)) {
            replace_bad(&w);
        }
        must_convert(&w, BASE + 8 * MiB, 4096, true);
        check_exact(w.qts, w.good, "m0", 0);
        check_exact(w.qts, w.bad, "m0", 0);
    }
    g_assert_cmpuint(misbehaved, >, 50);
    world_stop(&w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *name = g_strdup_printf("guest-memfd-server/%s",
                                                cases[i].name);

        qtest_add_data_func(name, &cases[i], test_case);
    }
    qtest_add_func("guest-memfd-server/fds", test_fds);
    qtest_add_func("guest-memfd-server/flood-idle", test_flood);
    qtest_add_func("guest-memfd-server/log", test_log);
    qtest_add_func("guest-memfd-server/other-memory", test_other_memory);
    qtest_add_func("guest-memfd-server/negotiation", test_negotiation);
    qtest_add_func("guest-memfd-server/refused-reset", test_refused_reset);
    qtest_add_func("guest-memfd-server/second-block", test_second_block);
    qtest_add_func("guest-memfd-server/connect-error", test_connect_error);
    qtest_add_func("guest-memfd-server/plug-errors", test_plug_errors);
    qtest_add_func("guest-memfd-server/dma-messages", test_dma_messages);
    qtest_add_func("guest-memfd-server/random", test_random);
    return g_test_run();
}
