/*
 * DMA mappings of guest_memfd memory: sections of a container's address space
 *
 * And of all other memory with a RamDiscardManager (virtio-mem).
 *
 * What is mapped of them is in hw/vfio/guest-memfd-extent.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "system/address-spaces.h"
#include "guest-memfd-internal.h"

static void section_range(const MemoryRegionSection *section, uint64_t *start,
                          uint64_t *end)
{
    *start = section->offset_within_region;
    *end = *start + int128_get64(section->size);
}

/* Of mappings; only a vfio-user server can be lost. */
static const char *limit_name(const VFIORamDiscard *v)
{
    return VFIO_IOMMU_GET_CLASS(v->bcontainer)->lost ?
           "the limit of the server" : "vfio_iommu_type1.dma_entry_limit";
}

static int dma_discard(RamDiscardListener *rdl, MemoryRegionSection *section)
{
    VFIORamDiscard *v = container_of(rdl, VFIORamDiscard, listener);
    uint64_t start, end;
    int ret;

    section_range(section, &start, &end);
    ret = vfio_ram_discard_discard(v, start, end);
    if (ret && !v->gm) {
        error_report_once("cannot unmap memory of '%s' from DMA: %s", v->name,
                          strerror(-ret));
    }
    return ret;
}

static int dma_populate(RamDiscardListener *rdl, MemoryRegionSection *section)
{
    VFIORamDiscard *v = container_of(rdl, VFIORamDiscard, listener);
    uint64_t start, end;
    int ret;

    section_range(section, &start, &end);
    ret = vfio_ram_discard_populate(v, start, end);
    if (ret && !v->gm) {
        /* Only a block tries again; with others it is all or nothing. */
        vfio_ram_discard_discard(v, start, end);
        if (ret == -ENOSPC && !v->arriving) {
            error_report_once("'%s' cannot grow: a device has no DMA mapping "
                              "left; give virtio-mem a larger block-size, or "
                              "raise %s", v->name, limit_name(v));
        }
    }
    return ret;
}

static int dma_populate_parts(RamDiscardListener *rdl,
                              MemoryRegionSection *section)
{
    uint64_t start, end;

    section_range(section, &start, &end);
    return vfio_ram_discard_populate_shared(container_of(rdl, VFIORamDiscard,
                                                         listener), start, end);
}

static void dma_settled(RamDiscardListener *rdl)
{
    vfio_ram_discard_settled(container_of(rdl, VFIORamDiscard, listener));
}

static uint64_t dma_next_mapped(RamDiscardListener *rdl, uint64_t *start)
{
    return vfio_ram_discard_next_mapped(container_of(rdl, VFIORamDiscard,
                                                     listener), start);
}

static void dma_query(RamDiscardListener *rdl, GuestMemfdListenerInfo *info)
{
    VFIORamDiscard *v = container_of(rdl, VFIORamDiscard, listener);

    info->extents = qatomic_read(&v->nr_extents);
    info->mapped_bytes = qatomic_read(&v->mapped_bytes);
    info->map_calls = v->map_calls;
    info->unmap_calls = v->unmap_calls;
    info->splits = v->splits;
    info->name = g_strdup_printf("%s@0x%" HWADDR_PRIx,
                                 object_get_typename(OBJECT(v->bcontainer)),
                                 v->iova);
}

/* What is populated of a section. */
typedef struct Populated {
    VFIORamDiscard *v;
    uint64_t bytes;
    uint64_t mappings;          /* that it takes */
} Populated;

static int add_populated(MemoryRegionSection *section, void *opaque)
{
    Populated *p = opaque;
    uint64_t start, end;

    section_range(section, &start, &end);
    p->bytes += end - start;
    p->mappings += vfio_ram_discard_extents(p->v, start, end);
    return 0;
}

static void set_region_error(Error **errp, VFIORamDiscard *v, int ret)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(v->mr);
    g_autofree char *advice = NULL;
    Populated p = { v };

    ram_discard_manager_replay_populated(rdm, v->listener.section,
                                         add_populated, &p);
    if (ret == -ENOSPC && v->bcontainer->dma_max_mappings) {
        unsigned used = qatomic_read(&v->bcontainer->dma_extents) -
                        v->nr_extents;
        unsigned limit = v->bcontainer->dma_max_mappings;
        g_autofree char *room =
            used + p.mappings > limit ?
            g_strdup_printf("%u of %u that the device may have are in use",
                            used, limit) :
            g_strdup_printf("the device refuses them beside %u", used);

        advice = g_strdup_printf(" (it takes %" PRIu64 " mappings, and %s: "
                                 "%s, or raise %s)", p.mappings, room,
                                 v->gm ? "convert memory in larger ranges, "
                                         "use x-dma-split=auto" :
                                         "give virtio-mem a larger block-size",
                                 limit_name(v));
    } else {
        advice = vfio_ram_discard_advice(v, ret, p.bytes);
    }
    error_setg(errp, "cannot map the %s part of '%s' at 0x%" HWADDR_PRIx
               " for DMA: %s%s", v->gm ? "shared" : "plugged", v->name,
               v->iova, strerror(-ret), advice);
}

static void leave(VFIORamDiscard *v)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(v->mr);

    v->leaving = true;
    section_range(v->listener.section, &v->gone_start, &v->gone_end);
    ram_discard_manager_unregister_listener(rdm, &v->listener);
    if (v->nr_extents) {
        error_report("cannot unmap all of '%s' at 0x%" HWADDR_PRIx " from DMA",
                     v->name, v->iova);
    }
    vfio_ram_discard_forget(v);
    QLIST_REMOVE(v, next);
    QLIST_INSERT_HEAD(&v->bcontainer->ram_discard_gone, v, next);
}

static VFIORamDiscard *find_section(VFIOContainer *bcontainer,
                                    const MemoryRegionSection *section)
{
    VFIORamDiscard *v;

    QLIST_FOREACH(v, &bcontainer->ram_discard_list, next) {
        if (v->mr == section->mr &&
            v->iova == section->offset_within_address_space) {
            return v;
        }
    }
    return NULL;
}

/* What CPR told the kernel to forget, if another QEMU does not take over. */
static bool remap(VFIORamDiscard *v, Error **errp)
{
    uint64_t start = 0, end;
    int ret = 0;

    for (; !ret && (end = vfio_ram_discard_next_mapped(v, &start));
         start = end) {
        ret = vfio_container_dma_map(v->bcontainer, start + v->to_iova,
                                     end - start,
                                     memory_region_get_ram_ptr(v->mr) + start,
                                     v->readonly, v->mr);
    }
    if (ret) {
        error_setg_errno(errp, -ret, "cannot map '%s' for DMA again", v->name);
    }
    return !ret;
}

bool vfio_ram_discard_region_add(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section, bool cpr_remap,
                                 Error **errp)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(section->mr);
    Error *local_err = NULL;
    VFIORamDiscard *v;
    int ret;

    if (cpr_remap) {
        return remap(find_section(bcontainer, section), errp);
    }

    v = g_new0(VFIORamDiscard, 1);
    ram_discard_listener_init(&v->listener, dma_populate, dma_discard, true);
    v->listener.notify_populate_parts = dma_populate_parts;
    v->listener.settled = dma_settled;
    v->listener.next_mapped = dma_next_mapped;
    v->listener.query = dma_query;
    v->bcontainer = bcontainer;
    v->gm = guest_memfd_from_mr(section->mr);
    v->name = v->gm ? guest_memfd_id(v->gm) : memory_region_name(section->mr);
    v->granularity = v->gm ? 0 :
        ram_discard_manager_get_min_granularity(rdm, section->mr);
    v->mr = section->mr;
    v->iova = section->offset_within_address_space;
    v->to_iova = v->iova - section->offset_within_region;
    v->readonly = section->readonly;
    QLIST_INSERT_HEAD(&bcontainer->ram_discard_list, v, next);

    v->arriving = true;
    ret = ram_discard_manager_register_listener(rdm, &v->listener, section);
    v->arriving = false;
    if (!ret) {
        return true;
    }

    set_region_error(&local_err, v, ret);
    if (bcontainer->initialized) {
        /* A VM that runs goes on: a block tries again. */
        error_report_err(local_err);
        return true;
    }
    error_propagate(errp, local_err);
    leave(v);
    return false;
}

void vfio_ram_discard_region_del(VFIOContainer *bcontainer,
                                 MemoryRegionSection *section)
{
    VFIORamDiscard *v = find_section(bcontainer, section);

    if (v) {
        leave(v);
    }
}

static int sync_dirty_section(MemoryRegionSection *section, void *opaque)
{
    hwaddr translated = memory_region_get_ram_addr(section->mr) +
                        section->offset_within_region;
    hwaddr iova = section->offset_within_address_space;
    Error *local_err = NULL;
    int ret;

    ret = vfio_container_query_dirty_bitmap(opaque, iova,
                                            int128_get64(section->size),
                                            translated, &local_err);
    if (ret) {
        error_report_err(local_err);
    }
    return ret;
}

int vfio_ram_discard_sync_dirty(VFIOContainer *bcontainer,
                                MemoryRegionSection *section, Error **errp)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(section->mr);
    int ret = ram_discard_manager_replay_populated(rdm, section,
                                                   sync_dirty_section,
                                                   bcontainer);

    if (ret) {
        error_setg_errno(errp, -ret, "cannot fetch the dirty pages of '%s'",
                         memory_region_name(section->mr));
    }
    return ret;
}

bool vfio_guest_memfd_hidden(const IOMMUTLBEntry *iotlb)
{
    MemoryRegionSection s = {};
    GuestMemfd *gm = NULL;

    if (guest_memfd_next(NULL)) {
        s = memory_region_find(get_system_memory(), iotlb->translated_addr, 1);
        gm = s.mr ? guest_memfd_from_mr(s.mr) : NULL;
    }
    if (gm) {
        /* A guest can cause it as often as it likes. */
        error_report_once("a virtual IOMMU shows '%s' to a device, which does "
                          "not reach it there, because its pages are converted",
                          guest_memfd_id(gm));
    }
    memory_region_unref(s.mr);
    return gm;
}

/* Any page can become private, and can then be mapped no longer. */
static bool maps_single_pages(const VFIOContainer *bcontainer,
                              const GuestMemfd *gm, Error **errp)
{
    uint64_t least = bcontainer->pgsizes & -(uint64_t)bcontainer->pgsizes;
    uint64_t page = qemu_real_host_page_size();

    if (!gm || least <= page) {
        return true;
    }
    error_setg(errp, "the device cannot use '%s', which is converted in pages "
               "of %" PRIu64 " KiB, because it maps %" PRIu64 " KiB at least; "
               "use conversion=none, or a host whose pages are as large",
               guest_memfd_id(gm), page / KiB, least / KiB);
    return false;
}

bool vfio_guest_memfd_attach(const VFIOIOMMUClass *ops, const char *name,
                             VFIODevice *vbasedev, AddressSpace *as,
                             Error **errp)
{
    GuestMemfdDmaSplit split = vbasedev->dma_split, first;
    GuestMemfd *gm = guest_memfd_next(NULL);

    if (gm && as != &address_space_memory) {
        error_setg(errp, "a virtual IOMMU stands before the device, and cannot "
                   "show it '%s', whose pages are converted; take the IOMMU "
                   "out, or let the bus of the device bypass it",
                   guest_memfd_id(gm));
        return false;
    }
    if (split == GUEST_MEMFD_DMA_SPLIT_CUT && !ops->dma_cut) {
        error_setg(errp, "x-dma-split=cut needs iommufd; use x-dma-split=auto, "
                   "or iommufd=");
        return false;
    }
    if (!ops->attach_device(name, vbasedev, as, errp)) {
        return false;
    }
    if (!maps_single_pages(vbasedev->bcontainer, gm, errp)) {
        ops->detach_device(vbasedev);
        return false;
    }
    first = vbasedev->bcontainer->dma_split;
    if (split != first) {
        ops->detach_device(vbasedev);
        error_setg(errp, "x-dma-split=%s differs from %s, which a device has "
                   "whose mappings are shared; give both the same",
                   GuestMemfdDmaSplit_str(split),
                   GuestMemfdDmaSplit_str(first));
        return false;
    }
    return true;
}
