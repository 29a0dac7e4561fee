/*
 * A vfio-user server that misbehaves on command
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "guest-memfd-misbehave.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The largest message is a read of all of the config space. */
#define MAX_BODY 8192
#define MAX_FDS 16

/* So that a test that would hang fails. */
#define HANG_S 120
#define MAX_FLOOD 1000000

#define VERSION     1
#define REGION_INFO 5
#define IRQ_INFO    7
#define SET_IRQS    8
#define REGION_READ 9
#define REGION_WRITE 10
#define DMA_READ    11
#define DMA_WRITE   12
#define TYPE_MASK   0xf
#define TYPE_REPLY  1
#define NO_REPLY    0x10
#define ERROR_REPLY 0x20

typedef struct Header {
    uint16_t id;
    uint16_t command;
    uint32_t size;
    uint32_t flags;
    uint32_t error;
} Header;

typedef struct Message {
    Header hdr;
    char body[MAX_BODY];
    int fds[MAX_FDS];
    unsigned nr_fds;
} Message;

/* Of DMA_MAP; DMA_UNMAP has no offset. */
typedef struct DmaRange {
    uint32_t argsz;
    uint32_t flags;
    uint64_t at[3];
} DmaRange;

/* Of VFIO_USER_DEVICE_GET_REGION_INFO, and of its reply */
typedef struct RegionInfo {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t cap_offset;
    uint64_t size;
    uint64_t offset;
} RegionInfo;

/* Of VFIO_USER_DEVICE_GET_IRQ_INFO, and of its reply */
typedef struct IrqInfo {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
} IrqInfo;

/* Of VFIO_USER_REGION_READ and VFIO_USER_REGION_WRITE; data follow */
typedef struct RegionIo {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
} RegionIo;

struct Evil {
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
    bool deaf;              /* reads nothing before QEMU has hung up */
    bool connected;
    bool local;
    GTree *maps;            /* iova: size, if local */
    const char *capabilities;
    EvilConfig *config;
    EvilDma *dma;
    bool armed;
    EvilDeed deed;
    uint32_t arg;
    unsigned command, skip, count, done;
};

/* All of it, or false: the other side has hung up. */
static bool receive(int fd, void *buf, size_t size, Message *m)
{
    char control[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    size_t got = 0;

    while (got < size) {
        struct iovec iov = { (char *)buf + got, size - got };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1,
            .msg_control = control, .msg_controllen = sizeof(control),
        };
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (n <= 0) {
            return false;
        }
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c;
             c = CMSG_NXTHDR(&msg, c)) {
            unsigned nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            g_assert_cmpuint(m->nr_fds + nr, <=, MAX_FDS);
            memcpy(m->fds + m->nr_fds, CMSG_DATA(c), nr * sizeof(int));
            m->nr_fds += nr;
        }
        got += n;
    }
    return true;
}

static void close_fds(Message *m)
{
    while (m->nr_fds) {
        close(m->fds[--m->nr_fds]);
    }
}

static bool receive_message(int fd, Message *m)
{
    m->nr_fds = 0;
    if (!receive(fd, &m->hdr, sizeof(m->hdr), m)) {
        close_fds(m);
        return false;
    }
    g_assert_cmpuint(m->hdr.size, >=, sizeof(m->hdr));
    g_assert_cmpuint(m->hdr.size, <=, sizeof(m->hdr) + MAX_BODY);
    if (!receive(fd, m->body, m->hdr.size - sizeof(m->hdr), m)) {
        close_fds(m);
        return false;
    }
    return true;
}

/*
 * The first @size bytes of a message; its descriptors stay open.  False if QEMU
 * has hung up, which shows as an end of file, too.
 */
static bool send_part(int fd, Message *m, size_t size)
{
    char control[CMSG_SPACE(sizeof(int) * MAX_FDS)] = { };
    struct iovec iov[2] = {
        { &m->hdr, MIN(size, sizeof(m->hdr)) },
        { m->body, size - MIN(size, sizeof(m->hdr)) },
    };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

    if (m->nr_fds) {
        struct cmsghdr *c = (struct cmsghdr *)control;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * m->nr_fds);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * m->nr_fds);
        memcpy(CMSG_DATA(c), m->fds, sizeof(int) * m->nr_fds);
    }
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0) {
        return true;
    }
    g_assert_true(errno == EPIPE || errno == ECONNRESET);
    return false;
}

static void pass_on(int fd, Message *m)
{
    send_part(fd, m, m->hdr.size);
    close_fds(m);
}

static gint compare_iova(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t p = *(uint64_t *)a, q = *(uint64_t *)b;

    return p < q ? -1 : p > q;
}

static GTree *new_maps(void)
{
    return g_tree_new_full(compare_iova, NULL, g_free, g_free);
}

static void hang_up(Evil *e)
{
    close(e->qemu);
    close(e->below);
    e->qemu = e->below = -1;
    e->late.hdr.size = 0;
    e->deaf = false;
    g_mutex_lock(&e->lock);
    e->connected = false;
    g_tree_destroy(e->maps);
    e->maps = new_maps();
    g_cond_broadcast(&e->changed);
    g_mutex_unlock(&e->lock);
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

static bool is_dma(const Message *m)
{
    return m->hdr.command == EVIL_MAP || m->hdr.command == EVIL_UNMAP;
}

/* What is to be done about this request, if anything. */
static bool evil_now(Evil *e, const Header *hdr, EvilDeed *deed, uint32_t *arg)
{
    bool now = false;

    g_mutex_lock(&e->lock);
    if (e->armed && (hdr->flags & TYPE_MASK) != TYPE_REPLY &&
        (e->command ? e->command == hdr->command :
         hdr->command == EVIL_MAP || hdr->command == EVIL_UNMAP)) {
        if (e->skip) {
            e->skip--;
        } else if (e->count) {
            e->count -= e->count != EVIL_FOR_EVER;
            e->done++;
            g_cond_broadcast(&e->changed);
            *deed = e->deed;
            *arg = e->arg;
            now = true;
        }
    }
    g_mutex_unlock(&e->lock);
    return now;
}

static void reply_error(Message *m, uint32_t error)
{
    close_fds(m);
    m->hdr.size = sizeof(m->hdr);
    m->hdr.flags |= ERROR_REPLY;
    m->hdr.error = error;
}

static void reply_region_info(const EvilConfig *c, Message *m)
{
    RegionInfo *info = (RegionInfo *)m->body;
    uint32_t argsz = info->argsz;

    info->cap_offset = 0;
    info->offset = 0;
    info->flags = EVIL_REGION_RW;
    info->size = info->index < EVIL_REGIONS ? c->region[info->index] : 0;
    m->hdr.size = sizeof(m->hdr) + sizeof(*info);
    if (info->index == 0 && c->info_argsz) {
        info->argsz = c->info_argsz;
        info->flags = c->info_flags;
        info->cap_offset = c->info_cap_offset;
        memcpy(info + 1, c->info_caps, sizeof(c->info_caps));
        m->hdr.size = MIN(sizeof(m->hdr) + argsz,
                          m->hdr.size + sizeof(c->info_caps));
    }
}

static void reply_region_io(const EvilConfig *c, Message *m, bool read)
{
    RegionIo *io = (RegionIo *)m->body;
    uint8_t *data = (uint8_t *)(io + 1);

    m->hdr.size = sizeof(m->hdr) + sizeof(*io);
    if (c->io_error && io->region != EVIL_CONFIG_REGION) {
        reply_error(m, c->io_error);
        return;
    }
    if (!read) {
        return;
    }
    io->count = MIN(io->count, MAX_BODY - sizeof(*io));
    m->hdr.size += io->count;
    memset(data, c->fill, io->count);
    for (unsigned i = 0; io->region == EVIL_CONFIG_REGION && i < io->count &&
         io->offset + i < sizeof(c->space); i++) {
        data[i] = c->space[io->offset + i];
    }
}

/* What config space and regions are, if the truth is not wanted. */
static bool answer_config(Evil *e, Message *m)
{
    IrqInfo *irq = (IrqInfo *)m->body;
    bool here = true;

    g_mutex_lock(&e->lock);
    if (!e->config) {
        here = false;
    } else if (m->hdr.command == REGION_INFO) {
        reply_region_info(e->config, m);
    } else if (m->hdr.command == IRQ_INFO) {
        irq->flags = e->config->irq_flags;
        irq->count = e->config->irq_count;
    } else if (m->hdr.command == SET_IRQS && e->config->irq_error) {
        reply_error(m, e->config->irq_error);
    } else if (m->hdr.command == REGION_READ ||
               m->hdr.command == REGION_WRITE) {
        reply_region_io(e->config, m, m->hdr.command == REGION_READ);
    } else {
        here = false;
    }
    g_mutex_unlock(&e->lock);
    m->hdr.flags |= here ? TYPE_REPLY : 0;
    return here;
}

/* Answers in place of the server; false if that is for the server to do. */
static bool answer_here(Evil *e, Message *m)
{
    DmaRange *range = (DmaRange *)m->body;
    bool map = m->hdr.command == EVIL_MAP;
    uint64_t iova = range->at[map], size = range->at[map + 1];
    int error = 0;

    if (!e->local || !is_dma(m)) {
        return false;
    }
    g_mutex_lock(&e->lock);
    if (map) {
        g_tree_insert(e->maps, g_memdup2(&iova, sizeof(iova)),
                      g_memdup2(&size, sizeof(size)));
    } else {
        uint64_t *was = g_tree_lookup(e->maps, &iova);

        error = was && *was == size ? 0 : ENOENT;
        if (!error) {
            g_tree_remove(e->maps, &iova);
        }
    }
    g_mutex_unlock(&e->lock);
    close_fds(m);
    m->hdr.size = sizeof(m->hdr);
    m->hdr.flags = TYPE_REPLY | (error ? ERROR_REPLY : 0);
    m->hdr.error = error;
    return true;
}

/* Let the real server do it; @m becomes the reply. */
static bool serve(Evil *e, Message *m)
{
    bool version = m->hdr.command == VERSION;

    if (answer_config(e, m) || answer_here(e, m)) {
        return true;
    }
    pass_on(e->below, m);
    if (!receive_message(e->below, m)) {
        return false;
    }
    if (version && e->capabilities) {
        /* behind two numbers of the version */
        pstrcpy(m->body + 4, MAX_BODY - 4, e->capabilities);
        m->hdr.size = sizeof(m->hdr) + 4 + strlen(e->capabilities) + 1;
    }
    return true;
}

/* A read that is served, a read of too much, nonsense, nonsense with an fd. */
static void send_requests(Evil *e, uint16_t id)
{
    struct {
        uint64_t offset;
        uint32_t region;
        uint32_t count;
    } read = { .offset = 16 * 1024 * 1024, .count = 8 };
    Message m = { .hdr = { .id = id, .command = DMA_READ,
                           .size = sizeof(m.hdr) + sizeof(read) } };

    memcpy(m.body, &read, sizeof(read));
    send_part(e->qemu, &m, m.hdr.size);
    read.count = UINT32_MAX;
    memcpy(m.body, &read, sizeof(read));
    send_part(e->qemu, &m, m.hdr.size);
    m.hdr.size = sizeof(m.hdr);
    m.hdr.command = 0xffff;
    send_part(e->qemu, &m, m.hdr.size);
    m.fds[m.nr_fds++] = e->wake[0];
    send_part(e->qemu, &m, m.hdr.size);
}

/*
 * As a server does it that follows the specification: address and count of 64
 * bits, then the data; it waits for the answer, whatever else QEMU has sent.
 */
static void do_dma(Evil *e, EvilDma *dma)
{
    uint64_t at[2] = { dma->addr, dma->count };
    Message m = { .hdr = { .id = 0x7fff,
                           .command = dma->write ? DMA_WRITE : DMA_READ,
                           .size = sizeof(m.hdr) + sizeof(at) } };

    memcpy(m.body, at, sizeof(at));
    if (dma->write) {
        memcpy(m.body + sizeof(at), dma->data, dma->count);
        m.hdr.size += dma->count;
    }
    send_part(e->qemu, &m, m.hdr.size);
    do {
        if (!receive_message(e->qemu, &m)) {
            dma->error = ENOTCONN;
            return;
        }
        if ((m.hdr.flags & TYPE_MASK) != TYPE_REPLY) {
            g_queue_push_tail(&e->unserved, g_memdup2(&m, sizeof(m)));
        }
    } while ((m.hdr.flags & TYPE_MASK) != TYPE_REPLY);
    dma->error = m.hdr.flags & ERROR_REPLY ? m.hdr.error : 0;
    if (!dma->error) {
        size_t size = m.hdr.size - sizeof(m.hdr);

        g_assert_cmpint(memcmp(m.body, at, sizeof(at)), ==, 0);
        g_assert_cmpuint(size, ==, sizeof(at) + (dma->write ? 0 : dma->count));
        memcpy(dma->data, m.body + sizeof(at), size - sizeof(at));
    }
}

/* QEMU has read all, or has hung up. */
static bool all_read(int fd)
{
    struct pollfd pfd = { .fd = fd };
    int left = 0;

    g_assert_cmpint(ioctl(fd, SIOCOUTQ, &left), ==, 0);
    return !left || (poll(&pfd, 1, 0) > 0 && pfd.revents);
}

/* Send that many messages, or until QEMU hangs up; returns how many. */
static unsigned flood(Evil *e, uint16_t id, uint32_t type, unsigned count)
{
    Message m = { .hdr = { .id = id, .command = 0xffff,
                           .size = sizeof(m.hdr), .flags = type } };
    unsigned sent = 0;

    while (sent < count && send_part(e->qemu, &m, m.hdr.size)) {
        sent++;
    }
    return sent;
}

static void wait_disarmed(Evil *e)
{
    g_mutex_lock(&e->lock);
    while (e->armed) {
        g_cond_wait(&e->changed, &e->lock);
    }
    g_mutex_unlock(&e->lock);
}

/* @m is a good reply, and goes out bad. */
static void reply_badly(Evil *e, Message *m, EvilDeed deed, uint32_t arg)
{
    memset(m->body, 0, MAX_BODY);
    switch (deed) {
    case EVIL_LIE:
        m->hdr.flags |= ERROR_REPLY;
        m->hdr.error = arg;
        break;
    case EVIL_LATE:
        e->late = *m;
        return;
    case EVIL_TWICE:
        send_part(e->qemu, m, m->hdr.size);
        break;
    case EVIL_ID:
        m->hdr.id += 0x8000;
        break;
    case EVIL_SIZE:
        m->hdr.size = arg;
        send_part(e->qemu, m, MAX(sizeof(m->hdr), arg <= 64 ? arg : 0));
        return;
    case EVIL_COMMAND:
        m->hdr.command ^= 1;
        break;
    case EVIL_TYPE:
        m->hdr.flags = 2;
        break;
    case EVIL_FDS:
        m->fds[m->nr_fds++] = dup(e->wake[0]);
        break;
    case EVIL_REQUESTS:
        send_requests(e, m->hdr.id);
        break;
    case EVIL_DMA:
        do_dma(e, e->dma);
        break;
    case EVIL_BURST:
        flood(e, m->hdr.id + 0x8000, 0, arg);
        break;
    case EVIL_FLOOD:
        g_assert_cmpuint(flood(e, m->hdr.id + 0x8000, arg, MAX_FLOOD), <,
                         MAX_FLOOD);
        return;
    case EVIL_HALF:
    case EVIL_HALF_CLOSE:
        m->hdr.size = 32;
        send_part(e->qemu, m, arg);
        return;
    default:
        return;
    }
    pass_on(e->qemu, m);
}

static void misbehave(Evil *e, Message *m, EvilDeed deed, uint32_t arg)
{
    if (deed == EVIL_STALL) {
        wait_disarmed(e);
        if (serve(e, m)) {
            pass_on(e->qemu, m);
        }
        return;
    }
    if (deed == EVIL_ERROR) {
        close_fds(m);
        m->hdr.size = sizeof(m->hdr);
        m->hdr.flags = TYPE_REPLY;
        reply_badly(e, m, EVIL_LIE, arg);
        return;
    }
    if (deed == EVIL_DROP || deed == EVIL_CLOSE_FIRST) {
        close_fds(m);
    } else if (serve(e, m)) {
        reply_badly(e, m, deed, arg);
    }
    if (deed == EVIL_HALF_CLOSE || deed == EVIL_CLOSE_FIRST ||
        deed == EVIL_CLOSE_LAST) {
        hang_up(e);
    }
}

static void handle_message(Evil *e, Message *m)
{
    if (m->hdr.flags & NO_REPLY) {
        if (!answer_config(e, m)) {
            pass_on(e->below, m);
        }
    } else if (serve(e, m)) {
        pass_on(e->qemu, m);
    } else {
        hang_up(e);
    }
}

/* One message of QEMU's, and those that came while it was dealt with. */
static void handle_qemu(Evil *e)
{
    static Message m;
    Message *other;
    EvilDeed deed = 0;
    uint32_t arg = 0;
    bool evil;

    if (recv(e->qemu, &m.hdr, sizeof(m.hdr), MSG_PEEK) != sizeof(m.hdr)) {
        hang_up(e);
        return;
    }
    evil = evil_now(e, &m.hdr, &deed, &arg);
    if ((evil && deed == EVIL_CLOSE_UNREAD) || !receive_message(e->qemu, &m)) {
        hang_up(e);
        return;
    }
    if ((m.hdr.flags & TYPE_MASK) == TYPE_REPLY) {
        close_fds(&m);
    } else if (evil) {
        misbehave(e, &m, deed, arg);
    } else {
        handle_message(e, &m);
    }
    while ((other = g_queue_pop_head(&e->unserved))) {
        handle_message(e, other);
        g_free(other);
    }
}

static void handle_idle(Evil *e)
{
    if (e->flood && e->qemu >= 0) {
        e->deaf = true;
        flood(e, 0, 0, e->flood);
        while (!all_read(e->qemu)) {
            sched_yield();
        }
    }
    e->flood = 0;
    if (e->late.hdr.size) {
        pass_on(e->qemu, &e->late);
        e->late.hdr.size = 0;
    }
    g_mutex_lock(&e->lock);
    e->sync = false;
    g_cond_broadcast(&e->changed);
    g_mutex_unlock(&e->lock);
}

static void *evil_thread(void *opaque)
{
    Evil *e = opaque;

    while (!qatomic_read(&e->quit)) {
        struct pollfd fds[] = {
            { .fd = e->qemu >= 0 ? e->qemu : e->listener,
              .events = e->deaf ? 0 : POLLIN },
            { .fd = e->wake[0], .events = POLLIN },
        };
        char c;

        g_assert_cmpint(poll(fds, ARRAY_SIZE(fds), -1), >, 0);
        if (e->qemu >= 0 && fds[0].revents) {
            handle_qemu(e);
        } else if (fds[0].revents) {
            e->qemu = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC);
            e->below = open_socket(e->server, false);
            g_mutex_lock(&e->lock);
            e->connected = true;
            g_mutex_unlock(&e->lock);
        } else if (fds[1].revents) {
            /* Nothing of QEMU's was left. */
            g_assert_cmpint(read(e->wake[0], &c, 1), ==, 1);
            handle_idle(e);
        }
    }
    return NULL;
}

Evil *evil_start(Server *s)
{
    Evil *e = g_new0(Evil, 1);

    e->server = g_strdup(s->socket);
    e->socket = g_strdup_printf("%s-evil", s->socket);
    e->listener = open_socket(e->socket, true);
    e->qemu = e->below = -1;
    e->maps = new_maps();
    g_queue_init(&e->unserved);
    g_assert_cmpint(pipe2(e->wake, O_CLOEXEC), ==, 0);
    g_mutex_init(&e->lock);
    g_cond_init(&e->changed);
    e->thread = g_thread_new("evil", evil_thread, e);
    return e;
}

void evil_stop(Evil *e)
{
    evil_disarm(e);
    qatomic_set(&e->quit, true);
    g_assert_cmpint(write(e->wake[1], "", 1), ==, 1);
    g_thread_join(e->thread);
    if (e->qemu >= 0) {
        hang_up(e);
    }
    close(e->listener);
    close(e->wake[0]);
    close(e->wake[1]);
    unlink(e->socket);
    g_tree_destroy(e->maps);
    g_mutex_clear(&e->lock);
    g_cond_clear(&e->changed);
    g_free(e->config);
    g_free(e->server);
    g_free(e->socket);
    g_free(e);
}

const char *evil_socket(Evil *e)
{
    return e->socket;
}

void evil_local(Evil *e)
{
    e->local = true;
}

void evil_negotiate(Evil *e, const char *capabilities)
{
    e->capabilities = capabilities;
}

void evil_config(Evil *e, const EvilConfig *config)
{
    g_mutex_lock(&e->lock);
    g_free(e->config);
    e->config = config ? g_memdup2(config, sizeof(*config)) : NULL;
    g_mutex_unlock(&e->lock);
}

static gboolean print_map(gpointer iova, gpointer size, gpointer str)
{
    g_string_append_printf(str, "0x%" PRIx64 " 0x%" PRIx64 " rw fd\n",
                           *(uint64_t *)iova, *(uint64_t *)size);
    return false;
}

char *evil_maps(Evil *e)
{
    GString *str = g_string_new(NULL);

    g_mutex_lock(&e->lock);
    g_tree_foreach(e->maps, print_map, str);
    g_mutex_unlock(&e->lock);
    return g_string_free(str, false);
}

void evil_arm(Evil *e, EvilDeed deed, uint32_t arg, unsigned command,
              unsigned skip, unsigned count)
{
    g_mutex_lock(&e->lock);
    e->deed = deed;
    e->arg = arg;
    e->command = command;
    e->skip = skip;
    e->count = count;
    e->done = 0;
    e->armed = true;
    g_mutex_unlock(&e->lock);
}

unsigned evil_disarm(Evil *e)
{
    unsigned done;

    g_mutex_lock(&e->lock);
    e->sync = true;
    g_assert_cmpint(write(e->wake[1], "", 1), ==, 1);
    /* What QEMU has sent up to now is to be misbehaved at; a stall is for ever */
    while (e->sync && !(e->armed && e->deed == EVIL_STALL && e->done)) {
        g_cond_wait(&e->changed, &e->lock);
    }
    e->armed = false;
    g_cond_broadcast(&e->changed);
    while (e->sync) {
        g_cond_wait(&e->changed, &e->lock);
    }
    done = e->done;
    g_mutex_unlock(&e->lock);
    return done;
}

void evil_set_dma(Evil *e, EvilDma *dma)
{
    g_mutex_lock(&e->lock);
    e->dma = dma;
    g_mutex_unlock(&e->lock);
}

void evil_flood(Evil *e, unsigned count)
{
    g_mutex_lock(&e->lock);
    e->flood = count;
    g_mutex_unlock(&e->lock);
    evil_disarm(e);
}

void evil_gone(Evil *e)
{
    gint64 limit = g_get_monotonic_time() + HANG_S * G_TIME_SPAN_SECOND;

    g_mutex_lock(&e->lock);
    while (e->connected) {
        g_assert_true(g_cond_wait_until(&e->changed, &e->lock, limit));
    }
    g_mutex_unlock(&e->lock);
}
