/*
 * What surrounds a guest_memfd block in its unit tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/auxv.h>
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "qom/object.h"
#include "guest-memfd-core.h"
#include "hw/boards.h"
#include "guest-memfd-fakes.h"

Block block[BLOCKS];

Fake fake;

uint64_t fake_page_size;

/* ThreadSanitizer calls it before it is ready for code that it watches. */
__attribute__((no_sanitize("thread")))
int getpagesize(void)
{
    return fake_page_size ?: getauxval(AT_PAGESZ);
}

void fake_reset(void)
{
    fake.calls = 0;
    fake.fail[0] = fake.fail[1] = 0;
    fake.fail_all_after = false;
    fake.error = -ENOSPC;
    fake.eagain = 0;
    fake.failed = 0;
}

static bool fake_fails(void)
{
    unsigned call;
    bool fails;

    QEMU_LOCK_GUARD(&fake.lock);
    call = ++fake.calls;
    fails = call == fake.fail[0] || call == fake.fail[1] ||
            (fake.fail_all_after && fake.fail[0] && call > fake.fail[0]);
    fake.failed += fails;
    return fails;
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
                        bool to_private, GuestMemfdStop *stop)
{
    Block *b = block_of(gm);
    unsigned long first = offset / PAGE, nr = size / PAGE;
    int ret = 0;

    g_assert_cmpuint(size, >, 0);
    g_assert_cmpuint(stop->done, ==, offset);
    g_assert_cmpuint(offset + size, <=, PAGES * PAGE);

    for (int i = 0; i < LISTENERS; i++) {
        unsigned long *mapped = b->listener[i].mapped;

        /* I1, in both directions: nobody reaches what the driver changes. */
        g_assert_cmpuint(find_next_bit(mapped, first + nr, first), >=,
                         first + nr);
    }
    /* Nobody asks for what is there already. */
    if (b->model) {
        g_assert_cmpuint(to_private ?
                         find_next_bit(b->private, first + nr, first) :
                         find_next_zero_bit(b->private, first + nr, first), >=,
                         first + nr);
    }
    if (fake.eagain) {
        fake.eagain--;
        stop->held = offset;
        return -EAGAIN;
    }
    if (fake_fails()) {
        ret = fake.error;
        nr = fake.partial ? nr / 2 : 0;
        stop->done += nr * PAGE;
    }
    if (to_private) {
        bitmap_set(b->private, first, nr);
    } else {
        bitmap_clear(b->private, first, nr);
    }
    return ret;
}

/* Told when the map has changed, all of the range. */
static void fake_converted(GuestMemfd *gm, uint64_t offset, uint64_t size,
                           bool to_private)
{
    for (uint64_t o = offset; o < offset + size; o += PAGE) {
        g_assert_cmpint(guest_memfd_all_private(gm, o, PAGE), ==, to_private);
    }
    if (block_of(gm)->model) {
        model_converted(block_of(gm)->model, offset / PAGE, size / PAGE,
                        to_private);
    }
}

const GuestMemfdOps fake_ops = {
    .driver = GUEST_MEMFD_DRIVER_EMULATED,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = fake_convert,
    .converted = fake_converted,
};

static Block *block_of_listener(Listener *l)
{
    return container_of(l->rdl.section->mr, Block, mr);
}

void section_pages(const MemoryRegionSection *s, unsigned long *first,
                   unsigned long *nr)
{
    *first = s->offset_within_region / PAGE;
    *nr = int128_get64(s->size) / PAGE;
    g_assert_cmpuint(*nr, >, 0);
    g_assert_cmpuint(*first + *nr, <=, PAGES);
}

static int fake_populate(RamDiscardListener *rdl, MemoryRegionSection *s)
{
    Listener *l = container_of(rdl, Listener, rdl);
    bool fails = fake_fails();
    unsigned long first, nr;

    section_pages(s, &first, &nr);
    /* I1: what gets mapped is shared already. */
    g_assert_cmpuint(find_next_bit(block_of_listener(l)->private, first + nr,
                                   first), >=, first + nr);
    bitmap_set(l->mapped, first, fails ? nr / 2 : nr);
    return fails ? fake.error : 0;
}

static int fake_populate_parts(RamDiscardListener *rdl, MemoryRegionSection *s)
{
    GuestMemfd *gm = block_of_listener(container_of(rdl, Listener, rdl))->gm;
    uint64_t start = s->offset_within_region, stop;
    uint64_t end = start + int128_get64(s->size);
    MemoryRegionSection part = *s;
    int ret = 0;

    while (!ret && (stop = guest_memfd_next_shared(gm, &start, end))) {
        part.offset_within_region = start;
        part.size = int128_make64(stop - start);
        ret = fake_populate(rdl, &part);
        start = stop;
    }
    return ret;
}

static int fake_discard(RamDiscardListener *rdl, MemoryRegionSection *s)
{
    Listener *l = container_of(rdl, Listener, rdl);
    bool fails = fake_fails();
    unsigned long first, nr;

    if (fake.waits) {
        qemu_sem_post(&fake.waiting);
        qemu_sem_wait(&fake.go_on);
    }
    section_pages(s, &first, &nr);
    l->discarded = true;
    /* The other half than that which populate does. */
    bitmap_clear(l->mapped, fails ? first + nr - nr / 2 : first,
                 fails ? nr / 2 : nr);
    return fails ? fake.error : 0;
}

static void fake_settled(RamDiscardListener *rdl)
{
    container_of(rdl, Listener, rdl)->discarded = false;
}

static uint64_t fake_next_mapped(RamDiscardListener *rdl, uint64_t *start)
{
    Listener *l = container_of(rdl, Listener, rdl);
    unsigned long first = find_next_bit(l->mapped, PAGES, *start / PAGE);

    if (first >= PAGES) {
        return 0;
    }
    *start = first * PAGE;
    return find_next_zero_bit(l->mapped, PAGES, first) * PAGE;
}

void listener_init(Listener *l)
{
    memset(l, 0, sizeof(*l));
    ram_discard_listener_init(&l->rdl, fake_populate, fake_discard, true);
    if (g_test_rand_bit()) {
        l->rdl.notify_populate_parts = fake_populate_parts;
    }
    l->rdl.settled = fake_settled;
    l->rdl.next_mapped = fake_next_mapped;
}

int listener_add(Block *b, Listener *l, MemoryRegionSection *s)
{
    RamDiscardManager *rdm = RAM_DISCARD_MANAGER(b->gm);

    return RAM_DISCARD_MANAGER_GET_CLASS(rdm)->register_listener(rdm, &l->rdl,
                                                                 s);
}

void listener_remove(Block *b, Listener *l)
{
    RamDiscardManager *rdm = RAM_DISCARD_MANAGER(b->gm);

    RAM_DISCARD_MANAGER_GET_CLASS(rdm)->unregister_listener(rdm, &l->rdl);
}

/* Guest physical addresses */

static MemoryRegion rom = { .ram = true, .readonly = true };
static MemoryRegion mmio;
int region_refs;

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
            qatomic_inc(&region_refs);
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
    if (mr) {
        qatomic_dec(&region_refs);
    }
}

/* Set up and take down. */

void fake_init(void)
{
    fake_page_size = getauxval(AT_PAGESZ);
    module_call_init(MODULE_INIT_QOM);
    rust_bql_mock_lock();
    qemu_mutex_init(&fake.lock);
    qemu_sem_init(&fake.waiting, 0);
    qemu_sem_init(&fake.go_on, 0);
}

MemoryRegionSection section_of(Block *b, uint64_t offset, uint64_t size)
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
    core_init_block(&b->rb, &b->mr, PAGES * PAGE);
    b->gm = guest_memfd_new(&b->rb, id, &fake_ops, private, &error_abort);
    if (private) {
        bitmap_set(b->private, 0, PAGES);
    }
    if (!core_requires_guest_memfd) {
        b->model = model_new(b->gm, b->private, PAGES, private);
    }
    for (int i = 0; i < LISTENERS; i++) {
        MemoryRegionSection s = section_of(b, start[i] * PAGE,
                                           (end[i] - start[i]) * PAGE);

        listener_init(&b->listener[i]);
        g_assert_cmpint(listener_add(b, &b->listener[i], &s), ==, 0);
        if (b->model) {
            model_add_listener(b->model, b->listener[i].mapped, start[i],
                               end[i] - start[i]);
        }
    }
}

void fake_launching(bool launching)
{
    static MachineState machine;

    core_requires_guest_memfd = launching;
    current_machine = launching ? &machine : NULL;
}

void setup(bool private)
{
    fake_reset();
    setup_block(&block[0], "b0", private);
    setup_block(&block[1], "b1", private);
}

void teardown(void)
{
    fake_reset();
    for (int i = 0; i < BLOCKS; i++) {
        if (!block[i].gm) {
            continue;
        }
        for (int j = 0; j < LISTENERS; j++) {
            listener_remove(&block[i], &block[i].listener[j]);
            if (block[i].model) {
                model_remove_listener(block[i].model,
                                      block[i].listener[j].mapped);
            }
            g_assert_true(bitmap_empty(block[i].listener[j].mapped, PAGES));
        }
        g_assert_cmpint(OBJECT(block[i].gm)->ref, ==, 1);
        guest_memfd_free(block[i].gm);
        g_clear_pointer(&block[i].model, model_free);
    }
    g_assert_cmpint(core_discards_required, ==, 0);
    g_assert_cmpint(region_refs, ==, 0);
    g_assert_null(guest_memfd_next(NULL));
}

int convert(Block *b, uint64_t first, uint64_t nr, bool to_private)
{
    int ret = guest_memfd_convert_block(b->gm, first * PAGE, nr * PAGE,
                                        to_private, NULL);

    if (b->model) {
        model_convert(b->model, first, nr, to_private, ret);
    }
    return ret;
}

int convert_gpa(hwaddr gpa, uint64_t size, bool to_private)
{
    const struct {
        hwaddr start, end;
        Block *b;
    } at[] = {
        { GPA_BLOCK0, GPA_BLOCK0 + PAGES * PAGE, &block[0] },
        { GPA_BLOCK1, GPA_BLOCK1 + PAGES * PAGE, &block[1] },
        { GPA_ALIAS, GPA_ALIAS + ALIAS_SIZE, &block[0] },
    };
    int ret = guest_memfd_convert(gpa, size, to_private);

    for (int i = 0; ret == 0 && i < ARRAY_SIZE(at); i++) {
        hwaddr s = MAX(gpa, at[i].start), e = MIN(gpa + size, at[i].end);

        if (s < e) {
            model_convert(at[i].b->model, (s - at[i].start) / PAGE,
                          (e - s) / PAGE, to_private, ret);
        }
    }
    return ret;
}

void read_map(Block *b, unsigned long *bits)
{
    bool more = true;

    bitmap_zero(bits, PAGES);
    for (uint64_t next = 0; more; ) {
        g_autoptr(GuestMemfdMapInfo) info =
            qmp_query_guest_memfd_map(guest_memfd_id(b->gm), true, next, true,
                                      7, &error_abort);

        more = info->has_next_offset;
        next = info->next_offset;
        for (GuestMemfdRunList *r = info->runs; r; r = r->next) {
            if (r->value->q_private) {
                bitmap_set(bits, r->value->offset / PAGE,
                           r->value->size / PAGE);
            }
        }
    }
}

void check_safe(void)
{
    DECLARE_BITMAP(map, PAGES);

    for (int i = 0; i < BLOCKS; i++) {
        if (block[i].model) {
            model_check(block[i].model, false);
        }
        read_map(&block[i], map);
        g_assert_true(bitmap_equal(map, block[i].private, PAGES));
        for (int j = 0; j < LISTENERS; j++) {
            Listener *l = &block[i].listener[j];

            g_assert_false(bitmap_intersects(map, l->mapped, PAGES));
            g_assert_false(l->discarded && l->rdl.section);
        }
    }
}

/* What is shared of the section of a listener is mapped. */
static void check_mapped(const Block *b, const Listener *l)
{
    unsigned long first, nr;

    if (l->rdl.section) {
        section_pages(l->rdl.section, &first, &nr);
        for (unsigned long i = first; i < first + nr; i++) {
            g_assert_true(test_bit(i, l->mapped) || test_bit(i, b->private));
        }
    }
}

void check_exact(void)
{
    check_safe();
    for (int i = 0; i < BLOCKS; i++) {
        if (block[i].model) {
            model_check(block[i].model, true);
        }
        for (int j = 0; j < LISTENERS; j++) {
            check_mapped(&block[i], &block[i].listener[j]);
        }
    }
}
