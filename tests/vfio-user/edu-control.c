/*
 * vfio-user server: the control socket
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "edu-server.h"

#define CONTROL_MAX_LINE        256

static void control_command(EduServer *s, ControlClient *c, const char *line)
{
    guint i;

    if (!strcmp(line, "maps")) {
        for (i = 0; i < s->maps->len; i++) {
            Mapping *m = &g_array_index(s->maps, Mapping, i);

            g_string_append_printf(c->out,
                                   "0x%" PRIx64 " 0x%" PRIx64 " %s %s\n",
                                   m->iova, m->size,
                                   m->prot & PROT_WRITE ? "rw" : "r--",
                                   m->has_fd ? "fd" : "nofd");
        }
    } else if (!strcmp(line, "stats")) {
        g_string_append_printf(c->out,
                               "map %" PRIu64 "\n"
                               "unmap %" PRIu64 "\n"
                               "dma-ok %" PRIu64 "\n"
                               "dma-failed %" PRIu64 "\n"
                               "mappings %u\n"
                               "mappings-max %" PRIu64 "\n",
                               s->nr_map, s->nr_unmap, s->nr_dma_ok,
                               s->nr_dma_failed, s->maps->len, s->max_maps);
    } else if (!strcmp(line, "quit")) {
        s->quit = true;
    } else {
        g_string_append(c->out, "error unknown command\n");
    }
    g_string_append(c->out, "end\n");
}

void control_close(ControlClient *c)
{
    close(c->fd);
    c->fd = -1;
    g_string_free(c->in, true);
    g_string_free(c->out, true);
}

void control_accept(EduServer *s)
{
    int fd = accept4(s->control_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int i;

    if (fd < 0) {
        return;
    }
    for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        ControlClient *c = &s->control[i];

        if (c->fd < 0) {
            c->fd = fd;
            c->closing = false;
            c->in = g_string_new(NULL);
            c->out = g_string_new(NULL);
            return;
        }
    }
    close(fd);
}

void control_read(EduServer *s, ControlClient *c)
{
    char buf[CONTROL_MAX_LINE];
    char *newline;
    ssize_t n = read(c->fd, buf, sizeof(buf));

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        c->closing = true;
        return;
    }
    g_string_append_len(c->in, buf, n);
    while ((newline = memchr(c->in->str, '\n', c->in->len))) {
        *newline = '\0';
        control_command(s, c, c->in->str);
        g_string_erase(c->in, 0, newline - c->in->str + 1);
    }
    if (c->in->len >= CONTROL_MAX_LINE) {
        c->closing = true;
    }
}

void control_write(ControlClient *c)
{
    ssize_t n = send(c->fd, c->out->str, c->out->len, MSG_NOSIGNAL);

    if (n > 0) {
        g_string_erase(c->out, 0, n);
    } else if (errno != EAGAIN && errno != EINTR) {
        g_string_truncate(c->out, 0);
        c->closing = true;
    }
}

bool control_create(EduServer *s, const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(addr.sun_path)) {
        error_report("control socket path is too long: %s", path);
        return false;
    }
    strcpy(addr.sun_path, path);
    s->control_fd = socket(AF_UNIX,
                           SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->control_fd < 0 ||
        bind(s->control_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        error_report("cannot listen on %s: %s", path, strerror(errno));
        return false;
    }
    if (listen(s->control_fd, CONTROL_MAX_CLIENTS) < 0) {
        error_report("cannot listen on %s: %s", path, strerror(errno));
        unlink(path);
        return false;
    }
    return true;
}
