/*
 * Replies of vfio-user that are made up in place of the server
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "guest-memfd-answer.h"

static void answer_region_info(const DeviceConfig *c, Message *m)
{
    VFIOUserRegionInfo *info = (VFIOUserRegionInfo *)m;
    uint32_t argsz = info->argsz;

    info->cap_offset = 0;
    info->offset = 0;
    info->flags = REGION_RW;
    info->size = info->index < NR_REGIONS ? c->region[info->index] : 0;
    m->hdr.size = sizeof(*info);
    if (info->index == 0 && c->info_argsz) {
        info->argsz = c->info_argsz;
        info->flags = c->info_flags;
        info->cap_offset = c->info_cap_offset;
        memcpy(info + 1, c->info_caps, sizeof(c->info_caps));
        m->hdr.size = MIN(sizeof(m->hdr) + argsz,
                          sizeof(*info) + sizeof(c->info_caps));
    }
}

static void answer_irq_info(const DeviceConfig *c, Message *m)
{
    VFIOUserIRQInfo *info = (VFIOUserIRQInfo *)m;

    info->flags = c->irq_flags;
    info->count = c->irq_count;
}

static void answer_read(const DeviceConfig *c, Message *m)
{
    VFIOUserRegionRW *io = (VFIOUserRegionRW *)m;

    io->count = MIN(io->count,
                    WIRE_MAX_BODY + sizeof(m->hdr) - sizeof(*io));
    m->hdr.size = sizeof(*io) + io->count;
    memset(io->data, c->fill, io->count);
    for (unsigned i = 0;
         io->region == VFIO_PCI_CONFIG_REGION_INDEX && i < io->count &&
         io->offset + i < sizeof(c->space); i++) {
        io->data[i] = c->space[io->offset + i];
    }
}

static void answer_region_io(const DeviceConfig *c, Message *m)
{
    const VFIOUserRegionRW *io = (VFIOUserRegionRW *)m;

    m->hdr.size = sizeof(*io);
    if (c->io_error && io->region != VFIO_PCI_CONFIG_REGION_INDEX) {
        wire_make_error(m, c->io_error);
    } else if (m->hdr.command == VFIO_USER_REGION_READ) {
        answer_read(c, m);
    }
}

bool answer_config(const DeviceConfig *c, Message *m)
{
    switch (m->hdr.command) {
    case VFIO_USER_DEVICE_GET_REGION_INFO:
        answer_region_info(c, m);
        break;
    case VFIO_USER_DEVICE_GET_IRQ_INFO:
        answer_irq_info(c, m);
        break;
    case VFIO_USER_DEVICE_SET_IRQS:
        if (!c->irq_error) {
            return false;
        }
        wire_make_error(m, c->irq_error);
        break;
    case VFIO_USER_REGION_READ:
    case VFIO_USER_REGION_WRITE:
        answer_region_io(c, m);
        break;
    default:
        return false;
    }
    m->hdr.flags |= VFIO_USER_REPLY;
    return true;
}

static gint compare_iova(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t p = *(uint64_t *)a, q = *(uint64_t *)b;

    return p < q ? -1 : p > q;
}

GTree *answer_new_maps(void)
{
    return g_tree_new_full(compare_iova, NULL, g_free, g_free);
}

static bool unmap(GTree *maps, const VFIOUserDMAUnmap *u)
{
    uint64_t *was = g_tree_lookup(maps, &u->iova);

    return was && *was == u->size && g_tree_remove(maps, &u->iova);
}

bool answer_dma(GTree *maps, Message *m)
{
    int error = 0;

    if (m->hdr.command == VFIO_USER_DMA_MAP) {
        const VFIOUserDMAMap *map = (VFIOUserDMAMap *)m;

        g_tree_insert(maps, g_memdup2(&map->iova, sizeof(map->iova)),
                      g_memdup2(&map->size, sizeof(map->size)));
    } else if (m->hdr.command == VFIO_USER_DMA_UNMAP) {
        error = unmap(maps, (VFIOUserDMAUnmap *)m) ? 0 : ENOENT;
    } else {
        return false;
    }
    if (error) {
        wire_make_error(m, error);
    } else {
        wire_make_reply(m);
    }
    return true;
}

static gboolean print_map(gpointer iova, gpointer size, gpointer str)
{
    g_string_append_printf(str, "0x%" PRIx64 " 0x%" PRIx64 " rw fd\n",
                           *(uint64_t *)iova, *(uint64_t *)size);
    return false;
}

char *answer_maps(GTree *maps)
{
    GString *str = g_string_new(NULL);

    g_tree_foreach(maps, print_map, str);
    return g_string_free(str, false);
}
