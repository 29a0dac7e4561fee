/*
 * memory-backend-guest-memfd and a device that does DMA (vfio-user)
 *
 * The device is a server of its own (tests/vfio-user/edu-server.c), which says
 * what it has mapped: that is compared with QEMU's map after each step.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Native PCIe hotplug: a slot that no guest powered on is unplugged at once. */
#define Q35 "-nodefaults -machine q35,memory-backend=m0 -m 128M,slots=2," \
            "maxmem=4G -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off "
#define M0 "-object " BACKEND ",id=m0,size=128M,driver=emulated,init=private "

/* Below, ROMs lie over the RAM, and are mapped like all that is no RAM. */
#define FIRMWARE_END 0x100000

typedef struct Server {
    GPid pid;
    char *dir;
    char *socket;
    char *control;
} Server;

static char *server_path(void)
{
    const char *env = getenv("EDU_SERVER");
    g_autofree char *qemu = realpath(qtest_qemu_binary(NULL), NULL);
    g_autofree char *dir = NULL;

    if (env) {
        return g_strdup(env);
    }
    dir = g_path_get_dirname(qemu ?: ".");
    return g_build_filename(dir, "tests", "vfio-user", "edu-server", NULL);
}

/* A test that fails must not leave its server behind. */
static void die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Start a server; returns when it listens.  NULL, and skipped, without one. */
static Server *server_start(void)
{
    g_autofree char *path = server_path();
    Server *s;
    int out;
    char c;

    if (access(path, X_OK)) {
        g_test_skip("edu-server is not built (no libvfio-user)");
        return NULL;
    }
    s = g_new0(Server, 1);
    s->dir = g_dir_make_tmp("guest-memfd-XXXXXX", NULL);
    s->socket = g_build_filename(s->dir, "device", NULL);
    s->control = g_build_filename(s->dir, "control", NULL);

    const char *argv[] = { path, "--control", s->control, s->socket, NULL };

    g_assert_true(g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                                           G_SPAWN_DO_NOT_REAP_CHILD,
                                           die_with_parent, NULL, &s->pid, NULL,
                                           &out, NULL, NULL));
    do {
        g_assert_cmpint(read(out, &c, 1), ==, 1);
    } while (c != '\n');
    close(out);
    return s;
}

static void server_kill(Server *s)
{
    if (s->pid) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
}

static void server_stop(Server *s)
{
    server_kill(s);
    unlink(s->socket);
    unlink(s->control);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s->socket);
    g_free(s->control);
    g_free(s);
}

/* The answer to a command on the control socket, without its "end". */
static char *server_ask(Server *s, const char *command)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    GString *answer = g_string_new(NULL);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char buf[4096];

    pstrcpy(addr.sun_path, sizeof(addr.sun_path), s->control);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(write(fd, command, strlen(command)), ==, strlen(command));
    while (!g_str_has_suffix(answer->str, "end\n")) {
        ssize_t n = read(fd, buf, sizeof(buf));

        g_assert_cmpint(n, >, 0);
        g_string_append_len(answer, buf, n);
    }
    close(fd);
    g_string_truncate(answer, answer->len - strlen("end\n"));
    return g_string_free(answer, false);
}

/*
 * What is mapped in [@gpa, @gpa + @size) as "OFFSET+SIZE …" from @gpa, one for
 * each mapping.
 */
static char *server_maps(Server *s, uint64_t gpa, uint64_t size)
{
    g_autofree char *maps = server_ask(s, "maps\n");
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    GString *str = g_string_new(NULL);

    for (char **line = lines; *line && **line; line++) {
        uint64_t start, len;

        g_assert_cmpint(sscanf(*line, "0x%" SCNx64 " 0x%" SCNx64, &start, &len),
                        ==, 2);
        if (start >= gpa && start < gpa + size) {
            g_string_append_printf(str, "%s%" PRIu64 "+%" PRIu64,
                                   str->len ? " " : "", start - gpa, len);
        }
    }
    return g_string_free(str, false);
}

static void check_maps(Server *s, uint64_t gpa, uint64_t size,
                       const char *expected)
{
    g_autofree char *maps = server_maps(s, gpa, size);

    g_assert_cmpstr(maps, ==, expected);
}

/*
 * Every shared byte of @id, which lies at @gpa, is mapped once, and no private
 * byte is: neighbouring mappings joined, they are the shared runs.
 */
static void check_exact(QTestState *qts, Server *s, const char *id,
                        uint64_t gpa)
{
    uint64_t size = gm_bytes(qts, id, "size");
    g_autofree char *maps = server_maps(s, gpa, size);
    g_autofree char *map = gm_map_string(qts, id, 1000);
    g_auto(GStrv) extents = g_strsplit(maps, " ", -1);
    g_auto(GStrv) runs = g_strsplit(map, " ", -1);
    GString *got = g_string_new(NULL), *want = g_string_new(NULL);
    uint64_t start = 0, end = 0, offset = 0;

    for (char **e = extents; ; e++) {
        uint64_t o = UINT64_MAX, len = 0;

        if (*e && **e) {
            sscanf(*e, "%" SCNu64 "+%" SCNu64, &o, &len);
            g_assert_cmpuint(o, >=, end);
            if (gpa + o < FIRMWARE_END) {
                continue;
            }
        }
        if (o != end) {
            if (end > start) {
                g_string_append_printf(got, "%" PRIu64 "-%" PRIu64 " ", start,
                                       end);
            }
            start = o;
        }
        if (!len) {
            break;
        }
        end = o + len;
    }
    for (char **r = runs; *r; r++) {
        uint64_t len = g_ascii_strtoull(*r + 1, NULL, 10);

        if (**r == 'S') {
            g_string_append_printf(want, "%" PRIu64 "-%" PRIu64 " ", offset,
                                   offset + len);
        }
        offset += len;
    }
    g_assert_cmpstr(got->str, ==, want->str);
    g_string_free(got, true);
    g_string_free(want, true);
}

/* The bytes of [@gpa, @gpa + @size) that are mapped. */
static uint64_t mapped_bytes(Server *s, uint64_t gpa, uint64_t size)
{
    g_autofree char *maps = server_ask(s, "maps\n");
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    uint64_t bytes = 0;

    for (char **line = lines; *line && **line; line++) {
        uint64_t start, len, from, to;

        g_assert_cmpint(sscanf(*line, "0x%" SCNx64 " 0x%" SCNx64, &start, &len),
                        ==, 2);
        from = MAX(start, gpa);
        to = MIN(start + len, gpa + size);
        bytes += from < to ? to - from : 0;
    }
    return bytes;
}

static void check_mapped(Server *s, uint64_t gpa, uint64_t size)
{
    g_assert_cmpuint(mapped_bytes(s, gpa, size), ==, size);
}

static void check_unmapped(Server *s, uint64_t gpa, uint64_t size)
{
    g_assert_cmpuint(mapped_bytes(s, gpa, size), ==, 0);
}

#define DEVICE_ADD "{ 'execute': 'device_add', 'arguments': {" \
                   " 'driver': 'vfio-user-pci', 'id': 'dev', 'bus': 'rp'," \
                   " 'socket': { 'type': 'unix', 'path': %s } } }"

static void device_add(QTestState *qts, Server *s)
{
    qtest_qmp_assert_success(qts, DEVICE_ADD, s->socket);
}

typedef struct DmaTest {
    const char *name;
    void (*run)(QTestState *qts, Server *s);
} DmaTest;

/* Around each test: a server of its own, and a machine with its device. */
static void run_test(const void *opaque)
{
    const DmaTest *test = opaque;
    Server *s = server_start();
    QTestState *qts;

    if (!s) {
        return;
    }
    qts = qtest_init(Q35 M0 "-device pcie-root-port,id=rp,chassis=1");
    device_add(qts, s);
    test->run(qts, s);
    qtest_quit(qts);
    server_stop(s);
}

/* Counters of the listener whose section starts at @gpa. */
static uint64_t listener(QTestState *qts, const char *id, uint64_t gpa,
                         const char *counter)
{
    g_autofree char *at = g_strdup_printf("@0x%" PRIx64, gpa);
    QDict *block = gm_block(qts, id);
    uint64_t val = UINT64_MAX;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(block, "listeners"), e) {
        QDict *l = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_has_suffix(qdict_get_str(l, "name"), at)) {
            val = qdict_get_int(l, counter);
        }
    }
    qobject_unref(block);
    g_assert_cmpuint(val, !=, UINT64_MAX);
    return val;
}

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
    g_assert_cmpuint(listener(qts, "m0", gpa, "splits"), ==, 0);
    g_assert_cmpuint(listener(qts, "m0", gpa, "map-calls"), ==, 2);
    g_assert_cmpuint(listener(qts, "m0", gpa, "unmap-calls"), ==, 1);

    /* A part of one: the rest in naturally aligned powers of two. */
    gm_convert(qts, "m0", 64 * MiB + 20 * KiB, 4 * KiB, true);
    check_maps(s, 64 * MiB, 64 * MiB,
               "0+16384 16384+4096 24576+8192 32768+32768 65536+65536 "
               "131072+131072 262144+262144 524288+524288 1048576+1048576");
    g_assert_cmpuint(listener(qts, "m0", gpa, "splits"), ==, 1);
    g_assert_cmpuint(listener(qts, "m0", gpa, "extents"), ==, 9);
    g_assert_cmpuint(listener(qts, "m0", gpa, "mapped-bytes"), ==,
                     2 * MiB - 4096);
    check_exact(qts, s, "m0", 0);

    /* Back again, over pieces that are there already. */
    gm_convert(qts, "m0", 63 * MiB, 4 * MiB, false);
    check_exact(qts, s, "m0", 0);
    gm_convert(qts, "m0", 0, 128 * MiB, true);
    check_exact(qts, s, "m0", 0);
    g_assert_cmpuint(listener(qts, "m0", gpa, "extents"), ==, 0);

    /* Reset: private again, so nothing is mapped. */
    gm_convert(qts, "m0", 8 * MiB, 8 * MiB, false);
    qtest_system_reset(qts);
    check_exact(qts, s, "m0", 0);

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
    g_assert_cmpuint(listener(qts, "m0", FIRMWARE_END, "extents"), ==, 3000);
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
        device_add(qts, s);
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

static void pam_write(QTestState *qts, uint8_t reg, uint8_t val)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | (reg & ~3));
    qtest_outb(qts, 0xcfc + (reg & 3), val);
}

/*
 * The guest remaps memory below 1 MiB (q35's PAM registers, 0x90 to 0x96),
 * which splits and joins the sections of RAM that the device follows.
 */
static void test_remap(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    for (int i = 0; i < 64; i++) {
        /* Memory or ROM, readable, writable or both, in 16 KiB steps. */
        pam_write(qts, 0x90 + g_test_rand_int_range(0, 7),
                  g_test_rand_int_range(0, 256) & 0x33);
        gm_convert(qts, "m0", 16 * MiB + i * 8192, 4096, i & 1);
        check_exact(qts, s, "m0", 0);
    }
    /* All of it RAM, and shared: now what is below 1 MiB is seen, too. */
    pam_write(qts, 0x90, 0x30);
    for (int i = 1; i < 7; i++) {
        pam_write(qts, 0x90 + i, 0x33);
    }
    gm_convert(qts, "m0", 0xc0000, 0x40000, false);
    check_mapped(s, 0xc0000, 0x40000);
    gm_convert(qts, "m0", 0xc4000, 4096, true);
    check_unmapped(s, 0xc4000, 4096);
    check_mapped(s, 0xc5000, 0x3b000);
}

/* A dead device fails conversions, and nothing else; without it they work. */
static void test_server_dies(QTestState *qts, Server *s)
{
    QDict *event;

    gm_convert(qts, "m0", 16 * MiB, 4 * MiB, false);
    server_kill(s);

    gm_convert_fails(qts, "m0", 32 * MiB, 2 * MiB, false,
                     "a DMA listener refused");
    event = qtest_qmp_eventwait_ref(qts, "GUEST_MEMFD_CONVERSION_FAILED");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(event, "data"), "id"), ==,
                    "m0");
    g_assert_cmpuint(qdict_get_int(qdict_get_qdict(event, "data"), "offset"),
                     ==, 32 * MiB);
    qobject_unref(event);
    gm_convert_fails(qts, "m0", 16 * MiB, 4096, true, "refused");
    gm_convert_fails(qts, "m0", 16 * MiB, 4 * MiB, true, "");
    g_assert_cmpuint(gm_bytes(qts, "m0", "shared-bytes"), ==, 4 * MiB);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-shared", "failures"), ==, 1);
    g_assert_cmpuint(gm_stat(qts, "m0", "to-private", "failures"), ==, 2);

    /* Memory plugged now is no reason to stop: the device cannot reach it. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'driver': 'emulated', 'size': %" PRIu64 " } }",
                             128 * MiB);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
    g_assert_cmpuint(listener(qts, "m1", 0x100000000, "mapped-bytes"), ==, 0);
    gm_convert_fails(qts, "m1", 0, 4096, false, "");
    gm_eject_dimm(qts, "dimm1", 0);
    gm_object_del(qts, "m1");

    qtest_qmp_device_del(qts, "dev");
    gm_convert(qts, "m0", 32 * MiB, 2 * MiB, false);
    gm_convert(qts, "m0", 0, 128 * MiB, true);
}

/* A page of 4 MiB goes, in memory of 4 KiB pages, by each policy. */
static void test_policies(QTestState *qts, Server *s)
{
    const struct {
        const char *policy;
        unsigned extents, splits, unmaps;
    } rows[] = {
        { "auto", 10, 1, 1 },
        { "log", 10, 1, 1 },
        { "staged", 1 + 511, 1, 1 },
        { "flat", 2, 1, 1 },
        { "page", 1023, 0, 1 },
    };
    const uint64_t gpa = 4 * GiB;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                                 " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                                 " 'driver': 'emulated', 'init': 'private',"
                                 " 'x-dma-split': %s, 'size': %" PRIu64 " } }",
                                 rows[i].policy, 128 * MiB);
        qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        gm_convert(qts, "m1", 64 * MiB, 4 * MiB, false);
        gm_convert(qts, "m1", 64 * MiB + 20 * KiB, 4 * KiB, true);
        check_exact(qts, s, "m1", gpa);
        g_assert_cmpuint(listener(qts, "m1", gpa, "extents"), ==,
                         rows[i].extents);
        g_assert_cmpuint(listener(qts, "m1", gpa, "splits"), ==,
                         rows[i].splits);
        g_assert_cmpuint(listener(qts, "m1", gpa, "unmap-calls"), ==,
                         rows[i].unmaps);
        gm_convert(qts, "m1", 0, 128 * MiB, true);
        check_exact(qts, s, "m1", gpa);
        gm_eject_dimm(qts, "dimm1", 0);
        gm_object_del(qts, "m1");
    }
}

/* Nothing but an iommufd cuts mappings, and memory is not mapped otherwise. */
static void test_cut(QTestState *qts, Server *s)
{
    const uint64_t gpa = 0x100000000;

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'x-dma-split': 'cut', 'driver': 'emulated',"
                             " 'size': %" PRIu64 " } }", 128 * MiB);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
    check_maps(s, gpa, 128 * MiB, "");
    gm_convert(qts, "m1", 0, 4096, true);
    gm_convert_fails(qts, "m1", 0, 4096, false, "cannot map");
    gm_convert(qts, "m0", 16 * MiB, 4096, false);
    check_exact(qts, s, "m0", 0);

    qtest_qmp_device_del(qts, "dev");
    gm_assert_failure(qts, qtest_qmp(qts, DEVICE_ADD, s->socket),
                      "x-dma-split=cut of 'm1' needs iommufd");
    gm_convert(qts, "m1", 0, 4096, false);
    gm_eject_dimm(qts, "dimm1", 0);
    gm_object_del(qts, "m1");
    device_add(qts, s);
    check_exact(qts, s, "m0", 0);
}

static const DmaTest tests[] = {
    { "guest-memfd-dma/convert", test_convert },
    { "guest-memfd-dma/random", test_random },
    { "guest-memfd-dma/thousands", test_thousands },
    { "guest-memfd-dma/policies", test_policies },
    { "guest-memfd-dma/cut", test_cut },
    { "guest-memfd-dma/device-hotplug", test_device_hotplug },
    { "guest-memfd-dma/dimm-hotplug", test_dimm_hotplug },
    { "guest-memfd-dma/two-dimms", test_two_dimms },
    { "guest-memfd-dma/remap", test_remap },
    { "guest-memfd-dma/server-dies", test_server_dies },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        qtest_add_data_func(tests[i].name, &tests[i], run_test);
    }
    return g_test_run();
}
