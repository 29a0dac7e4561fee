/*
 * A container for unit tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/dma.h"
#include "guest-memfd-fake-container.h"

uint64_t fake_page_size = 4 * KiB;
FakeContainer fake;

/* What the code calls beside the container */

int getpagesize(void)
{
    return fake_page_size;
}

void *memory_region_get_ram_ptr(MemoryRegion *mr)
{
    return NULL;
}

void guest_memfd_listener_stale(GuestMemfd *gm, RamDiscardListener *rdl,
                                uint64_t start, uint64_t end)
{
    fake.stale = fake.stale_end ? MIN(fake.stale, start) : start;
    fake.stale_end = MAX(fake.stale_end, end);
}

uint64_t guest_memfd_next_shared(GuestMemfd *gm, uint64_t *start, uint64_t end)
{
    unsigned long last = end / PAGE;
    unsigned long first = find_next_bit(fake.shared, last, *start / PAGE);

    *start = first * PAGE;
    return first < last ? find_next_zero_bit(fake.shared, last, first) * PAGE : 0;
}

uint64_t guest_memfd_next_border(GuestMemfd *gm, uint64_t start, uint64_t end)
{
    g_assert_cmpuint(fake.v.granularity, ==, 0);
    return end;
}

uint64_t dma_aligned_pow2_mask(uint64_t start, uint64_t end, int max_addr_bits)
{
    uint64_t size = 1;

    while (start % (2 * size) == 0 && start + 2 * size - 1 <= end) {
        size *= 2;
    }
    return size - 1;
}

int vfio_container_dma_map(VFIOContainer *bcontainer, hwaddr iova,
                           uint64_t size, void *vaddr, bool readonly,
                           MemoryRegion *mr)
{
    uint64_t offset = iova - fake.iova, end = offset + size;

    g_assert_cmpuint((uintptr_t)vaddr, ==, offset);
    g_assert_cmpuint(end, <=, PAGES * PAGE);
    for (unsigned n = 0; n < PAGES; n++) {
        if (fake.end_of[n] > offset && n * PAGE < end) {
            g_assert_true(fake.refused);
            return -EEXIST;
        }
    }
    if (fake.fail && !--fake.fail) {
        fake.fail = 1;
        return -ENOMEM;
    }
    if (fake.nr >= fake.limit) {
        return -ENOSPC;
    }
    fake.end_of[offset / PAGE] = end;
    fake.nr++;
    return 0;
}

int vfio_container_dma_unmap(VFIOContainer *bcontainer, hwaddr iova,
                             uint64_t size, IOMMUTLBEntry *iotlb,
                             bool unmap_all)
{
    uint64_t offset = iova - fake.iova;

    g_assert_cmpuint(fake.end_of[offset / PAGE], ==, offset + size);
    if (fake.fail && !--fake.fail) {
        fake.fail = 1;
        g_assert_cmpuint(++fake.refusals, <, 1000000);
        return fake.unmap_error ?: -EIO;
    }
    fake.end_of[offset / PAGE] = 0;
    fake.nr--;
    fake.touched = fake.touched_end ? MIN(fake.touched, offset) : offset;
    fake.touched_end = MAX(fake.touched_end, offset + size);
    return 0;
}

static void dma_batch(VFIOContainer *bcontainer, VFIODmaRequest *requests,
                       unsigned nr)
{
    fake.batches++;
    for (VFIODmaRequest *r = requests; r < requests + nr; r++) {
        if (r->map) {
            r->ret = vfio_container_dma_map(bcontainer, r->iova, r->size,
                                            r->vaddr, r->readonly, r->mr);
        } else {
            r->ret = vfio_container_dma_unmap(bcontainer, r->iova, r->size,
                                              NULL, false);
            fake.refused |= r->ret;
        }
    }
    fake.refused = false;
}

void fake_container_batch(bool batch)
{
    VFIO_IOMMU_CLASS(object_class_by_name(TYPE_VFIO_IOMMU))->dma_batch =
        batch ? dma_batch : NULL;
}

void fake_container_start(unsigned limit, GuestMemfdDmaSplit split)
{
    memset(&fake, 0, sizeof(fake));
    fake.bcontainer = VFIO_IOMMU(object_new(TYPE_VFIO_IOMMU));
    fake.bcontainer->dma_max_mappings = fake.limit = limit;
    fake.bcontainer->dma_split = split;
    fake.v.bcontainer = fake.bcontainer;
    fake.v.gm = (GuestMemfd *)&fake;    /* never looked into */
    fake.v.name = "m0";
    fake.v.to_iova = fake.iova = IOVA;
}

void fake_container_stop(void)
{
    g_assert_cmpint(vfio_ram_discard_discard(&fake.v, 0, PAGES * PAGE), ==, 0);
    vfio_ram_discard_settled(&fake.v);
    g_assert_cmpuint(fake.nr, ==, 0);
    g_assert_cmpuint(fake.bcontainer->dma_extents, ==, 0);
    object_unref(OBJECT(fake.bcontainer));
}

static const TypeInfo container_info = {
    .name = TYPE_VFIO_IOMMU,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(VFIOContainer),
    .class_size = sizeof(VFIOIOMMUClass),
};

void fake_container_register(void)
{
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&container_info);
}
