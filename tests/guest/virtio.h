/*
 * virtio devices: a driver, and what is done with each
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_GUEST_VIRTIO_H
#define TESTS_GUEST_VIRTIO_H

#include "guest.h"

#define VIRTIO_ID_BLK           2
#define VIRTIO_ID_RNG           4
#define VIRTIO_ID_BALLOON       5
#define VIRTIO_ID_VSOCK         19
#define VIRTIO_ID_FS            26

/* A queue has three pages of the bounce area, each for a part of it */
#define VIRTQUEUE_PAGES         3
#define VIRTQUEUE_SIZE          8u

typedef struct VirtioDevice {
    uint32_t common;            /* addresses of registers */
    uint32_t notify;
    uint32_t notify_multiplier;
    uint32_t config;            /* 0: there is none */
} VirtioDevice;

/* For one request at a time */
typedef struct Virtqueue {
    VirtioDevice *dev;
    uint16_t index;
    uint16_t requests;
    uint32_t page;              /* its descriptors; then available, used */
    uint32_t notify;
} Virtqueue;

typedef struct VirtioBuffer {
    uint32_t addr;
    uint32_t size;
    bool device_writes;         /* this one, if it does not write all of them */
} VirtioBuffer;

/* What became of a request */
typedef enum VirtioOutcome {
    VIRTIO_DONE,
    VIRTIO_NOTHING,
    VIRTIO_NEEDS_RESET,
    VIRTIO_ANY,
} VirtioOutcome;

/* virtio.c */
/* The guest fails if there is none */
void virtio_find(VirtioDevice *dev, uint16_t id);
/* Reset it and accept of @features, the lower 32, those that it has */
uint32_t virtio_start(VirtioDevice *dev, uint32_t features);
void virtio_queue_init(Virtqueue *vq, VirtioDevice *dev, uint16_t index,
                       uint32_t page);
void virtio_driver_ok(VirtioDevice *dev);
/* Make buffers available, which the device reads, or else writes */
void virtio_add(Virtqueue *vq, const VirtioBuffer *buf, uint32_t n,
                bool device_writes);
void virtio_kick(Virtqueue *vq);
/* What becomes of what was added; @expect says how long that may take */
VirtioOutcome virtio_wait(Virtqueue *vq, VirtioOutcome expect);
/* The guest fails if it is something else */
void virtio_expect(Virtqueue *vq, VirtioOutcome expect, const char *what);
/* All of that, for a request that is done */
void virtio_request(Virtqueue *vq, const VirtioBuffer *buf, uint32_t n,
                    bool device_writes);
/* Bytes that the device has written, of a request that is done */
uint32_t virtio_written(Virtqueue *vq);

/* balloon.c */
void run_balloon(void);

/* virtqueue.c */
/* Pages that become private; the first of a queue is that of descriptors */
enum { PART_DESC, PART_AVAIL, PART_USED, PART_BUFFER, PARTS };

typedef struct QueueTest {
    const char *name;
    VirtioDevice *dev;
    Virtqueue *vq;
    uint32_t page;              /* the queue's first one, that of a buffer */
    uint32_t buffer;
    /* Reset the device, set up its queues */
    void (*prepare)(void);
    /* A request that is done */
    void (*request)(void);
    /* What is still to be kicked */
    void (*add)(void);
    /* What becomes of a request if that page became private before */
    VirtioOutcome running[PARTS];
    /* ... before the queue was set up */
    VirtioOutcome starting[PARTS];
} QueueTest;

void run_queue_test(const QueueTest *test);
void run_queues(void);

/* disk.c */
/* Pages of the bounce area, behind those of the queue */
enum { DISK_HEADER = VIRTQUEUE_PAGES, DISK_DATA, DISK_STATUS };

#define SECTOR_SIZE             512

typedef struct Disk {
    Virtqueue *vq;
    /* Reset the device, set up its queue */
    void (*prepare)(void);
    /* Have a sector written from, or read into, the page DISK_DATA */
    void (*start)(bool write, uint32_t sector);
    /* ... what came of it: 0, or why not */
    uint32_t (*status)(void);
    /* A header of zeroes is a request that has an answer */
    bool answers_zeroes;
    /* Another backend can take the place of one that has ended */
    bool comes_back;
} Disk;

void run_disk(const Disk *disk);

/* blk.c */
void run_blk(void);

/* fs.c */
void run_fs(void);

/* vsock.c */
void run_vsock(void);

#endif
