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
#include "guest-memfd-server.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

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

#define READ 1
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
    qtest_outl(qts, 0xcf8, 0x80000000 | PORT_DEVFN << 8 | 0x18);
    qtest_outl(qts, 0xcfc, BUS << 16 | BUS << 8);
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

static bool has_listeners(QTestState *qts, const char *id)
{
    QDict *block = gm_block(qts, id);
    bool has = !qlist_empty(qdict_get_qlist(block, "listeners"));

    qobject_unref(block);
    return has;
}

/* A device that is there before the IOMMU is used, as after any boot. */
static void test_switch(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    check_exact(qts, s, "m0", 0);

    enable(qts);
    check_unmapped(s, 16 * MiB, 2 * MiB);
    g_assert_false(has_listeners(qts, "m0"));
    gm_convert(qts, "m0", 18 * MiB, 2 * MiB, false);
    set_page(qts, 0, 18 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 2 * MiB, "0+4096");
    g_assert_true(has_listeners(qts, "m0"));

    disable(qts);
    check_exact(qts, s, "m0", 0);
    enable(qts);
    check_maps(s, 0, 128 * MiB, "2097152+4096");

    qtest_system_reset(qts);
    check_exact(qts, s, "m0", 0);
}

/* A device leaves, and comes to an IOMMU that is in use. */
static void test_hotplug(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 18 * MiB, 2 * MiB, false);
    enable(qts);
    set_page(qts, 0, 18 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 2 * MiB, "0+4096");
    qtest_qmp_device_del(qts, "dev");
    g_assert_false(has_listeners(qts, "m0"));
    gm_convert(qts, "m0", 18 * MiB, 4096, true);
    gm_convert(qts, "m0", 18 * MiB, 4096, false);
    server_plug(qts, s);
    check_maps(s, IOVA, 2 * MiB, "0+4096");
}

/* What is shown is mapped while it is shared, wherever it is shown. */
static void test_convert(QTestState *qts, Server *s)
{
    g_autofree char *maps = NULL;

    enable(qts);
    set_page(qts, 0, 16 * MiB, RW);
    set_page(qts, 1, 16 * MiB + PAGE, RW);
    set_page(qts, 4, 16 * MiB, READ);
    set_large(qts, 0, 32 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 4 * MiB, "");

    gm_convert(qts, "m0", 16 * MiB, 2 * PAGE, false);
    check_maps(s, IOVA, 4 * MiB, "0+4096 4096+4096 16384+4096");
    maps = server_ask(s, "maps\n");
    g_assert_nonnull(strstr(maps, "0x200000 0x1000 rw"));
    g_assert_nonnull(strstr(maps, "0x204000 0x1000 r--"));
    gm_convert(qts, "m0", 16 * MiB, PAGE, true);
    check_maps(s, IOVA, 4 * MiB, "4096+4096");

    /* A large page is one mapping, if it can be. */
    gm_convert(qts, "m0", 32 * MiB, 2 * MiB, false);
    check_maps(s, IOVA_LARGE, 2 * MiB, "0+2097152");
    gm_convert(qts, "m0", 33 * MiB, 1 * MiB, true);
    check_maps(s, IOVA_LARGE, 2 * MiB, "0+1048576");
    gm_convert(qts, "m0", 33 * MiB, 1 * MiB, false);
    check_maps(s, IOVA_LARGE, 2 * MiB, "0+1048576 1048576+1048576");

    /* Hidden again, and shown while it is shared. */
    set_page(qts, 1, 0, 0);
    set_large(qts, 0, 0, 0);
    flush(qts);
    check_maps(s, IOVA, 4 * MiB, "");
    gm_convert(qts, "m0", 16 * MiB, PAGE, false);
    check_maps(s, IOVA, 4 * MiB, "0+4096 16384+4096");
    set_page(qts, 0, 32 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 4 * MiB, "0+4096 16384+4096");
    gm_convert(qts, "m0", 16 * MiB, PAGE, true);
    check_maps(s, IOVA, 4 * MiB, "0+4096");
    gm_convert(qts, "m0", 0, 128 * MiB, true);
    check_maps(s, IOVA, 4 * MiB, "");
}

/* Any entry, any conversion: mapped is what is shown and shared. */
static void test_random(QTestState *qts, Server *s)
{
    enum { PAGES = 32 };
    const uint64_t base = 16 * MiB;
    bool shared[PAGES] = {};
    int shown[PAGES];

    enable(qts);
    memset(shown, -1, sizeof(shown));
    for (int i = 0; i < 1000; i++) {
        g_autofree char *maps = NULL;
        GString *want = g_string_new(NULL);

        if (g_test_rand_bit()) {
            unsigned n = g_test_rand_int_range(0, PAGES);

            shown[n] = g_test_rand_int_range(-1, PAGES);
            /* VT-d: an entry that is not hidden before is not seen changing */
            set_page(qts, n, 0, 0);
            flush(qts);
            set_page(qts, n, base + shown[n] * PAGE, shown[n] < 0 ? 0 : RW);
            flush(qts);
        } else {
            unsigned first = g_test_rand_int_range(0, PAGES);
            unsigned nr = g_test_rand_int_range(1, PAGES - first + 1);
            bool private = g_test_rand_bit();

            gm_convert(qts, "m0", base + first * PAGE, nr * PAGE, private);
            for (unsigned n = first; n < first + nr; n++) {
                shared[n] = !private;
            }
        }
        for (unsigned n = 0; n < PAGES; n++) {
            if (shown[n] >= 0 && shared[shown[n]]) {
                g_string_append_printf(want, "%s%u+4096", want->len ? " " : "",
                                       n * PAGE);
            }
        }
        check_maps(s, IOVA, 4 * MiB, want->str);
        g_string_free(want, true);
    }
}

/* Entries that no device can use: nobody stops, and the others work. */
static void test_bad_entries(QTestState *qts, Server *s)
{
    gm_convert(qts, "m0", 16 * MiB, 2 * MiB, false);
    enable(qts);
    set_page(qts, 0, 4 * GiB, RW);              /* nothing there */
    set_page(qts, 1, VTD, RW);                  /* not memory */
    set_page(qts, 2, 16 * MiB, RW);
    set_large(qts, 0, 128 * MiB - 2 * MiB, RW);
    flush(qts);
    check_maps(s, IOVA, 4 * MiB, "8192+4096");
    gm_convert(qts, "m0", 0, 128 * MiB, false);
    check_maps(s, IOVA, 4 * MiB, "8192+4096 2097152+2097152");
    /* Behind the end; and with ROMs in it, which are not of that block. */
    set_large(qts, 1, 128 * MiB, RW);
    set_large(qts, 2, 0, RW);
    flush(qts);
    check_maps(s, IOVA_LARGE, 6 * MiB, "0+2097152");
}

/* Memory that was unplugged lasts until the IOMMU hides it. */
static void test_unplug(QTestState *qts, Server *s)
{
    QDict *block;

    enable(qts);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': '" BACKEND "', 'id': 'm1',"
                             " 'driver': 'emulated', 'size': %" PRIu64 " } }",
                             128 * MiB);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
    set_page(qts, 0, 4 * GiB, RW);
    flush(qts);
    check_maps(s, IOVA, 2 * MiB, "0+4096");
    gm_convert(qts, "m1", 0, PAGE, true);
    check_maps(s, IOVA, 2 * MiB, "");
    gm_convert(qts, "m1", 0, PAGE, false);

    gm_eject_dimm(qts, "dimm1", 0);
    check_maps(s, IOVA, 2 * MiB, "0+4096");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'm1' } }");
    gm_convert(qts, "m1", 0, PAGE, true);
    check_maps(s, IOVA, 2 * MiB, "");
    gm_convert(qts, "m1", 0, PAGE, false);
    set_page(qts, 0, 0, 0);
    flush(qts);
    check_maps(s, IOVA, 2 * MiB, "");
    /* RCU frees it, soon. */
    while ((block = gm_block(qts, "m1"))) {
        qobject_unref(block);
    }
}

static const ServerTest tests[] = {
    { "guest-memfd-viommu/switch", IOMMU, test_switch },
    { "guest-memfd-viommu/hotplug", IOMMU, test_hotplug },
    { "guest-memfd-viommu/convert", IOMMU, test_convert },
    { "guest-memfd-viommu/random", IOMMU, test_random },
    { "guest-memfd-viommu/bad-entries", IOMMU, test_bad_entries },
    { "guest-memfd-viommu/unplug", IOMMU, test_unplug },
    { }
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    server_add_tests(tests);
    return g_test_run();
}
