/*
 * As much of QEMU's memory core as a guest_memfd block needs
 *
 * For unit tests and benchmarks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "hw/boards.h"
#include "migration/blocker.h"
#include "qapi/error.h"
#include "system/accel-blocker.h"
#include "system/kvm.h"
#include "system/memory.h"
#include "system/ramblock.h"
#include "system/runstate.h"
#include "guest-memfd-core.h"

int memory_region_set_ram_discard_manager(MemoryRegion *mr,
                                          RamDiscardManager *rdm)
{
    mr->rdm = rdm;
    return 0;
}

bool memory_region_is_mapped(MemoryRegion *mr)
{
    return true;
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

bool qemu_system_dump_in_progress(void)
{
    return false;
}

bool kvm_allowed;
MachineState *current_machine;
__thread CPUState *current_cpu;
bool core_requires_guest_memfd;

bool machine_require_guest_memfd(MachineState *machine)
{
    return core_requires_guest_memfd;
}

void accel_ioctl_begin(void)
{
}

void accel_ioctl_end(void)
{
}

int core_discards_required;

int ram_block_coordinated_discard_require(bool state)
{
    core_discards_required += state ? 1 : -1;
    return 0;
}

CoreDiscards core_discards;

int ram_block_discard_range(RAMBlock *rb, uint64_t offset, size_t length)
{
    core_discards.shared++;
    core_discards.shared_bytes += length;
    return rb->host && fallocate(rb->fd, FALLOC_FL_PUNCH_HOLE |
                                 FALLOC_FL_KEEP_SIZE, offset, length) ?
           -errno : 0;
}

int ram_block_discard_guest_memfd_range(RAMBlock *rb, uint64_t offset,
                                        size_t length)
{
    core_discards.private++;
    core_discards.private_bytes += length;
    return 0;
}

int migrate_add_blocker(Error **reasonp, Error **errp)
{
    return 0;
}

void migrate_del_blocker(Error **reasonp)
{
    error_free(*reasonp);
    *reasonp = NULL;
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

void core_init_block(RAMBlock *rb, MemoryRegion *mr, uint64_t size)
{
    memset(rb, 0, sizeof(*rb));
    memset(mr, 0, sizeof(*mr));
    mr->ram = true;
    mr->ram_block = rb;
    mr->size = int128_make64(size);
    rb->mr = mr;
    rb->page_size = qemu_real_host_page_size();
    rb->max_length = size;
}
