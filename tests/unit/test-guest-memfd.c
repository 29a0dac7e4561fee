/*
 * Conversion transactions of guest_memfd blocks
 *
 * The block is real, what surrounds it is not: a driver and listeners that
 * remember each page, check what they are asked, and fail where they are told
 * to.  The driver enforces invariant I1: a page becomes private only while no
 * listener can reach it, and no listener maps a page that is private.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "system/accel-blocker.h"
#include "system/address-spaces.h"
#include "system/guest-memfd.h"
#include "system/kvm.h"
#include "system/ramblock.h"
#include "qom/object.h"

#define PAGE (4 * KiB)
#define PAGES 1024
#define LISTENERS 3
#define BLOCKS 2

typedef struct Listener {
    GuestMemfdListener parent;
    DECLARE_BITMAP(mapped, PAGES);
} Listener;

typedef struct Block {
    RAMBlock rb;
    MemoryRegion mr;
    GuestMemfd *gm;
    DECLARE_BITMAP(private, PAGES);     /* what the driver made of it */
    Listener listener[LISTENERS];
} Block;

static Block block[BLOCKS];

/*
 * Failures to inject: the calls of drivers and listeners are counted, those
 * with these numbers fail.  A listener that fails has done half of its work.
 */
static struct {
    QemuMutex lock;
    unsigned calls;
    unsigned fail[2];
    bool fail_all_after;
    int error;
    unsigned eagain;
    unsigned overlaps;          /* contract violations seen */
} fake;

static void fake_reset(void)
{
    fake.calls = 0;
    fake.fail[0] = fake.fail[1] = 0;
    fake.fail_all_after = false;
    fake.error = -ENOSPC;
    fake.eagain = 0;
}

static bool fake_fails(void)
{
    unsigned call;

    QEMU_LOCK_GUARD(&fake.lock);
    call = ++fake.calls;
    return call == fake.fail[0] || call == fake.fail[1] ||
           (fake.fail_all_after && fake.fail[0] && call > fake.fail[0]);
}

static Block *block_of(GuestMemfd *gm)
{
    for (int i = 0; i < BLOCKS; i++) {
        if (block[i].gm == gm) {
            return &block[i];
        }
    }
    g_assert_not_reached();
}

static int fake_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                        bool to_private, uint64_t *error_offset)
{
    Block *b = block_of(gm);
    unsigned long first = offset / PAGE, nr = size / PAGE;

    g_assert_cmpuint(size, >, 0);
    g_assert_cmpuint(offset + size, <=, PAGES * PAGE);

    for (int i = 0; i < LISTENERS; i++) {
        unsigned long *mapped = b->listener[i].mapped;

        /* I1, in both directions: nobody reaches what the driver changes. */
        g_assert_cmpuint(find_next_bit(mapped, first + nr, first), >=,
                         first + nr);
    }
    if (fake.eagain) {
        fake.eagain--;
        *error_offset = offset;
        return -EAGAIN;
    }
    if (fake_fails()) {
        return fake.error;
    }
    if (to_private) {
        bitmap_set(b->private, first, nr);
    } else {
        bitmap_clear(b->private, first, nr);
    }
    return 0;
}

/* Told when the map has changed, all of the range. */
static void fake_converted(GuestMemfd *gm, uint64_t offset, uint64_t size,
                           bool to_private)
{
    for (uint64_t o = offset; o < offset + size; o += PAGE) {
        g_assert_cmpint(guest_memfd_all_private(gm, o, PAGE), ==, to_private);
    }
}

static const GuestMemfdOps fake_ops = {
    .driver = GUEST_MEMFD_DRIVER_EMULATED,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = fake_convert,
    .converted = fake_converted,
};

static Block *block_of_listener(Listener *l)
{
    return container_of(l->parent.section->mr, Block, mr);
}

static void section_pages(const MemoryRegionSection *s, unsigned long *first,
                          unsigned long *nr)
{
    *first = s->offset_within_region / PAGE;
    *nr = int128_get64(s->size) / PAGE;
    g_assert_cmpuint(*nr, >, 0);
    g_assert_cmpuint(*first + *nr, <=, PAGES);
}

static int fake_populate(GuestMemfdListener *gl, const MemoryRegionSection *s)
{
    Listener *l = container_of(gl, Listener, parent);
    bool fails = fake_fails();
    unsigned long first, nr;

    section_pages(s, &first, &nr);
    /* I1: what gets mapped is shared already. */
    g_assert_cmpuint(find_next_bit(block_of_listener(l)->private, first + nr,
                                   first), >=, first + nr);
    bitmap_set(l->mapped, first, fails ? nr / 2 : nr);
    return fails ? fake.error : 0;
}

static int fake_discard(GuestMemfdListener *gl, const MemoryRegionSection *s)
{
    Listener *l = container_of(gl, Listener, parent);
    bool fails = fake_fails();
    unsigned long first, nr;

    section_pages(s, &first, &nr);
    bitmap_clear(l->mapped, first, fails ? nr / 2 : nr);
    return fails ? fake.error : 0;
}

static uint64_t fake_next_mapped(GuestMemfdListener *gl, uint64_t *start)
{
    Listener *l = container_of(gl, Listener, parent);
    unsigned long first = find_next_bit(l->mapped, PAGES, *start / PAGE);

    if (first >= PAGES) {
        return 0;
    }
    *start = first * PAGE;
    return find_next_zero_bit(l->mapped, PAGES, first) * PAGE;
}

static const GuestMemfdListenerOps fake_listener_ops = {
    .populate = fake_populate,
    .discard = fake_discard,
    .next_mapped = fake_next_mapped,
};

/* QEMU's memory core, as far as a block needs it. */

int memory_region_set_ram_discard_manager(MemoryRegion *mr,
                                          RamDiscardManager *rdm)
{
    mr->rdm = rdm;
    return 0;
}

MemoryRegionSection *memory_region_section_new_copy(MemoryRegionSection *s)
{
    return g_memdup2(s, sizeof(*s));
}

void memory_region_section_free_copy(MemoryRegionSection *s)
{
    g_free(s);
}

size_t qemu_ram_pagesize(RAMBlock *rb)
{
    return rb->page_size;
}

ram_addr_t qemu_ram_get_max_length(RAMBlock *rb)
{
    return rb->max_length;
}

bool kvm_allowed;

void accel_ioctl_begin(void)
{
}

void accel_ioctl_end(void)
{
}

static int discards_required;

int ram_block_coordinated_discard_require(bool state)
{
    discards_required += state ? 1 : -1;
    return 0;
}

/*
 * Guest physical addresses: block 0, block 1, hole, the start of block 0 once
 * more, hole, ROM, MMIO, hole.
 */
#define GPA_BLOCK0 0
#define GPA_BLOCK1 (PAGES * PAGE)
#define GPA_ALIAS  (3 * PAGES * PAGE)
#define ALIAS_SIZE (16 * PAGE)
#define GPA_ROM    (4 * PAGES * PAGE)
#define GPA_MMIO   (GPA_ROM + 16 * PAGE)
#define GPA_END    (GPA_MMIO + 16 * PAGE)

static MemoryRegion rom = { .ram = true, .readonly = true };
static MemoryRegion mmio;
static int region_refs;

MemoryRegion *get_system_memory(void)
{
    return NULL;
}

MemoryRegionSection memory_region_find(MemoryRegion *root, hwaddr addr,
                                       uint64_t size)
{
    const struct {
        hwaddr start, end;
        MemoryRegion *mr;
    } at[] = {
        { GPA_BLOCK0, GPA_BLOCK0 + PAGES * PAGE, &block[0].mr },
        { GPA_BLOCK1, GPA_BLOCK1 + PAGES * PAGE, &block[1].mr },
        { GPA_ALIAS, GPA_ALIAS + ALIAS_SIZE, &block[0].mr },
        { GPA_ROM, GPA_MMIO, &rom },
        { GPA_MMIO, GPA_END, &mmio },
    };
    hwaddr last = addr + size - 1;

    g_assert_cmpuint(last, >=, addr);
    for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
        hwaddr s = MAX(addr, at[i].start);

        if (s < at[i].end && s <= last) {
            region_refs++;
            return (MemoryRegionSection) {
                .mr = at[i].mr,
                .offset_within_address_space = s,
                .offset_within_region = s - at[i].start,
                .size = int128_make64(MIN(last, at[i].end - 1) - s + 1),
            };
        }
    }
    return (MemoryRegionSection) { .mr = NULL };
}

void memory_region_unref(MemoryRegion *mr)
{
    region_refs--;
}

static const TypeInfo rdm_info = {
    .parent = TYPE_INTERFACE,
    .name = TYPE_RAM_DISCARD_MANAGER,
    .class_size = sizeof(RamDiscardManagerClass),
};

static void register_rdm(void)
{
    type_register_static(&rdm_info);
}

type_init(register_rdm)

/* Set up and take down. */

static MemoryRegionSection section_of(Block *b, uint64_t offset, uint64_t size)
{
    return (MemoryRegionSection) {
        .mr = &b->mr,
        .offset_within_region = offset,
        .offset_within_address_space = offset,
        .size = int128_make64(size),
    };
}

/*
 * Listener 0 sees everything, 1 the first half, 2 everything but the first 16
 * pages: runs are cut differently for each.
 */
static void setup_block(Block *b, const char *id, bool private)
{
    const uint64_t start[LISTENERS] = { 0, 0, 16 };
    const uint64_t end[LISTENERS] = { PAGES, PAGES / 2, PAGES };

    memset(b, 0, sizeof(*b));
    b->mr.ram = true;
    b->mr.ram_block = &b->rb;
    b->rb.mr = &b->mr;
    b->rb.page_size = PAGE;
    b->rb.max_length = PAGES * PAGE;
    b->gm = guest_memfd_new(&b->rb, id, &fake_ops, private, &error_abort);
    if (private) {
        bitmap_set(b->private, 0, PAGES);
    }
    for (int i = 0; i < LISTENERS; i++) {
        MemoryRegionSection s = section_of(b, start[i] * PAGE,
                                           (end[i] - start[i]) * PAGE);

        b->listener[i].parent.ops = &fake_listener_ops;
        g_assert_cmpint(guest_memfd_register_listener(
                            b->gm, &b->listener[i].parent, &s, false), ==, 0);
    }
}

static void setup(bool private)
{
    fake_reset();
    setup_block(&block[0], "b0", private);
    setup_block(&block[1], "b1", private);
}

static void teardown(void)
{
    fake_reset();
    for (int i = 0; i < BLOCKS; i++) {
        for (int j = 0; j < LISTENERS; j++) {
            g_assert_cmpint(guest_memfd_unregister_listener(
                                block[i].gm, &block[i].listener[j].parent),
                            ==, 0);
            g_assert_true(bitmap_empty(block[i].listener[j].mapped, PAGES));
        }
        guest_memfd_free(block[i].gm);
    }
    g_assert_cmpint(discards_required, ==, 0);
    g_assert_cmpint(region_refs, ==, 0);
    g_assert_null(guest_memfd_next(NULL));
}

static int convert(Block *b, uint64_t first, uint64_t nr, bool to_private)
{
    return guest_memfd_convert_block(b->gm, first * PAGE, nr * PAGE, to_private,
                                     NULL);
}

/* The map of a block as bits, one a private page. */
static void read_map(Block *b, unsigned long *bits)
{
    uint64_t next = 0;

    bitmap_zero(bits, PAGES);
    while (next < PAGES * PAGE) {
        g_autoptr(GuestMemfdRunList) list =
            guest_memfd_query_map(b->gm, next, 7, &next);

        for (GuestMemfdRunList *r = list; r; r = r->next) {
            if (r->value->q_private) {
                bitmap_set(bits, r->value->offset / PAGE,
                           r->value->size / PAGE);
            }
        }
    }
}

/* I1 and the part of I3 that always holds: the map is what the driver has. */
static void check_safe(void)
{
    DECLARE_BITMAP(map, PAGES);

    for (int i = 0; i < BLOCKS; i++) {
        read_map(&block[i], map);
        g_assert_true(bitmap_equal(map, block[i].private, PAGES));
        for (int j = 0; j < LISTENERS; j++) {
            g_assert_false(bitmap_intersects(map, block[i].listener[j].mapped,
                                             PAGES));
        }
    }
}

/* I2 and all of I3. */
static void check_exact(void)
{
    check_safe();
    for (int i = 0; i < BLOCKS; i++) {
        guest_memfd_verify(block[i].gm, &error_abort);
    }
}

/* Three private runs with shared pages between them, seen by all listeners. */
static void make_runs(Block *b, bool private)
{
    g_assert_cmpint(convert(b, 0, PAGES, !private), ==, 0);
    g_assert_cmpint(convert(b, 100, 10, private), ==, 0);
    g_assert_cmpint(convert(b, 120, 5, private), ==, 0);
    g_assert_cmpint(convert(b, 500, 30, private), ==, 0);
    check_exact();
}

static void test_convert(void)
{
    GuestMemfdInfo *info;

    for (int private = 0; private < 2; private++) {
        setup(private);
        check_exact();
        for (int i = 0; i < 2; i++) {
            bool to_private = i ^ !private;

            g_assert_cmpint(convert(&block[0], 3, 40, to_private), ==, 0);
            check_exact();
            g_assert_cmpint(convert(&block[0], 0, PAGES, to_private), ==, 0);
            check_exact();
            /* Nothing to do: no one is asked. */
            fake_reset();
            g_assert_cmpint(convert(&block[0], 5, 9, to_private), ==, 0);
            g_assert_cmpuint(fake.calls, ==, 0);
        }
        info = guest_memfd_query(block[0].gm);
        g_assert_cmpuint(info->to_private->requests, ==, 3);
        g_assert_cmpuint(info->to_private->bytes, ==, PAGES * PAGE);
        g_assert_cmpuint(info->to_shared->requests, ==, 3);
        g_assert_cmpuint(info->to_shared->bytes, ==, PAGES * PAGE);
        g_assert_cmpuint(info->to_shared->failures, ==, 0);
        g_assert_cmpuint(info->shared_bytes, ==,
                         private ? 0 : PAGES * PAGE);
        qapi_free_GuestMemfdInfo(info);
        teardown();
    }
}

/* Number of calls that the request of test_failures makes when all is well. */
static unsigned count_calls(bool to_private)
{
    make_runs(&block[0], !to_private);
    fake_reset();
    g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
    check_exact();
    return fake.calls;
}

/* One failure, at every position: everything is as before. */
static void test_failures(void)
{
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        g_assert_cmpuint(calls, >=, 3 + 3 * (LISTENERS - 1));
        for (unsigned k = 1; k <= calls; k++) {
            DECLARE_BITMAP(before, PAGES);
            DECLARE_BITMAP(after, PAGES);

            make_runs(&block[0], !to_private);
            read_map(&block[0], before);
            fake_reset();
            fake.fail[0] = k;
            fake.error = -ENOSPC;
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                            -ENOSPC);
            read_map(&block[0], after);
            g_assert_true(bitmap_equal(before, after, PAGES));
            check_exact();

            /* It was this request, not the block: the next one works. */
            fake_reset();
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
            check_exact();
        }
        teardown();
    }
}

/*
 * A second failure while the first is undone: never unsafe, and mended by the
 * next request that finds everybody in order again.
 */
static void test_failed_undo(void)
{
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        for (unsigned k = 1; k <= calls; k++) {
            for (unsigned m = k + 1; m <= k + calls + LISTENERS; m++) {
                make_runs(&block[0], !to_private);
                fake_reset();
                fake.fail[0] = k;
                fake.fail[1] = m;
                g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                                -ENOSPC);
                check_safe();
                fake_reset();
                g_assert_cmpint(convert(&block[0], 1000, 1, to_private), ==, 0);
                check_exact();
            }
        }
        teardown();
    }
}

/* Somebody died: everything fails from some point on. */
static void test_dead(void)
{
    for (int to_private = 0; to_private < 2; to_private++) {
        unsigned calls;

        setup(false);
        calls = count_calls(to_private);
        for (unsigned k = 1; k <= calls; k++) {
            make_runs(&block[0], !to_private);
            fake_reset();
            fake.fail[0] = k;
            fake.fail_all_after = true;
            for (int i = 0; i < 3; i++) {
                g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==,
                                -ENOSPC);
                check_safe();
            }
            fake_reset();
            g_assert_cmpint(convert(&block[0], 90, 600, to_private), ==, 0);
            check_exact();
        }
        teardown();
    }
}

static void test_retry(void)
{
    GuestMemfdInfo *info;

    setup(false);
    fake.eagain = 3;
    g_assert_cmpint(convert(&block[0], 0, 8, true), ==, 0);
    check_exact();
    info = guest_memfd_query(block[0].gm);
    g_assert_cmpuint(info->to_private->retries, ==, 3);
    g_assert_cmpuint(info->to_private->rollbacks, ==, 0);
    qapi_free_GuestMemfdInfo(info);

    /* Held for good: bounded, undone, told. */
    fake.eagain = 11;
    g_assert_cmpint(convert(&block[0], 8, 8, true), ==, -EAGAIN);
    check_exact();
    info = guest_memfd_query(block[0].gm);
    g_assert_cmpuint(info->to_private->failures, ==, 1);
    g_assert_cmpuint(info->to_private->rollbacks, ==, 1);
    g_assert_cmpuint(info->private_bytes, ==, 8 * PAGE);
    qapi_free_GuestMemfdInfo(info);
    teardown();
}

static void test_bad_ranges(void)
{
    const struct {
        uint64_t offset, size;
    } bad[] = {
        { 1, PAGE }, { 0, 1 }, { 0, 0 }, { PAGE, 0 },
        { PAGES * PAGE, PAGE }, { 0, (PAGES + 1) * PAGE },
        { (PAGES - 1) * PAGE, 2 * PAGE }, { -PAGE, PAGE }, { -PAGE, 2 * PAGE },
        { PAGE, -PAGE }, { UINT64_MAX, UINT64_MAX }, { 0, UINT64_MAX },
    };

    setup(false);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        for (int to_private = 0; to_private < 2; to_private++) {
            Error *err = NULL;

            g_assert_cmpint(guest_memfd_convert_block(block[0].gm,
                                                      bad[i].offset,
                                                      bad[i].size, to_private,
                                                      &err), ==, -EINVAL);
            g_assert_nonnull(err);
            error_free(err);
        }
    }
    g_assert_cmpuint(guest_memfd_query_map(block[0].gm, 0, 0, &(uint64_t){ 0 })
                     == NULL, ==, true);
    check_exact();
    teardown();
}

static uint64_t block_bytes(Block *b)
{
    g_autoptr(GuestMemfdInfo) info = guest_memfd_query(b->gm);

    return info->to_shared->bytes;
}

static void test_gpa(void)
{
    const uint64_t max = UINT64_MAX;
    uint64_t bytes;

    setup(false);
    /* Across two blocks: one request, one outcome. */
    g_assert_cmpint(guest_memfd_convert(GPA_BLOCK1 - 4 * PAGE, 8 * PAGE, true),
                    ==, 0);
    check_exact();
    g_assert_true(test_bit(PAGES - 1, block[0].private));
    g_assert_true(test_bit(0, block[1].private));
    g_assert_cmpint(guest_memfd_convert(0, 2 * PAGES * PAGE, false), ==, 0);
    check_exact();
    for (unsigned k = 1; k <= 8; k++) {
        fake_reset();
        fake.fail[0] = k;
        g_assert_cmpint(guest_memfd_convert(GPA_BLOCK1 - 4 * PAGE, 8 * PAGE,
                                            true), ==,
                        k <= 6 ? -ENOSPC : 0);
        check_exact();
        fake_reset();
        g_assert_cmpint(guest_memfd_convert(0, 2 * PAGES * PAGE, false), ==, 0);
    }

    /* Pages seen twice convert once, whatever the order of addresses. */
    fake_reset();
    bytes = block_bytes(&block[0]);
    g_assert_cmpint(guest_memfd_convert(GPA_ALIAS, ALIAS_SIZE, true), ==, 0);
    check_exact();
    g_assert_true(test_bit(15, block[0].private));
    g_assert_cmpint(guest_memfd_convert(0, GPA_ALIAS + ALIAS_SIZE, false), ==,
                    0);
    check_exact();
    g_assert_cmpuint(block_bytes(&block[0]) - bytes, ==, ALIAS_SIZE);

    /* Holes, ROM and MMIO become private never, shared where it is harmless. */
    fake_reset();
    g_assert_cmpint(guest_memfd_convert(GPA_ALIAS - PAGE, 2 * PAGE, true), ==,
                    -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_ROM - PAGE, PAGE, true), ==,
                    -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_BLOCK1 + (PAGES - 1) * PAGE,
                                        2 * PAGE, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_ROM, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_ROM, PAGE, false), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_MMIO, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(0, GPA_END, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(GPA_MMIO, PAGE, false), ==, 0);
    g_assert_cmpint(guest_memfd_convert(GPA_END, 4 * GiB, false), ==, 0);

    g_assert_cmpint(guest_memfd_convert(0, 0, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(1, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(0, PAGE + 1, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(max, max, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(-PAGE, 2 * PAGE, false), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(-PAGE, PAGE, true), ==, -EINVAL);
    g_assert_cmpint(guest_memfd_convert(-PAGE, PAGE, false), ==, 0);
    g_assert_cmpuint(fake.calls, ==, 0);
    check_exact();
    teardown();
}

static void test_late_listener(void)
{
    Listener late = { .parent.ops = &fake_listener_ops };
    Block *b = &block[0];
    MemoryRegionSection s;

    setup(false);
    s = section_of(b, 5 * PAGE + 512, 600 * PAGE);
    make_runs(b, true);

    /* Refused at any run: it leaves nothing, and is not there. */
    for (unsigned k = 1; k <= 4; k++) {
        fake_reset();
        fake.fail[0] = k;
        g_assert_cmpint(guest_memfd_register_listener(b->gm, &late.parent, &s,
                                                      false), ==, -ENOSPC);
        g_assert_true(bitmap_empty(late.mapped, PAGES));
        check_exact();
    }
    fake_reset();
    g_assert_cmpint(guest_memfd_register_listener(b->gm, &late.parent, &s,
                                                  false), ==, 0);
    check_exact();
    /* Pages cut by the edges of the section are not its business. */
    g_assert_false(test_bit(5, late.mapped));
    g_assert_true(test_bit(6, late.mapped));
    g_assert_true(test_bit(604, late.mapped));
    g_assert_false(test_bit(605, late.mapped));
    g_assert_cmpint(convert(b, 0, PAGES, false), ==, 0);
    check_exact();
    g_assert_cmpint(guest_memfd_unregister_listener(b->gm, &late.parent), ==,
                    0);
    g_assert_true(bitmap_empty(late.mapped, PAGES));

    /* One that must not be turned away: it stays, and is mended. */
    make_runs(b, true);
    fake_reset();
    fake.fail[0] = 2;
    g_assert_cmpint(guest_memfd_register_listener(b->gm, &late.parent, &s,
                                                  true), ==, -ENOSPC);
    g_assert_true(bitmap_empty(late.mapped, PAGES));
    check_safe();
    fake_reset();
    g_assert_cmpint(convert(b, 0, 1, true), ==, 0);
    check_exact();
    g_assert_cmpint(guest_memfd_unregister_listener(b->gm, &late.parent), ==,
                    0);
    teardown();
}

static void test_reset(void)
{
    for (int private = 0; private < 2; private++) {
        DECLARE_BITMAP(map, PAGES);

        setup(private);
        make_runs(&block[0], private);
        g_assert_cmpint(guest_memfd_reset(block[0].gm, NULL), ==, 0);
        check_exact();
        read_map(&block[0], map);
        g_assert_true(private ? bitmap_full(map, PAGES) :
                                bitmap_empty(map, PAGES));

        /* One that fails half-way is safe, and the next one is complete. */
        for (unsigned k = 1; k <= 20; k++) {
            make_runs(&block[0], private);
            fake_reset();
            fake.fail[0] = k;
            guest_memfd_reset(block[0].gm, NULL);
            check_safe();
            fake_reset();
            g_assert_cmpint(convert(&block[0], 0, 1, !private), ==, 0);
            check_exact();
            g_assert_cmpint(guest_memfd_reset(block[0].gm, NULL), ==, 0);
            check_exact();
        }
        teardown();
    }
}

/* The manager's own interface, with a listener of QEMU's kind. */
typedef struct Foreign {
    RamDiscardListener rdl;
    DECLARE_BITMAP(mapped, PAGES);
    int refuse;
} Foreign;

static int foreign_populate(RamDiscardListener *rdl, MemoryRegionSection *s)
{
    Foreign *f = container_of(rdl, Foreign, rdl);
    unsigned long first, nr;

    section_pages(s, &first, &nr);
    g_assert_cmpuint(find_next_bit(f->mapped, first + nr, first), >=,
                     first + nr);
    if (f->refuse) {
        return f->refuse;
    }
    bitmap_set(f->mapped, first, nr);
    return 0;
}

static void foreign_discard(RamDiscardListener *rdl, MemoryRegionSection *s)
{
    Foreign *f = container_of(rdl, Foreign, rdl);
    unsigned long first, nr;

    section_pages(s, &first, &nr);
    g_assert_cmpuint(find_next_zero_bit(f->mapped, first + nr, first), >=,
                     first + nr);
    bitmap_clear(f->mapped, first, nr);
}

static int count_pages(MemoryRegionSection *s, void *opaque)
{
    *(uint64_t *)opaque += int128_get64(s->size) / PAGE;
    return 0;
}

static void test_ram_discard_manager(void)
{
    Block *b = &block[0];
    RamDiscardManagerClass *rdmc;
    RamDiscardManager *rdm;
    MemoryRegionSection s, part;
    DECLARE_BITMAP(map, PAGES);
    uint64_t pages = 0;
    Foreign f = { };

    setup(false);
    make_runs(b, true);
    rdm = RAM_DISCARD_MANAGER(b->gm);
    rdmc = RAM_DISCARD_MANAGER_GET_CLASS(rdm);
    s = section_of(b, 0, PAGES * PAGE);

    ram_discard_listener_init(&f.rdl, foreign_populate, foreign_discard, true);
    rdmc->register_listener(rdm, &f.rdl, &s);
    read_map(b, map);
    g_assert_cmpuint(bitmap_count_one(map, PAGES) +
                     bitmap_count_one(f.mapped, PAGES), ==, PAGES);

    /* It hears of each page once, also when a request fails. */
    f.refuse = -ENOMEM;
    g_assert_cmpint(convert(b, 0, PAGES, false), ==, -ENOMEM);
    check_exact();
    f.refuse = 0;
    g_assert_cmpint(convert(b, 0, PAGES, false), ==, 0);
    g_assert_true(bitmap_full(f.mapped, PAGES));
    g_assert_cmpint(convert(b, 7, 90, true), ==, 0);
    g_assert_cmpuint(bitmap_count_one(f.mapped, PAGES), ==, PAGES - 90);

    part = section_of(b, 7 * PAGE - 1, 1);
    g_assert_true(rdmc->is_populated(rdm, &part));
    part = section_of(b, 7 * PAGE - 1, 2);
    g_assert_false(rdmc->is_populated(rdm, &part));
    g_assert_cmpint(rdmc->replay_populated(rdm, &s, count_pages, &pages), ==,
                    0);
    g_assert_cmpuint(pages, ==, PAGES - 90);
    pages = 0;
    part = section_of(b, 90 * PAGE, 100 * PAGE);
    g_assert_cmpint(rdmc->replay_discarded(rdm, &part, count_pages, &pages), ==,
                    0);
    g_assert_cmpuint(pages, ==, 7);

    rdmc->unregister_listener(rdm, &f.rdl);
    g_assert_true(bitmap_empty(f.mapped, PAGES));
    teardown();
}

/* Random requests with random failures, everything compared after each. */
static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());

    setup(true);
    for (int i = 0; i < 20000; i++) {
        uint64_t first = g_rand_int_range(rand, 0, 2 * PAGES);
        uint64_t nr = g_rand_int_range(rand, 1, 2 * PAGES - first + 1);
        bool to_private = g_rand_boolean(rand);
        int ret;

        if (g_rand_boolean(rand)) {
            nr = MIN(nr, 8);
        }
        fake_reset();
        fake.fail[0] = g_rand_int_range(rand, 0, 30);
        ret = guest_memfd_convert(first * PAGE, nr * PAGE, to_private);
        g_assert_true(ret == 0 || ret == -ENOSPC);
        check_exact();
    }
    teardown();
}

/* I6: vCPUs convert at once, ranges that overlap and cross blocks included. */
static void *vcpu_thread(void *opaque)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(GPOINTER_TO_UINT(opaque));

    for (int i = 0; i < 5000; i++) {
        uint64_t first = g_rand_int_range(rand, 0, 2 * PAGES - 64);
        uint64_t nr = g_rand_int_range(rand, 1, 64);

        g_assert_cmpint(guest_memfd_convert(first * PAGE, nr * PAGE,
                                            g_rand_boolean(rand)), ==, 0);
    }
    return NULL;
}

static void test_vcpus(void)
{
    QemuThread thread[4];

    setup(false);
    for (int i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_create(&thread[i], "vcpu", vcpu_thread,
                           GUINT_TO_POINTER(g_test_rand_int()),
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < ARRAY_SIZE(thread); i++) {
        qemu_thread_join(&thread[i]);
    }
    check_exact();
    region_refs = 0;            /* the test's own counter is not atomic */
    teardown();
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    rust_bql_mock_lock();
    qemu_mutex_init(&fake.lock);
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/guest-memfd/convert", test_convert);
    g_test_add_func("/guest-memfd/failures", test_failures);
    g_test_add_func("/guest-memfd/failed-undo", test_failed_undo);
    g_test_add_func("/guest-memfd/dead", test_dead);
    g_test_add_func("/guest-memfd/retry", test_retry);
    g_test_add_func("/guest-memfd/bad-ranges", test_bad_ranges);
    g_test_add_func("/guest-memfd/gpa", test_gpa);
    g_test_add_func("/guest-memfd/late-listener", test_late_listener);
    g_test_add_func("/guest-memfd/reset", test_reset);
    g_test_add_func("/guest-memfd/ram-discard-manager",
                    test_ram_discard_manager);
    g_test_add_func("/guest-memfd/random", test_random);
    g_test_add_func("/guest-memfd/vcpus", test_vcpus);
    return g_test_run();
}
