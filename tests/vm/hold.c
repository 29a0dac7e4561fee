/*
 * Hold a page of another process's guest_memfd, as DMA or I/O would
 *
 * hold PID OFFSET: takes the mapped guest_memfd of the process, puts the page
 * at OFFSET into a pipe, says "held", and ends, letting go, when killed or when
 * its standard input ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

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

int main(int argc, char **argv)
{
    struct iovec iov = { .iov_len = PAGE };
    struct dirent *entry;
    int pidfd, pipes[2];
    char dir[64], c;
    DIR *fds;

    if (argc != 3) {
        errx(1, "usage: hold PID OFFSET");
    }
    snprintf(dir, sizeof(dir), "/proc/%s/fd", argv[1]);
    pidfd = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
    fds = opendir(dir);
    if (pidfd < 0 || !fds) {
        err(1, "process %s", argv[1]);
    }
    while (!iov.iov_base && (entry = readdir(fds))) {
        iov.iov_base = map_page(pidfd, dir, entry->d_name, atoll(argv[2]));
    }
    if (!iov.iov_base) {
        errx(1, "process %s has no guest_memfd that can be mapped", argv[1]);
    }
    if (pipe(pipes) || vmsplice(pipes[1], &iov, 1, 0) != PAGE) {
        err(1, "vmsplice");
    }
    munmap(iov.iov_base, PAGE);
    printf("held\n");
    fflush(stdout);
    return read(0, &c, 1) < 0;
}
