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
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/units.h"

#include <getopt.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "libvfio-user.h"

#define EDU_VENDOR_ID           0x1234
#define EDU_DEVICE_ID           0x11e8
#define EDU_REVISION            0x10
#define EDU_CLASS_OTHERS        0xff
#define EDU_BAR_SIZE            (1 * MiB)

#define EDU_REG_ID              0x00
#define EDU_REG_LIVENESS        0x04
#define EDU_REG_FACTORIAL       0x08
#define EDU_REG_STATUS          0x20
#define EDU_REG_IRQ_STATUS      0x24
#define EDU_REG_IRQ_RAISE       0x60
#define EDU_REG_IRQ_ACK         0x64
#define EDU_REG_DMA_SRC         0x80
#define EDU_REG_DMA_DST         0x88
#define EDU_REG_DMA_COUNT       0x90
#define EDU_REG_DMA_CMD         0x98
#define EDU_REG_DMA_ERROR       0xa0

#define EDU_ID                  0x010000ed
#define EDU_STATUS_IRQFACT      0x80
#define EDU_FACT_IRQ            0x001
#define EDU_DMA_IRQ             0x100

#define EDU_DMA_RUN             0x1
#define EDU_DMA_TO_RAM          0x2
#define EDU_DMA_RAISE_IRQ       0x4

#define EDU_BUF_START           0x40000
#define EDU_BUF_SIZE            4096

/* More pieces than a transfer of a page can meet in page-sized mappings */
#define EDU_MAX_SG              64

#define CONTROL_MAX_CLIENTS     8
#define CONTROL_MAX_LINE        256

typedef struct Mapping {
    uint64_t iova;
    uint64_t size;
    uint32_t prot;
    bool has_fd;
    /* The library's own mapping holds all of it (see edu_dma_register()) */
    bool whole;
} Mapping;

typedef struct ControlClient {
    int fd;                     /* -1: free */
    bool closing;
    GString *in;
    GString *out;
} ControlClient;

typedef struct EduServer {
    vfu_ctx_t *ctx;
    bool attached;
    bool quit;

    uint32_t addr4;
    uint32_t fact;
    uint32_t status;
    uint32_t irq_status;
    uint64_t dma_src;
    uint64_t dma_dst;
    uint64_t dma_count;
    uint64_t dma_cmd;
    uint32_t dma_error;
    uint8_t buf[EDU_BUF_SIZE];

    GArray *maps;               /* of Mapping, sorted by iova, disjoint */
    dma_sg_t *sgl;

    uint64_t nr_map;
    uint64_t nr_unmap;
    uint64_t nr_dma_ok;
    uint64_t nr_dma_failed;
    uint64_t max_maps;

    int control_fd;
    ControlClient control[CONTROL_MAX_CLIENTS];
} EduServer;

static int wakeup_fd[2] = { -1, -1 };

/* What is mapped */

/* The index of the first mapping that ends after @iova */
static guint edu_map_index(EduServer *s, uint64_t iova)
{
    guint low = 0, high = s->maps->len;

    while (low < high) {
        guint mid = low + (high - low) / 2;
        Mapping *m = &g_array_index(s->maps, Mapping, mid);

        if (m->iova + (m->size - 1) < iova) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static void edu_dma_register(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    EduServer *s = vfu_get_private(ctx);
    uint64_t skip = (char *)info->vaddr - (char *)info->mapping.iov_base;
    Mapping m = {
        .iova = (uintptr_t)info->iova.iov_base,
        .size = info->iova.iov_len,
        .prot = info->prot,
        .has_fd = info->vaddr != NULL,
    };
    guint i;

    s->nr_map++;
    if (!m.size) {
        return;
    }

    /*
     * A libvfio-user that rounds the start of the file range down to a huge
     * page without adding this to the length maps too little.
     */
    m.whole = m.has_fd && skip <= info->mapping.iov_len &&
              m.size <= info->mapping.iov_len - skip;
    if (m.has_fd && !m.whole) {
        error_report("libvfio-user mapped only a part of 0x%" PRIx64
                     "+0x%" PRIx64 ": DMA there will fail", m.iova, m.size);
    }

    i = edu_map_index(s, m.iova);
    if (i < s->maps->len && g_array_index(s->maps, Mapping, i).iova == m.iova) {
        /* the same once more, which is no error of the client */
        g_array_index(s->maps, Mapping, i) = m;
        return;
    }
    g_array_insert_val(s->maps, i, m);
    s->max_maps = MAX(s->max_maps, s->maps->len);
}

static void edu_dma_unregister(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    EduServer *s = vfu_get_private(ctx);
    uint64_t iova = (uintptr_t)info->iova.iov_base;
    guint i = edu_map_index(s, iova);

    s->nr_unmap++;
    if (i < s->maps->len && g_array_index(s->maps, Mapping, i).iova == iova) {
        g_array_remove_index(s->maps, i);
    }
}

/* May every byte be accessed so?  0 or -errno. */
static int edu_check_mapped(EduServer *s, uint64_t addr, uint64_t size,
                            uint32_t prot)
{
    guint i = edu_map_index(s, addr);

    while (size) {
        Mapping *m;
        uint64_t part;

        if (i == s->maps->len) {
            return -ENOENT;
        }
        m = &g_array_index(s->maps, Mapping, i);
        if (m->iova > addr) {
            return -ENOENT;
        }
        if ((m->prot & prot) != prot) {
            return -EACCES;
        }
        if (!m->whole) {
            return -EFAULT;
        }
        part = MIN(size, m->size - (addr - m->iova));
        addr += part;
        size -= part;
        i++;
    }
    return 0;
}

/* The device */

static void edu_raise_irq(EduServer *s, uint32_t val)
{
    s->irq_status |= val;
    if (s->irq_status) {
        /* fails while the guest has set up no interrupt: nobody to tell */
        vfu_irq_trigger(s->ctx, 0);
    }
}

static void edu_irq_state(vfu_ctx_t *ctx, uint32_t start, uint32_t count,
                          bool mask)
{
    EduServer *s = vfu_get_private(ctx);

    /* INTx is a level: still raised when the client unmasks it */
    if (!mask && s->irq_status) {
        vfu_irq_trigger(ctx, 0);
    }
}

/* All or nothing; 0 or -errno */
static int edu_dma(EduServer *s)
{
    bool to_ram = s->dma_cmd & EDU_DMA_TO_RAM;
    uint64_t ram = to_ram ? s->dma_dst : s->dma_src;
    uint64_t dev = to_ram ? s->dma_src : s->dma_dst;
    uint64_t count = s->dma_count;
    struct iovec iov[EDU_MAX_SG];
    uint8_t *buf;
    int i, n, err;

    if (!count || count > EDU_BUF_SIZE || dev < EDU_BUF_START ||
        dev - EDU_BUF_START > EDU_BUF_SIZE - count) {
        return -EINVAL;
    }
    if (ram > UINT64_MAX - count) {
        return -EINVAL;
    }
    err = edu_check_mapped(s, ram, count, to_ram ? PROT_WRITE : PROT_READ);
    if (err) {
        return err;
    }

    n = vfu_addr_to_sgl(s->ctx, (vfu_dma_addr_t)(uintptr_t)ram, count, s->sgl,
                        EDU_MAX_SG, to_ram ? PROT_WRITE : PROT_READ);
    if (n < 0) {
        return n == -1 ? -errno : -E2BIG;
    }
    if (vfu_sgl_get(s->ctx, s->sgl, iov, n, 0) < 0) {
        return -errno;
    }

    buf = s->buf + (dev - EDU_BUF_START);
    for (i = 0; i < n; i++) {
        if (to_ram) {
            memcpy(iov[i].iov_base, buf, iov[i].iov_len);
        } else {
            memcpy(buf, iov[i].iov_base, iov[i].iov_len);
        }
        buf += iov[i].iov_len;
    }
    vfu_sgl_put(s->ctx, s->sgl, iov, n);
    return 0;
}

static uint32_t edu_factorial(uint32_t n)
{
    uint32_t ret = 1;

    /* 34! is the first that is a multiple of 2^32 */
    if (n >= 34) {
        return 0;
    }
    while (n > 0) {
        ret *= n--;
    }
    return ret;
}

static uint64_t edu_read(EduServer *s, uint64_t addr)
{
    switch (addr) {
    case EDU_REG_ID:
        return EDU_ID;
    case EDU_REG_LIVENESS:
        return s->addr4;
    case EDU_REG_FACTORIAL:
        return s->fact;
    case EDU_REG_STATUS:
        return s->status;
    case EDU_REG_IRQ_STATUS:
        return s->irq_status;
    case EDU_REG_DMA_SRC:
        return s->dma_src;
    case EDU_REG_DMA_DST:
        return s->dma_dst;
    case EDU_REG_DMA_COUNT:
        return s->dma_count;
    case EDU_REG_DMA_CMD:
        return s->dma_cmd;
    case EDU_REG_DMA_ERROR:
        return s->dma_error;
    default:
        return ~0ULL;
    }
}

static void edu_write(EduServer *s, uint64_t addr, uint64_t val)
{
    switch (addr) {
    case EDU_REG_LIVENESS:
        s->addr4 = ~val;
        break;
    case EDU_REG_FACTORIAL:
        s->fact = edu_factorial(val);
        if (s->status & EDU_STATUS_IRQFACT) {
            edu_raise_irq(s, EDU_FACT_IRQ);
        }
        break;
    case EDU_REG_STATUS:
        s->status = val & EDU_STATUS_IRQFACT;
        break;
    case EDU_REG_IRQ_RAISE:
        edu_raise_irq(s, val);
        break;
    case EDU_REG_IRQ_ACK:
        s->irq_status &= ~val;
        break;
    case EDU_REG_DMA_SRC:
        s->dma_src = val;
        break;
    case EDU_REG_DMA_DST:
        s->dma_dst = val;
        break;
    case EDU_REG_DMA_COUNT:
        s->dma_count = val;
        break;
    case EDU_REG_DMA_CMD:
        if (!(val & EDU_DMA_RUN)) {
            break;
        }
        s->dma_cmd = val;
        s->dma_error = -edu_dma(s);
        if (s->dma_error) {
            s->nr_dma_failed++;
        } else {
            s->nr_dma_ok++;
        }
        s->dma_cmd &= ~EDU_DMA_RUN;
        if (s->dma_cmd & EDU_DMA_RAISE_IRQ) {
            edu_raise_irq(s, EDU_DMA_IRQ);
        }
        break;
    }
}

static ssize_t edu_bar0_access(vfu_ctx_t *ctx, char *buf, size_t count,
                               loff_t offset, bool is_write)
{
    EduServer *s = vfu_get_private(ctx);
    uint64_t val;

    /* as the real device: other sizes do nothing and read as all ones */
    if ((count != 4 && count != 8) || (offset < 0x80 && count != 4)) {
        if (!is_write) {
            memset(buf, 0xff, count);
        }
        return count;
    }

    if (is_write) {
        val = count == 4 ? (uint32_t)ldl_le_p(buf) : ldq_le_p(buf);
        edu_write(s, offset, val);
    } else {
        val = edu_read(s, offset);
        if (count == 4) {
            stl_le_p(buf, val);
        } else {
            stq_le_p(buf, val);
        }
    }
    return count;
}

static int edu_reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    EduServer *s = vfu_get_private(ctx);

    s->addr4 = 0;
    s->fact = 0;
    s->status = 0;
    s->irq_status = 0;
    s->dma_src = 0;
    s->dma_dst = 0;
    s->dma_count = 0;
    s->dma_cmd = 0;
    s->dma_error = 0;
    memset(s->buf, 0, sizeof(s->buf));
    return 0;
}

static void edu_log(vfu_ctx_t *ctx, int level, const char *msg)
{
    error_report("%s", msg);
}

static bool edu_create(EduServer *s, const char *path)
{
    s->ctx = vfu_create_ctx(VFU_TRANS_SOCK, path, LIBVFIO_USER_FLAG_ATTACH_NB,
                            s, VFU_DEV_TYPE_PCI);
    if (!s->ctx) {
        error_report("cannot listen on %s: %s", path, strerror(errno));
        return false;
    }
    if (vfu_setup_log(s->ctx, edu_log, LOG_WARNING) < 0 ||
        vfu_pci_init(s->ctx, VFU_PCI_TYPE_CONVENTIONAL,
                     PCI_HEADER_TYPE_NORMAL, EDU_REVISION) < 0) {
        goto fail;
    }
    vfu_pci_set_id(s->ctx, EDU_VENDOR_ID, EDU_DEVICE_ID, 0x1af4, 0x1100);
    vfu_pci_set_class(s->ctx, EDU_CLASS_OTHERS, 0, 0);
    vfu_pci_get_config_space(s->ctx)->hdr.rid = EDU_REVISION;

    if (vfu_setup_region(s->ctx, VFU_PCI_DEV_BAR0_REGION_IDX, EDU_BAR_SIZE,
                         edu_bar0_access,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM,
                         NULL, 0, -1, 0) < 0 ||
        vfu_setup_device_reset_cb(s->ctx, edu_reset) < 0 ||
        vfu_setup_device_dma(s->ctx, edu_dma_register,
                             edu_dma_unregister) < 0 ||
        vfu_setup_device_nr_irqs(s->ctx, VFU_DEV_INTX_IRQ, 1) < 0 ||
        vfu_setup_irq_state_callback(s->ctx, VFU_DEV_INTX_IRQ,
                                     edu_irq_state) < 0 ||
        vfu_realize_ctx(s->ctx) < 0) {
        goto fail;
    }
    return true;

fail:
    error_report("cannot set up the device: %s", strerror(errno));
    return false;
}

/* The control socket */

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

static void control_close(ControlClient *c)
{
    close(c->fd);
    c->fd = -1;
    g_string_free(c->in, true);
    g_string_free(c->out, true);
}

static void control_accept(EduServer *s)
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

static void control_read(EduServer *s, ControlClient *c)
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

static void control_write(ControlClient *c)
{
    ssize_t n = send(c->fd, c->out->str, c->out->len, MSG_NOSIGNAL);

    if (n > 0) {
        g_string_erase(c->out, 0, n);
    } else if (errno != EAGAIN && errno != EINTR) {
        g_string_truncate(c->out, 0);
        c->closing = true;
    }
}

static bool control_create(EduServer *s, const char *path)
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

/* The server */

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
