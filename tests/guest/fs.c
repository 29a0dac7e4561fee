/*
 * virtio=fs: the file "disk" in a directory that the host shares, see disk.c
 *
 * Requests are those of FUSE.  QEMU connects to no other backend when that of a
 * vhost-user-fs device has ended.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

/* The first queue is for requests that have no answer. */
#define REQUEST_QUEUE           1

#define FUSE_LOOKUP             1
#define FUSE_OPEN               14
#define FUSE_READ               15
#define FUSE_WRITE              16
#define FUSE_INIT               26
#define FUSE_DESTROY            38
#define FUSE_MAJOR              7
#define FUSE_MINOR              31
#define ROOT                    1
#define READ_WRITE              2
/* What status() returns before the device answers.  It is not an errno. */
#define NO_ANSWER               0xffffu

typedef struct Request {
    uint32_t len;
    uint32_t opcode;
    uint64_t unique;
    uint64_t node;
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;
    uint32_t padding;
    union {
        struct {
            uint32_t major;
            uint32_t minor;
            uint32_t max_readahead;
            uint32_t flags;
        } init;
        char name[8];
        struct {
            uint32_t flags;
            uint32_t open_flags;
        } open;
        struct {
            uint64_t file;
            uint64_t offset;
            uint32_t size;
            uint32_t rw_flags;
            uint64_t lock_owner;
            uint32_t flags;
            uint32_t padding;
        } rw;
    };
} __attribute__((packed)) Request;

/* What precedes the arguments */
#define HEADER_SIZE             offsetof(Request, init)

typedef struct Answer {
    uint32_t len;
    int32_t error;
    uint64_t unique;
    /* FUSE_LOOKUP: the node; FUSE_OPEN: the file; FUSE_WRITE: bytes */
    uint64_t value;
} __attribute__((packed)) Answer;

/* What an answer has beside Answer is not used */
#define INIT_SIZE               (16 + 64)
#define LOOKUP_SIZE             (16 + 128)
#define OPEN_SIZE               (16 + 16)
#define WRITE_SIZE              (16 + 8)
#define READ_SIZE               16
#define DESTROY_SIZE            16

static VirtioDevice dev;
static Virtqueue vq;
static uint64_t node, file;
static uint64_t unique;

static Answer *answer(void)
{
    return (Answer *)(uintptr_t)page_address(DISK_STATUS);
}

static uint32_t status(void)
{
    /* what the device writes */
    volatile Answer *a = answer();

    return -a->error;
}

/* Its length and number are not known yet. */
static void send(Request *request, uint32_t size, const VirtioBuffer *bufs,
                 uint32_t n)
{
    request->len = HEADER_SIZE + size;
    request->unique = ++unique;
    for (uint32_t i = 1; i < n && !bufs[i].device_writes; i++) {
        request->len += bufs[i].size;
    }
    *(Request *)(uintptr_t)page_address(DISK_HEADER) = *request;
    *answer() = (Answer) { .error = -NO_ANSWER };
    virtio_add(&vq, bufs, n, false);
    virtio_kick(&vq);
}

/* Returns: what is asked for. */
static uint64_t ask(Request request, uint32_t size, uint32_t answer_size)
{
    const VirtioBuffer bufs[] = {
        { .addr = page_address(DISK_HEADER), .size = HEADER_SIZE + size },
        { .addr = page_address(DISK_STATUS), .size = answer_size,
          .device_writes = true },
    };

    send(&request, size, bufs, ARRAY_SIZE(bufs));
    virtio_expect(&vq, VIRTIO_DONE, "FUSE");
    /* libfuse answers the end of a session, others do not. */
    if (status() && request.opcode != FUSE_DESTROY) {
        fail("FUSE: operation %u: error %u", request.opcode, status());
    }
    return answer()->value;
}

static void prepare(void)
{
    virtio_start(&dev, 0);
    virtio_queue_init(&vq, &dev, REQUEST_QUEUE, 0);
    virtio_driver_ok(&dev);
    if (node) {         /* not every backend ends its session at a reset */
        ask((Request) { .opcode = FUSE_DESTROY }, 0, DESTROY_SIZE);
    }
    ask((Request) { .opcode = FUSE_INIT,
                    .init = { .major = FUSE_MAJOR, .minor = FUSE_MINOR } },
        sizeof(((Request *)0)->init), INIT_SIZE);
    node = ask((Request) { .opcode = FUSE_LOOKUP, .node = ROOT,
                           .name = "disk" },
               sizeof("disk"), LOOKUP_SIZE);
    file = ask((Request) { .opcode = FUSE_OPEN, .node = node,
                           .open = { .flags = READ_WRITE } },
               sizeof(((Request *)0)->open), OPEN_SIZE);
}

static void start(bool write, uint32_t sector)
{
    const uint32_t size = sizeof(((Request *)0)->rw);
    const VirtioBuffer request = {
        .addr = page_address(DISK_HEADER), .size = HEADER_SIZE + size
    };
    const VirtioBuffer data = {
        .addr = page_address(DISK_DATA), .size = SECTOR_SIZE,
        .device_writes = !write
    };
    const VirtioBuffer result = {
        .addr = page_address(DISK_STATUS), .device_writes = true,
        .size = write ? WRITE_SIZE : READ_SIZE
    };
    const VirtioBuffer to_write[] = { request, data, result };
    const VirtioBuffer to_read[] = { request, result, data };

    send(&(Request) { .opcode = write ? FUSE_WRITE : FUSE_READ, .node = node,
                      .rw = { .file = file, .offset = sector * SECTOR_SIZE,
                              .size = SECTOR_SIZE } },
         size, write ? to_write : to_read, 3);
}

void run_fs(void)
{
    static const Disk disk = {
        .vq = &vq,
        .prepare = prepare,
        .start = start,
        .status = status,
    };

    virtio_find(&dev, VIRTIO_ID_FS);
    run_disk(&disk);
}
