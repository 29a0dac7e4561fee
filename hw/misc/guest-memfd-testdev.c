/*
 * A PCI device through which any guest requests a conversion
 *
 * Confidential guests convert memory with a hypercall of their platform.
 * Where there is none (TCG, an ordinary KVM guest) a test guest writes to this
 * device: BAR 0, little endian, 32 or 64 bit accesses,
 *
 *   0x00  guest physical address, 64 bit
 *   0x08  size in bytes, 64 bit
 *   0x10  command, 32 bit: 1 to private, 2 to shared
 *   0x18  status, 32 bit, read only: 0 or -errno of the last command
 *
 * A command is done when the write returns.  With several vCPUs the guest
 * serialises: there is one set of registers.  The device locks them itself and
 * converts without the BQL wherever the accelerator allows that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/log.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "hw/pci/pci_device.h"
#include "system/guest-memfd.h"
#include "qom/object.h"

#define TYPE_GUEST_MEMFD_TESTDEV "guest-memfd-testdev"
OBJECT_DECLARE_SIMPLE_TYPE(GuestMemfdTestdev, GUEST_MEMFD_TESTDEV)

#define GUEST_MEMFD_TESTDEV_ID 0x11f0

enum {
    REG_GPA     = 0x00,
    REG_SIZE    = 0x08,
    REG_COMMAND = 0x10,
    REG_STATUS  = 0x18,
};

enum {
    COMMAND_TO_PRIVATE = 1,
    COMMAND_TO_SHARED  = 2,
};

struct GuestMemfdTestdev {
    PCIDevice parent_obj;

    MemoryRegion mmio;
    QemuMutex lock;
    uint64_t gpa;
    uint64_t size;
    int32_t status;
};

static uint64_t testdev_read(void *opaque, hwaddr addr, unsigned size)
{
    GuestMemfdTestdev *d = opaque;
    uint64_t val = 0;

    QEMU_LOCK_GUARD(&d->lock);
    switch (addr & ~7ULL) {
    case REG_GPA:
        val = d->gpa;
        break;
    case REG_SIZE:
        val = d->size;
        break;
    case REG_STATUS:
        val = (uint32_t)d->status;
        break;
    }
    return addr & 4 ? val >> 32 : val;
}

static void set_part(uint64_t *reg, hwaddr addr, uint64_t val, unsigned size)
{
    *reg = size == 8 ? val : deposit64(*reg, addr & 4 ? 32 : 0, 32, val);
}

static void testdev_write(void *opaque, hwaddr addr, uint64_t val,
                          unsigned size)
{
    GuestMemfdTestdev *d = opaque;

    QEMU_LOCK_GUARD(&d->lock);
    switch (addr & ~7ULL) {
    case REG_GPA:
        set_part(&d->gpa, addr, val, size);
        return;
    case REG_SIZE:
        set_part(&d->size, addr, val, size);
        return;
    case REG_COMMAND:
        if (addr != REG_COMMAND) {
            break;
        }
        if (val == COMMAND_TO_PRIVATE || val == COMMAND_TO_SHARED) {
            d->status = guest_memfd_convert(d->gpa, d->size,
                                            val == COMMAND_TO_PRIVATE);
        } else {
            d->status = -EINVAL;
        }
        return;
    }
    qemu_log_mask(LOG_GUEST_ERROR, "%s: no register at 0x%" HWADDR_PRIx "\n",
                  TYPE_GUEST_MEMFD_TESTDEV, addr);
}

static const MemoryRegionOps testdev_ops = {
    .read = testdev_read,
    .write = testdev_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid.min_access_size = 4,
    .valid.max_access_size = 8,
    .impl.min_access_size = 4,
    .impl.max_access_size = 8,
};

static void testdev_realize(PCIDevice *pdev, Error **errp)
{
    GuestMemfdTestdev *d = GUEST_MEMFD_TESTDEV(pdev);

    memory_region_init_io(&d->mmio, OBJECT(d), &testdev_ops, d,
                          TYPE_GUEST_MEMFD_TESTDEV, 4 * KiB);
    memory_region_enable_lockless_io(&d->mmio);
    pci_register_bar(pdev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &d->mmio);
}

/* The lock lives as long as vCPUs can be in the registers: until finalize. */
static void testdev_instance_init(Object *obj)
{
    qemu_mutex_init(&GUEST_MEMFD_TESTDEV(obj)->lock);
}

static void testdev_instance_finalize(Object *obj)
{
    qemu_mutex_destroy(&GUEST_MEMFD_TESTDEV(obj)->lock);
}

static void testdev_reset(DeviceState *dev)
{
    GuestMemfdTestdev *d = GUEST_MEMFD_TESTDEV(dev);

    QEMU_LOCK_GUARD(&d->lock);
    d->gpa = 0;
    d->size = 0;
    d->status = 0;
}

static void testdev_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);

    k->realize = testdev_realize;
    k->vendor_id = PCI_VENDOR_ID_QEMU;
    k->device_id = GUEST_MEMFD_TESTDEV_ID;
    k->class_id = PCI_CLASS_OTHERS;
    dc->desc = "Conversion of guest_memfd memory, for tests";
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_legacy_reset(dc, testdev_reset);
}

static const TypeInfo testdev_types[] = {
    {
        .name = TYPE_GUEST_MEMFD_TESTDEV,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(GuestMemfdTestdev),
        .instance_init = testdev_instance_init,
        .instance_finalize = testdev_instance_finalize,
        .class_init = testdev_class_init,
        .interfaces = (const InterfaceInfo[]) {
            { INTERFACE_CONVENTIONAL_PCI_DEVICE },
            { },
        },
    },
};

DEFINE_TYPES(testdev_types)
