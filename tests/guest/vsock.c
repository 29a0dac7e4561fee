/*
 * virtio=vsock: a device whose queues the host's kernel works on
 *
 * A request to connect to the host, where nobody listens, has a reset for an
 * answer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

#define CID_HOST                2
#define TYPE_STREAM             1
#define OP_REQUEST              1
#define OP_RST                  3
#define PORT_GUEST              1024
#define PORT_HOST               0x7e57

/* Little endian, as is all of the guest */
typedef struct Packet {
    uint64_t src_cid;
    uint64_t dst_cid;
    uint32_t src_port;
    uint32_t dst_port;
    uint32_t len;
    uint16_t type;
    uint16_t op;
    uint32_t flags;
    uint32_t buf_alloc;
    uint32_t fwd_cnt;
} __attribute__((packed)) Packet;

enum { RX, TX };

#define RX_PAGE                 0
#define TX_PAGE                 VIRTQUEUE_PAGES
#define RX_BUFFER               (2 * VIRTQUEUE_PAGES)
#define TX_BUFFER               (RX_BUFFER + 1)

static VirtioDevice dev;
static Virtqueue rx, tx;

static void prepare(void)
{
    virtio_start(&dev, 0);
    virtio_queue_init(&rx, &dev, RX, RX_PAGE);
    virtio_queue_init(&tx, &dev, TX, TX_PAGE);
}

static void add_rx(void)
{
    VirtioBuffer buf = { .addr = page_address(RX_BUFFER), .size = PAGE_SIZE };

    memset((void *)(uintptr_t)buf.addr, 0, buf.size);
    virtio_add(&rx, &buf, 1, true);
}

static void add_tx(void)
{
    VirtioBuffer buf = { .addr = page_address(TX_BUFFER), .size = sizeof(Packet) };

    *(Packet *)(uintptr_t)buf.addr = (Packet) {
        .src_cid = mmio_read(dev.config, 0),
        .dst_cid = CID_HOST,
        .src_port = PORT_GUEST,
        .dst_port = PORT_HOST,
        .type = TYPE_STREAM,
        .op = OP_REQUEST,
        .buf_alloc = PAGE_SIZE,
    };
    virtio_add(&tx, &buf, 1, false);
}

static void connect(void)
{
    const Packet *p = (Packet *)(uintptr_t)page_address(RX_BUFFER);

    add_rx();
    virtio_kick(&rx);
    add_tx();
    virtio_kick(&tx);
    virtio_expect(&tx, VIRTIO_DONE, "request");
    virtio_expect(&rx, VIRTIO_DONE, "answer");
    if (virtio_written(&rx) != sizeof(*p) || p->src_cid != CID_HOST ||
        p->dst_cid != mmio_read(dev.config, 0) || p->src_port != PORT_HOST ||
        p->dst_port != PORT_GUEST || p->op != OP_RST) {
        fail("the answer of %u bytes has operation %u, ports %u and %u",
             virtio_written(&rx), p->op, p->src_port, p->dst_port);
    }
}

/* The answer waits for a buffer */
static void add_rx_late(void)
{
    add_tx();
    virtio_kick(&tx);
    virtio_expect(&tx, VIRTIO_DONE, "request");
    add_rx();
}

void run_vsock(void)
{
    static const QueueTest tests[] = {
        {
            .name = "vsock, to the host",
            .dev = &dev,
            .vq = &tx,
            .page = TX_PAGE,
            .buffer = TX_BUFFER,
            .prepare = prepare,
            .request = connect,
            .add = add_tx,
            .running = {
                VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING
            },
            .starting = {
                VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING
            },
        }, {
            .name = "vsock, to the guest",
            .dev = &dev,
            .vq = &rx,
            .page = RX_PAGE,
            .buffer = RX_BUFFER,
            .prepare = prepare,
            .request = connect,
            .add = add_rx_late,
            .running = {
                VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING
            },
            .starting = {
                VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING, VIRTIO_NOTHING
            },
        },
    };
    uint32_t i;

    virtio_find(&dev, VIRTIO_ID_VSOCK);
    for (i = 0; i < ARRAY_SIZE(tests); i++) {
        run_queue_test(&tests[i]);
    }
    print("summary queues=%u\n", i);
}
