/*
 * Cost of a whole conversion, but for what the kernel and the hardware do
 *
 * The transaction is real; the driver is the software driver, and one listener
 * follows that does nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "system/guest-memfd-driver.h"
#include "system/ramblock.h"
#include "../unit/guest-memfd-core.h"
#include "guest-memfd-bench.h"

typedef struct Block {
    RAMBlock rb;
    MemoryRegion mr;
    GuestMemfd *gm;
    RamDiscardListener listener;
} Block;

/* Nobody asks by guest physical address here. */

MemoryRegion *get_system_memory(void)
{
    g_assert_not_reached();
}

MemoryRegionSection memory_region_find(MemoryRegion *root, hwaddr addr,
                                       uint64_t size)
{
    g_assert_not_reached();
}

void memory_region_unref(MemoryRegion *mr)
{
    g_assert_not_reached();
}

static int nothing(RamDiscardListener *rdl, MemoryRegionSection *section)
{
    return 0;
}

static void *block_create(uint64_t size)
{
    Block *b = g_new0(Block, 1);
    MemoryRegionSection section = {
        .mr = &b->mr,
        .size = int128_make64(size),
    };
    RamDiscardManager *rdm;

    core_init_block(&b->rb, &b->mr, size);
    b->gm = guest_memfd_new(&b->rb, "m0", &guest_memfd_emulated_ops, true,
                            &error_abort);
    ram_discard_listener_init(&b->listener, nothing, nothing, true);
    rdm = RAM_DISCARD_MANAGER(b->gm);
    RAM_DISCARD_MANAGER_GET_CLASS(rdm)->register_listener(rdm, &b->listener,
                                                          &section);
    return b;
}

static void block_destroy(void *opaque)
{
    Block *b = opaque;

    RAM_DISCARD_MANAGER_GET_CLASS(b->gm)->unregister_listener(
        RAM_DISCARD_MANAGER(b->gm), &b->listener);
    guest_memfd_free(b->gm);
    g_free(b);
}

static void block_convert(void *opaque, uint64_t offset, uint64_t size,
                          bool to_private)
{
    Block *b = opaque;

    guest_memfd_convert_block(b->gm, offset, size, to_private, &error_abort);
}

static bool block_is_private(void *opaque, uint64_t offset)
{
    Block *b = opaque;

    return guest_memfd_all_private(b->gm, offset, 4 * KiB);
}

static const BenchTarget targets[] = {
    {
        .group = "convert",
        .side = "ours",
        .create = block_create,
        .destroy = block_destroy,
        .convert = block_convert,
        .is_private = block_is_private,
        .shared_by_threads = true,
    },
    { }
};

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    rust_bql_mock_lock();
    return bench_main(argc, argv, targets);
}
