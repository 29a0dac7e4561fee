/*
 * guest_memfd memory: what becomes of DMA mappings of pages that turn private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/guest-memfd-policy.h"

/*
 * From the discussions of guest_memfd and of devices for confidential guests on
 * the kvm and linux-coco mailing lists.
 *
 * Traditional devices:
 *  TDX   an access through a stale entry of the IOMMU is a machine check of the
 *        host
 *  SNP   the RMP check makes it a fault of the IOMMU
 *  CCA   the granule protection check makes it a fault
 *  pKVM  the IOMMU shows the host's stage 2, which has lost the page
 *
 * Devices that the guest has accepted:
 *  TDX   private entries are those of the secure EPT; what is mapped here is
 *        shared, and goes like that of other devices
 *  SNP   one table of the host's has all pages, private ones in the entry size
 *        of the RMP
 *  CCA   the device uses the stage 2 of the CPU
 *  pKVM  has none
 */
static const struct {
    GuestMemfdIoPolicy traditional;
    GuestMemfdIoPolicy confidential;
} policy[GUEST_MEMFD_PLATFORM__MAX] = {
    [GUEST_MEMFD_PLATFORM_SOFTWARE] = {
        GUEST_MEMFD_IO_MUST_UNMAP, GUEST_MEMFD_IO_MUST_UNMAP,
    },
    [GUEST_MEMFD_PLATFORM_TDX] = {
        GUEST_MEMFD_IO_MUST_UNMAP, GUEST_MEMFD_IO_MUST_UNMAP,
    },
    [GUEST_MEMFD_PLATFORM_SNP] = {
        GUEST_MEMFD_IO_MAY_KEEP, GUEST_MEMFD_IO_MUST_KEEP,
    },
    [GUEST_MEMFD_PLATFORM_CCA] = {
        GUEST_MEMFD_IO_MAY_KEEP, GUEST_MEMFD_IO_MUST_KEEP,
    },
    [GUEST_MEMFD_PLATFORM_PKVM] = {
        GUEST_MEMFD_IO_MAY_KEEP, GUEST_MEMFD_IO_MUST_UNMAP,
    },
};

/*
 * QEMU 10.2 has the first two, and one of our own, which is software like
 * everything that is not here.  pKVM has no object.
 */
static const struct {
    const char *cgs_type;
    GuestMemfdPlatform platform;
} platforms[] = {
    { "tdx-guest", GUEST_MEMFD_PLATFORM_TDX },
    { "sev-snp-guest", GUEST_MEMFD_PLATFORM_SNP },
    { "rme-guest", GUEST_MEMFD_PLATFORM_CCA },
};

GuestMemfdPlatform guest_memfd_platform(const char *cgs_type)
{
    for (int i = 0; cgs_type && i < ARRAY_SIZE(platforms); i++) {
        if (!strcmp(cgs_type, platforms[i].cgs_type)) {
            return platforms[i].platform;
        }
    }
    return GUEST_MEMFD_PLATFORM_SOFTWARE;
}

GuestMemfdIoPolicy guest_memfd_io_policy(GuestMemfdPlatform platform,
                                         GuestMemfdConversion conversion,
                                         bool confidential_io)
{
    assert(platform < GUEST_MEMFD_PLATFORM__MAX);
    if (confidential_io) {
        return policy[platform].confidential;
    }
    /* What is mapped by address is pinned, and the kernel then refuses. */
    if (conversion == GUEST_MEMFD_CONVERSION_IN_PLACE) {
        return GUEST_MEMFD_IO_MUST_UNMAP;
    }
    return policy[platform].traditional;
}
