/*
 * memory-backend-guest-memfd and a device behind a virtual IOMMU
 *
 * The tables of an Intel IOMMU (VT-d specification, chapter 9: second-stage
 * translation of 39 bits) are written into guest memory, and its registers are
 * used as a guest would, without queued invalidation.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/units.h"
#include "standard-headers/linux/pci_regs.h"
#include "guest-memfd-server.h"
#include "guest-memfd-util.h"

#define IOMMU "-device intel-iommu,caching-mode=on"
#define PORT_DEVFN 8
#define BUS 1

#define VTD 0xfed90000ULL
#define GCMD 0x18
#define GCMD_TE BIT(31)
#define GCMD_SRTP BIT(30)
#define RTADDR 0x20
#define CCMD 0x28
#define CCMD_GLOBAL (BIT_ULL(63) | BIT_ULL(61))
#define IOTLB 0xf8
#define IOTLB_GLOBAL (BIT_ULL(63) | BIT_ULL(60))

/* In guest memory: one table of each kind, so 2 MiB of it has small pages. */
#define ROOT (64 * MiB)
#define CONTEXT (ROOT + 0x1000)
#define LEVEL3 (ROOT + 0x2000)
#define LEVEL2 (ROOT + 0x3000)
#define LEVEL1 (ROOT + 0x4000)

#define RW 3
#define LARGE BIT(7)

#define PAGE 4096
/* What devices use: pages here, and large pages from the next 2 MiB on. */
#define IOVA (2 * MiB)
#define IOVA_LARGE (4 * MiB)

static void flush(QTestState *qts)
{
    qtest_writeq(qts, VTD + CCMD, CCMD_GLOBAL);
    qtest_writeq(qts, VTD + IOTLB, IOTLB_GLOBAL);
}

static void bus_number(QTestState *qts)
{
    gm_config_writel(qts, PORT_DEVFN, PCI_PRIMARY_BUS, BUS << 16 | BUS << 8);
}

static void enable(QTestState *qts)
{
    bus_number(qts);
    qtest_writeq(qts, ROOT + BUS * 16, CONTEXT | 1);
    qtest_writeq(qts, CONTEXT, LEVEL3 | 1);
    qtest_writeq(qts, CONTEXT + 8, 1 | 1 << 8);     /* 39 bits, domain 1 */
    qtest_writeq(qts, LEVEL3, LEVEL2 | RW);
    qtest_writeq(qts, LEVEL2 + 8, LEVEL1 | RW);
    qtest_writeq(qts, VTD + RTADDR, ROOT);
    qtest_writel(qts, VTD + GCMD, GCMD_SRTP);
    flush(qts);
    qtest_writel(qts, VTD + GCMD, GCMD_TE);
}

static void disable(QTestState *qts)
{
    qtest_writel(qts, VTD + GCMD, 0);
}

/* Show a page of the guest to the device; @flags 0: nothing. */
static void set_page(QTestState *qts, unsigned n, uint64_t gpa, unsigned flags)
{
    qtest_writeq(qts, LEVEL1 + n * 8, flags ? gpa | flags : 0);
}

static void set_large(QTestState *qts, unsigned n, uint64_t gpa, unsigned flags)
{
    qtest_writeq(qts, LEVEL2 + (2 + n) * 8, flags ? gpa | flags | LARGE : 0);
}

/* Memory is there before the device. */
static void test_refused(void)
{
    Server *s = server_start();
    QTestState *qts;

    if (!s) {
        return;
    }
    qts = qtest_init(SERVER_MACHINE IOMMU);
    gm_assert_failure(qts, qtest_qmp(qts, SERVER_DEVICE_ADD, s->socket),
                      "a virtual IOMMU stands before the device, and cannot "
                      "show it 'm0', whose pages are converted");
    gm_convert(qts, "m0", 16 * MiB, PAGE, false);
    qtest_quit(qts);
    server_stop(s);
}

/* Memory comes later: the device sees it while the guest has the IOMMU off. */
static void test_later(void)
{
    const uint64_t gpa = 4 * GiB;
    Server *s = server_start();
    QTestState *qts;

    if (!s) {
        return;
    }
    qts = qtest_init(SERVER_MACHINE_WITH("memory-backend-memfd") IOMMU);
    server_plug(qts, s);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'driver': 'emulated', 'size': %" PRIu64 " } }",
                             128 * MiB);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
    gm_convert(qts, "m1", 2 * PAGE, PAGE, true);
    check_exact(qts, s, "m1", gpa);

    enable(qts);
    set_page(qts, 0, 16 * MiB, RW);
    set_page(qts, 1, gpa, RW);
    set_page(qts, 2, gpa + 2 * PAGE, RW);
    set_large(qts, 0, gpa + 2 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 4 * MiB, "0+4096");
    check_unmapped(s, gpa, 128 * MiB);
    gm_convert(qts, "m1", 0, 4 * MiB, true);
    gm_convert(qts, "m1", 0, 4 * MiB, false);
    check_maps(s, IOVA, 4 * MiB, "0+4096");

    disable(qts);
    check_exact(qts, s, "m1", gpa);
    gm_convert(qts, "m1", PAGE, PAGE, true);
    check_exact(qts, s, "m1", gpa);
    qtest_quit(qts);
    server_stop(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-viommu/refused", test_refused);
    qtest_add_func("guest-memfd-viommu/later", test_later);
    return g_test_run();
}
