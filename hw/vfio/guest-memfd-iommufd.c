/*
 * DMA mappings of guest_memfd memory: what only iommufd can do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/iommufd.h>
#include "hw/vfio/guest-memfd-dma.h"
#include "system/iommufd.h"
#include "vfio-iommufd.h"

int vfio_guest_memfd_iommufd_unmap(VFIOContainer *bcontainer, hwaddr iova,
                                   uint64_t size)
{
    VFIOIOMMUFDContainer *container = VFIO_IOMMU_IOMMUFD(bcontainer);
    struct iommu_ioas_unmap unmap = {
        .size = sizeof(unmap),
        .ioas_id = container->ioas_id,
        .iova = iova,
        .length = size,
    };

    if (ioctl(container->be->fd, IOMMU_IOAS_UNMAP, &unmap)) {
        return -errno;
    }
    return unmap.length == size ? 0 : -EIO;
}
