/*
 * Hold a page of another process's guest_memfd, as DMA or I/O would
 *
 * hold-page PID OFFSET HOW: takes the mapped guest_memfd of the process and holds
 * the page at OFFSET
 *   vmsplice     in a pipe;
 *   io_uring     as a registered buffer;
 *   a path       mapped for DMA of this VFIO device, by an iommufd of its own.
 * Then it says "held".  It lets go and ends when its standard input ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "iommufd.h"

#define PAGE 4096

static int ring = -1;

/* The page, through a file descriptor of the process; NULL if it is none. */
static void *map_page(int pidfd, const char *dir, const char *name,
                      off_t offset)
{
    char path[PATH_MAX], link[PATH_MAX] = "";
    void *page;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (readlink(path, link, sizeof(link) - 1) < 0 ||
        !strstr(link, "kvm-gmem")) {
        return NULL;
    }
    fd = syscall(SYS_pidfd_getfd, pidfd, atoi(name), 0);
    if (fd < 0) {
        err(1, "pidfd_getfd %s", path);
    }
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

static void *find_page(const char *pid, off_t offset)
{
    int pidfd = syscall(SYS_pidfd_open, atoi(pid), 0);
    struct dirent *entry;
    void *page = NULL;
    char dir[64];
    DIR *fds;

    snprintf(dir, sizeof(dir), "/proc/%s/fd", pid);
    fds = opendir(dir);
    if (pidfd < 0 || !fds) {
        err(1, "process %s", pid);
    }
    while (!page && (entry = readdir(fds))) {
        page = map_page(pidfd, dir, entry->d_name, offset);
    }
    if (!page) {
        errx(1, "process %s has no guest_memfd that can be mapped", pid);
    }
    return page;
}

static void hold_by_pipe(void *page)
{
    struct iovec iov = { .iov_base = page, .iov_len = PAGE };
    int pipes[2];

    if (pipe(pipes) || vmsplice(pipes[1], &iov, 1, 0) != PAGE) {
        err(1, "vmsplice");
    }
}

static void hold_by_io_uring(void *page)
{
    struct iovec iov = { .iov_base = page, .iov_len = PAGE };
    struct io_uring_params params = { 0 };

    ring = syscall(SYS_io_uring_setup, 1, &params);
    if (ring < 0 || syscall(SYS_io_uring_register, ring,
                            IORING_REGISTER_BUFFERS, &iov, 1)) {
        err(1, "io_uring");
    }
}

static void hold_by_iommufd(void *page, const char *device)
{
    int iommufd = open("/dev/iommu", O_RDWR);
    int vfio = open(device, O_RDWR);
    uint32_t ioas;

    if (iommufd < 0 || vfio < 0 ||
        !map_for_device(iommufd, vfio, page, PAGE, &ioas)) {
        err(1, "%s", device);
    }
}

int main(int argc, char **argv)
{
    void *page;
    char c;

    if (argc != 4) {
        errx(1, "usage: hold-page PID OFFSET vmsplice|io_uring|/dev/vfio/...");
    }
    page = find_page(argv[1], atoll(argv[2]));
    if (!strcmp(argv[3], "vmsplice")) {
        hold_by_pipe(page);
    } else if (!strcmp(argv[3], "io_uring")) {
        hold_by_io_uring(page);
    } else {
        hold_by_iommufd(page, argv[3]);
    }
    munmap(page, PAGE);
    printf("held\n");
    fflush(stdout);
    if (read(0, &c, 1) < 0) {
        return 1;
    }
    /* A ring that is closed lets go some time later. */
    return ring >= 0 && syscall(SYS_io_uring_register, ring,
                                IORING_UNREGISTER_BUFFERS, NULL, 0);
}
