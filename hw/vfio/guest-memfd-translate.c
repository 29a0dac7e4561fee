/*
 * DMA mappings of guest_memfd memory: behind a virtual IOMMU
 *
 * What the virtual IOMMU shows to devices is a window for each of its entries,
 * anywhere and any number of times.  A window is mapped where its pages are
 * shared, and follows their conversions until the entry goes.
 *
 * One listener for each container and block, made for the first window and gone
 * with the last.  It holds a reference of the memory region, since a container
 * that has an IOMMU in its address space does not hear when memory is unplugged.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "system/address-spaces.h"
#include "guest-memfd-internal.h"

/* An entry costs a guest 8 bytes, and can be shown any number of times. */
#define MAX_WINDOWS (1u << 20)

typedef VFIOGuestMemfdWindow Window;

static Window *window_at(VFIOGuestMemfd *v, uint64_t start, uint64_t last)
{
    IntervalTreeNode *node = interval_tree_iter_first(&v->by_offset, start,
                                                      last);

    return node ? container_of(node, Window, node) : NULL;
}

static Window *window_next(Window *w, uint64_t start, uint64_t last)
{
    IntervalTreeNode *node = interval_tree_iter_next(&w->node, start, last);

    return node ? container_of(node, Window, node) : NULL;
}

static Window *window_at_iova(VFIOGuestMemfd *v, hwaddr iova, hwaddr last)
{
    IntervalTreeNode *node = interval_tree_iter_first(&v->by_iova, iova, last);

    return node ? container_of(node, Window, iova_node) : NULL;
}

static Window *window_next_iova(Window *w, hwaddr iova, hwaddr last)
{
    IntervalTreeNode *node = interval_tree_iter_next(&w->iova_node, iova, last);

    return node ? container_of(node, Window, iova_node) : NULL;
}

static int populate_windows(RamDiscardListener *rdl,
                            MemoryRegionSection *section)
{
    VFIOGuestMemfd *v = container_of(rdl, VFIOGuestMemfd, listener);
    uint64_t start = section->offset_within_region;
    uint64_t last = start + int128_get64(section->size) - 1;

    for (Window *w = window_at(v, start, last); w;
         w = window_next(w, start, last)) {
        int ret = w->dead ? 0 :
                  vfio_guest_memfd_populate(v, w, MAX(start, w->node.start),
                                            MIN(last, w->node.last) + 1);

        if (ret) {
            return ret;
        }
    }
    return 0;
}

static int empty_window(VFIOGuestMemfd *v, Window *w)
{
    return vfio_guest_memfd_discard(v, w, w->node.start, w->node.last + 1);
}

static void remove_window(VFIOGuestMemfd *v, Window *w)
{
    interval_tree_remove(&w->node, &v->by_offset);
    interval_tree_remove(&w->iova_node, &v->by_iova);
    v->nr_windows--;
    g_free(w);
}

/* All of a window that is dead goes, at last. */
static int discard_window(VFIOGuestMemfd *v, Window *w, uint64_t start,
                          uint64_t last)
{
    int ret;

    if (!w->dead) {
        return vfio_guest_memfd_discard(v, w, MAX(start, w->node.start),
                                        MIN(last, w->node.last) + 1);
    }
    ret = empty_window(v, w);
    if (!ret) {
        remove_window(v, w);
    }
    return ret;
}

static int discard_windows(RamDiscardListener *rdl,
                           MemoryRegionSection *section)
{
    VFIOGuestMemfd *v = container_of(rdl, VFIOGuestMemfd, listener);
    uint64_t start = section->offset_within_region;
    uint64_t last = start + int128_get64(section->size) - 1;
    Window *w, *next;

    for (w = window_at(v, start, last); w; w = next) {
        int ret;

        next = window_next(w, start, last);
        ret = discard_window(v, w, start, last);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static void query(RamDiscardListener *rdl, GuestMemfdListenerInfo *info)
{
    VFIOGuestMemfd *v = container_of(rdl, VFIOGuestMemfd, listener);

    vfio_guest_memfd_query(v, info);
    info->name = g_strdup_printf("%s@viommu",
                                 object_get_typename(OBJECT(v->bcontainer)));
}

/* @v: NULL to start */
static VFIOGuestMemfd *next_of(VFIOContainer *bcontainer, VFIOGuestMemfd *v)
{
    v = v ? QLIST_NEXT(v, next) : QLIST_FIRST(&bcontainer->guest_memfd_list);
    while (v && !v->listener.on_demand) {
        v = QLIST_NEXT(v, next);
    }
    return v;
}

static VFIOGuestMemfd *get_listener(VFIOContainer *bcontainer,
                                    MemoryRegion *mr)
{
    MemoryRegionSection all = {
        .mr = mr,
        .size = int128_make64(memory_region_size(mr)),
    };
    VFIOGuestMemfd *v = NULL;

    while ((v = next_of(bcontainer, v))) {
        if (v->mr == mr) {
            return v;
        }
    }
    v = vfio_guest_memfd_new(bcontainer, mr, populate_windows,
                             discard_windows);
    v->listener.on_demand = true;
    v->listener.query = query;
    ram_discard_manager_register_listener(RAM_DISCARD_MANAGER(v->gm),
                                          &v->listener, &all);
    memory_region_ref(mr);
    return v;
}

static void put_listener(VFIOGuestMemfd *v)
{
    if (!v->nr_windows) {
        ram_discard_manager_unregister_listener(RAM_DISCARD_MANAGER(v->gm),
                                                &v->listener);
        memory_region_unref(v->mr);
        QLIST_REMOVE(v, next);
        g_free(v);
    }
}

/* Nothing else is shown there, in any block. */
static bool is_free(VFIOContainer *bcontainer, hwaddr iova, hwaddr last)
{
    VFIOGuestMemfd *v = NULL;
    Window *w = NULL;

    while (!w && (v = next_of(bcontainer, v))) {
        guest_memfd_lock(v->gm);
        while ((w = window_at_iova(v, iova, last)) && w->dead &&
               !empty_window(v, w)) {
            remove_window(v, w);
        }
        guest_memfd_unlock(v->gm);
    }
    return !w;
}

static int add_window(VFIOGuestMemfd *v, hwaddr iova, uint64_t start,
                      uint64_t size, bool readonly)
{
    uint64_t end = start + size, stop;
    Window *w;
    int ret = 0;

    if (v->nr_windows >= MAX_WINDOWS) {
        return -ENOSPC;
    }
    if (!is_free(v->bcontainer, iova, iova + size - 1)) {
        return -EEXIST;
    }
    w = g_new0(Window, 1);
    w->node.start = start;
    w->node.last = end - 1;
    w->iova_node.start = iova;
    w->iova_node.last = iova + size - 1;
    w->to_iova = iova - start;
    w->readonly = readonly;

    guest_memfd_lock(v->gm);
    interval_tree_insert(&w->node, &v->by_offset);
    interval_tree_insert(&w->iova_node, &v->by_iova);
    v->nr_windows++;

    while (!ret && (stop = guest_memfd_next_shared(v->gm, &start, end))) {
        ret = vfio_guest_memfd_populate(v, w, start, stop);
        start = stop;
    }
    if (ret) {
        w->dead = true;
        if (!empty_window(v, w)) {
            remove_window(v, w);
        }
    }
    guest_memfd_unlock(v->gm);
    return ret;
}

bool vfio_guest_memfd_translate(VFIOContainer *bcontainer, hwaddr iova,
                                const IOMMUTLBEntry *iotlb)
{
    uint64_t size = iotlb->addr_mask + 1;
    MemoryRegionSection s = memory_region_find(get_system_memory(),
                                               iotlb->translated_addr,
                                               size ?: 1);
    bool ours = s.mr && guest_memfd_from_mr(s.mr);
    VFIOGuestMemfd *v = NULL;
    int ret = -EINVAL;

    if (ours && size && int128_get64(s.size) == size &&
        QEMU_IS_ALIGNED(iova | s.offset_within_region | size,
                        qemu_real_host_page_size())) {
        v = get_listener(bcontainer, s.mr);
    }
    if (v) {
        ret = add_window(v, iova, s.offset_within_region, size,
                         !(iotlb->perm & IOMMU_WO) || s.readonly);
        put_listener(v);
    }
    if (ours && ret) {
        /* A guest can cause it as often as it likes. */
        error_report_once("the virtual IOMMU cannot show '%s' to a device, at "
                          "I/O virtual address 0x%" HWADDR_PRIx ": %s",
                          memory_region_name(s.mr), iova, strerror(-ret));
    }
    memory_region_unref(s.mr);
    return ours;
}

/* Returns: the bytes of the range that @v has shown. */
static uint64_t remove_windows(VFIOGuestMemfd *v, hwaddr iova, hwaddr last,
                               bool final)
{
    uint64_t bytes = 0;
    Window *w, *next;

    guest_memfd_lock(v->gm);
    for (w = window_at_iova(v, iova, last); w; w = next) {
        int ret = empty_window(v, w);

        next = window_next_iova(w, iova, last);
        if (!ret || !final) {
            bytes += MIN(last, w->iova_node.last) -
                     MAX(iova, w->iova_node.start) + 1;
        }
        if (ret) {
            error_report_once("a device keeps '%s' mapped, which the virtual "
                              "IOMMU has hidden: %s",
                              guest_memfd_id(v->gm), strerror(-ret));
            w->dead = true;
        }
        if (!ret || final) {
            vfio_guest_memfd_forget(v, w);
            remove_window(v, w);
        }
    }
    guest_memfd_unlock(v->gm);
    return bytes;
}

bool vfio_guest_memfd_untranslate(VFIOContainer *bcontainer, hwaddr iova,
                                  hwaddr last, bool final)
{
    VFIOGuestMemfd *v = next_of(bcontainer, NULL), *next;
    uint64_t bytes = 0;

    for (; v; v = next) {
        next = next_of(bcontainer, v);
        bytes += remove_windows(v, iova, last, final);
        put_listener(v);
    }
    return bytes && bytes - 1 == last - iova;
}
