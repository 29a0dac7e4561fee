/*
 * What may hold a page that is to be private: a pipe, a ring's buffer, a device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/io_uring.h>

#include "../probes/iommufd.h"
#include "gmem-test.h"

static int pipe_ends[2];
static int ring;
static int iommufd, device;
static uint32_t ioas;

/* It takes a reference. */
static bool hold_in_pipe(void *page)
{
    struct iovec iov = { page, PAGE };

    return !pipe(pipe_ends) &&
        vmsplice(pipe_ends[1], &iov, 1, 0) == (ssize_t)PAGE;
}

static void release_pipe(void)
{
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

/* It pins the page for DMA. */
static bool hold_in_ring(void *page)
{
    struct io_uring_params params = { 0 };
    struct iovec iov = { page, PAGE };

    ring = syscall(SYS_io_uring_setup, 1, &params);
    return ring >= 0 && !syscall(SYS_io_uring_register, ring,
                                 IORING_REGISTER_BUFFERS, &iov, 1);
}

static void release_ring(void)
{
    /* A ring that is closed lets go some time later. */
    CHECK(!syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS,
                   NULL, 0));
    close(ring);
}

/* The first device that vfio-pci has, or -1 */
static int open_device(void)
{
    char path[64];
    glob_t found;
    int fd = -1;

    if (!glob("/sys/bus/pci/drivers/vfio-pci/*/vfio-dev/vfio*", 0, NULL,
              &found)) {
        snprintf(path, sizeof(path), "/dev/vfio/devices/%s",
                 basename(found.gl_pathv[0]));
        fd = open(path, O_RDWR);
        globfree(&found);
    }
    return fd;
}

/* It pins the page, and maps it for the device. */
static bool hold_in_iommu(void *page)
{
    device = open_device();
    iommufd = open("/dev/iommu", O_RDWR);
    return device >= 0 && iommufd >= 0 &&
        map_for_device(iommufd, device, page, PAGE, &ioas);
}

static void release_iommu(void)
{
    struct iommu_ioas_unmap unmap = {
        .size = sizeof(unmap),
        .ioas_id = ioas,
        .length = UINT64_MAX,
    };

    CHECK(!ioctl(iommufd, IOMMU_IOAS_UNMAP, &unmap) && unmap.length == PAGE);
    close(device);
    close(iommufd);
}

const struct holder holders[3] = {
    { "a pipe", hold_in_pipe, release_pipe },
    { "a ring", hold_in_ring, release_ring },
    { "a device", hold_in_iommu, release_iommu },
};
