/*
 * virtio=queues: parts of a virtqueue, and a buffer, become private
 *
 * ... under a device that runs, or before its queues are set up.  A private
 * page keeps what the guest has in it; once it is shared again, a reset makes
 * the device work.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

static const char * const part_name[PARTS] = {
    "descriptors", "available ring", "used ring", "buffer"
};

static uint32_t checksum(uint32_t page)
{
    /* what somebody else may write */
    volatile uint32_t *p = (uint32_t *)(uintptr_t)page_address(page);
    uint32_t sum = 0, i;

    for (i = 0; i < PAGE_SIZE / 4; i++) {
        sum = (sum << 1 | sum >> 31) ^ p[i];
    }
    return sum;
}

static void test_part(const QueueTest *test, uint32_t part, bool running)
{
    uint32_t page = part == PART_BUFFER ? test->buffer : test->page + part;
    uint32_t sum;

    if (!running) {
        convert(page, 1, false);
    }
    test->prepare();
    virtio_driver_ok(test->dev);
    if (running) {
        test->request();
        convert(page, 1, false);
    }
    test->add();
    sum = checksum(page);
    virtio_kick(test->vq);
    virtio_expect(test->vq,
                  running ? test->running[part] : test->starting[part],
                  part_name[part]);
    if (checksum(page) != sum) {
        fail("%s: the device has written to private memory", part_name[part]);
    }
    convert(page, 1, true);
    if (checksum(page) != sum) {
        fail("%s: lost in a conversion", part_name[part]);
    }
    test->prepare();
    virtio_driver_ok(test->dev);
    test->request();
}

void run_queue_test(const QueueTest *test)
{
    uint32_t part;

    /* also the first access to each page */
    memset((void *)(uintptr_t)page_address(test->buffer), 0, PAGE_SIZE);
    if (!convert_possible()) {
        print("%s\n", test->name);
        test->prepare();
        virtio_driver_ok(test->dev);
        test->request();
        return;
    }
    for (part = 0; part < PARTS; part++) {
        print("%s: %s\n", test->name, part_name[part]);
        test_part(test, part, true);
        test_part(test, part, false);
    }
}

/* Devices of which one queue is enough */

#define BUFFER          VIRTQUEUE_PAGES
#define BUFFER_SIZE     sizeof(uint32_t)
/* A page for the balloon: the APIC's, where there is no memory */
#define NO_MEMORY       0xfee00u

static VirtioDevice dev;
static Virtqueue vq;
static bool device_writes;

static void simple_prepare(void)
{
    virtio_start(&dev, 0);
    virtio_queue_init(&vq, &dev, 0, 0);
}

static void simple_add(void)
{
    VirtioBuffer buf = { .addr = page_address(BUFFER), .size = BUFFER_SIZE };

    *(uint32_t *)(uintptr_t)buf.addr = NO_MEMORY;
    virtio_add(&vq, &buf, 1, device_writes);
}

static void simple_request(void)
{
    simple_add();
    virtio_kick(&vq);
    virtio_expect(&vq, VIRTIO_DONE, "request");
    if (device_writes && virtio_written(&vq) != BUFFER_SIZE) {
        fail("%u bytes were written", virtio_written(&vq));
    }
}

void run_queues(void)
{
    static QueueTest rng = {
        .name = "rng",
        .running = {
            VIRTIO_NOTHING, VIRTIO_NEEDS_RESET, VIRTIO_NOTHING, VIRTIO_DONE
        },
        .starting = {
            VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_DONE
        },
    };
    /* QEMU takes an index that has become 0 for thousands of new requests */
    static QueueTest balloon = {
        .name = "balloon",
        .running = {
            VIRTIO_NEEDS_RESET, VIRTIO_ANY, VIRTIO_NOTHING, VIRTIO_DONE
        },
        .starting = {
            VIRTIO_NEEDS_RESET, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_DONE
        },
    };
    static QueueTest * const tests[] = { &rng, &balloon };
    uint32_t i;

    for (i = 0; i < ARRAY_SIZE(tests); i++) {
        tests[i]->dev = &dev;
        tests[i]->vq = &vq;
        tests[i]->buffer = BUFFER;
        tests[i]->prepare = simple_prepare;
        tests[i]->request = simple_request;
        tests[i]->add = simple_add;
        device_writes = i == 0;
        virtio_find(&dev, i == 0 ? VIRTIO_ID_RNG : VIRTIO_ID_BALLOON);
        run_queue_test(tests[i]);
    }
    print("summary devices=%u\n", i);
}
