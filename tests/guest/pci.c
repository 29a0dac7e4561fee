/*
 * PCI by configuration mechanism #1; the firmware has placed the BARs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PORT_PCI_ADDRESS        0xcf8
#define PORT_PCI_DATA           0xcfc

#define PCI_ENABLE              0x80000000u
#define PCI_ID                  0x00
#define PCI_NONE                0xffffffffu
#define PCI_COMMAND             0x04
#define PCI_COMMAND_MEMORY      0x0002u
#define PCI_COMMAND_MASTER      0x0004u
#define PCI_HEADER              0x0c
#define PCI_HEADER_MULTI        0x00800000u
#define PCI_BAR0                0x10
#define PCI_BAR_IO              0x1u
#define PCI_BAR_64              0x4u
#define PCI_BAR_MEM_MASK        0xfffffff0u

uint32_t pci_read(const PciDevice *dev, uint32_t reg)
{
    outl(PORT_PCI_ADDRESS, dev->address | reg);
    return inl(PORT_PCI_DATA);
}

static void pci_write(const PciDevice *dev, uint32_t reg, uint32_t val)
{
    outl(PORT_PCI_ADDRESS, dev->address | reg);
    outl(PORT_PCI_DATA, val);
}

uint32_t pci_bar(const PciDevice *dev, uint32_t n)
{
    uint32_t bar = pci_read(dev, PCI_BAR0 + 4 * n);

    if ((bar & PCI_BAR_IO) || !(bar & PCI_BAR_MEM_MASK) ||
        ((bar & PCI_BAR_64) && pci_read(dev, PCI_BAR0 + 4 * n + 4))) {
        fail("PCI 0x%08x: BAR %u is not placed below 4 GiB",
             pci_read(dev, PCI_ID), n);
    }
    return bar & PCI_BAR_MEM_MASK;
}

static void pci_enable(const PciDevice *dev)
{
    /* the status bits of the upper half are cleared by writing ones: don't */
    uint32_t command = pci_read(dev, PCI_COMMAND) & 0xffff;

    pci_write(dev, PCI_COMMAND,
              command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

bool pci_find_nth(uint16_t vendor, uint16_t device, uint32_t n,
                  PciDevice *dev)
{
    uint32_t id = vendor | (uint32_t)device << 16;
    uint32_t slot, fn, found;

    /* 256 buses of 32 slots */
    for (slot = 0; slot < 256 * 32; slot++) {
        for (fn = 0; fn < 8; fn++) {
            dev->address = PCI_ENABLE | slot << 11 | fn << 8;
            found = pci_read(dev, PCI_ID);
            if (found == id && !n--) {
                pci_enable(dev);
                return true;
            }
            if (fn == 0 && (found == PCI_NONE ||
                            !(pci_read(dev, PCI_HEADER) &
                              PCI_HEADER_MULTI))) {
                break;
            }
        }
    }
    return false;
}

bool pci_find(uint16_t vendor, uint16_t device, PciDevice *dev)
{
    return pci_find_nth(vendor, device, 0, dev);
}
