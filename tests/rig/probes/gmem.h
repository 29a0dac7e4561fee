/*
 * The interface of guest_memfd, as far as headers are older
 *
 * For programs that test a kernel: QEMU has a description of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_RIG_GMEM_H
#define TESTS_RIG_GMEM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#define PAGE                    4096ull
#define CAP_GUEST_MEMFD_FLAGS   244
#define FLAG_MMAP               (1ull << 0)
#define FLAG_INIT_SHARED        (1ull << 1)
#define FLAG_HUGETLB            (1ull << 2)
#define FLAG_HUGEPAGE           (1ull << 3)
#define PRIVATE                 KVM_MEMORY_ATTRIBUTE_PRIVATE

/* In no release */
struct attributes2 {
    uint64_t offset;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
    uint64_t error_offset;
    uint64_t reserved[11];
};
#define SET_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, struct attributes2)

/*
 * Convert pages of a guest_memfd.  @error: the page that the kernel names, if it
 * fails; or NULL.  Returns: 0 or an errno.
 */
static inline int convert_pages(int fd, uint64_t page, uint64_t pages,
                                bool private, uint64_t *error)
{
    struct attributes2 attributes = {
        .offset = page * PAGE,
        .size = pages * PAGE,
        .attributes = private ? PRIVATE : 0,
        .error_offset = ~0ull,
    };
    int ret = ioctl(fd, SET_ATTRIBUTES2, &attributes) ? errno : 0;

    if (error) {
        *error = attributes.error_offset / PAGE;
    }
    return ret;
}

#endif
