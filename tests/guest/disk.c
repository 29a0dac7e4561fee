/*
 * A disk, or a file, whose backend is another process (vhost-user)
 *
 * The data of a request are private, then its header, which may be zeroes for the
 * backend.  What becomes of that depends on the kind of memory: the guest says what it
 * has seen.  With dies=1 the header ends the backend.  The guest then waits for the host,
 * and again after it has reset the device, so that another backend can come.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

static const Disk *disk;

static uint32_t *data(void)
{
    return (uint32_t *)(uintptr_t)page_address(DISK_DATA);
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

static uint32_t transfer(bool write, uint32_t sector)
{
    disk->start(write, sector);
    virtio_expect(disk->vq, VIRTIO_DONE, write ? "write" : "read");
    return disk->status();
}

static void check_disk(uint32_t value)
{
    uint32_t wrote, read;

    fill(value);
    wrote = transfer(true, 0);
    fill(0);
    read = transfer(false, 0);
    if (wrote || read || !holds(value)) {
        fail("the disk: status %u and %u, data are %s", wrote, read,
             holds(value) ? "right" : "wrong");
    }
}

/* Write private data to the disk, and look what has arrived. */
static void write_private(void)
{
    uint32_t wrote;

    convert(DISK_DATA, 1, false);
    fill(0x1000);
    wrote = transfer(true, 1);
    if (!holds(0x1000)) {
        fail("the device has changed private memory");
    }
    convert(DISK_DATA, 1, true);
    fill(0);
    if (transfer(false, 1)) {
        fail("the sector that private data were written to cannot be read");
    }
    print("summary write-status=%u seen=%u\n", wrote, holds(0x1000));
}

void run_disk(const Disk *which)
{
    disk = which;
    memset((void *)(uintptr_t)page_address(DISK_HEADER), 0, PAGE_SIZE);
    disk->prepare();
    check_disk(0x100);
    if (!convert_possible()) {
        print("summary disk=1\n");
        return;
    }
    write_private();

    if (opt.dies || disk->answers_zeroes) {
        convert(DISK_HEADER, 1, false);
        disk->start(true, 2);
    }
    if (opt.dies) {
        wait_for_host();
        convert(DISK_HEADER, 1, true);
        virtio_start(disk->vq->dev, 0);
        wait_for_host();
        if (!disk->comes_back) {
            print("summary disk=0\n");
            return;
        }
    } else if (disk->answers_zeroes) {
        virtio_expect(disk->vq, VIRTIO_DONE, "private header");
        convert(DISK_HEADER, 1, true);
    }
    disk->prepare();
    check_disk(0x200);
    print("summary disk=1\n");
}
