/*
 * A clock of QEMU's that the test moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "guest-memfd-clock.h"
#include "guest-memfd-util.h"

GmClock *gm_clock_init(void)
{
    g_autofree char *path = NULL;
    int fd = memfd_create("clock", MFD_CLOEXEC);
    GmClock *clock;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, sizeof(*clock)), ==, 0);
    clock = mmap(NULL, sizeof(*clock), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    g_assert_true(clock != MAP_FAILED);
    /* open as long as this process is there */
    path = g_strdup_printf("/proc/%d/fd/%d", getpid(), fd);
    g_setenv(GM_CLOCK_FILE, path, true);
    gm_preload("libguest-memfd-fake-clock.so");
    return clock;
}

void gm_clock_run(GmClock *clock, bool runs)
{
    qatomic_set(&clock->runs, runs);
}
