/*
 * A clock that the test moves
 *
 * Loaded before libc (LD_PRELOAD) it makes a thread that waits for
 * GM_CLOCK_TIMEOUT_MS wait until somebody wakes it, or until the test lets the
 * clock run: then the monotonic clock of the process moves by what was left.
 * So a time-out passes because of what happened, not because a host was slow,
 * and takes no time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "guest-memfd-clock.h"

#include <pthread.h>
#include <sys/syscall.h>

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL

/* How soon a thread that waits notices that the clock runs */
#define NOTICE_NS (5 * NS_PER_MS)

/* Somebody has waited already for a part of it. */
#define LONG_NS (GM_CLOCK_TIMEOUT_MS * NS_PER_MS / 2)

static const GmClock *fake;
static int64_t moved;           /* ns */

static void __attribute__((constructor)) open_clock(void)
{
    const char *path = getenv(GM_CLOCK_FILE);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0) {
        abort();
    }
    fake = mmap(NULL, sizeof(*fake), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (fake == MAP_FAILED) {
        abort();
    }
}

static int64_t to_ns(const struct timespec *ts)
{
    return ts->tv_sec * NS_PER_S + ts->tv_nsec;
}

static struct timespec from_ns(int64_t ns)
{
    return (struct timespec) {
        .tv_sec = ns / NS_PER_S,
        .tv_nsec = ns % NS_PER_S,
    };
}

static int64_t real_ns(void)
{
    struct timespec ts;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
    return to_ns(&ts);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    int ret = syscall(SYS_clock_gettime, id, ts);

    if (ret == 0 && id == CLOCK_MONOTONIC) {
        *ts = from_ns(to_ns(ts) + qatomic_read(&moved));
    }
    return ret;
}

/* QEMU's conditions have the monotonic clock. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           const struct timespec *abstime)
{
    int64_t until = to_ns(abstime) - qatomic_read(&moved);
    int64_t now = real_ns();
    struct timespec deadline;
    int ret;

    if (until - now < LONG_NS) {
        deadline = from_ns(until);
        return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &deadline);
    }
    if (qatomic_read(&fake->runs)) {
        qatomic_add(&moved, until - now);
        /* pthreads returns an errno as it is. */
        ret = ETIMEDOUT;
        return ret;
    }
    /* Those who wait have to look why they were woken. */
    deadline = from_ns(now + NOTICE_NS);
    pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &deadline);
    return 0;
}
