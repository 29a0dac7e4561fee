/*
 * guest_memfd blocks: what the files of accel/kvm/guest-memfd*.c share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_KVM_GUEST_MEMFD_KVM_H
#define ACCEL_KVM_GUEST_MEMFD_KVM_H

#include "system/guest-memfd-kvm.h"

extern const GuestMemfdOps guest_memfd_in_place_ops;

/**
 * guest_memfd_in_place_probe - can pages of this file be converted in place?
 *
 * @fd: a guest_memfd, new, whose first page is shared
 *
 * Returns: 0 if they can; -ENOTTY or -EINVAL if not; another errno if the kernel
 * could not say.
 */
int guest_memfd_in_place_probe(int fd);

#endif
