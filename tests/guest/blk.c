/*
 * virtio=blk: a disk, see disk.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

/* Types of requests */
#define READ                    0u
#define WRITE                   1u

typedef struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} Header;

static VirtioDevice dev;
static Virtqueue vq;

static void prepare(void)
{
    virtio_start(&dev, 0);
    virtio_queue_init(&vq, &dev, 0, 0);
    virtio_driver_ok(&dev);
}

static uint32_t status(void)
{
    /* what the device writes */
    return *(volatile uint8_t *)(uintptr_t)page_address(DISK_STATUS);
}

static void start(bool write, uint32_t sector)
{
    const VirtioBuffer bufs[] = {
        { .addr = page_address(DISK_HEADER), .size = sizeof(Header) },
        { .addr = page_address(DISK_DATA), .size = SECTOR_SIZE,
          .device_writes = !write },
        { .addr = page_address(DISK_STATUS), .size = 1,
          .device_writes = true },
    };

    *(Header *)(uintptr_t)page_address(DISK_HEADER) = (Header) {
        .type = write ? WRITE : READ,
        .sector = sector,
    };
    *(uint8_t *)(uintptr_t)page_address(DISK_STATUS) = 0xff;
    virtio_add(&vq, bufs, ARRAY_SIZE(bufs), false);
    virtio_kick(&vq);
}

void run_blk(void)
{
    static const Disk disk = {
        .vq = &vq,
        .prepare = prepare,
        .start = start,
        .status = status,
        .answers_zeroes = true,
        .comes_back = true,
    };

    virtio_find(&dev, VIRTIO_ID_BLK);
    run_disk(&disk);
}
