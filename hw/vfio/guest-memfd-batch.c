/*
 * DMA mappings of guest_memfd memory: requests to a container
 *
 * They are sent together where that is possible: a vfio-user server answers many
 * requests as fast as one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "guest-memfd-internal.h"
#include "trace.h"

/* The largest errno (Linux include/linux/err.h). */
#define MAX_ERRNO 4095

/* A guest can cause it as often as it likes, and needs no more than once. */
static void report_memlock_once(VFIORamDiscard *v, int ret, uint64_t size)
{
    static bool reported;
    g_autofree char *advice = vfio_ram_discard_advice(v, ret, size);

    if (*advice && !qatomic_xchg(&reported, true)) {
        warn_report("cannot map a part of '%s' for DMA: %s%s",
                    v->name, strerror(-ret), advice);
    }
}

static int container_call(VFIOContainer *bcontainer, const VFIODmaRequest *r)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(bcontainer);

    return r->map ? vfio_container_dma_map(bcontainer, r->iova, r->size,
                                           r->vaddr, r->readonly, r->mr) :
           vioc->dma_unmap_exact ? vioc->dma_unmap_exact(bcontainer, r->iova,
                                                         r->size) :
           vfio_container_dma_unmap(bcontainer, r->iova, r->size, NULL, false);
}

/* All at once where that saves round trips; else one by one, up to an error. */
static void container_batch(VFIORamDiscard *v)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    unsigned n = 0;
    int ret = 0;

    if (vioc->dma_batch) {
        vioc->dma_batch(v->bcontainer, v->batch, v->nr_batch);
        return;
    }
    for (; n < v->nr_batch && !ret; n++) {
        ret = container_call(v->bcontainer, &v->batch[n]);
        v->batch[n].ret = ret;
    }
    v->nr_batch = n;
}

int vfio_ram_discard_run(VFIORamDiscard *v, uint64_t *reserved)
{
    VFIOIOMMUClass *vioc = VFIO_IOMMU_GET_CLASS(v->bcontainer);
    int first = 0;
    bool lost;

    if (!v->nr_batch) {
        return 0;
    }
    container_batch(v);
    lost = vioc->lost && vioc->lost(v->bcontainer);
    for (unsigned i = 0; i < v->nr_batch; i++) {
        VFIODmaRequest *r = &v->batch[i];
        /* What a vfio-user server says may be any number. */
        int ret = lost ? 0 : r->ret > 0 || r->ret < -MAX_ERRNO ? -EIO : r->ret;

        /* No room can be made for an unmap. */
        if (!r->map && ret == -ENOSPC) {
            ret = -EIO;
        }
        if (r->map) {
            v->map_calls++;
            trace_vfio_guest_memfd_map(v->bcontainer, r->iova, r->size, ret);
        } else {
            v->unmap_calls++;
            trace_vfio_guest_memfd_unmap(v->bcontainer, r->iova, r->size, ret);
        }
        if (!ret) {
            *reserved += r->map ? -1 : 1;
            vfio_ram_discard_changed(v, r->iova - v->to_iova, r->size, r->map);
        } else if (!first) {
            first = ret;
            if (r->map && !v->arriving) {
                report_memlock_once(v, ret, r->size);
            }
        }
    }
    v->nr_batch = 0;
    return first;
}

int vfio_ram_discard_add(VFIORamDiscard *v, uint64_t start, uint64_t end,
                         bool map, uint64_t *reserved)
{
    if (v->nr_batch == ARRAY_SIZE(v->batch)) {
        int ret = vfio_ram_discard_run(v, reserved);

        if (ret) {
            return ret;
        }
    }
    v->batch[v->nr_batch++] = (VFIODmaRequest) {
        .map = map,
        .readonly = v->readonly,
        .iova = start + v->to_iova,
        .size = end - start,
        .vaddr = memory_region_get_ram_ptr(v->mr) + start,
        .mr = v->mr,
    };
    return 0;
}
