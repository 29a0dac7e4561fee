/*
 * What becomes of DMA mappings of pages that turn private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/guest-memfd-policy.h"

#define UNMAP GUEST_MEMFD_IO_MUST_UNMAP
#define MAY   GUEST_MEMFD_IO_MAY_KEEP
#define KEEP  GUEST_MEMFD_IO_MUST_KEEP

/* All of them: each platform, each kind of device, with and without two copies */
static void test_policy(void)
{
    static const struct {
        GuestMemfdPlatform platform;
        GuestMemfdIoPolicy traditional[2];      /* two-copy, in-place */
        GuestMemfdIoPolicy confidential[2];
    } want[] = {
        { GUEST_MEMFD_PLATFORM_SOFTWARE, { UNMAP, UNMAP }, { UNMAP, UNMAP } },
        { GUEST_MEMFD_PLATFORM_TDX,      { UNMAP, UNMAP }, { UNMAP, UNMAP } },
        { GUEST_MEMFD_PLATFORM_SNP,      { MAY,   UNMAP }, { KEEP,  KEEP  } },
        { GUEST_MEMFD_PLATFORM_CCA,      { MAY,   UNMAP }, { KEEP,  KEEP  } },
        { GUEST_MEMFD_PLATFORM_PKVM,     { MAY,   UNMAP }, { UNMAP, UNMAP } },
    };
    static const GuestMemfdConversion conversion[2] = {
        GUEST_MEMFD_CONVERSION_TWO_COPY, GUEST_MEMFD_CONVERSION_IN_PLACE,
    };

    G_STATIC_ASSERT(ARRAY_SIZE(want) == GUEST_MEMFD_PLATFORM__MAX);
    for (int i = 0; i < ARRAY_SIZE(want); i++) {
        for (int c = 0; c < ARRAY_SIZE(conversion); c++) {
            g_assert_cmpint(guest_memfd_io_policy(want[i].platform,
                                                  conversion[c], false), ==,
                            want[i].traditional[c]);
            g_assert_cmpint(guest_memfd_io_policy(want[i].platform,
                                                  conversion[c], true), ==,
                            want[i].confidential[c]);
        }
    }
}

static void test_platform(void)
{
    static const struct {
        const char *cgs_type;
        GuestMemfdPlatform platform;
    } want[] = {
        { NULL, GUEST_MEMFD_PLATFORM_SOFTWARE },
        { "x-sw-protected-guest", GUEST_MEMFD_PLATFORM_SOFTWARE },
        { "sev-guest", GUEST_MEMFD_PLATFORM_SOFTWARE },  /* no guest_memfd */
        { "tdx-guest", GUEST_MEMFD_PLATFORM_TDX },
        { "sev-snp-guest", GUEST_MEMFD_PLATFORM_SNP },
        { "rme-guest", GUEST_MEMFD_PLATFORM_CCA },
    };

    for (int i = 0; i < ARRAY_SIZE(want); i++) {
        g_assert_cmpint(guest_memfd_platform(want[i].cgs_type), ==,
                        want[i].platform);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd/policy/platforms", test_platform);
    g_test_add_func("/guest-memfd/policy/io", test_policy);
    return g_test_run();
}
