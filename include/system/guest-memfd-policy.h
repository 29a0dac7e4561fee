/*
 * guest_memfd memory: what becomes of DMA mappings of pages that turn private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_GUEST_MEMFD_POLICY_H
#define SYSTEM_GUEST_MEMFD_POLICY_H

#include "qapi/qapi-types-guest-memfd.h"

/* What protects private memory */
typedef enum GuestMemfdPlatform {
    GUEST_MEMFD_PLATFORM_SOFTWARE,  /* nothing but KVM, or nothing at all */
    GUEST_MEMFD_PLATFORM_TDX,
    GUEST_MEMFD_PLATFORM_SNP,
    GUEST_MEMFD_PLATFORM_CCA,
    GUEST_MEMFD_PLATFORM_PKVM,
    GUEST_MEMFD_PLATFORM__MAX,
} GuestMemfdPlatform;

typedef enum GuestMemfdIoPolicy {
    GUEST_MEMFD_IO_MUST_UNMAP,      /* before the page is private */
    GUEST_MEMFD_IO_MAY_KEEP,        /* the platform contains a stale mapping */
    GUEST_MEMFD_IO_MUST_KEEP,       /* the device reaches private pages, too */
} GuestMemfdIoPolicy;

/**
 * guest_memfd_platform - the platform of a type of confidential guest
 *
 * @cgs_type: QOM type of -machine confidential-guest-support=; NULL if there is
 *            none
 */
GuestMemfdPlatform guest_memfd_platform(const char *cgs_type);

/**
 * guest_memfd_io_policy - what a platform wants of a mapping for DMA
 *
 * @conversion: how memory is converted
 * @confidential_io: the guest has accepted the device, so that it reaches
 *                   private memory (TDX Connect, SEV-TIO, RME-DA); else it is
 *                   traditional and reaches shared memory only
 *
 * The sources are named at the table in system/guest-memfd/policy.c.
 */
GuestMemfdIoPolicy guest_memfd_io_policy(GuestMemfdPlatform platform,
                                         GuestMemfdConversion conversion,
                                         bool confidential_io);

#endif
