/*
 * memory-backend-guest-memfd and what a vfio-user server says about its device
 *
 * A server is not trusted.  "bad" is a device whose config space, regions and
 * interrupts are nonsense, made from the test's seed or taken from a table of
 * what has stopped QEMU once.  QEMU may refuse it with an error.  If QEMU takes
 * it, a guest uses it.  QEMU has to live, the bad device has to go when it is
 * unplugged, and the mappings of a good device beside it have to be exact.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-pair.h"

/* The port of the bad device, behind which bus 1 is, and the device */
#define PORT QPCI_DEVFN(PAIR_BAD_SLOT, 0)
#define DEVICE (1 << 8)

#define HOST_PCIEXBAR 0x60
#define ECAM 0xb0000000
#define PORT_MEMORY 0xe0000000  /* what the port forwards, 256M */

/* So that a test that would hang fails. */
#define HANG_S 120

#define NR_RANDOM 300

/* What is tried now, to be shown if QEMU does not survive it. */
static DeviceConfig now;
static const char *now_name;

static void show_config(void *qemu)
{
    kill(*(pid_t *)qemu, SIGKILL);
    fprintf(stderr, "# config space '%s', region sizes", now_name);
    for (int i = 0; i < NR_REGIONS; i++) {
        fprintf(stderr, " 0x%" PRIx64, now.region[i]);
    }
    fprintf(stderr, "\n# irq 0x%x %u %u io-error %u fill 0x%x info 0x%x 0x%x "
            "0x%x", now.irq_flags, now.irq_count, now.irq_error, now.io_error,
            now.fill, now.info_argsz, now.info_flags, now.info_cap_offset);
    for (int i = 0; i < ARRAY_SIZE(now.info_caps); i++) {
        fprintf(stderr, " 0x%x", now.info_caps[i]);
    }
    for (int i = 0; i < sizeof(now.space); i += 16) {
        if (buffer_is_zero(now.space + i, 16)) {
            continue;
        }
        fprintf(stderr, "\n# %03x:", i);
        for (int k = 0; k < 16; k++) {
            fprintf(stderr, " %02x", now.space[i + k]);
        }
    }
    fprintf(stderr, "\n");
}

static void on_alarm(int sig)
{
    abort();
}

static void set8(uint16_t at, uint8_t val)
{
    now.space[at % sizeof(now.space)] = val;
}

static void set16(uint16_t at, uint16_t val)
{
    set8(at, val);
    set8(at + 1, val >> 8);
}

static void set32(uint16_t at, uint32_t val)
{
    set16(at, val);
    set16(at + 2, val >> 16);
}

/* A device that there is nothing to say against. */
static void make_good(void)
{
    memset(&now, 0, sizeof(now));
    set16(PCI_VENDOR_ID, 0x1234);
    set16(PCI_DEVICE_ID, 0x11e8);
    set16(PCI_STATUS, PCI_STATUS_CAP_LIST);
    set32(PCI_CLASS_REVISION, 0x00ff0010);
    set8(PCI_INTERRUPT_PIN, 1);
    set8(PCI_CAPABILITY_LIST, 0x40);
    set32(0x40, PCI_CAP_ID_EXP | 2 << 16);
    set32(PCI_ROM_ADDRESS, 0xfffff801);
    now.region[0] = 64 * KiB;
    now.region[2] = 4 * KiB;
    now.region[VFIO_PCI_ROM_REGION_INDEX] = 2 * KiB;
    now.region[VFIO_PCI_CONFIG_REGION_INDEX] = 4096;
    now.irq_flags = 1;
    now.irq_count = 1;
}

/* The guest turns on each capability that interrupts come by. */
static void enable_interrupts(Pair *p)
{
    uint8_t pos = gm_config_readl(p->qts, DEVICE, PCI_CAPABILITY_LIST);

    for (int i = 0; pos && i < 64; i++) {
        uint32_t cap = gm_config_readl(p->qts, DEVICE, pos);

        if ((cap & 0xff) == PCI_CAP_ID_MSI) {
            gm_config_writel(p->qts, DEVICE, pos,
                             cap | PCI_MSI_FLAGS_ENABLE << 16 |
                             (cap & PCI_MSI_FLAGS_QMASK << 16) << 3);
        } else if ((cap & 0xff) == PCI_CAP_ID_MSIX) {
            gm_config_writel(p->qts, DEVICE, pos,
                             cap | PCI_MSIX_FLAGS_ENABLE << 16);
        } else if ((cap & 0xff) == PCI_CAP_ID_PM) {
            gm_config_writel(p->qts, DEVICE, pos + PCI_PM_CTRL, 3);
            gm_config_writel(p->qts, DEVICE, pos + PCI_PM_CTRL, 0);
        }
        pos = cap >> 8;
    }
}

static void access_bars(Pair *p)
{
    for (int i = 0; i <= VFIO_PCI_ROM_REGION_INDEX; i++) {
        uint32_t addr = PORT_MEMORY + i * 16 * MiB;
        uint8_t reg = i < VFIO_PCI_ROM_REGION_INDEX ?
                      PCI_BASE_ADDRESS_0 + 4 * i : PCI_ROM_ADDRESS;

        gm_config_writel(p->qts, DEVICE, reg, 0xffffffff);
        gm_config_readl(p->qts, DEVICE, reg);
        gm_config_writel(p->qts, DEVICE, reg,
                         addr | (i == VFIO_PCI_ROM_REGION_INDEX));
        for (uint32_t offset = 0; offset <= 64 * KiB; offset = offset * 8 + 4) {
            qtest_readl(p->qts, addr + offset);
            qtest_writel(p->qts, addr + offset, 0);
        }
    }
}

/* A reset has powered the slot on: the guest gives it a bus and memory. */
static void open_slot(Pair *p)
{
    gm_config_writel(p->qts, 0, HOST_PCIEXBAR, ECAM | 1);
    gm_config_writel(p->qts, PORT, PCI_PRIMARY_BUS, 0x010100);
    gm_config_writel(p->qts, PORT, PCI_MEMORY_BASE, 0xeff0e000);
    gm_config_writel(p->qts, PORT, PCI_COMMAND,
                     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* A guest looks at the device and uses it. */
static void use_device(Pair *p)
{
    open_slot(p);
    for (int reg = 0; reg < 256; reg += 4) {
        gm_config_readl(p->qts, DEVICE, reg);
    }
    for (int reg = 256; reg < 4096; reg += 60) {
        qtest_readl(p->qts, ECAM + 1 * MiB + reg);
    }
    qtest_readl(p->qts, ECAM + 1 * MiB + 4092);
    gm_config_writel(p->qts, DEVICE, PCI_COMMAND, PCI_COMMAND_MEMORY |
                     PCI_COMMAND_MASTER | PCI_COMMAND_IO);
    access_bars(p);
    enable_interrupts(p);
    for (int i = 0; i < 8; i++) {
        qtest_writel(p->qts, ECAM + 1 * MiB +
                     g_test_rand_int_range(0, 1024) * 4, g_test_rand_int());
    }
}

static void check_good(Pair *p)
{
    gm_convert(p->qts, "m0", 16 * MiB, 4096, false);
    check_exact(p->qts, p->good, "m0", 0);
    gm_convert(p->qts, "m0", 16 * MiB, 4096, true);
    check_exact(p->qts, p->good, "m0", 0);
}

/* Returns what was wrong with the device, or NULL. */
static char *try_config(Pair *p, const char *name)
{
    DeviceConfig then = now;
    char *refusal = NULL;
    QDict *rsp;

    now_name = name;
    alarm(HANG_S);
    bad_server_describe(p->front, &now);
    rsp = pair_device_add(p, true);
    if (qdict_haskey(rsp, "error")) {
        refusal = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "error"),
                                         "desc"));
    } else {
        qtest_system_reset(p->qts);
        use_device(p);
        /* It is something else from now on. */
        then.space[PCI_INTERRUPT_PIN] ^= 1;
        bad_server_describe(p->front, &then);
        qtest_system_reset(p->qts);
        use_device(p);
        pair_unplug_bad(p);
    }
    qobject_unref(rsp);
    check_good(p);
    alarm(0);
    return refusal;
}

static bool start(Pair *p, pid_t *qemu)
{
    if (!pair_start_servers(p)) {
        return false;
    }
    pair_own_log(p);
    pair_start_vm(p, PAIR_MACHINE, NULL);
    *qemu = qtest_pid(p->qts);
    sigaction(SIGALRM, &(struct sigaction) { .sa_handler = on_alarm }, NULL);
    qtest_add_abrt_handler(show_config, qemu);
    pair_plug(p, false);
    check_good(p);
    return true;
}

static void stop(Pair *p, pid_t *qemu)
{
    qtest_remove_abrt_handler(qemu);
    pair_stop(p);
}

/* What has stopped QEMU once, and why it is refused now; NULL: it is taken */
typedef struct Case {
    const char *name;
    const char *refusal;
    struct {
        uint16_t at;
        uint32_t val;
    } set[8];
    struct {
        int nr;
        uint64_t size;
    } region[2];
    uint32_t io_error;
    uint32_t irq_error;
    uint32_t info[3];
    uint32_t caps[4];
} Case;

static const Case cases[] = {
    { "good", NULL },
    { "size-32", "header", .region = { { 7, 32 } } },
    { "size-257", NULL, .region = { { 7, 257 } } },
    { "size-huge", NULL, .region = { { 7, 1ULL << 60 } } },
    { "cap-self", "comes back", { { 0x40, 0x00024010 } } },
    { "cap-loop", "comes back", { { 0x40, 0x00028010 }, { 0x80, 0x4001 } } },
    { "cap-in-header", "capability", { { 0x40, 0x00021010 } } },
    { "cap-unaligned", "capability", { { 0x40, 0x0002ff10 } } },
    { "exp-at-end", "capability",
      { { PCI_CAPABILITY_LIST, 0xfc }, { 0xfc, 0x00020010 } },
      .region = { { 7, 256 } } },
    { "pm-at-end", "capability", { { 0x40, 0x0002fc10 }, { 0xfc, 0x0001 } } },
    { "msix-at-end", "capability", { { 0x40, 0x0002fc10 }, { 0xfc, 0x0011 } } },
    { "msi-at-end", "capability", { { 0x40, 0x0002fc10 },
                                    { 0xfc, 0x01800005 } } },
    { "rc-end-small", "capability", { { 0x40, 0x00924c10 },
                                      { 0x4c, 0x00000009 } } },
    { "ext-self", "comes back", { { 0x100, 0x10010001 } } },
    { "ext-loop", "comes back", { { 0x100, 0x20010001 },
                                  { 0x200, 0x10010002 } } },
    { "ext-in-header", "capability", { { 0x100, 0x04010001 } } },
    { "ext-at-end", "capability", { { 0x100, 0xffc10001 } } },
    { "ext-close", "capability", { { 0x100, 0x10410001 }, { 0x104, 1 } } },
    { "rebar-at-end", NULL, { { 0x100, 0xff810001 }, { 0xff8, 0x00010015 },
                                      { 0xffc, 0x10 } } },
    { "msi-128", "MSI", { { 0x40, 0x00028010 }, { 0x80, 0x000e0005 } } },
    { "msix-bir-7", "MSI-X", { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                               { 0x84, 7 }, { 0x88, 0x807 } } },
    { "msix-bir-6", "MSI-X", { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                               { 0x84, 6 }, { 0x88, 0x800 } } },
    { "msix", NULL, { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                      { 0x84, 0x8000 }, { 0x88, 0x9000 } } },
    { "msix-two-bars", NULL, { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                               { 0x84, 0x8000 }, { 0x88, 0x802 } } },
    { "msix-no-bar", "MSI-X", { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                                { 0x84, 1 }, { 0x88, 0x800 } } },
    { "msix-beyond", "MSI-X", { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                                { 0x84, 0x20000 }, { 0x88, 0x800 } } },
    { "msix-wraps", "MSI-X", { { 0x40, 0x00028010 }, { 0x80, 0x07ff0011 },
                               { 0x84, 0xfffffff8 }, { 0x88, 0xff00 } } },
    { "msix-overlap", "overlap", { { 0x40, 0x00028010 }, { 0x80, 0x0011 },
                                   { 0x84, 0 }, { 0x88, 0 } } },
    { "msix-twice", "capability", { { 0x40, 0x00028010 }, { 0x80, 0x9011 },
                                    { 0x84, 0 }, { 0x88, 0x800 },
                                    { 0x90, 0x0011 }, { 0x94, 0x1000 },
                                    { 0x98, 0x1800 } } },
    { "bridge", "header type", { { 0x0c, 0x00010000 } } },
    { "bar-size", "BAR", .region = { { 0, 3 * 4096 } } },
    { "bar-size-max", "BAR", .region = { { 0, UINT64_MAX } } },
    { "rom-size", NULL, { { PCI_ROM_ADDRESS, 0xf0f0f001 } } },
    { "rom-huge", NULL, .region = { { 6, UINT32_MAX } } },
    { "rom-tiny", NULL, .region = { { 6, 1 } } },
    { "rom-again", NULL, .io_error = EAGAIN },
    { "pin-later", NULL, { { 0x3c, 0 } } },
    { "vmd", NULL, { { 0, 0x201d8086 } } },
    { "info-huge", "region 0", .info = { UINT32_MAX, 11, 32 } },
    { "info-grows", "region 0", .info = { 0x40000000, 11, 32 } },
    { "info-loop", "region 0", .info = { 128, 15, 32 }, .caps = { 2, 32 } },
    { "info-beyond", "region 0", .info = { 128, 15, 32 },
      .caps = { 2, 0x10000000 } },
    { "info-areas", "region 0", .info = { 128, 15, 32 },
      .caps = { 0x10001, 0, 0x10000000 } },
    { "msi-retry", NULL, { { 0x3c, 0 }, { 0x40, 0x00028010 },
                           { 0x80, 5 } }, .irq_error = UINT32_MAX },
    { "msi-many", NULL, { { 0x3c, 0 }, { 0x40, 0x00028010 },
                          { 0x80, 5 } }, .irq_error = 0x80000001 },
};

static void test_case(const void *opaque)
{
    const Case *c = opaque;
    g_autofree char *refusal = NULL;
    Pair p = { };
    pid_t qemu;

    if (!start(&p, &qemu)) {
        return;
    }
    make_good();
    for (int i = 0; i < ARRAY_SIZE(c->set); i++) {
        if (c->set[i].at || c->set[i].val) {
            set32(c->set[i].at, c->set[i].val);
        }
    }
    for (int i = 0; i < ARRAY_SIZE(c->region); i++) {
        if (c->region[i].nr || c->region[i].size) {
            now.region[c->region[i].nr] = c->region[i].size;
        }
    }
    now.io_error = c->io_error;
    now.irq_error = c->irq_error;
    now.info_argsz = c->info[0];
    now.info_flags = c->info[1];
    now.info_cap_offset = c->info[2];
    memcpy(now.info_caps, c->caps, sizeof(c->caps));
    refusal = try_config(&p, c->name);
    g_test_message("%s", refusal ?: "taken");
    if (c->refusal) {
        g_assert_nonnull(refusal);
        g_assert_nonnull(strstr(refusal, c->refusal));
    } else {
        g_assert_cmpstr(refusal, ==, NULL);
    }
    stop(&p, &qemu);
}

static uint32_t pick(const uint32_t *of, size_t nr)
{
    return of[g_test_rand_int_range(0, nr)];
}
#define PICK(...) pick((const uint32_t []) { __VA_ARGS__ }, \
                       sizeof((const uint32_t []) { __VA_ARGS__ }) / 4)

static bool one_in(int n)
{
    return g_test_rand_int_range(0, n) == 0;
}

static void random_bytes(uint16_t at, uint16_t size)
{
    for (int i = 0; i < size; i++) {
        set8(at + i, one_in(4) ? 0xff : g_test_rand_int());
    }
}

static void random_header(void)
{
    if (one_in(4)) {
        set32(PCI_VENDOR_ID, PICK(0x201d8086, 0x9a0b8086, 0x01668086,
                                  0x1fb810de, 0x73bf1002, 0x816810ec,
                                  0x58001425, 0x36851d22, 0xffffffff, 0));
    }
    if (one_in(4)) {
        set32(PCI_CLASS_REVISION, PICK(0x03000000, 0x06040000, 0x06010000,
                                       0x01080200, 0xffffffff, 0));
    }
    if (one_in(6)) {
        set16(PCI_COMMAND, g_test_rand_int());
    }
    if (one_in(16)) {
        set8(PCI_HEADER_TYPE, PICK(0x80, 1, 2, 0x81, 0x7f, 0xff));
    }
    if (one_in(2)) {
        set8(PCI_INTERRUPT_PIN, one_in(8) ? 5 : PICK(0, 1, 2, 4));
    }
    if (one_in(8)) {
        set32(PCI_ROM_ADDRESS, PICK(0, 0xffffffff, 0x80000001, 0xf0f0f001,
                                    0xff000001));
    }
}

static void random_regions(void)
{
    for (int i = 0; i <= VFIO_PCI_ROM_REGION_INDEX; i++) {
        uint8_t at = PCI_BASE_ADDRESS_0 + 4 * i;

        if (i < VFIO_PCI_ROM_REGION_INDEX) {
            set32(at, one_in(4) ? g_test_rand_int() : PICK(0, 1, 4, 8, 12));
        }
        now.region[i] = one_in(2) ? 0 : 1ULL << g_test_rand_int_range(0, 22);
        if (one_in(20)) {
            now.region[i] = 1ULL << g_test_rand_int_range(0, 64);
        }
        if (one_in(80)) {
            now.region[i] = one_in(2) ? UINT64_MAX : g_test_rand_int();
        }
    }
    if (one_in(4)) {
        now.region[VFIO_PCI_CONFIG_REGION_INDEX] = one_in(2) ? 256 :
            PICK(0, 1, 64, 255, 257, 4095, 4097, 65536, UINT32_MAX);
    }
    if (one_in(12)) {
        now.io_error = PICK(EAGAIN, EINTR, EIO, UINT32_MAX, 0x80000000);
    }
    now.fill = PICK(0, 0xff, 0x55, 0xaa);
    if (one_in(8)) {
        now.info_argsz = PICK(0, 31, 32, 48, 64, 128, 4096, UINT32_MAX - 8,
                              UINT32_MAX);
        now.info_flags = REGION_RW | PICK(4, 8, 12);
        now.info_cap_offset = PICK(0, 1, 32, 32, 32, 127, 4096, UINT32_MAX);
        for (int i = 0; i < ARRAY_SIZE(now.info_caps); i++) {
            now.info_caps[i] = one_in(8) ? g_test_rand_int() :
                               PICK(0, 1, 1, 32, 40, 48, 0x10001, 4096);
        }
    }
    now.irq_flags = g_test_rand_int();
    if (one_in(12)) {
        now.irq_error = PICK(EIO, UINT32_MAX, 0x80000001);
    }
    now.irq_count = PICK(0, 1, 8, 2048, UINT32_MAX);
}

/* A capability of @size bytes at most, if it is to be right. */
static void random_cap(uint8_t at, uint8_t id, uint8_t size)
{
    if (one_in(3)) {
        random_bytes(at + 2, size - 2);
    }
    switch (id) {
    case PCI_CAP_ID_MSI:
        set16(at + 2, one_in(10) ? g_test_rand_int() :
              PICK(0, 0x80, 0x180, 0x18a, 0x2));
        break;
    case PCI_CAP_ID_MSIX:
        set16(at + 2, one_in(4) ? g_test_rand_int() : PICK(0, 7, 63, 2047));
        set32(at + 4, one_in(8) ? g_test_rand_int() :
              PICK(0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0x1000, 0xfff8, 0x10000));
        set32(at + 8, one_in(8) ? g_test_rand_int() :
              PICK(0x8000, 0x8000, 0x800, 0x7f8, 2, 6, 7, 0xfff8, 0x802));
        break;
    case PCI_CAP_ID_EXP:
        set16(at + 2, !one_in(10) ? PICK(2, 1, 0, 0x12, 0x92, 0x91) :
              g_test_rand_int());
        break;
    }
}

static void random_caps(void)
{
    uint8_t link = PCI_CAPABILITY_LIST, at = 0x40;
    uint32_t seen = 0;

    for (int n = g_test_rand_int_range(0, 8); n >= 0; n--) {
        uint8_t id = one_in(4) ? g_test_rand_int_range(0, 0x18) :
                     PICK(PCI_CAP_ID_EXP, PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX,
                          PCI_CAP_ID_PM, PCI_CAP_ID_AF, PCI_CAP_ID_VNDR);
        uint8_t size = id == PCI_CAP_ID_EXP ? 0x3c : 0x18;

        if (seen & 1 << id && !one_in(20)) {
            continue;
        }
        seen |= 1 << id;
        if (one_in(30)) {
            at = PICK(0x34, 0x10, 0x3c, 0xfc, 0xf8, 0xff, 0x41, 0xe8);
        } else if (at + size > 0x100) {
            break;
        }
        set8(link, at);
        random_cap(at, id, size);
        set8(at, id);
        set8(at + 1, 0);
        link = at + 1;
        at += one_in(30) ? 4 : size;
    }
    if (one_in(20)) {
        set8(link, PICK(0x40, 0x58, link - 1, 0xfc, 0x3, 0xff, 1));
    }
}

static void random_ext_caps(void)
{
    uint16_t at = PCI_CFG_SPACE_SIZE, last = at;

    for (int n = g_test_rand_int_range(0, 10); n > 0; n--) {
        uint16_t id = one_in(6) ? g_test_rand_int() :
                      PICK(0, 1, 2, 3, PCI_EXT_CAP_ID_ARI, PCI_EXT_CAP_ID_ATS,
                           PCI_EXT_CAP_ID_SRIOV, PCI_EXT_CAP_ID_PRI,
                           PCI_EXT_CAP_ID_REBAR, PCI_EXT_CAP_ID_PASID, 0xffff);
        uint16_t next = at + PICK(8, 16, 64, 256);

        if (one_in(40)) {
            next = PICK(0xffc, 0xff8, 0x100, 0x40, 0xc, last, at, at + 4);
        }
        if (one_in(2)) {
            random_bytes(at + 4, 60);
        }
        if (id == PCI_EXT_CAP_ID_REBAR && one_in(2)) {
            set32(at + PCI_REBAR_CTRL, g_test_rand_int_range(0, 8) << 5);
        }
        next = n == 1 && !one_in(10) ? 0 : next & 0xffc;
        set32(at, id | 1 << 16 | (uint32_t)next << 20);
        last = at;
        at = next;
        if (at < PCI_CFG_SPACE_SIZE) {
            break;
        }
    }
}

static void make_random(void)
{
    make_good();
    switch (g_test_rand_int_range(0, 30)) {
    case 0:
        random_bytes(0, sizeof(now.space));
        return;
    case 1:
        memset(now.space, one_in(2) ? 0xff : 0, sizeof(now.space));
        return;
    case 2:
        random_bytes(0x40, sizeof(now.space) - 0x40);
        return;
    }
    if (one_in(2)) {
        random_header();
    }
    if (one_in(2)) {
        random_regions();
    }
    if (!one_in(4)) {
        random_caps();
    }
    if (!one_in(3)) {
        random_ext_caps();
    }
}

/* Many of them, of which some have to be taken, and some refused. */
static void test_random(void)
{
    unsigned refused = 0;
    Pair p = { };
    pid_t qemu;

    if (!start(&p, &qemu)) {
        return;
    }
    for (int i = 0; i < NR_RANDOM; i++) {
        g_autofree char *name = g_strdup_printf("random %d", i);
        g_autofree char *refusal = NULL;

        make_random();
        refusal = try_config(&p, name);
        refused += !!refusal;
        g_test_message("%d: %s", i, refusal ?: "taken");
    }
    g_test_message("%u of %u refused", refused, NR_RANDOM);
    g_assert_cmpuint(refused, >, NR_RANDOM / 10);
    g_assert_cmpuint(refused, <, NR_RANDOM * 9 / 10);
    stop(&p, &qemu);
}

#define MSIX_AT     0x80
#define MSI_AT      0x90
#define MSIX_TABLE  0x8000

static void set_enabled(Pair *p, uint8_t cap, uint16_t flag, bool on)
{
    uint32_t is = gm_config_readl(p->qts, DEVICE, cap) & ~(flag << 16);

    gm_config_writel(p->qts, DEVICE, cap, is | (on ? flag << 16 : 0));
}

static void set_msi(Pair *p, bool on)
{
    set_enabled(p, MSI_AT, PCI_MSI_FLAGS_ENABLE, on);
}

static void set_msix(Pair *p, bool on)
{
    set_enabled(p, MSIX_AT, PCI_MSIX_FLAGS_ENABLE, on);
}

/* What was enabled last is in use, and only that can be disabled. */
static void test_msi_and_msix(void)
{
    Pair p = { };
    QDict *rsp;
    pid_t qemu;

    if (!start(&p, &qemu)) {
        return;
    }
    make_good();
    set32(0x40, PCI_CAP_ID_EXP | MSIX_AT << 8 | 2 << 16);
    set32(MSIX_AT, PCI_CAP_ID_MSIX | MSI_AT << 8);
    set32(MSIX_AT + PCI_MSIX_TABLE, MSIX_TABLE);
    set32(MSIX_AT + PCI_MSIX_PBA, MSIX_TABLE + 4 * KiB);
    set32(MSI_AT, PCI_CAP_ID_MSI);
    now_name = "msi-and-msix";
    alarm(HANG_S);
    bad_server_describe(p.front, &now);
    rsp = pair_device_add(&p, true);
    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    qtest_system_reset(p.qts);
    open_slot(&p);
    gm_config_writel(p.qts, DEVICE, PCI_BASE_ADDRESS_0, PORT_MEMORY);
    gm_config_writel(p.qts, DEVICE, PCI_COMMAND,
                     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);

    set_msix(&p, true);
    set_msi(&p, true);
    set_msix(&p, false);
    set_msi(&p, false);

    set_msi(&p, true);
    set_msix(&p, true);
    set_msi(&p, true);
    set_msi(&p, false);
    qtest_writel(p.qts, PORT_MEMORY + MSIX_TABLE + PCI_MSIX_ENTRY_VECTOR_CTRL,
                 0);
    set_msix(&p, false);

    pair_unplug_bad(&p);
    check_good(&p);
    alarm(0);
    stop(&p, &qemu);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *name = g_strdup_printf("guest-memfd-config/%s",
                                                cases[i].name);

        qtest_add_data_func(name, &cases[i], test_case);
    }
    qtest_add_func("guest-memfd-config/msi-and-msix", test_msi_and_msix);
    qtest_add_func("guest-memfd-config/random", test_random);
    return g_test_run();
}
