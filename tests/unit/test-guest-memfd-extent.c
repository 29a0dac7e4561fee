/*
 * Extents of a container: what a guest converts, at any limit
 *
 * The container is a fake that takes a mapping only where there is none, and
 * unmaps only what it mapped in one call, as type1 does; requests come one by one,
 * or many in a round trip.  The model is a bit a page: shared or not.  The host's
 * page size is what the code is told by getpagesize(): 4, 16 and 64 KiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "system/dma.h"
#include "../hw/vfio/guest-memfd-internal.h"

static uint64_t page_size = 4 * KiB;

#define PAGE page_size
#define PAGES 512
#define IOVA (3 * GiB - 256 * PAGE)     /* a boundary of 1 GiB is inside */

static struct {
    VFIOContainer *container;
    VFIORamDiscard v;
    uint64_t iova;
    uint64_t end_of[PAGES];     /* of the mapping that starts there; 0: none */
    unsigned nr;
    unsigned limit;             /* of the fake itself */
    unsigned fail;              /* this call fails, and those after it; 0: none */
    int unmap_error;            /* with that; 0: EIO */
    unsigned refusals;          /* of unmaps */
    bool refused;               /* an unmap of this batch */
    unsigned batches;
    uint64_t touched, touched_end;      /* by unmaps, as offsets */
    uint64_t stale, stale_end;
    unsigned long shared[BITS_TO_LONGS(PAGES)];
} t;

/* What the code calls beside the container */

int getpagesize(void)
{
    return page_size;
}

void *memory_region_get_ram_ptr(MemoryRegion *mr)
{
    return NULL;
}

void guest_memfd_listener_stale(GuestMemfd *gm, RamDiscardListener *rdl,
                                uint64_t start, uint64_t end)
{
    t.stale = t.stale_end ? MIN(t.stale, start) : start;
    t.stale_end = MAX(t.stale_end, end);
}

uint64_t guest_memfd_next_border(GuestMemfd *gm, uint64_t start, uint64_t end)
{
    g_assert_cmpuint(t.v.granularity, ==, 0);
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
    uint64_t offset = iova - t.iova, end = offset + size;

    g_assert_cmpuint((uintptr_t)vaddr, ==, offset);
    g_assert_cmpuint(end, <=, PAGES * PAGE);
    for (unsigned n = 0; n < PAGES; n++) {
        if (t.end_of[n] > offset && n * PAGE < end) {
            g_assert_true(t.refused);
            return -EEXIST;
        }
    }
    if (t.fail && !--t.fail) {
        t.fail = 1;
        return -ENOMEM;
    }
    if (t.nr >= t.limit) {
        return -ENOSPC;
    }
    t.end_of[offset / PAGE] = end;
    t.nr++;
    return 0;
}

int vfio_container_dma_unmap(VFIOContainer *bcontainer, hwaddr iova,
                             uint64_t size, IOMMUTLBEntry *iotlb,
                             bool unmap_all)
{
    uint64_t offset = iova - t.iova;

    g_assert_cmpuint(t.end_of[offset / PAGE], ==, offset + size);
    if (t.fail && !--t.fail) {
        t.fail = 1;
        g_assert_cmpuint(++t.refusals, <, 1000000);
        return t.unmap_error ?: -EIO;
    }
    t.end_of[offset / PAGE] = 0;
    t.nr--;
    t.touched = t.touched_end ? MIN(t.touched, offset) : offset;
    t.touched_end = MAX(t.touched_end, offset + size);
    return 0;
}

static void fake_batch(VFIOContainer *bcontainer, VFIODmaRequest *requests,
                       unsigned nr)
{
    t.batches++;
    for (VFIODmaRequest *r = requests; r < requests + nr; r++) {
        if (r->map) {
            r->ret = vfio_container_dma_map(bcontainer, r->iova, r->size,
                                            r->vaddr, r->readonly, r->mr);
        } else {
            r->ret = vfio_container_dma_unmap(bcontainer, r->iova, r->size,
                                              NULL, false);
            t.refused |= r->ret;
        }
    }
    t.refused = false;
}

static unsigned runs(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        n += test_bit(i, t.shared) && (!i || !test_bit(i - 1, t.shared));
    }
    return n;
}

static unsigned joints(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        unsigned end = t.end_of[i] / PAGE;

        n += end && end < PAGES && t.end_of[end];
    }
    return t.container->dma_split == GUEST_MEMFD_DMA_SPLIT_PAGE ? 0 : n;
}

/* Mapped is what is shared, but for what the code has said to be stale. */
static void check(void)
{
    g_assert_cmpuint(t.container->dma_extents, ==, t.nr);
    g_assert_cmpuint(t.v.nr_extents, ==, t.nr);
    g_assert_cmpuint(t.v.nr_joints, ==, joints());
    for (unsigned i = 0, end = 0; i < PAGES; i++) {
        end = t.end_of[i] ? t.end_of[i] / PAGE : end;
        if (i < end) {
            g_assert_true(test_bit(i, t.shared));
        } else if (test_bit(i, t.shared)) {
            g_assert_true(i * PAGE >= t.stale && i * PAGE < t.stale_end);
        }
    }
}

/* The size of pages is only a factor: most rounds have the usual one. */
static int rounds(int n)
{
    return page_size == 4 * KiB ? n : n / 10;
}

static void setup(unsigned limit, GuestMemfdDmaSplit split)
{
    memset(&t, 0, sizeof(t));
    t.container = VFIO_IOMMU(object_new(TYPE_VFIO_IOMMU));
    t.container->dma_max_mappings = t.limit = limit;
    t.container->dma_split = split;
    t.v.bcontainer = t.container;
    t.v.name = "m0";
    t.v.to_iova = t.iova = IOVA;
}

static void teardown(void)
{
    g_assert_cmpint(vfio_ram_discard_discard(&t.v, 0, PAGES * PAGE), ==, 0);
    vfio_ram_discard_settled(&t.v);
    g_assert_cmpuint(t.nr, ==, 0);
    g_assert_cmpuint(t.container->dma_extents, ==, 0);
    object_unref(OBJECT(t.container));
}

/* What is stale is mapped again; whether all of it could. */
static bool mend(void)
{
    uint64_t s = t.stale / PAGE, e, last = t.stale_end / PAGE;

    t.stale = t.stale_end = 0;
    while ((s = find_next_bit(t.shared, last, s)) < last) {
        e = find_next_zero_bit(t.shared, last, s);
        if (vfio_ram_discard_populate(&t.v, s * PAGE, e * PAGE)) {
            guest_memfd_listener_stale(NULL, NULL, s * PAGE, last * PAGE);
            return false;
        }
        s = e;
    }
    return true;
}

/* A request to private is refused, and taken back; nothing stays stale. */
static void refuse(unsigned first, unsigned nr)
{
    unsigned limit = t.limit, s = first, e = first + nr, others, room;

    g_assert_cmpint(vfio_ram_discard_discard(&t.v, first * PAGE, e * PAGE), ==,
                    0);
    g_assert_cmpuint(find_next_bit(t.shared, e, first), <, e);

    /* Meanwhile another section of the container takes all that it can. */
    room = t.container->dma_max_mappings;
    room -= MIN(512, room / 8);
    others = room - MIN(room, t.container->dma_extents);
    t.container->dma_extents += others;
    t.limit -= others;

    while ((s = find_next_bit(t.shared, e, s)) < e) {
        unsigned end = find_next_zero_bit(t.shared, e, s);

        g_assert_cmpint(vfio_ram_discard_populate(&t.v, s * PAGE, end * PAGE),
                        ==, 0);
        s = end;
    }
    mend();
    vfio_ram_discard_settled(&t.v);
    t.container->dma_extents -= others;
    t.limit = limit;
    g_assert_cmpuint(t.stale_end, ==, 0);
    check();
}

/* As a conversion does it; returns whether it was granted. */
static bool convert(unsigned first, unsigned nr, bool to_shared)
{
    uint64_t start = first * PAGE, end = (first + nr) * PAGE;
    int ret;

    t.touched = t.touched_end = 0;
    if (!to_shared) {
        ret = vfio_ram_discard_discard(&t.v, start, end);
        g_assert_cmpint(ret, ==, 0);
        vfio_ram_discard_settled(&t.v);
        bitmap_clear(t.shared, first, nr);
        check();
        return true;
    }
    if (!mend()) {              /* or nothing becomes shared */
        vfio_ram_discard_settled(&t.v);
        check();
        return false;
    }
    ret = vfio_ram_discard_populate(&t.v, start, end);
    if (!ret) {
        bitmap_set(t.shared, first, nr);
    } else {
        g_assert_cmpint(ret, ==, -ENOSPC);
        for (unsigned i = first; i < first + nr; i++) {
            if (!test_bit(i, t.shared)) {
                g_assert_cmpint(vfio_ram_discard_discard(&t.v, i * PAGE,
                                                         (i + 1) * PAGE),
                                ==, 0);
            }
        }
        vfio_ram_discard_settled(&t.v);
    }
    check();
    return !ret;
}

/* Whoever gives back just what it took unmaps nothing else. */
static void test_exact(void)
{
    struct { unsigned first, nr; } taken[PAGES];
    unsigned n = 0;

    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    t.limit = PAGES;
    for (int i = 0; i < rounds(20000); i++) {
        if (n && g_test_rand_bit()) {
            unsigned k = g_test_rand_int_range(0, n);

            convert(taken[k].first, taken[k].nr, false);
            g_assert_cmpuint(t.touched, ==, taken[k].first * PAGE);
            g_assert_cmpuint(t.touched_end, ==,
                             (taken[k].first + taken[k].nr) * PAGE);
            taken[k] = taken[--n];
        } else {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(1, MIN(20, PAGES - first) + 1);

            if (find_next_bit(t.shared, first + nr, first) < first + nr) {
                continue;
            }
            g_assert_true(convert(first, nr, true));
            taken[n].first = first;
            taken[n++].nr = nr;
        }
    }
    g_assert_cmpuint(t.stale_end, ==, 0);
    teardown();
}

/*
 * At any limit: giving back always works; sharing does where what is shared then
 * fits, and nothing stays stale.
 */
static void test_limits(void)
{
    for (unsigned limit = 16; limit <= 128; limit += 7) {
        unsigned room = limit - MIN(512, limit / 8), refused = 0;

        setup(limit, GUEST_MEMFD_DMA_SPLIT_AUTO);
        for (int i = 0; i < rounds(20000); i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(0, 4) ? 1 :
                          g_test_rand_int_range(1, PAGES - first + 1);
            bool to_shared = g_test_rand_bit();

            if (!convert(first, nr, to_shared)) {
                unsigned long before[BITS_TO_LONGS(PAGES)];
                unsigned runs_before = runs();

                refused++;
                bitmap_copy(before, t.shared, PAGES);
                bitmap_set(t.shared, first, nr);
                g_assert_cmpuint(MAX(runs(), runs_before), >, room);
                bitmap_copy(t.shared, before, PAGES);
            }
        }
        g_test_message("limit %u: %u refused", limit, refused);
        teardown();
    }
}

/*
 * The container has told no limit, or not its own: giving back always works, and what
 * is refused has changed nothing.
 */
static void test_untold_limit(void)
{
    for (unsigned limit = 1; limit <= 64; limit += 1 + limit / 4) {
        unsigned refused = 0;

        setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
        t.limit = limit;
        for (int i = 0; i < 2000; i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(1, MIN(40, PAGES - first) + 1);

            refused += !convert(first, nr, g_test_rand_bit());
        }
        g_test_message("limit %u: %u refused", limit, refused);
        g_assert_true(convert(0, PAGES, false));
        g_assert_true(convert(0, PAGES, true));
        g_assert_cmpuint(t.nr, <=, MIN(limit, 2));
        teardown();
    }
}

/*
 * At any limit, also where a section that came late has taken what conversions
 * leave: a request to private that is refused changes nothing.
 */
static void test_refused(void)
{
    for (unsigned limit = 1; limit <= 128; limit += 1 + limit / 8) {
        unsigned refused = 0;

        setup(limit, GUEST_MEMFD_DMA_SPLIT_AUTO);
        for (int i = 0; i < rounds(5000); i++) {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(0, 4) ? 1 :
                          g_test_rand_int_range(1, PAGES - first + 1);

            t.v.arriving = g_test_rand_bit();
            convert(first, nr, g_test_rand_int_range(0, 3));
            t.v.arriving = false;
            first = g_test_rand_int_range(0, PAGES);
            nr = g_test_rand_int_range(1, PAGES - first + 1);
            /* Not all runs fit the limit, if one was given back in part. */
            if (mend() &&
                find_next_bit(t.shared, first + nr, first) < first + nr) {
                refused++;
                refuse(first, nr);
            }
        }
        g_test_message("limit %u: %u refused", limit, refused);
        teardown();
    }
}

/* A split that has no room for its pieces has two, and nothing is lost. */
static void test_coarse(void)
{
    uint64_t start = 1;
    unsigned others;

    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(0, 128, true));
    for (unsigned i = 0; i < 12; i++) {
        g_assert_true(convert(300 + 2 * i, 1, true));
    }
    convert(5, 1, false);
    g_assert_cmpuint(t.nr, ==, 14);
    g_assert_cmpuint(t.stale_end, ==, 0);
    g_assert_false(convert(400, 1, true));

    g_assert_cmpuint(vfio_ram_discard_next_mapped(&t.v, &start), ==, 5 * PAGE);
    g_assert_cmpuint(start, ==, 1);
    start = 5 * PAGE;
    g_assert_cmpuint(vfio_ram_discard_next_mapped(&t.v, &start), ==,
                     128 * PAGE);
    g_assert_cmpuint(start, ==, 6 * PAGE);

    /* A container without a limit has 2^20, of which 512 are for others. */
    t.container->dma_max_mappings = 0;
    others = (1 << 20) - 512 - t.nr - 1;
    t.container->dma_extents += others;
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, 400 * PAGE, 401 * PAGE),
                    ==, 0);
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, 402 * PAGE, 403 * PAGE),
                    ==, -ENOSPC);
    t.container->dma_extents -= others;
    teardown();
}

/*
 * Calls fail, from one on: then what is shared and not mapped is in what was
 * asked for, or stale.
 */
static void test_failures(void)
{
    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    for (int i = 0; i < rounds(20000); i++) {
        unsigned first = g_test_rand_int_range(0, PAGES);
        unsigned nr = g_test_rand_int_range(1, MIN(40, PAGES - first) + 1);
        bool to_shared = g_test_rand_bit();
        int ret;

        t.fail = g_test_rand_int_range(1, 8);
        ret = to_shared ? vfio_ram_discard_populate(&t.v, first * PAGE,
                                                    (first + nr) * PAGE) :
              vfio_ram_discard_discard(&t.v, first * PAGE, (first + nr) * PAGE);
        t.fail = 0;
        if (!ret && to_shared) {
            bitmap_set(t.shared, first, nr);
        } else if (!ret) {
            bitmap_clear(t.shared, first, nr);
        } else {
            guest_memfd_listener_stale(NULL, NULL, first * PAGE,
                                       (first + nr) * PAGE);
            /* A part that could become shared is private again. */
            for (unsigned n = first; n < first + nr; n++) {
                if (!test_bit(n, t.shared)) {
                    vfio_ram_discard_discard(&t.v, n * PAGE, (n + 1) * PAGE);
                }
            }
        }
        if (ret || !to_shared) {            /* as a transaction does */
            vfio_ram_discard_settled(&t.v);
        }
        check();
        convert(0, 1, true);                /* mends */
        convert(0, 1, false);
    }
    teardown();
}

/* No room is made for an unmap, which needs none, whatever a server says. */
static void test_refused_unmap(void)
{
    setup(16, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(0, 16, true));
    t.unmap_error = -ENOSPC;
    t.fail = 1;
    g_assert_cmpint(vfio_ram_discard_discard(&t.v, 4 * PAGE, 5 * PAGE), ==,
                    -EIO);
    g_assert_cmpint(vfio_ram_discard_discard(&t.v, 0, PAGES * PAGE), ==, -EIO);
    g_assert_cmpuint(t.refusals, ==, 2);
    t.fail = 0;
    vfio_ram_discard_settled(&t.v);
    check();
    teardown();
}

/* One buffer, of which single pages go and come back. */
static void test_toggle(void)
{
    setup(64, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_true(convert(256, 256, true));
    for (int i = 0; i < rounds(5000); i++) {
        unsigned page = g_test_rand_int_range(256, 512);

        convert(page, 1, false);
        g_assert_true(convert(page, 1, true));
    }
    g_assert_cmpuint(t.stale_end, ==, 0);
    teardown();
}

/* With page, each is a mapping, and none is ever joined or split. */
static void test_page(void)
{
    setup(300, GUEST_MEMFD_DMA_SPLIT_PAGE);
    for (int i = 0; i < rounds(5000); i++) {
        unsigned first = g_test_rand_int_range(0, PAGES);
        unsigned nr = g_test_rand_int_range(1, PAGES - first + 1);

        convert(first, nr, g_test_rand_bit());
        g_assert_cmpuint(t.nr, ==, bitmap_count_one(t.shared, PAGES));
        g_assert_cmpuint(t.stale_end, ==, 0);
        g_assert_cmpuint(t.v.splits, ==, 0);
    }
    teardown();
}

/* Blocks of virtio-mem, each a mapping, wherever they are in the address space. */
#define GRANULARITY 128
#define BLOCKS (PAGES / GRANULARITY)

static void check_blocks(unsigned first, unsigned nr)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t start = i * GRANULARITY * PAGE;

        g_assert_cmphex(t.end_of[i * GRANULARITY], ==,
                        i >= first && i < first + nr ?
                        start + GRANULARITY * PAGE : 0);
    }
    g_assert_cmpuint(t.nr, ==, nr);
    g_assert_cmpuint(t.container->dma_extents, ==, nr);
    g_assert_cmpuint(t.v.nr_extents, ==, nr);
    g_assert_cmpuint(t.v.nr_joints, ==, 0);
    g_assert_cmpuint(t.v.splits, ==, 0);
    g_assert_cmpuint(t.stale_end, ==, 0);
}

static void test_granularity(void)
{
    const uint64_t block = GRANULARITY * PAGE;
    uint64_t moved = IOVA + 3 * PAGE;

    for (int split = 0; split < GUEST_MEMFD_DMA_SPLIT__MAX; split++) {
        setup(0, split);
        t.limit = PAGES;
        t.v.granularity = block;
        t.v.to_iova = t.iova = moved;
        t.v.arriving = true;    /* no block is asked for boundaries */
        for (unsigned refused = 1; refused <= 2; refused++) {
            /* What is there stays. */
            g_assert_cmpint(vfio_ram_discard_populate(&t.v, 0, block), ==, 0);
            g_assert_cmpint(vfio_ram_discard_populate(&t.v, 0, 3 * block), ==,
                            0);
            check_blocks(0, 3);

            /* A discard that is refused is undone by populating again. */
            t.fail = refused;
            g_assert_cmpint(vfio_ram_discard_discard(&t.v, 0, PAGES * PAGE), ==,
                            -EIO);
            t.fail = 0;
            g_assert_cmpint(vfio_ram_discard_populate(&t.v, 0, 3 * block), ==,
                            0);
            check_blocks(0, 3);

            /* In other ranges than it came */
            g_assert_cmpint(vfio_ram_discard_discard(&t.v, 0, 2 * block), ==,
                            0);
            check_blocks(2, 1);
            g_assert_cmpint(vfio_ram_discard_discard(&t.v, 0, PAGES * PAGE), ==,
                            0);
            check_blocks(0, 0);
        }
        teardown();
    }
}

/* What does not fit is refused as a whole, at once; nothing is joined for it. */
static void test_granularity_limit(void)
{
    const uint64_t block = GRANULARITY * PAGE;

    setup(2, GUEST_MEMFD_DMA_SPLIT_AUTO);
    t.v.granularity = block;
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, 0, block), ==, 0);
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, block, 3 * block), ==,
                    -ENOSPC);
    check_blocks(0, 1);
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, block, 2 * block), ==, 0);
    check_blocks(0, 2);

    /* The container has no limit: then there is none. */
    t.container->dma_max_mappings = 0;
    t.container->dma_extents += 1 << 20;
    t.limit = 3;
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, 2 * block, 3 * block), ==,
                    0);
    g_assert_cmpint(vfio_ram_discard_discard(&t.v, 2 * block, 3 * block), ==,
                    0);
    t.container->dma_extents -= 1 << 20;
    t.limit = 2;

    /* It has less room than it said. */
    g_assert_cmpint(vfio_ram_discard_populate(&t.v, 2 * block, 3 * block), ==,
                    -ENOSPC);
    check_blocks(0, 2);
    teardown();
}

static void set_batch(bool batch)
{
    VFIO_IOMMU_CLASS(object_class_by_name(TYPE_VFIO_IOMMU))->dma_batch =
        batch ? fake_batch : NULL;
}

/* Requests of a batch share a round trip. */
static void test_round_trips(void)
{
    set_batch(true);            /* also where others go one by one */
    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    t.limit = PAGES;
    for (unsigned i = 0; i < PAGES; i++) {
        g_assert_true(convert(i, 1, true));
    }
    t.batches = 0;
    convert(0, PAGES, false);
    g_assert_cmpuint(t.batches, <=, PAGES / 64);

    g_assert_true(convert(1, 253, true));
    t.batches = 0;
    convert(100, 1, false);
    g_assert_cmpuint(t.batches, ==, 1);
    g_assert_cmpuint(t.nr, ==, 8 + 10);
    teardown();
}

static int unmap_exact(VFIOContainer *bcontainer, hwaddr iova, uint64_t size)
{
    return 0;
}

/* @needle: "" for none at all */
static void check_advice(int ret, uint64_t more, const char *needle)
{
    g_autofree char *advice = vfio_ram_discard_advice(&t.v, ret, more);

    g_test_message("%s", advice);
    g_assert_cmpint(*advice != 0, ==, *needle != 0);
    g_assert_nonnull(strstr(advice, needle));
}

/* Whether QEMU's threads have a capability */
static void set_ipc_lock(bool have)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    uint32_t bit = 1u << CAP_IPC_LOCK;

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    data[0].effective &= ~bit;
    data[0].effective |= have ? data[0].permitted & bit : 0;
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
}

static bool has_ipc_lock(void)
{
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &status, NULL,
                                      NULL));
    line = strstr(status, "CapEff:");
    return g_ascii_strtoull(line + strlen("CapEff:"), NULL, 16) >>
           CAP_IPC_LOCK & 1;
}

/* RLIMIT_MEMLOCK is named where it counts, with what counts. */
static void test_memlock(void)
{
    VFIOIOMMUClass *vioc =
        VFIO_IOMMU_CLASS(object_class_by_name(TYPE_VFIO_IOMMU));
    struct rlimit before, limit;
    void *locked;

    setup(0, GUEST_MEMFD_DMA_SPLIT_AUTO);
    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    limit = before;
    limit.rlim_cur = MIN(64 * KiB, before.rlim_max);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);

    set_ipc_lock(true);
    if (has_ipc_lock()) {
        check_advice(-ENOMEM, 128 * KiB, "");
        vioc->dma_unmap_exact = unmap_exact;
        check_advice(-ENOMEM, 128 * KiB, "");
        vioc->dma_unmap_exact = NULL;
        set_ipc_lock(false);
    }
    if (limit.rlim_cur == 64 * KiB) {
        locked = qemu_memalign(PAGE, 16 * KiB);
        memset(locked, 0, 16 * KiB);
        /* AddressSanitizer's mlock() does nothing. */
        g_assert_cmpint(syscall(SYS_mlock, locked, 16 * KiB), ==, 0);
        check_advice(-ENOMEM, 48 * KiB, "");
        check_advice(-ENOSPC, 52 * KiB, "");
        check_advice(-ENOMEM, 52 * KiB, " (RLIMIT_MEMLOCK is 64 KiB, QEMU has "
                     "locked 16 KiB, and this needs 52 KiB more: without "
                     "CAP_IPC_LOCK, raise the limit above the memory of the "
                     "guest, once for each address space that devices see, ");
        /* What others have mapped is not known. */
        vioc->dma_unmap_exact = unmap_exact;
        check_advice(-ENOMEM, 4 * KiB, " (RLIMIT_MEMLOCK is 64 KiB, iommufd "
                     "counts what all processes of the user have mapped, and "
                     "this needs 4 KiB more: without CAP_IPC_LOCK, raise the "
                     "limit above the memory of all VMs of the user, ");
        vioc->dma_unmap_exact = NULL;
        g_assert_cmpint(syscall(SYS_munlock, locked, 16 * KiB), ==, 0);
        qemu_vfree(locked);
    }
    set_ipc_lock(true);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    teardown();
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    { "exact", test_exact },
    { "limits", test_limits },
    { "untold-limit", test_untold_limit },
    { "refused", test_refused },
    { "coarse", test_coarse },
    { "failures", test_failures },
    { "refused-unmap", test_refused_unmap },
    { "toggle", test_toggle },
    { "page", test_page },
    { "granularity", test_granularity },
    { "granularity-limit", test_granularity_limit },
    { "round-trips", test_round_trips },
};

/* One of the tests, on a host with such pages */
typedef struct Case {
    unsigned test;
    uint64_t page_size;
} Case;

static void run_case(const Case *c, bool batch)
{
    set_batch(batch);
    page_size = c->page_size;
    tests[c->test].run();
    page_size = 4 * KiB;
}

static void test_one_by_one(const void *opaque)
{
    run_case(opaque, false);
}

static void test_batch(const void *opaque)
{
    run_case(opaque, true);
}

static void add_cases(uint64_t host_page)
{
    const uint64_t kib = host_page / KiB;

    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *one = g_strdup_printf("/guest-memfd-extent/%" PRIu64
                                               "k/%s", kib, tests[i].name);
        g_autofree char *many = g_strdup_printf("/guest-memfd-extent/%" PRIu64
                                                "k/batch/%s", kib,
                                                tests[i].name);
        const Case c = { i, host_page };

        g_test_add_data_func_full(one, g_memdup2(&c, sizeof(c)),
                                  test_one_by_one, g_free);
        g_test_add_data_func_full(many, g_memdup2(&c, sizeof(c)), test_batch,
                                  g_free);
    }
}

static const TypeInfo container_info = {
    .name = TYPE_VFIO_IOMMU,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(VFIOContainer),
    .class_size = sizeof(VFIOIOMMUClass),
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&container_info);

    add_cases(4 * KiB);
    add_cases(16 * KiB);
    add_cases(64 * KiB);
    g_test_add_func("/guest-memfd-extent/memlock", test_memlock);
    return g_test_run();
}
