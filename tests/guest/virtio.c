/*
 * Driver of virtio 1.x devices on PCI: split queues, and no interrupts
 *
 * Each part of a queue has a page of its own, so that one of them can become
 * private.  There is one request at a time, in the first descriptors.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

#define VIRTIO_VENDOR_ID        0x1af4
#define VIRTIO_DEVICE_ID        0x1040

#define PCI_CAPABILITIES        0x34
#define PCI_CAP_VENDOR          0x09
#define CAP_COMMON              1
#define CAP_NOTIFY              2
#define CAP_DEVICE              4

/* Registers that all devices have */
#define REG_DEVICE_FEATURES_OF  0x00
#define REG_DEVICE_FEATURES     0x04
#define REG_DRIVER_FEATURES_OF  0x08
#define REG_DRIVER_FEATURES     0x0c
#define REG_STATUS              0x14
#define REG_QUEUE               0x16
#define REG_QUEUE_SIZE          0x18
#define REG_QUEUE_ENABLE        0x1c
#define REG_QUEUE_NOTIFY        0x1e
#define REG_QUEUE_DESC          0x20
#define REG_QUEUE_AVAIL         0x28
#define REG_QUEUE_USED          0x30

#define STATUS_ACKNOWLEDGE      0x01
#define STATUS_DRIVER           0x02
#define STATUS_DRIVER_OK        0x04
#define STATUS_FEATURES_OK      0x08
#define STATUS_NEEDS_RESET      0x40

/* The upper 32 */
#define FEATURE_VERSION_1       0x1u
#define FEATURE_ACCESS_PLATFORM 0x2u

#define DESC_NEXT               0x1
#define DESC_DEVICE_WRITES      0x2
#define AVAIL_NO_INTERRUPT      0x1

/* In cycles: far longer than it takes, and long enough for it to happen */
#define LIMIT                   (1ull << 37)
#define A_WHILE                 (1ull << 29)

typedef struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} Desc;

typedef struct Avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[VIRTQUEUE_SIZE];
} Avail;

typedef struct Used {
    uint16_t flags;
    uint16_t idx;
    struct {
        uint32_t id;
        uint32_t len;
    } ring[VIRTQUEUE_SIZE];
} Used;

static uint8_t read8(uint32_t addr)
{
    /* a device register: each access counts */
    return *(volatile uint8_t *)(uintptr_t)addr;
}

static void write8(uint32_t addr, uint8_t val)
{
    /* a device register: each access counts */
    *(volatile uint8_t *)(uintptr_t)addr = val;
}

static uint16_t read16(uint32_t addr)
{
    /* a device register, or what a device writes: each access counts */
    return *(volatile uint16_t *)(uintptr_t)addr;
}

static void write16(uint32_t addr, uint16_t val)
{
    /* a device register: each access counts */
    *(volatile uint16_t *)(uintptr_t)addr = val;
}

static void barrier(void)
{
    asm volatile("" : : : "memory");
}

static uint64_t cycles(void)
{
    uint64_t val;

    asm volatile("rdtsc" : "=A"(val));
    return val;
}

static uint32_t cap_address(const PciDevice *pci, uint32_t cap)
{
    return pci_bar(pci, pci_read(pci, cap + 4) & 0xff) +
           pci_read(pci, cap + 8);
}

void virtio_find(VirtioDevice *dev, uint16_t id)
{
    PciDevice pci;
    uint32_t cap;

    memset(dev, 0, sizeof(*dev));
    if (!pci_find(VIRTIO_VENDOR_ID, VIRTIO_DEVICE_ID + id, &pci)) {
        fail("no virtio device %u (PCI 1af4:%x; disable-legacy=on)", id,
             VIRTIO_DEVICE_ID + id);
    }
    for (cap = pci_read(&pci, PCI_CAPABILITIES) & 0xfc; cap;
         cap = pci_read(&pci, cap) >> 8 & 0xfc) {
        uint32_t head = pci_read(&pci, cap);

        if ((head & 0xff) != PCI_CAP_VENDOR) {
            continue;
        }
        switch (head >> 24) {
        case CAP_COMMON:
            dev->common = cap_address(&pci, cap);
            break;
        case CAP_NOTIFY:
            dev->notify = cap_address(&pci, cap);
            dev->notify_multiplier = pci_read(&pci, cap + 16);
            break;
        case CAP_DEVICE:
            dev->config = cap_address(&pci, cap);
            break;
        }
    }
    if (!dev->common || !dev->notify) {
        fail("virtio device %u: its registers are nowhere", id);
    }
}

static void add_status(VirtioDevice *dev, uint8_t status)
{
    write8(dev->common + REG_STATUS,
           read8(dev->common + REG_STATUS) | status);
}

static uint32_t accept_features(VirtioDevice *dev, uint32_t upper,
                                uint32_t features)
{
    mmio_write(dev->common, REG_DEVICE_FEATURES_OF, upper);
    features &= mmio_read(dev->common, REG_DEVICE_FEATURES);
    mmio_write(dev->common, REG_DRIVER_FEATURES_OF, upper);
    mmio_write(dev->common, REG_DRIVER_FEATURES, features);
    return features;
}

uint32_t virtio_start(VirtioDevice *dev, uint32_t features)
{
    uint64_t start = cycles();

    write8(dev->common + REG_STATUS, 0);
    while (read8(dev->common + REG_STATUS)) {
        if (cycles() - start > LIMIT) {
            fail("virtio: the device is not reset");
        }
    }
    add_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    features = accept_features(dev, 0, features);
    accept_features(dev, 1, FEATURE_VERSION_1 | FEATURE_ACCESS_PLATFORM);
    add_status(dev, STATUS_FEATURES_OK);
    if (!(read8(dev->common + REG_STATUS) & STATUS_FEATURES_OK)) {
        fail("virtio: the device wants other features");
    }
    return features;
}

static void write_address(VirtioDevice *dev, uint32_t reg, uint32_t page)
{
    mmio_write(dev->common, reg, page_address(page));
    mmio_write(dev->common, reg + 4, 0);
}

void virtio_queue_init(Virtqueue *vq, VirtioDevice *dev, uint16_t index,
                       uint32_t page)
{
    vq->dev = dev;
    vq->index = index;
    vq->requests = 0;
    vq->page = page;
    memset((void *)(uintptr_t)page_address(page), 0,
           VIRTQUEUE_PAGES * PAGE_SIZE);

    write16(dev->common + REG_QUEUE, index);
    if (read16(dev->common + REG_QUEUE_SIZE) < VIRTQUEUE_SIZE) {
        fail("virtio: queue %u has %u entries", index,
             read16(dev->common + REG_QUEUE_SIZE));
    }
    write16(dev->common + REG_QUEUE_SIZE, VIRTQUEUE_SIZE);
    write_address(dev, REG_QUEUE_DESC, page);
    write_address(dev, REG_QUEUE_AVAIL, page + 1);
    write_address(dev, REG_QUEUE_USED, page + 2);
    write16(dev->common + REG_QUEUE_ENABLE, 1);
    vq->notify = dev->notify + dev->notify_multiplier *
                 read16(dev->common + REG_QUEUE_NOTIFY);
}

void virtio_driver_ok(VirtioDevice *dev)
{
    add_status(dev, STATUS_DRIVER_OK);
}

VirtioOutcome virtio_wait(Virtqueue *vq, VirtioOutcome expect)
{
    uint64_t limit = expect == VIRTIO_NOTHING || expect == VIRTIO_ANY ?
                     A_WHILE : LIMIT;
    uint32_t used = page_address(vq->page + 2) + offsetof(Used, idx);
    uint64_t start = cycles();

    do {
        if (read16(used) == vq->requests) {
            barrier();
            return VIRTIO_DONE;
        }
        if (read8(vq->dev->common + REG_STATUS) & STATUS_NEEDS_RESET) {
            return VIRTIO_NEEDS_RESET;
        }
    } while (cycles() - start < limit);
    return VIRTIO_NOTHING;
}

void virtio_expect(Virtqueue *vq, VirtioOutcome expect, const char *what)
{
    static const char * const name[] = { "done", "nothing", "needs reset" };
    VirtioOutcome outcome = virtio_wait(vq, expect);

    if (outcome != expect && expect != VIRTIO_ANY) {
        fail("%s, queue %u: %s, not %s", what, vq->index, name[outcome],
             name[expect]);
    }
}

void virtio_add(Virtqueue *vq, const VirtioBuffer *buf, uint32_t n,
                bool device_writes)
{
    Desc *desc = (Desc *)(uintptr_t)page_address(vq->page);
    Avail *avail = (Avail *)(uintptr_t)page_address(vq->page + 1);
    uint32_t i;

    for (i = 0; i < n; i++) {
        desc[i] = (Desc) {
            .addr = buf[i].addr,
            .len = buf[i].size,
            .flags = (device_writes || buf[i].device_writes ?
                      DESC_DEVICE_WRITES : 0) |
                     (i + 1 < n ? DESC_NEXT : 0),
            .next = i + 1,
        };
    }
    avail->flags = AVAIL_NO_INTERRUPT;
    avail->ring[vq->requests++ % VIRTQUEUE_SIZE] = 0;
    barrier();
    avail->idx = vq->requests;
    barrier();
}

void virtio_kick(Virtqueue *vq)
{
    write16(vq->notify, vq->index);
}

void virtio_request(Virtqueue *vq, const VirtioBuffer *buf, uint32_t n,
                    bool device_writes)
{
    virtio_add(vq, buf, n, device_writes);
    virtio_kick(vq);
    virtio_expect(vq, VIRTIO_DONE, "request");
}

uint32_t virtio_written(Virtqueue *vq)
{
    const Used *used = (Used *)(uintptr_t)page_address(vq->page + 2);

    return used->ring[(vq->requests - 1) % VIRTQUEUE_SIZE].len;
}
