/*
 * Memory that a device may use by iommufd, for programs that hold pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_RIG_IOMMUFD_H
#define TESTS_RIG_IOMMUFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

/*
 * Pin memory, and map it for a device of VFIO that nobody has bound yet.  @ioas:
 * the address space.  Returns: false, and errno, if something fails.
 */
static inline bool map_for_device(int iommufd, int device, void *memory,
                                  size_t size, uint32_t *ioas)
{
    struct vfio_device_bind_iommufd bind = {
        .argsz = sizeof(bind), .iommufd = iommufd,
    };
    struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
    struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
    struct iommu_ioas_map map = {
        .size = sizeof(map),
        .flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
        .user_va = (uintptr_t)memory,
        .length = size,
    };

    if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) ||
        ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc)) {
        return false;
    }
    *ioas = attach.pt_id = map.ioas_id = alloc.out_ioas_id;
    return !ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) &&
        !ioctl(iommufd, IOMMU_IOAS_MAP, &map);
}

#endif
