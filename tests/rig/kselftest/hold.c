/*
 * What may hold a page that is to be private: a pipe, or a ring's buffer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/io_uring.h>

#include "gmem-test.h"

static int pipe_ends[2];
static int ring;

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

const struct holder holders[2] = {
    { "a pipe", hold_in_pipe, release_pipe },
    { "a ring", hold_in_ring, release_ring },
};
