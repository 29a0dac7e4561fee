/*
 * vfio-user: many mappings at once, and the DMA that a server does by messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/vfio.h>
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "hw/pci/pci_device.h"
#include "hw/vfio-user/container.h"
#include "hw/vfio-user/dma.h"
#include "hw/vfio-user/lost.h"
#include "hw/vfio-user/trace.h"
#include "hw/vfio/guest-memfd-dma.h"
#include "hw/vfio/pci.h"
#include "system/guest-memfd.h"
#include "system/memory.h"
#include "system/ramblock.h"

/* What the message of a request is made of. */
typedef struct Sent {
    VFIOUserFDs fds;
    int fd;
    union {
        VFIOUserHdr hdr;
        VFIOUserDMAMap map;
        VFIOUserDMAUnmap unmap;
    };
} Sent;

/*
 * Whoever has the file of memory that is converted in place can touch private
 * pages, which is SIGBUS, and keep pages in use, which then cannot convert.
 */
static bool may_have_file(VFIOUserProxy *proxy, MemoryRegion *mr)
{
    return proxy->flags & VFIO_PROXY_SHARE_MEMORY ||
           !mr->ram_block->fd_is_guest_memfd;
}

static void prepare_map(VFIOUserProxy *proxy, Sent *sent,
                        const VFIODmaRequest *r)
{
    VFIOUserDMAMap *map = &sent->map;

    sent->fd = may_have_file(proxy, r->mr) ? memory_region_get_fd(r->mr) : -1;
    sent->fds = (VFIOUserFDs) { .send_fds = sent->fd != -1, .fds = &sent->fd };

    vfio_user_request_msg(&map->hdr, VFIO_USER_DMA_MAP, sizeof(*map), 0);
    map->argsz = sizeof(struct vfio_iommu_type1_dma_map);
    map->flags = VFIO_DMA_MAP_FLAG_READ |
                 (r->readonly ? 0 : VFIO_DMA_MAP_FLAG_WRITE);
    map->iova = r->iova;
    map->size = r->size;
    if (sent->fd != -1) {
        map->offset = qemu_ram_block_host_offset(r->mr->ram_block, r->vaddr);
    }
    trace_vfio_user_dma_map(map->iova, map->size, map->offset, map->flags,
                            true);
}

static void prepare_unmap(VFIOUserProxy *proxy, Sent *sent,
                          const VFIODmaRequest *r)
{
    VFIOUserDMAUnmap *unmap = &sent->unmap;

    vfio_user_request_msg(&unmap->hdr, VFIO_USER_DMA_UNMAP, sizeof(*unmap), 0);
    unmap->argsz = sizeof(struct vfio_iommu_type1_dma_unmap);
    unmap->iova = r->iova;
    unmap->size = r->size;
    trace_vfio_user_dma_unmap(unmap->iova, unmap->size, unmap->flags, true);
}

/* Send all, then wait for all. */
static void send_batch(VFIOUserProxy *proxy, VFIODmaRequest *requests,
                       unsigned nr)
{
    g_autofree Sent *sent = g_new0(Sent, nr);
    g_autofree VFIOUserMsg **msgs = g_new(VFIOUserMsg *, nr);
    bool still_mapped = false;
    unsigned n;

    for (unsigned i = 0; i < nr; i++) {
        (requests[i].map ? prepare_map : prepare_unmap)(proxy, &sent[i],
                                                        &requests[i]);
        requests[i].ret = -ENOTCONN;
    }

    QEMU_LOCK_GUARD(&proxy->lock);
    for (n = 0; n < nr; n++) {
        VFIOUserMsg *msg = vfio_user_getmsg(proxy, &sent[n].hdr,
                                            sent[n].fds.send_fds ?
                                            &sent[n].fds : NULL);

        msg->id = sent[n].hdr.id;
        msg->rsize = sent[n].hdr.size;
        msg->type = VFIO_MSG_WAIT;
        msgs[n] = msg;
        if (!vfio_user_send_queued(proxy, msg, NULL)) {
            vfio_user_recycle(proxy, msg);
            break;
        }
    }
    vfio_user_wait(proxy, msgs, n);
    for (unsigned i = 0; i < n; i++) {
        const VFIOUserHdr *hdr = &sent[i].hdr;

        if (hdr->flags & VFIO_USER_ERROR) {
            requests[i].ret = -(hdr->error_reply ?: EIO);
            still_mapped |= !requests[i].map;
        } else {
            /*
             * Where a batch does both, it maps only what it has unmapped: that
             * cannot have worked, whatever the server says.
             */
            requests[i].ret = requests[i].map && still_mapped ? -EIO : 0;
        }
        vfio_user_recycle(proxy, msgs[i]);
    }
}

/*
 * A server that has refused something may have done it all the same.  The
 * opposite settles that: where nothing happened it changes nothing.
 */
static void undo_refused(VFIOUserProxy *proxy, const VFIODmaRequest *requests,
                         unsigned nr)
{
    g_autofree VFIODmaRequest *undo = g_new(VFIODmaRequest, nr);
    unsigned n = 0;

    while (nr--) {
        if (requests[nr].ret) {
            undo[n] = requests[nr];
            undo[n++].map = !requests[nr].map;
        }
    }
    if (n) {
        send_batch(proxy, undo, n);
    }
}

/*
 * libvfio-user as released has a limit of 16 mappings, does not tell it when a client
 * connects, and answers EINVAL beyond it (dma_controller_add_region()).  QEMU sends
 * no map that is malformed, so EINVAL of a server that has told no limit is ENOSPC.
 */
static void find_limit(VFIOUserProxy *proxy, VFIODmaRequest *requests,
                       unsigned nr)
{
    if (proxy->max_dma != VFIO_USER_DEF_MAP_MAX) {
        return;
    }
    for (unsigned i = 0; i < nr; i++) {
        if (requests[i].map && requests[i].ret == -EINVAL) {
            requests[i].ret = -ENOSPC;
            warn_report_once("%s: the server refused a DMA mapping with EINVAL, "
                             "as libvfio-user does beyond its MAX_DMA_REGIONS: "
                             "QEMU makes fewer, larger mappings; raise the "
                             "limit of the server, or convert memory in larger "
                             "ranges", proxy->sockname);
        }
    }
}

void vfio_user_dma_batch(VFIOContainer *bcontainer, VFIODmaRequest *requests,
                         unsigned nr)
{
    VFIOUserProxy *proxy = VFIO_IOMMU_USER(bcontainer)->proxy;

    send_batch(proxy, requests, nr);
    undo_refused(proxy, requests, nr);
    find_limit(proxy, requests, nr);
}

static bool is_shared(MemoryRegion *mr, uint64_t offset, uint64_t size)
{
    GuestMemfd *gm = guest_memfd_from_mr(mr);
    const MemoryRegionSection s = {
        .mr = mr,
        .offset_within_region = offset,
        .size = int128_make64(size),
    };

    return !gm || ram_discard_manager_is_populated(RAM_DISCARD_MANAGER(gm), &s);
}

/*
 * Copy between RAM and @buf.  False if a part of it is not RAM; then some of it
 * may have been copied.
 */
static bool access_ram(AddressSpace *as, hwaddr addr, void *buf, uint64_t size,
                       bool to_ram, MemTxResult *result)
{
    *result = MEMTX_OK;
    while (size && *result == MEMTX_OK) {
        MemoryRegionCache cache;
        int64_t len = address_space_cache_init(&cache, as, addr, size, to_ram);
        bool ram = cache.ptr && len > 0;

        if (ram && !is_shared(cache.mrs.mr, cache.xlat, len)) {
            *result = MEMTX_ACCESS_ERROR;
        } else if (ram && to_ram) {
            memcpy(cache.ptr, buf, len);
            address_space_cache_invalidate(&cache, 0, len);
        } else if (ram) {
            memcpy(buf, cache.ptr, len);
        }
        address_space_cache_destroy(&cache);
        if (!ram) {
            return false;
        }
        addr += len;
        buf += len;
        size -= len;
    }
    return true;
}

/* Takes @hdr. */
static void reply(VFIOUserProxy *proxy, VFIOUserHdr *hdr, uint32_t size,
                  MemTxResult result)
{
    VFIOUserMsg *msg;

    if (hdr->flags & VFIO_USER_NO_REPLY) {
        g_free(hdr);
        return;
    }
    hdr->flags = VFIO_USER_REPLY;
    hdr->size = size;
    if (result != MEMTX_OK) {
        hdr->flags |= VFIO_USER_ERROR;
        hdr->error_reply = EPERM;
        hdr->size = sizeof(*hdr);
    }
    msg = vfio_user_getmsg(proxy, hdr, NULL);
    msg->id = hdr->id;
    msg->rsize = 0;
    msg->type = VFIO_MSG_ASYNC;
    if (!vfio_user_send_queued(proxy, msg, NULL)) {
        vfio_user_recycle(proxy, msg);
    }
}

bool vfio_user_serve_dma(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    VFIOUserDMARW *rw = (VFIOUserDMARW *)msg->hdr, *answer;
    bool to_ram = msg->hdr->command == VFIO_USER_DMA_WRITE;
    PCIDevice *dev = PCI_DEVICE(proxy->req_arg);
    MemTxResult result = MEMTX_OK;
    bool served;

    /* vfio_user_request() refuses the rest of what is malformed. */
    if ((!to_ram && msg->hdr->command != VFIO_USER_DMA_READ) || msg->fds ||
        msg->hdr->size < sizeof(*rw) ||
        rw->count > (to_ram ? msg->hdr->size - sizeof(*rw) :
                              proxy->max_xfer_size)) {
        return false;
    }
    answer = to_ram ? rw : g_malloc0(sizeof(*rw) + rw->count);

    /* The address space goes with RCU, after the device is not realized. */
    WITH_RCU_READ_LOCK_GUARD() {
        served = qatomic_load_acquire(&DEVICE(dev)->realized) &&
                 access_ram(pci_get_address_space(dev), rw->offset,
                            answer->data, rw->count, to_ram, &result);
    }
    if (!served) {
        if (!to_ram) {
            g_free(answer);
        }
        return false;
    }
    trace_vfio_user_recv_request(msg->hdr->command);
    if (!to_ram) {
        memcpy(answer, rw, sizeof(*rw));
        g_free(rw);
    }
    reply(proxy, &answer->hdr, sizeof(*rw) + (to_ram ? 0 : answer->count),
          result);
    vfio_user_recycle(proxy, msg);
    return true;
}
