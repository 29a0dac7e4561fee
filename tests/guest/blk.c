/*
 * virtio=blk: a disk, whose backend is another process (vhost-user)
 *
 * The data of a request are private, then its header.  What becomes of that is up to
 * the kind of memory: the guest says what it has seen of it.  With dies=1 the header
 * ends the backend; the guest waits for the host then, and again when it has reset the
 * device, so that another backend can come.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

#define SECTOR_SIZE             512

/* Types of requests */
#define READ                    0u
#define WRITE                   1u

/* Pages of the bounce area, behind those of the queue */
enum { HEADER = VIRTQUEUE_PAGES, DATA, STATUS };

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

static uint32_t *data(void)
{
    return (uint32_t *)(uintptr_t)page_address(DATA);
}

static void fill(uint32_t value)
{
    for (uint32_t i = 0; i < SECTOR_SIZE / 4; i++) {
        data()[i] = value + i;
    }
}

static bool holds(uint32_t value)
{
    uint32_t i = 0;

    while (i < SECTOR_SIZE / 4 && data()[i] == value + i) {
        i++;
    }
    return i == SECTOR_SIZE / 4;
}

static uint8_t status(void)
{
    /* what the device writes */
    return *(volatile uint8_t *)(uintptr_t)page_address(STATUS);
}

static void start_transfer(uint32_t type, uint64_t sector)
{
    const VirtioBuffer bufs[] = {
        { .addr = page_address(HEADER), .size = sizeof(Header) },
        { .addr = page_address(DATA), .size = SECTOR_SIZE,
          .device_writes = type == READ },
        { .addr = page_address(STATUS), .size = 1,
          .device_writes = true },
    };

    *(Header *)(uintptr_t)page_address(HEADER) = (Header) {
        .type = type,
        .sector = sector,
    };
    *(uint8_t *)(uintptr_t)page_address(STATUS) = 0xff;
    virtio_add(&vq, bufs, ARRAY_SIZE(bufs), false);
    virtio_kick(&vq);
}

static uint8_t transfer(uint32_t type, uint64_t sector)
{
    start_transfer(type, sector);
    virtio_expect(&vq, VIRTIO_DONE, type == READ ? "read" : "write");
    return status();
}

static void check_disk(uint32_t value)
{
    uint8_t wrote, read;

    fill(value);
    wrote = transfer(WRITE, 0);
    fill(0);
    read = transfer(READ, 0);
    if (wrote || read || !holds(value)) {
        fail("the disk: status %u and %u, data are %s", wrote, read,
             holds(value) ? "right" : "wrong");
    }
}

/* Write private data to the disk, and look what has arrived. */
static void write_private(void)
{
    uint8_t wrote;

    convert(DATA, 1, false);
    fill(0x1000);
    wrote = transfer(WRITE, 1);
    if (!holds(0x1000)) {
        fail("the device has changed private memory");
    }
    convert(DATA, 1, true);
    fill(0);
    if (transfer(READ, 1)) {
        fail("the sector that private data were written to cannot be read");
    }
    print("summary write-status=%u seen=%u\n", wrote, holds(0x1000));
}

void run_blk(void)
{
    virtio_find(&dev, VIRTIO_ID_BLK);
    memset((void *)(uintptr_t)page_address(HEADER), 0, PAGE_SIZE);
    prepare();
    check_disk(0x100);
    if (!convert_possible()) {
        print("summary disk=1\n");
        return;
    }
    write_private();

    convert(HEADER, 1, false);
    start_transfer(WRITE, 2);
    if (opt.dies) {
        wait_for_host();
        convert(HEADER, 1, true);
        virtio_start(&dev, 0);
        wait_for_host();
    } else {
        virtio_expect(&vq, VIRTIO_DONE, "private header");
        convert(HEADER, 1, true);
    }
    prepare();
    check_disk(0x200);
    print("summary disk=1\n");
}
