/*
 * DMA mappings of guest_memfd memory: what only iommufd can do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>
#include "qemu/lockable.h"
#include "qapi/error.h"
#include "hw/vfio/guest-memfd-dma.h"
#include "migration/cpr.h"
#include "system/guest-memfd.h"
#include "system/iommufd.h"
#include "vfio-iommufd.h"

/* Which address space the compatible ioctls act on is up to all users of a fd. */
static QemuMutex compat_lock;

static void __attribute__((constructor)) init_compat_lock(void)
{
    qemu_mutex_init(&compat_lock);
}

/*
 * Before, cutting an area could leave what it had pinned in use (CVE-2023-52801).
 */
static bool kernel_can_cut(void)
{
    unsigned major, minor;
    struct utsname name;

    return !uname(&name) &&
           sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 7));
}

bool vfio_guest_memfd_iommufd_prepare(VFIOContainer *bcontainer, Error **errp)
{
    VFIOIOMMUFDContainer *container = VFIO_IOMMU_IOMMUFD(bcontainer);
    struct iommu_option option = {
        .size = sizeof(option),
        .option_id = IOMMU_OPTION_HUGE_PAGES,
        .op = IOMMU_OPTION_OP_SET,
        .object_id = container->ioas_id,
        .val64 = 0,
    };

    if (bcontainer->dma_split != GUEST_MEMFD_DMA_SPLIT_CUT) {
        return true;
    }
    if (!kernel_can_cut()) {
        error_setg(errp, "x-dma-split=cut needs Linux 6.7; use "
                   "x-dma-split=auto");
        return false;
    }
    if (ioctl(container->be->fd, IOMMU_OPTION, &option)) {
        error_setg_errno(errp, errno, "x-dma-split=cut: this kernel's iommufd "
                         "cannot map in small pages only "
                         "(IOMMU_OPTION_HUGE_PAGES); use x-dma-split=auto");
        return false;
    }
    return true;
}

/*
 * QEMU's own call takes ENOENT for success, since virtual IOMMUs unmap what is
 * not mapped.  It is also how iommufd answers to a part of a mapping, which stays
 * then.
 */
static int unmap_exact(VFIOContainer *bcontainer, hwaddr iova, uint64_t size)
{
    VFIOIOMMUFDContainer *container = VFIO_IOMMU_IOMMUFD(bcontainer);
    struct iommu_ioas_unmap unmap = {
        .size = sizeof(unmap),
        .ioas_id = container->ioas_id,
        .iova = iova,
        .length = size,
    };

    /* As iommufd_backend_unmap_dma(): the mappings are still the old QEMU's. */
    if (cpr_is_incoming()) {
        return 0;
    }
    if (ioctl(container->be->fd, IOMMU_IOAS_UNMAP, &unmap)) {
        return -errno;
    }
    return unmap.length == size ? 0 : -EIO;
}

/* Only the ioctl that is compatible with type1 can do it. */
static int cut(VFIOContainer *bcontainer, hwaddr iova, uint64_t size)
{
    VFIOIOMMUFDContainer *container = VFIO_IOMMU_IOMMUFD(bcontainer);
    struct iommu_vfio_ioas select = {
        .size = sizeof(select),
        .ioas_id = container->ioas_id,
        .op = IOMMU_VFIO_IOAS_SET,
    };
    struct vfio_iommu_type1_dma_unmap unmap = {
        .argsz = sizeof(unmap),
        .iova = iova,
        .size = size,
    };

    QEMU_LOCK_GUARD(&compat_lock);
    if (ioctl(container->be->fd, IOMMU_VFIO_IOAS, &select) ||
        ioctl(container->be->fd, VFIO_IOMMU_UNMAP_DMA, &unmap)) {
        return -errno;
    }
    return unmap.size == size ? 0 : -EIO;
}

void vfio_guest_memfd_iommufd_class_init(VFIOIOMMUClass *vioc)
{
    vioc->dma_unmap_exact = unmap_exact;
    vioc->dma_cut = cut;
}
