/*
 * Command lines for other versions of QEMU, and memory that is nobody's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "guest-memfd-util.h"

#define Q35 "-nodefaults -machine q35,memory-backend=m0 "
#define M0 "-object " BACKEND ",id=m0,size=128M,driver=emulated"

/* Command lines for other versions of QEMU */
static void test_names(void)
{
    static const struct {
        const char *object, *needle;
    } rows[] = {
        { "memory-backend-memfd-private,id=m0,size=1M",
          "this QEMU has no memory-backend-memfd-private; use -object "
          BACKEND },
        { "memory-backend-memfd,id=m0,size=1M,share=on,guest-memfd=on",
          "memory-backend-memfd has no option 'guest-memfd'; use "
          "x-guest-memfd=on" },
        { "memory-backend-memfd,id=m0,size=1M,private=on",
          "has no option 'private'; use -object " BACKEND },
        { "memory-backend-ram,id=m0,size=1M,private=on",
          "has no option 'private'; use -object " BACKEND },
        { BACKEND ",id=m0,size=1M,private=on",
          BACKEND " has no option 'private'; use init=private" },
        { "'{\"qom-type\": \"" BACKEND "\", \"id\": \"m0\", "
          "\"size\": 4096, \"private\": true}'", "use init=private" },
        { BACKEND ",id=m0,size=1M,guest-memfd=on", "use conversion=none" },
        { BACKEND ",id=m0,size=1M,x-guest-memfd=on", "use conversion=none" },
        { BACKEND ",id=m0,size=1M,convert-in-place=on",
          "use conversion=in-place|two-copy, or convert-in-place=on|off of the "
          "confidential guest" },
        { BACKEND ",id=m0,size=2M,gmem-allocator=hugetlb",
          "has no option 'gmem-allocator'; use hugetlb=on" },
        { BACKEND ",id=m0,size=2M,gmem-page-size=2M",
          "has no option 'gmem-page-size'; use hugetlb=on,hugetlbsize=SIZE" },
        { "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,"
          "gmem-allocator=hugetlb,gmem-page-size=2M",
          "sev-snp-guest has no option 'gmem-allocator'; use hugetlb=on of "
          BACKEND },
        { "sev-snp-guest,id=sev0,reduced-phys-bits=1,gmem-page-size=1G",
          "use hugetlb=on,hugetlbsize=SIZE of " BACKEND },
        /* What it is, is for the schema to say. */
        { "'{\"qom-type\": 1, \"private\": true}'", "qom-type" },
        { "'{\"id\": \"m0\", \"private\": true}'", "qom-type" },
        { "iothread,id=i0,private=on", "'private'" },
    };
    QTestState *qts;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *args = g_strconcat("-accel tcg -machine none -object ",
                                            rows[i].object, NULL);

        gm_check_refused("", args, rows[i].needle);
    }

    /* As AMD's testers write the memory of their guests */
    qts = qtest_init(Q35 "-m 128M -object " BACKEND ",id=m0,size=128M,"
                     "share=true,reserve=false,driver=emulated"
#ifdef CONFIG_NUMA
                     ",host-nodes=0,policy=bind"
#endif
                     );
    gm_check_property(qts, "m0", "conversion", "in-place");
    qtest_quit(qts);
}

/* A machine with memory that is nobody's says so. */
static void test_unused(void)
{
    const char *unused = "warning: memory 'm1' backs nothing; give it to "
                         "-machine memory-backend=m1, to -numa node,memdev=m1 "
                         "or to a device (memdev=m1), or leave it out\n";
    const char *m1 = " -object " BACKEND ",id=m1,size=128M,driver=emulated";
    g_autofree char *args =
        g_strconcat("-machine q35,memory-backend=m0 -m 128M,slots=1,maxmem=1G ",
                    M0, m1, NULL);
    g_autofree char *used = g_strconcat(args, " -device pc-dimm,memdev=m1",
                                        NULL);
    g_autofree char *said = gm_warnings(args), *silent = gm_warnings(used);
    g_autofree char *text = NULL;
    QTestState *qts;
    QDict *block;

    g_assert_nonnull(strstr(said, unused));
    g_assert_null(strstr(said, "memory 'm0'"));
    g_assert_null(strstr(silent, "backs nothing"));

    qts = qtest_initf("-nodefaults %s", args);
    for (int i = 0; i < 2; i++) {
        block = gm_block(qts, "m1");
        g_assert_cmpint(qdict_get_bool(block, "mapped"), ==, i);
        qobject_unref(block);
        block = gm_block(qts, "m0");
        g_assert_true(qdict_get_bool(block, "mapped"));
        qobject_unref(block);
        text = qtest_hmp(qts, "info guest-memfd m1");
        g_assert_cmpint(strstr(text, "mapped nowhere") != NULL, ==, !i);
        g_clear_pointer(&text, g_free);
        text = qtest_hmp(qts, "info guest-memfd m0");
        g_assert_null(strstr(text, "mapped nowhere"));
        g_clear_pointer(&text, g_free);
        if (!i) {
            qtest_qmp_device_add(qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
        }
    }
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-names/names", test_names);
    qtest_add_func("guest-memfd-names/unused", test_unused);
    return g_test_run();
}
