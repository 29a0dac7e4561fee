/*
 * A device that does DMA, and what it has mapped (tests/vfio-user/edu-server.c)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "guest-memfd-server.h"
#include "guest-memfd-util.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

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

Server *server_start(void)
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

void server_plug(QTestState *qts, Server *s)
{
    qtest_qmp_assert_success(qts, SERVER_DEVICE_ADD, s->socket);
}

static void run_test(const void *opaque)
{
    const ServerTest *test = opaque;
    Server *s = server_start();
    QTestState *qts;

    if (!s) {
        return;
    }
    qts = qtest_initf(SERVER_MACHINE "%s", test->args ?: "");
    server_plug(qts, s);
    test->run(qts, s);
    qtest_quit(qts);
    server_stop(s);
}

void server_add_tests(const ServerTest *tests)
{
    for (; tests->name; tests++) {
        qtest_add_data_func(tests->name, tests, run_test);
    }
}

void server_kill(Server *s)
{
    if (s->pid) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
}

void server_stop(Server *s)
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

char *server_query(Server *s, const char *command)
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

/* What of @maps is in [@gpa, @gpa + @size), as "OFFSET+SIZE …" from @gpa. */
static char *maps_of(const char *maps, uint64_t gpa, uint64_t size)
{
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

void check_maps(Server *s, uint64_t gpa, uint64_t size, const char *expected)
{
    g_autofree char *all = server_query(s, "maps\n");
    g_autofree char *maps = maps_of(all, gpa, size);

    g_assert_cmpstr(maps, ==, expected);
}

/* The bytes of [@gpa, @gpa + @size) that are mapped. */
static uint64_t mapped_bytes(const char *maps, uint64_t gpa, uint64_t size)
{
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

void check_mapped(Server *s, uint64_t gpa, uint64_t size)
{
    g_autofree char *maps = server_query(s, "maps\n");

    g_assert_cmpuint(mapped_bytes(maps, gpa, size), ==, size);
}

void check_unmapped(Server *s, uint64_t gpa, uint64_t size)
{
    g_autofree char *maps = server_query(s, "maps\n");

    g_assert_cmpuint(mapped_bytes(maps, gpa, size), ==, 0);
}

/* The extents of @maps, neighbours joined, as "START-END …". */
static char *joined_extents(const char *maps, uint64_t gpa, uint64_t size)
{
    g_autofree char *in = maps_of(maps, gpa, size);
    g_auto(GStrv) extents = g_strsplit(in, " ", -1);
    GString *got = g_string_new(NULL);
    uint64_t start = 0, end = 0;

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
    return g_string_free(got, false);
}

/* The runs of block @id that are shared or private, as "START-END …". */
static char *runs_of(QTestState *qts, const char *id, char state)
{
    g_autofree char *map = gm_map_string(qts, id, 1000);
    g_auto(GStrv) runs = g_strsplit(map, " ", -1);
    GString *s = g_string_new(NULL);
    uint64_t offset = 0;

    for (char **r = runs; *r; r++) {
        uint64_t len = g_ascii_strtoull(*r + 1, NULL, 10);

        if (**r == state) {
            g_string_append_printf(s, "%" PRIu64 "-%" PRIu64 " ", offset,
                                   offset + len);
        }
        offset += len;
    }
    return g_string_free(s, false);
}

void check_exact_maps(QTestState *qts, const char *maps, const char *id,
                      uint64_t gpa)
{
    g_autofree char *got = joined_extents(maps, gpa, gm_bytes(qts, id, "size"));
    g_autofree char *want = runs_of(qts, id, 'S');

    g_assert_cmpstr(got, ==, want);
}

void check_exact(QTestState *qts, Server *s, const char *id, uint64_t gpa)
{
    g_autofree char *maps = server_query(s, "maps\n");

    check_exact_maps(qts, maps, id, gpa);
}

void check_safe(QTestState *qts, Server *s, const char *id, uint64_t gpa)
{
    g_autofree char *maps = server_query(s, "maps\n");
    g_autofree char *private = runs_of(qts, id, 'P');
    g_auto(GStrv) runs = g_strsplit(private, " ", -1);

    for (char **r = runs; *r && **r; r++) {
        uint64_t start = 0, end = 0;

        sscanf(*r, "%" SCNu64 "-%" SCNu64, &start, &end);
        start = MAX(start, gpa < FIRMWARE_END ? FIRMWARE_END - gpa : 0);
        if (start < end) {
            g_assert_cmpuint(mapped_bytes(maps, gpa + start, end - start), ==,
                             0);
        }
    }
}
