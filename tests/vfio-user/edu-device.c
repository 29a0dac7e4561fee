/*
 * vfio-user server: the edu device, its registers and its DMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/units.h"

#include <sys/mman.h>

#include "edu-server.h"

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
        if (m->has_fd && !m->whole) {
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

/*
 * To or from memory of which the client has given no file, all of it mapped: a
 * message for each mapping, since libvfio-user has one for one piece only.
 */
static int edu_dma_messages(EduServer *s, uint64_t ram, uint8_t *buf,
                            uint64_t count, bool to_ram)
{
    while (count) {
        Mapping *m = &g_array_index(s->maps, Mapping, edu_map_index(s, ram));
        uint64_t part = MIN(count, m->size - (ram - m->iova));

        if (vfu_addr_to_sgl(s->ctx, (vfu_dma_addr_t)(uintptr_t)ram, part,
                            s->sgl, 1, to_ram ? PROT_WRITE : PROT_READ) != 1 ||
            (to_ram ? vfu_sgl_write : vfu_sgl_read)(s->ctx, s->sgl, 1, buf)) {
            return -errno;
        }
        ram += part;
        buf += part;
        count -= part;
    }
    return 0;
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
    buf = s->buf + (dev - EDU_BUF_START);
    if (!vfu_sg_is_mappable(s->ctx, s->sgl)) {
        return edu_dma_messages(s, ram, buf, count, to_ram);
    }
    if (vfu_sgl_get(s->ctx, s->sgl, iov, n, 0) < 0) {
        return -errno;
    }

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

bool edu_create(EduServer *s, const char *path)
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
