/*
 * A vfio-user server that misbehaves on command
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "guest-memfd-misbehave.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

/* So that a test that would hang fails. */
#define HANG_S 120
#define MAX_FLOOD 1000000

#define ID_OF_DMA 0x7fff
#define OTHER_ID 0x8000

struct BadServer {
    GThread *thread;
    char *server;
    char *socket;
    int listener;
    int qemu;
    int below;              /* the real server */
    int wake[2];
    Message late;
    GQueue unserved;        /* Messages that came before an answer */

    GMutex lock;
    GCond changed;
    bool quit;
    bool sync;              /* somebody waits until all is served */
    unsigned flood;         /* requests to send first */
    bool unresponsive;      /* reads nothing before QEMU has hung up */
    bool connected;
    GTree *maps;            /* iova: size; NULL: they are the server's */
    const char *capabilities;
    DeviceConfig *config;
    ServerDma *dma;
    GmClock *clock;
    bool armed;
    Misbehaviour what;
    uint32_t arg;
    unsigned command, skip, count, done;
};

static void hang_up(BadServer *b)
{
    close(b->qemu);
    close(b->below);
    b->qemu = b->below = -1;
    b->late.hdr.size = 0;
    b->unresponsive = false;
    g_mutex_lock(&b->lock);
    b->connected = false;
    if (b->maps) {
        g_tree_destroy(b->maps);
        b->maps = answer_new_maps();
    }
    g_cond_broadcast(&b->changed);
    g_mutex_unlock(&b->lock);
}

static int open_socket(const char *path, bool passive)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    pstrcpy(addr.sun_path, sizeof(addr.sun_path), path);
    if (passive) {
        g_assert_cmpint(bind(fd, (void *)&addr, sizeof(addr)), ==, 0);
        g_assert_cmpint(listen(fd, 1), ==, 0);
    } else {
        g_assert_cmpint(connect(fd, (void *)&addr, sizeof(addr)), ==, 0);
    }
    return fd;
}

/* What is to be done about this request, if anything. */
static bool misbehaves_now(BadServer *b, const VFIOUserHdr *hdr,
                           Misbehaviour *what, uint32_t *arg)
{
    bool now = false;

    g_mutex_lock(&b->lock);
    if (b->armed && !wire_is_reply(hdr) &&
        (b->command ? b->command == hdr->command :
         hdr->command == VFIO_USER_DMA_MAP ||
         hdr->command == VFIO_USER_DMA_UNMAP)) {
        if (b->skip) {
            b->skip--;
        } else if (b->count) {
            b->count -= b->count != FOREVER;
            b->done++;
            g_cond_broadcast(&b->changed);
            *what = b->what;
            *arg = b->arg;
            now = true;
        }
    }
    g_mutex_unlock(&b->lock);
    return now;
}

/* Answers in place of the server; false if that is for the server to do. */
static bool answer_here(BadServer *b, Message *m)
{
    bool here;

    g_mutex_lock(&b->lock);
    here = (b->config && answer_config(b->config, m)) ||
           (b->maps && answer_dma(b->maps, m));
    g_mutex_unlock(&b->lock);
    return here;
}

/* Let the real server do it; @m becomes the reply. */
static bool serve(BadServer *b, Message *m)
{
    bool version = m->hdr.command == VFIO_USER_VERSION;

    if (answer_here(b, m)) {
        return true;
    }
    wire_pass_on(b->below, m);
    if (!wire_receive(b->below, m)) {
        return false;
    }
    if (version && b->capabilities) {
        VFIOUserVersion *v = (VFIOUserVersion *)m;

        pstrcpy(v->capabilities, WIRE_MAX_BODY - 4, b->capabilities);
        m->hdr.size = sizeof(*v) + strlen(b->capabilities) + 1;
    }
    return true;
}

/* A read that is served, a read of too much, nonsense, nonsense with an fd. */
static void send_requests(BadServer *b, uint16_t id)
{
    Message m = { .hdr = { .id = id, .command = VFIO_USER_DMA_READ,
                           .size = sizeof(VFIOUserDMARW) } };
    VFIOUserDMARW *read = (VFIOUserDMARW *)&m;

    read->offset = 16 * 1024 * 1024;
    read->count = 8;
    wire_send_part(b->qemu, &m, m.hdr.size);
    read->count = UINT32_MAX;
    wire_send_part(b->qemu, &m, m.hdr.size);
    wire_flood(b->qemu, id, VFIO_USER_REQUEST, 1);
    m.hdr.command = 0xffff;
    m.hdr.size = sizeof(m.hdr);
    m.fds[m.nr_fds++] = b->wake[0];
    wire_send_part(b->qemu, &m, m.hdr.size);
}

/*
 * As a server does it that follows the specification: address and count of 64
 * bits, then the data; it waits for the answer, whatever else QEMU has sent.
 */
static void do_dma(BadServer *b, ServerDma *dma)
{
    Message m = { .hdr = { .id = ID_OF_DMA,
                           .command = dma->write ? VFIO_USER_DMA_WRITE :
                                                   VFIO_USER_DMA_READ,
                           .size = sizeof(VFIOUserDMARW) } };
    VFIOUserDMARW *rw = (VFIOUserDMARW *)&m;

    rw->offset = dma->addr;
    rw->count = dma->count;
    if (dma->write) {
        memcpy(rw->data, dma->data, dma->count);
        m.hdr.size += dma->count;
    }
    wire_send_part(b->qemu, &m, m.hdr.size);
    do {
        if (!wire_receive(b->qemu, &m)) {
            dma->error = ENOTCONN;
            return;
        }
        if (!wire_is_reply(&m.hdr)) {
            g_queue_push_tail(&b->unserved, g_memdup2(&m, sizeof(m)));
        }
    } while (!wire_is_reply(&m.hdr));
    dma->error = m.hdr.flags & VFIO_USER_ERROR ? m.hdr.error_reply : 0;
    if (!dma->error) {
        size_t size = m.hdr.size - sizeof(*rw);

        g_assert_cmphex(rw->offset, ==, dma->addr);
        g_assert_cmpuint(rw->count, ==, dma->count);
        g_assert_cmpuint(size, ==, dma->write ? 0 : dma->count);
        memcpy(dma->data, rw->data, size);
    }
}

static void wait_disarmed(BadServer *b)
{
    g_mutex_lock(&b->lock);
    while (b->armed) {
        g_cond_wait(&b->changed, &b->lock);
    }
    g_mutex_unlock(&b->lock);
}

/* @m is a good reply, and goes out bad. */
static void reply_badly(BadServer *b, Message *m, Misbehaviour what,
                        uint32_t arg)
{
    memset(m->body, 0, WIRE_MAX_BODY);
    switch (what) {
    case MISBEHAVE_LIE:
        m->hdr.flags |= VFIO_USER_ERROR;
        m->hdr.error_reply = arg;
        break;
    case MISBEHAVE_LATE:
        b->late = *m;
        return;
    case MISBEHAVE_TWICE:
        wire_send_part(b->qemu, m, m->hdr.size);
        break;
    case MISBEHAVE_ID:
        m->hdr.id += OTHER_ID;
        break;
    case MISBEHAVE_SIZE:
        m->hdr.size = arg;
        wire_send_part(b->qemu, m, MAX(sizeof(m->hdr), arg <= 64 ? arg : 0));
        return;
    case MISBEHAVE_COMMAND:
        m->hdr.command ^= 1;
        break;
    case MISBEHAVE_TYPE:
        m->hdr.flags = 2;
        break;
    case MISBEHAVE_FDS:
        m->fds[m->nr_fds++] = dup(b->wake[0]);
        break;
    case MISBEHAVE_REQUESTS:
        send_requests(b, m->hdr.id);
        break;
    case MISBEHAVE_DMA:
        do_dma(b, b->dma);
        break;
    case MISBEHAVE_BURST:
        wire_flood(b->qemu, m->hdr.id + OTHER_ID, VFIO_USER_REQUEST, arg);
        break;
    case MISBEHAVE_FLOOD:
        g_assert_cmpuint(wire_flood(b->qemu, m->hdr.id + OTHER_ID, arg,
                                    MAX_FLOOD), <, MAX_FLOOD);
        return;
    case MISBEHAVE_HALF:
    case MISBEHAVE_HALF_CLOSE:
        m->hdr.size = 32;
        wire_send_part(b->qemu, m, arg);
        return;
    default:
        return;
    }
    wire_pass_on(b->qemu, m);
}

static bool keeps_silent(Misbehaviour what)
{
    return what == MISBEHAVE_DROP || what == MISBEHAVE_MUTE ||
           what == MISBEHAVE_LATE || what == MISBEHAVE_STALL ||
           what == MISBEHAVE_HALF;
}

/* QEMU may lose its patience, when it has got what it gets. */
static void let_time_pass(BadServer *b)
{
    g_mutex_lock(&b->lock);
    if (b->clock && b->armed) {
        gm_clock_run(b->clock, true);
    }
    g_mutex_unlock(&b->lock);
}

static void misbehave(BadServer *b, Message *m, Misbehaviour what,
                      uint32_t arg)
{
    if (what == MISBEHAVE_STALL) {
        let_time_pass(b);
        wait_disarmed(b);
        if (serve(b, m)) {
            wire_pass_on(b->qemu, m);
        }
        return;
    }
    if (what == MISBEHAVE_ERROR) {
        wire_make_error(m, arg);
        wire_pass_on(b->qemu, m);
        return;
    }
    if (what == MISBEHAVE_DROP || what == MISBEHAVE_CLOSE_FIRST) {
        wire_close_fds(m);
    } else if (serve(b, m)) {
        reply_badly(b, m, what, arg);
    }
    if (what == MISBEHAVE_HALF_CLOSE || what == MISBEHAVE_CLOSE_FIRST ||
        what == MISBEHAVE_CLOSE_LAST) {
        hang_up(b);
    } else if (keeps_silent(what)) {
        let_time_pass(b);
    }
}

static void handle_message(BadServer *b, Message *m)
{
    if (m->hdr.flags & VFIO_USER_NO_REPLY) {
        if (!answer_here(b, m)) {
            wire_pass_on(b->below, m);
        }
    } else if (serve(b, m)) {
        wire_pass_on(b->qemu, m);
    } else {
        hang_up(b);
    }
}

/* One message of QEMU's, and those that came while it was dealt with. */
static void handle_qemu(BadServer *b)
{
    static Message m;
    Message *other;
    Misbehaviour what = 0;
    uint32_t arg = 0;
    bool bad;

    if (recv(b->qemu, &m.hdr, sizeof(m.hdr), MSG_PEEK) != sizeof(m.hdr)) {
        hang_up(b);
        return;
    }
    bad = misbehaves_now(b, &m.hdr, &what, &arg);
    if ((bad && what == MISBEHAVE_CLOSE_UNREAD) ||
        !wire_receive(b->qemu, &m)) {
        hang_up(b);
        return;
    }
    if (wire_is_reply(&m.hdr)) {
        wire_close_fds(&m);
    } else if (bad) {
        misbehave(b, &m, what, arg);
    } else {
        handle_message(b, &m);
    }
    while ((other = g_queue_pop_head(&b->unserved))) {
        handle_message(b, other);
        g_free(other);
    }
}

static void handle_idle(BadServer *b)
{
    if (b->flood && b->qemu >= 0) {
        b->unresponsive = true;
        wire_flood(b->qemu, 0, VFIO_USER_REQUEST, b->flood);
        while (!wire_all_read(b->qemu)) {
            sched_yield();
        }
    }
    b->flood = 0;
    if (b->late.hdr.size) {
        wire_pass_on(b->qemu, &b->late);
        b->late.hdr.size = 0;
    }
    g_mutex_lock(&b->lock);
    b->sync = false;
    g_cond_broadcast(&b->changed);
    g_mutex_unlock(&b->lock);
}

static void *bad_server_thread(void *opaque)
{
    BadServer *b = opaque;

    while (!qatomic_read(&b->quit)) {
        struct pollfd fds[] = {
            { .fd = b->qemu >= 0 ? b->qemu : b->listener,
              .events = b->unresponsive ? 0 : POLLIN },
            { .fd = b->wake[0], .events = POLLIN },
        };
        char c;

        g_assert_cmpint(poll(fds, ARRAY_SIZE(fds), -1), >, 0);
        if (b->qemu >= 0 && fds[0].revents) {
            handle_qemu(b);
        } else if (fds[0].revents) {
            b->qemu = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC);
            b->below = open_socket(b->server, false);
            g_mutex_lock(&b->lock);
            b->connected = true;
            g_mutex_unlock(&b->lock);
        } else if (fds[1].revents) {
            /* Nothing of QEMU's was left. */
            g_assert_cmpint(read(b->wake[0], &c, 1), ==, 1);
            handle_idle(b);
        }
    }
    return NULL;
}

BadServer *bad_server_start(Server *s)
{
    BadServer *b = g_new0(BadServer, 1);

    b->server = g_strdup(s->socket);
    b->socket = g_strdup_printf("%s-bad", s->socket);
    b->listener = open_socket(b->socket, true);
    b->qemu = b->below = -1;
    g_queue_init(&b->unserved);
    g_assert_cmpint(pipe2(b->wake, O_CLOEXEC), ==, 0);
    g_mutex_init(&b->lock);
    g_cond_init(&b->changed);
    b->thread = g_thread_new("bad server", bad_server_thread, b);
    return b;
}

void bad_server_stop(BadServer *b)
{
    bad_server_disarm(b);
    qatomic_set(&b->quit, true);
    g_assert_cmpint(write(b->wake[1], "", 1), ==, 1);
    g_thread_join(b->thread);
    if (b->qemu >= 0) {
        hang_up(b);
    }
    close(b->listener);
    close(b->wake[0]);
    close(b->wake[1]);
    unlink(b->socket);
    g_clear_pointer(&b->maps, g_tree_destroy);
    g_mutex_clear(&b->lock);
    g_cond_clear(&b->changed);
    g_free(b->config);
    g_free(b->server);
    g_free(b->socket);
    g_free(b);
}

const char *bad_server_socket(BadServer *b)
{
    return b->socket;
}

void bad_server_set_clock(BadServer *b, GmClock *clock)
{
    g_mutex_lock(&b->lock);
    b->clock = clock;
    g_mutex_unlock(&b->lock);
}

void bad_server_keep_maps(BadServer *b)
{
    g_mutex_lock(&b->lock);
    b->maps = answer_new_maps();
    g_mutex_unlock(&b->lock);
}

void bad_server_negotiate(BadServer *b, const char *capabilities)
{
    b->capabilities = capabilities;
}

void bad_server_describe(BadServer *b, const DeviceConfig *config)
{
    g_mutex_lock(&b->lock);
    g_free(b->config);
    b->config = config ? g_memdup2(config, sizeof(*config)) : NULL;
    g_mutex_unlock(&b->lock);
}

char *bad_server_maps(BadServer *b)
{
    char *maps;

    g_mutex_lock(&b->lock);
    maps = answer_maps(b->maps);
    g_mutex_unlock(&b->lock);
    return maps;
}

void bad_server_arm(BadServer *b, Misbehaviour what, uint32_t arg,
                    unsigned command, unsigned skip, unsigned count)
{
    g_mutex_lock(&b->lock);
    b->what = what;
    b->arg = arg;
    b->command = command;
    b->skip = skip;
    b->count = count;
    b->done = 0;
    b->armed = true;
    g_mutex_unlock(&b->lock);
}

unsigned bad_server_disarm(BadServer *b)
{
    unsigned done;

    g_mutex_lock(&b->lock);
    b->sync = true;
    g_assert_cmpint(write(b->wake[1], "", 1), ==, 1);
    /* What QEMU has sent up to now is to be misbehaved at; a stall is for ever */
    while (b->sync && !(b->armed && b->what == MISBEHAVE_STALL && b->done)) {
        g_cond_wait(&b->changed, &b->lock);
    }
    b->armed = false;
    g_cond_broadcast(&b->changed);
    if (b->clock) {
        gm_clock_run(b->clock, false);
    }
    while (b->sync) {
        g_cond_wait(&b->changed, &b->lock);
    }
    done = b->done;
    g_mutex_unlock(&b->lock);
    return done;
}

void bad_server_set_dma(BadServer *b, ServerDma *dma)
{
    g_mutex_lock(&b->lock);
    b->dma = dma;
    g_mutex_unlock(&b->lock);
}

void bad_server_flood(BadServer *b, unsigned count)
{
    g_mutex_lock(&b->lock);
    b->flood = count;
    g_mutex_unlock(&b->lock);
    bad_server_disarm(b);
}

void bad_server_wait_disconnected(BadServer *b)
{
    gint64 limit = g_get_monotonic_time() + HANG_S * G_TIME_SPAN_SECOND;

    g_mutex_lock(&b->lock);
    while (b->connected) {
        g_assert_true(g_cond_wait_until(&b->changed, &b->lock, limit));
    }
    g_mutex_unlock(&b->lock);
}
