/*
 * Driver of the edu device: QEMU's own, and the one on the vfio-user server
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "devices.h"
#include "guest.h"

#define EDU_NO_REGISTER         0xffffffffu

static uint32_t bar;
static bool reports_errors;

void edu_init(void)
{
    const uint32_t probe = 0x12345678;
    PciDevice dev;

    if (!pci_find(EDU_VENDOR_ID, EDU_DEVICE_ID, &dev)) {
        fail("no edu device (PCI 1234:11e8)");
    }
    bar = pci_bar(&dev, 0);
    if (mmio_read(bar, EDU_REG_ID) != EDU_ID) {
        fail("edu: identification is 0x%x", mmio_read(bar, EDU_REG_ID));
    }
    mmio_write(bar, EDU_REG_LIVENESS, probe);
    if (mmio_read(bar, EDU_REG_LIVENESS) != ~probe) {
        fail("edu: liveness register is 0x%x",
             mmio_read(bar, EDU_REG_LIVENESS));
    }
    mmio_write(bar, EDU_REG_FACTORIAL, 10);
    while (mmio_read(bar, EDU_REG_STATUS) & EDU_STATUS_COMPUTING) {
        asm volatile("pause");
    }
    if (mmio_read(bar, EDU_REG_FACTORIAL) != 3628800) {
        fail("edu: 10! is %u", mmio_read(bar, EDU_REG_FACTORIAL));
    }
    reports_errors = mmio_read(bar, EDU_REG_DMA_ERROR) != EDU_NO_REGISTER;
    print("edu: at 0x%x, %s\n", bar,
          reports_errors ? "reports DMA errors"
                         : "QEMU's own: cannot report DMA errors");
}

bool edu_reports_errors(void)
{
    return reports_errors;
}

void edu_start(uint32_t addr, uint32_t size, bool to_ram)
{
    mmio_write(bar, EDU_REG_DMA_SRC, to_ram ? EDU_BUF_START : addr);
    mmio_write(bar, EDU_REG_DMA_DST, to_ram ? addr : EDU_BUF_START);
    mmio_write(bar, EDU_REG_DMA_COUNT, size);
    asm volatile("" : : : "memory");
    mmio_write(bar, EDU_REG_DMA_CMD,
               (to_ram ? EDU_DMA_TO_RAM : 0) | EDU_DMA_RUN);
}

bool edu_busy(void)
{
    bool busy = mmio_read(bar, EDU_REG_DMA_CMD) & EDU_DMA_RUN;

    asm volatile("" : : : "memory");
    return busy;
}

uint32_t edu_dma(uint32_t addr, uint32_t size, bool to_ram)
{
    uint32_t error;

    edu_start(addr, size, to_ram);
    while (edu_busy()) {
        asm volatile("pause");
    }
    error = reports_errors ? mmio_read(bar, EDU_REG_DMA_ERROR) : 0;
    if (error) {
        count_add(&count.dma_failed, 1);
    } else {
        count_add(&count.dma_ok, 1);
    }
    return error;
}
