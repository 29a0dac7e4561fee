/*
 * What the same costs with QEMU's own system/ram-block-attributes.c
 *
 * That file is compiled as it is, see guest-memfd-qemu.h.  It has no lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "../unit/guest-memfd-core.h"
#include "guest-memfd-bench.h"

typedef struct Block {
    RAMBlock rb;
    MemoryRegion mr;
    RamBlockAttributes *attributes;
    RamDiscardListener listener;
} Block;

uint64_t memory_region_size(MemoryRegion *mr)
{
    return int128_get64(mr->size);
}

static int populate(RamDiscardListener *rdl, MemoryRegionSection *section)
{
    return 0;
}

static int discard(RamDiscardListener *rdl, MemoryRegionSection *section)
{
    return 0;
}

static void *map_create(uint64_t size)
{
    Block *b = g_new0(Block, 1);

    core_init_block(&b->rb, &b->mr, size);
    b->attributes = ram_block_attributes_create(&b->rb);
    return b;
}

static void *block_create(uint64_t size)
{
    Block *b = map_create(size);
    MemoryRegionSection section = {
        .mr = &b->mr,
        .size = int128_make64(size),
    };
    RamDiscardManager *rdm = RAM_DISCARD_MANAGER(b->attributes);

    b->listener.notify_populate = populate;
    b->listener.notify_discard = discard;
    RAM_DISCARD_MANAGER_GET_CLASS(rdm)->register_listener(rdm, &b->listener,
                                                          &section);
    return b;
}

static void block_destroy(void *opaque)
{
    Block *b = opaque;
    RamDiscardManager *rdm = RAM_DISCARD_MANAGER(b->attributes);

    if (b->listener.section) {
        RAM_DISCARD_MANAGER_GET_CLASS(rdm)->unregister_listener(rdm,
                                                                &b->listener);
    }
    ram_block_attributes_destroy(b->attributes);
    g_free(b);
}

static void block_convert(void *opaque, uint64_t offset, uint64_t size,
                          bool to_private)
{
    Block *b = opaque;

    if (ram_block_attributes_state_change(b->attributes, offset, size,
                                          to_private)) {
        abort();
    }
}

static bool block_is_private(void *opaque, uint64_t offset)
{
    Block *b = opaque;
    RamDiscardManager *rdm = RAM_DISCARD_MANAGER(b->attributes);
    MemoryRegionSection page = {
        .mr = &b->mr,
        .offset_within_region = offset,
        .size = int128_make64(4 * KiB),
    };

    return !RAM_DISCARD_MANAGER_GET_CLASS(rdm)->is_populated(rdm, &page);
}

static uint64_t map_bytes(void *opaque)
{
    Block *b = opaque;

    return sizeof(*b->attributes) +
           BITS_TO_LONGS(b->attributes->bitmap_size) * sizeof(unsigned long);
}

static const BenchTarget targets[] = {
    {
        .group = "map",
        .side = "qemu",
        .create = map_create,
        .destroy = block_destroy,
        .convert = block_convert,
        .is_private = block_is_private,
        .bytes = map_bytes,
    },
    {
        .group = "convert",
        .side = "qemu",
        .create = block_create,
        .destroy = block_destroy,
        .convert = block_convert,
        .is_private = block_is_private,
    },
    { }
};

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    return bench_main(argc, argv, targets);
}
