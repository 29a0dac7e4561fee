/*
 * vfio-user server: an edu device with real DMA
 *
 * Behaves like QEMU's own edu device (hw/misc/edu.c), so that one guest
 * driver serves both, but lives in a process of its own: it reaches guest
 * memory only through the file descriptors that it was handed with
 * VFIO_USER_DMA_MAP.  Memory that is not mapped cannot be read or written, and
 * the guest is told so in the register EDU_REG_DMA_ERROR, which the real
 * device does not have (it reads as all ones there).
 *
 * A control socket lets a test look at the mappings while the device runs:
 *
 *   maps    one line "0xIOVA 0xSIZE rw|r-- fd|nofd" per mapping, then "end"
 *   stats   one line "key value" per counter, then "end"
 *   quit    "end", and the server exits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"

#include <getopt.h>
#include <poll.h>
#include <sys/resource.h>

#include "edu-server.h"

static int wakeup_fd[2] = { -1, -1 };

static void on_signal(int sig)
{
    int saved_errno = errno;

    /* a full pipe has woken the loop already */
    if (write(wakeup_fd[1], "", 1) < 0) {
        errno = saved_errno;
    }
}

static void edu_serve(EduServer *s, bool once)
{
    if (!s->attached) {
        if (vfu_attach_ctx(s->ctx) == 0) {
            s->attached = true;
        } else if (errno != EAGAIN && errno != EWOULDBLOCK) {
            error_report("a client could not attach: %s", strerror(errno));
        }
        return;
    }
    if (vfu_run_ctx(s->ctx) >= 0) {
        return;
    }
    if (errno == ENOTCONN || errno == ESHUTDOWN) {
        s->attached = false;
        s->quit |= once;
    } else if (errno != EINTR) {
        error_report("request failed: %s (with %u mappings, each of which "
                     "needs an open file)", strerror(errno), s->maps->len);
        s->quit = true;
    }
}

static bool edu_loop(EduServer *s, bool once)
{
    enum { WAKEUP, DEVICE, CONTROL, CLIENTS };
    struct pollfd fds[CLIENTS + CONTROL_MAX_CLIENTS];
    int i;

    while (true) {
        bool pending = false;

        fds[WAKEUP] = (struct pollfd) { .fd = wakeup_fd[0], .events = POLLIN };
        fds[DEVICE] = (struct pollfd) {
            .fd = vfu_get_poll_fd(s->ctx),
            .events = POLLIN,
        };
        fds[CONTROL] = (struct pollfd) {
            .fd = s->control_fd,
            .events = POLLIN,
        };
        for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
            ControlClient *c = &s->control[i];

            fds[CLIENTS + i] = (struct pollfd) {
                .fd = c->fd,
                /* one answer at a time bounds what is buffered */
                .events = c->fd < 0 ? 0 : c->out->len ? POLLOUT : POLLIN,
            };
            pending |= c->fd >= 0 && c->out->len;
        }
        if (s->quit && !pending) {
            return true;
        }

        if (poll(fds, ARRAY_SIZE(fds), -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            error_report("poll: %s", strerror(errno));
            return false;
        }

        if (fds[WAKEUP].revents) {
            return true;
        }
        if (fds[DEVICE].revents && !s->quit) {
            edu_serve(s, once);
        }
        for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
            ControlClient *c = &s->control[i];

            if (c->fd < 0 || c->fd != fds[CLIENTS + i].fd) {
                continue;
            }
            if (fds[CLIENTS + i].revents & POLLOUT) {
                control_write(c);
            } else if (fds[CLIENTS + i].revents) {
                control_read(s, c);
            }
            if (c->closing && !c->out->len) {
                control_close(c);
            }
        }
        if (fds[CONTROL].revents) {
            control_accept(s);
        }
    }
}

static void usage(FILE *out)
{
    fprintf(out,
            "usage: %s [options] SOCKET\n"
            "Serve an edu device to a vfio-user client (QEMU's vfio-user-pci)\n"
            "on the UNIX socket SOCKET.\n"
            "  --control PATH   listen there for the commands maps, stats, quit\n"
            "  --ready-fd N     write \"ready\" to N when listening, and close it\n"
            "                   (default: print it on the standard output)\n"
            "  --once           exit when the first client disconnects\n"
            "  --help           print this help\n", g_get_prgname());
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "control", required_argument, NULL, 'c' },
        { "ready-fd", required_argument, NULL, 'r' },
        { "once", no_argument, NULL, 'o' },
        { "help", no_argument, NULL, 'h' },
        { }
    };
    static const char ready[] = "ready\n";
    struct sigaction action = { .sa_handler = on_signal };
    g_autofree EduServer *s = g_new0(EduServer, 1);
    const char *control = NULL;
    struct rlimit limit;
    int ready_fd = STDOUT_FILENO;
    bool once = false, ok = false;
    int opt, i;

    g_set_prgname("edu-server");
    while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (opt) {
        case 'c':
            control = optarg;
            break;
        case 'r':
            if (qemu_strtoi(optarg, NULL, 10, &ready_fd) < 0 || ready_fd < 0) {
                error_report("bad file descriptor: %s", optarg);
                return EXIT_FAILURE;
            }
            break;
        case 'o':
            once = true;
            break;
        case 'h':
            usage(stdout);
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_FAILURE;
        }
    }
    if (optind != argc - 1) {
        usage(stderr);
        return EXIT_FAILURE;
    }

    /* every mapping of the client holds a file descriptor */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }

    if (pipe2(wakeup_fd, O_NONBLOCK | O_CLOEXEC) < 0) {
        error_report("pipe: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);

    s->maps = g_array_new(false, false, sizeof(Mapping));
    s->sgl = g_malloc0(EDU_MAX_SG * dma_sg_size());
    s->control_fd = -1;
    for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        s->control[i].fd = -1;
    }

    if (control && !control_create(s, control)) {
        goto out;
    }
    if (!edu_create(s, argv[optind])) {
        goto out_control;
    }
    if (write(ready_fd, ready, strlen(ready)) < 0) {
        error_report("cannot report being ready: %s", strerror(errno));
        goto out_control;
    }
    if (ready_fd > STDERR_FILENO) {
        close(ready_fd);
    }

    ok = edu_loop(s, once);

out_control:
    if (s->ctx) {
        unlink(argv[optind]);
        vfu_destroy_ctx(s->ctx);
    }
    for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
        if (s->control[i].fd >= 0) {
            control_close(&s->control[i]);
        }
    }
    if (control) {
        close(s->control_fd);
        unlink(control);
    }
out:
    g_array_free(s->maps, true);
    g_free(s->sgl);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
