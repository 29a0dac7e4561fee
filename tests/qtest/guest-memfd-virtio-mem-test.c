/*
 * virtio-mem and a device that does not unmap memory (vfio-user)
 *
 * Two devices have all plugged blocks mapped, "bad" through a server that
 * refuses on command (guest-memfd-misbehave.c).  A guest, played by libqos,
 * unplugs blocks.  The memory is ordinary, or can become private: then devices
 * have mapped what is plugged and shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "guest-memfd-pair.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_mem.h"
#include "qobject/qlist.h"

#define VMEM_SLOT 5
#define VMEM_MACHINE_WITH(memory) \
    "-nodefaults -machine q35 -m 128M,maxmem=1G " PAIR_PORTS \
    "-object " memory ",id=vm0,size=64M " \
    "-device virtio-mem-pci,id=vmem,memdev=vm0,block-size=2M," \
    "requested-size=64M,addr=" stringify(VMEM_SLOT)
#define VMEM_MACHINE VMEM_MACHINE_WITH("memory-backend-memfd")
#define VMEM_CONVERTS VMEM_MACHINE_WITH(BACKEND ",driver=emulated,init=shared")

#define VMEM_BLOCK (2 * MiB)
#define VMEM_BLOCKS 4
#define VMEM_PATTERN 0xa5

typedef struct VirtioMem {
    Pair p;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *dev;
    QVirtQueue *vq;
    uint64_t msg;               /* a request, and room for the response */
    uint64_t gpa;
} VirtioMem;

static void vmem_start_driver(VirtioMem *v)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(VMEM_SLOT, 0) };
    QVirtioDevice *vdev;

    pc_alloc_init(&v->alloc, v->p.qts, 0);
    v->bus = qpci_new_pc(v->p.qts, &v->alloc);
    v->dev = virtio_pci_new(v->bus, &addr);
    vdev = &v->dev->vdev;
    g_assert_cmphex(vdev->device_type, ==, VIRTIO_ID_MEM);
    qvirtio_pci_device_enable(v->dev);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         (BIT_ULL(VIRTIO_F_VERSION_1) |
                          BIT_ULL(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)));
    v->vq = qvirtqueue_setup(vdev, &v->alloc, 0);
    qvirtio_set_driver_ok(vdev);
    v->msg = guest_alloc(&v->alloc, sizeof(struct virtio_mem_req) +
                         sizeof(struct virtio_mem_resp));
    g_assert_cmphex(qvirtio_config_readq(vdev, offsetof(
                        struct virtio_mem_config, block_size)), ==, VMEM_BLOCK);
    v->gpa = qvirtio_config_readq(vdev, offsetof(struct virtio_mem_config,
                                                 addr));
}

/* About @nr blocks from number @first; what the device answers, and a state. */
static unsigned vmem_request(VirtioMem *v, unsigned type, unsigned first,
                         unsigned nr, unsigned *state)
{
    struct virtio_mem_req req = {
        .type = cpu_to_le16(type),
        .u.plug = {
            .addr = cpu_to_le64(v->gpa + first * VMEM_BLOCK),
            .nb_blocks = cpu_to_le16(nr),
        },
    };
    struct virtio_mem_resp resp = { .type = 0xffff };
    uint64_t resp_at = v->msg + sizeof(req);
    uint32_t head, used;

    qtest_memwrite(v->p.qts, v->msg, &req, sizeof(req));
    qtest_memwrite(v->p.qts, resp_at, &resp, sizeof(resp));
    /* The one before it was answered, and its descriptors are free. */
    v->vq->free_head = 0;
    v->vq->num_free = v->vq->size;
    head = qvirtqueue_add(v->p.qts, v->vq, v->msg, sizeof(req), false, true);
    qvirtqueue_add(v->p.qts, v->vq, resp_at, sizeof(resp), true, false);
    qvirtqueue_kick(v->p.qts, &v->dev->vdev, v->vq, head);
    while (!qvirtqueue_get_buf(v->p.qts, v->vq, &used, NULL)) {
        ;
    }
    g_assert_cmpuint(used, ==, head);
    qtest_memread(v->p.qts, resp_at, &resp, sizeof(resp));
    if (state) {
        *state = le16_to_cpu(resp.u.state.state);
    }
    return le16_to_cpu(resp.type);
}

/* The first @nr blocks are plugged, and those after them are not. */
static void vmem_check(VirtioMem *v, unsigned nr)
{
    uint64_t rest = v->gpa + nr * VMEM_BLOCK;
    uint64_t rest_size = (VMEM_BLOCKS - nr) * VMEM_BLOCK;
    QDict *rsp = qtest_qmp(v->p.qts, "{ 'execute': 'query-memory-devices' }");
    QDict *mem = qobject_to(QDict, qlist_peek(qdict_get_qlist(rsp, "return")));

    g_assert_cmpstr(qdict_get_str(mem, "type"), ==, "virtio-mem");
    g_assert_cmpuint(qdict_get_int(qdict_get_qdict(mem, "data"), "size"), ==,
                     nr * VMEM_BLOCK);
    qobject_unref(rsp);
    for (unsigned i = 0; i < VMEM_BLOCKS; i++) {
        uint64_t block = v->gpa + i * VMEM_BLOCK;
        unsigned state, value;

        g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_STATE, i, 1, &state),
                         ==, VIRTIO_MEM_RESP_ACK);
        g_assert_cmpuint(state, ==, i < nr ? VIRTIO_MEM_STATE_PLUGGED :
                                             VIRTIO_MEM_STATE_UNPLUGGED);
        /* What was plugged once is empty. */
        value = i < nr ? VMEM_PATTERN : 0;
        g_assert_cmphex(qtest_readb(v->p.qts, block), ==, value);
        g_assert_cmphex(qtest_readb(v->p.qts, block + VMEM_BLOCK - 1), ==,
                        value);
    }
    check_mapped(v->p.good, v->gpa, nr * VMEM_BLOCK);
    check_mapped(v->p.bad, v->gpa, nr * VMEM_BLOCK);
    check_unmapped(v->p.good, rest, rest_size);
    check_unmapped(v->p.bad, rest, rest_size);
}

/* How often the good device was told to unmap memory. */
static unsigned vmem_good_unmaps(VirtioMem *v)
{
    g_autofree char *stats = server_query(v->p.good, "stats\n");
    const char *line = strstr(stats, "unmap ");
    unsigned nr;

    g_assert_nonnull(line);
    g_assert_cmpint(sscanf(line, "unmap %u", &nr), ==, 1);
    return nr;
}

static void vmem_check_plugged(VirtioMem *v, unsigned nr)
{
    uint64_t end = v->gpa + nr * VMEM_BLOCK;

    check_mapped(v->p.bad, v->gpa, nr * VMEM_BLOCK);
    check_unmapped(v->p.bad, end, 64 * MiB - nr * VMEM_BLOCK);
}

/*
 * A device has the memory: the blocks stay plugged, and mapped for both.  It
 * unmaps @skip of them before it refuses.
 */
static void vmem_check_refused(VirtioMem *v, unsigned type, unsigned nr,
                               unsigned skip, bool good_first)
{
    unsigned unmaps = vmem_good_unmaps(v);

    bad_server_arm(v->p.front, MISBEHAVE_ERROR, EBUSY,
                   VFIO_USER_DMA_UNMAP, skip, FOREVER);
    g_assert_cmpuint(vmem_request(v, type, VMEM_BLOCKS - nr, nr, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpuint(bad_server_disarm(v->p.front), >, 0);
    /* The good one had let go, and has it again; or it was not asked. */
    g_assert_cmpint(vmem_good_unmaps(v) > unmaps, ==, good_first);
    vmem_check(v, VMEM_BLOCKS);
}

/* The first run is unmapped, the second one is refused: both stay. */
static void vmem_check_runs(VirtioMem *v)
{
    const uint64_t last = v->gpa + (VMEM_BLOCKS - 1) * VMEM_BLOCK;

    bad_server_arm(v->p.front, MISBEHAVE_ERROR, EBUSY,
                   VFIO_USER_DMA_UNMAP, 1, FOREVER);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpuint(bad_server_disarm(v->p.front), >, 0);
    for (int i = 0; i < 2; i++) {
        Server *s = i ? v->p.bad : v->p.good;

        check_mapped(s, v->gpa, VMEM_BLOCK);
        check_unmapped(s, v->gpa + VMEM_BLOCK, last - v->gpa - VMEM_BLOCK);
        check_mapped(s, last, VMEM_BLOCK);
    }
}

static void vmem_stop(VirtioMem *v)
{
    qvirtqueue_cleanup(v->dev->vdev.bus, v->vq, &v->alloc);
    qvirtio_pci_destructor(&v->dev->obj);
    g_free(v->dev);
    qpci_free_pc(v->bus);
    alloc_destroy(&v->alloc);
    pair_stop(&v->p);
}

/* One by one: what is plugged at once can be one mapping. */
static void vmem_plug_blocks(VirtioMem *v)
{
    for (unsigned i = 0; i < VMEM_BLOCKS; i++) {
        g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, i, 1, NULL), ==,
                         VIRTIO_MEM_RESP_ACK);
    }
}

static void run_virtio_mem(const char *machine, bool good_first,
                           bool good_arrives_first)
{
    VirtioMem v = { };

    if (!pair_start_servers(&v.p)) {
        return;
    }
    pair_start_vm(&v.p, machine, NULL);
    pair_plug(&v.p, !good_arrives_first);
    pair_plug(&v.p, good_arrives_first);
    vmem_start_driver(&v);

    vmem_plug_blocks(&v);
    qtest_memset(v.p.qts, v.gpa, VMEM_PATTERN, VMEM_BLOCKS * VMEM_BLOCK);
    vmem_check(&v, VMEM_BLOCKS);

    for (unsigned skip = 0; skip < 2; skip++) {
        vmem_check_refused(&v, VIRTIO_MEM_REQ_UNPLUG, skip + 1, skip,
                           good_first);
        vmem_check_refused(&v, VIRTIO_MEM_REQ_UNPLUG_ALL, VMEM_BLOCKS, skip,
                           good_first);
    }
    for (unsigned nr = VMEM_BLOCKS; nr > 0; ) {
        unsigned some = nr == VMEM_BLOCKS ? 2 : 1;

        nr -= some;
        g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_UNPLUG, nr, some,
                                      NULL), ==, VIRTIO_MEM_RESP_ACK);
        vmem_check(&v, nr);
    }

    /* All at once, in two runs */
    for (unsigned i = 0; i < VMEM_BLOCKS; i += 3) {
        g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, i, 1, NULL), ==,
                         VIRTIO_MEM_RESP_ACK);
    }
    vmem_check_runs(&v);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0, NULL),
                     ==, VIRTIO_MEM_RESP_ACK);
    vmem_check(&v, 0);

    /* Who is gone has nothing mapped. */
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 0, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    bad_server_arm(v.p.front, MISBEHAVE_CLOSE_FIRST, 0, VFIO_USER_DMA_UNMAP, 0,
                   1);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_UNPLUG, 0, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    check_unmapped(v.p.good, v.gpa, VMEM_BLOCKS * VMEM_BLOCK);

    vmem_stop(&v);
}

/* Whoever arrives last is told first. */
static void test_virtio_mem(const void *good_first)
{
    run_virtio_mem(VMEM_MACHINE, good_first, !good_first);
}

/* A block tells first who arrived first. */
static void test_converts(const void *good_first)
{
    run_virtio_mem(VMEM_CONVERTS, good_first, good_first);
}

/* The devices have what is plugged and shared, and nothing else. */
static void vmem_check_exact(VirtioMem *v, const char *map)
{
    gm_assert_map(v->p.qts, "vm0", map);
    check_exact(v->p.qts, v->p.good, "vm0", v->gpa);
    check_exact(v->p.qts, v->p.bad, "vm0", v->gpa);
}

static void vmem_check_no_conversion(VirtioMem *v, uint64_t offset,
                                     uint64_t size)
{
    for (int private = 0; private < 2; private++) {
        gm_convert_fails(v->p.qts, "vm0", offset, size, private,
                         "virtio-mem has not plugged all of it");
    }
}

/* Blocks 2 to 5 are plugged; what is not counts as private. */
static void vmem_convert(VirtioMem *v)
{
    QTestState *qts = v->p.qts;

    vmem_check_exact(v, "P67108864");
    vmem_check_no_conversion(v, 0, 64 * MiB);
    vmem_check_no_conversion(v, 4 * MiB, 4 * KiB);

    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, 2, 4, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_exact(v, "P4194304 S8388608 P54525952");
    vmem_check_no_conversion(v, 4 * MiB - 4 * KiB, 8 * KiB);
    vmem_check_no_conversion(v, 12 * MiB - 4 * KiB, 8 * KiB);

    qtest_memset(qts, v->gpa + 4 * MiB, VMEM_PATTERN, 8 * MiB);
    gm_convert(qts, "vm0", 6 * MiB, 64 * KiB, true);
    gm_convert(qts, "vm0", 7 * MiB, 2 * MiB, true);
    vmem_check_exact(v, "P4194304 S2097152 P65536 S983040 P2097152 S3145728 "
                     "P54525952");

    /* Some of it is mapped, some is private: all goes. */
    bad_server_arm(v->p.front, MISBEHAVE_ERROR, EBUSY, VFIO_USER_DMA_UNMAP, 0,
                   FOREVER);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_UNPLUG, 3, 2, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpuint(bad_server_disarm(v->p.front), >, 0);
    vmem_check_exact(v, "P4194304 S2097152 P65536 S983040 P2097152 S3145728 "
                     "P54525952");
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_UNPLUG, 3, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_exact(v, "P4194304 S2097152 P4194304 S2097152 P54525952");
    vmem_check_no_conversion(v, 6 * MiB, 4 * KiB);
    g_assert_cmphex(qtest_readb(qts, v->gpa + 4 * MiB), ==, VMEM_PATTERN);
    g_assert_cmphex(qtest_readb(qts, v->gpa + 6 * MiB), ==, 0);
    g_assert_cmphex(qtest_readb(qts, v->gpa + 8 * MiB), ==, 0);

    /* Nobody could map it: it is not plugged. */
    bad_server_arm(v->p.front, MISBEHAVE_ERROR, ENOMEM, VFIO_USER_DMA_MAP, 0,
                   FOREVER);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, 3, 1, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpuint(bad_server_disarm(v->p.front), >, 0);
    vmem_check_exact(v, "P4194304 S2097152 P4194304 S2097152 P54525952");
    vmem_check_no_conversion(v, 6 * MiB, 4 * KiB);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, 3, 1, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_exact(v, "P4194304 S4194304 P2097152 S2097152 P54525952");

    /* Smaller than it is: no more, until the guest has unplugged some. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'qom-set', 'arguments': {"
                             " 'path': 'vmem', 'property': 'requested-size',"
                             " 'value': 6291456 } }");
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, 8, 1, NULL), ==,
                     VIRTIO_MEM_RESP_NACK);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_UNPLUG, 5, 1, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    g_assert_cmpuint(vmem_request(v, VIRTIO_MEM_REQ_PLUG, 8, 1, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_exact(v, "P4194304 S4194304 P8388608 S2097152 P48234496");
    gm_convert(qts, "vm0", 16 * MiB, 4 * KiB, true);
}

static void test_conversion(const void *more)
{
    g_autofree char *machine = NULL;
    VirtioMem v = { };

    if (!pair_start_servers(&v.p)) {
        return;
    }
    machine = g_strconcat(VMEM_CONVERTS, more, NULL);
    pair_start_vm(&v.p, machine, NULL);
    pair_plug(&v.p, true);
    pair_plug(&v.p, false);
    vmem_start_driver(&v);
    vmem_convert(&v);

    /* It starts as it did before, with nothing plugged. */
    qtest_system_reset(v.p.qts);
    vmem_check_exact(&v, "P67108864");
    vmem_check_no_conversion(&v, 4 * MiB, 4 * KiB);
    vmem_stop(&v);
}

/* What comes of options that this memory cannot have */
static void test_options(void)
{
    gm_check_refused("", VMEM_CONVERTS ",prealloc=on",
                     "'prealloc' cannot be 'on' with 'vm0'");
    gm_check_refused("", VMEM_CONVERTS ",unplugged-inaccessible=off",
                     "'unplugged-inaccessible' must be 'on' with 'vm0'");
}

/* A device has 4 mappings for them: no more blocks are plugged. */
static void test_virtio_mem_limit(void)
{
    VirtioMem v = { };

    if (!pair_start_servers(&v.p)) {
        return;
    }
    bad_server_negotiate(v.p.front,
                         "{ \"capabilities\": { \"max_dma_maps\": 4 } }");
    pair_start_vm(&v.p, VMEM_MACHINE, NULL);
    vmem_start_driver(&v);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 0, 5, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    gm_assert_failure(v.p.qts, pair_device_add(&v.p, true),
                      "it takes 5 mappings, and 0 of 4 that the device may "
                      "have are in use: give virtio-mem a larger block-size");
    bad_server_wait_disconnected(v.p.front);

    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_UNPLUG, 3, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    pair_plug(&v.p, true);
    vmem_check_plugged(&v, 3);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 3, 2, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    vmem_check_plugged(&v, 3);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 3, 1, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_plugged(&v, 4);

    /* One of two is mapped: it does not stay so. */
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_UNPLUG, 2, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    bad_server_arm(v.p.front, MISBEHAVE_ERROR, ENOMEM, VFIO_USER_DMA_MAP, 1,
                   FOREVER);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 2, 2, NULL), ==,
                     VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpuint(bad_server_disarm(v.p.front), >, 0);
    vmem_check_plugged(&v, 2);
    g_assert_cmpuint(vmem_request(&v, VIRTIO_MEM_REQ_PLUG, 2, 2, NULL), ==,
                     VIRTIO_MEM_RESP_ACK);
    vmem_check_plugged(&v, 4);
    vmem_stop(&v);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (qtest_has_device("virtio-mem-pci")) {
        qtest_add_data_func("guest-memfd-virtio-mem/refused-first", NULL,
                            test_virtio_mem);
        qtest_add_data_func("guest-memfd-virtio-mem/refused-last",
                            GUINT_TO_POINTER(true), test_virtio_mem);
        qtest_add_func("guest-memfd-virtio-mem/limit", test_virtio_mem_limit);
        qtest_add_data_func("guest-memfd-virtio-mem/converts/refused-first",
                            NULL, test_converts);
        qtest_add_data_func("guest-memfd-virtio-mem/converts/refused-last",
                            GUINT_TO_POINTER(true), test_converts);
        qtest_add_data_func("guest-memfd-virtio-mem/converts/one-slot", "",
                            test_conversion);
        qtest_add_data_func("guest-memfd-virtio-mem/converts/memslots",
                            ",dynamic-memslots=on", test_conversion);
        qtest_add_func("guest-memfd-virtio-mem/converts/options", test_options);
    }
    return g_test_run();
}
