/*
 * guest_memfd blocks: the software driver
 *
 * Shared and private are states of the same page, as with a kernel that
 * converts in place, but nobody enforces them: the host can read everything.
 * What remains is the bookkeeping and the listeners, which is what TCG, qtest
 * and the development of devices need.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "system/guest-memfd-driver.h"

static int emulated_convert(GuestMemfd *gm, uint64_t offset, uint64_t size,
                            bool to_private, GuestMemfdStop *stop)
{
    return 0;
}

const GuestMemfdOps guest_memfd_emulated_ops = {
    .driver = GUEST_MEMFD_DRIVER_EMULATED,
    .conversion = GUEST_MEMFD_CONVERSION_IN_PLACE,
    .convert = emulated_convert,
};
