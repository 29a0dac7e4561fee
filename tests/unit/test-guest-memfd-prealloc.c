/*
 * Preallocation of a guest_memfd: what is filled, and what is reported
 *
 * No file is filled: fallocate() takes notes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "system/ramblock.h"
#include "../../backends/guest-memfd-prealloc.h"
#include "../../backends/guest-memfd-progress.h"

#define FIRST GUEST_MEMFD_PROGRESS_FIRST_MS
#define EVERY GUEST_MEMFD_PROGRESS_EVERY_MS

#define FD 12345
#define PAGE 4096
/* As many bytes are filled at a time */
#define PIECE (64 * MiB)

static struct {
    unsigned nr;
    uint64_t done, total;
} events;

void qapi_event_send_guest_memfd_prealloc_progress(const char *id,
                                                   uint64_t done,
                                                   uint64_t total)
{
    events.nr++;
    events.done = done;
    events.total = total;
}

char *host_memory_backend_get_name(HostMemoryBackend *backend)
{
    return g_strdup("m0");
}

/* Threads fill it, under @lock */
static struct {
    QemuMutex lock;
    uint64_t bytes, largest;
    GHashTable *offsets;
    unsigned calls, fails;      /* the call that fails, counted from 1 */
    int err;
} file;

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    QEMU_LOCK_GUARD(&file.lock);
    g_assert_cmpint(fd, ==, FD);
    g_assert_cmpint(mode, ==, FALLOC_FL_KEEP_SIZE);
    if (++file.calls == file.fails) {
        errno = file.err;
        return -1;
    }
    g_assert_true(g_hash_table_add(file.offsets, GSIZE_TO_POINTER(offset)));
    file.bytes += size;
    file.largest = MAX(file.largest, size);
    return 0;
}

static bool prealloc(uint64_t size, uint64_t page_size, uint32_t threads,
                     unsigned fails, int err, Error **errp)
{
    g_autofree HostMemoryBackend *backend = g_new0(HostMemoryBackend, 1);
    RAMBlock rb = { .guest_memfd = FD };

    backend->size = size;
    backend->prealloc_threads = threads;
    backend->mr.ram_block = &rb;
    g_clear_pointer(&file.offsets, g_hash_table_unref);
    file.offsets = g_hash_table_new(NULL, NULL);
    file.bytes = file.largest = 0;
    file.calls = 0;
    file.fails = fails;
    file.err = err;
    return guest_memfd_prealloc(backend, page_size, errp);
}

/* Each byte once, in pieces. */
static void test_fill(void)
{
    const struct {
        uint64_t size, page_size;
        uint32_t threads;
        unsigned calls;
        uint64_t largest;
    } rows[] = {
        { PAGE, PAGE, 4, 1, PAGE },
        { PIECE, PAGE, 4, 1, PIECE },
        { PIECE + PAGE, PAGE, 4, 2, PIECE / 2 + PAGE },
        { 5 * PIECE, 2 * MiB, 1, 5, PIECE },
        { 5 * PIECE, 2 * MiB, 2, 6, PIECE },
        { 3 * GiB, GiB, 2, 3, GiB },
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        g_assert_true(prealloc(rows[i].size, rows[i].page_size,
                               rows[i].threads, 0, 0, &error_abort));
        g_assert_cmpuint(file.bytes, ==, rows[i].size);
        g_assert_cmpuint(file.calls, ==, rows[i].calls);
        g_assert_cmpuint(file.largest, ==, rows[i].largest);
        g_assert_true(g_hash_table_contains(file.offsets, NULL));
    }
}

/* A signal is not a failure; nothing follows what fails. */
static void test_fail(void)
{
    Error *err = NULL;

    g_assert_true(prealloc(3 * PIECE, PAGE, 1, 2, EINTR, &error_abort));
    g_assert_cmpuint(file.bytes, ==, 3 * PIECE);

    g_assert_false(prealloc(3 * PIECE, PAGE, 1, 2, ENOSPC, &err));
    g_assert_cmpuint(file.calls, ==, 2);
    g_assert_nonnull(strstr(error_get_pretty(err),
                            "guest_memfd of 'm0': No space left on device"));
    error_free(err);
}

static void check_event(unsigned nr, uint64_t done)
{
    g_assert_cmpuint(events.nr, ==, nr);
    g_assert_cmpuint(events.done, ==, done);
}

static void test_short(void)
{
    g_autofree char *line = NULL;
    size_t length;
    FILE *tty = open_memstream(&line, &length);
    GuestMemfdProgress p = {
        .id = "m0", .total = GiB, .tty = tty, .next = FIRST,
    };

    memset(&events, 0, sizeof(events));
    g_assert_cmpint(guest_memfd_progress_step(&p, 0, 0), ==, FIRST);
    g_assert_cmpint(guest_memfd_progress_step(&p, 1, FIRST - 1), ==, 1);
    guest_memfd_progress_end(&p, GiB);
    fclose(tty);
    check_event(0, 0);
    g_assert_cmpuint(length, ==, 0);
}

static void test_long(void)
{
    g_autofree char *line = NULL;
    size_t length;
    FILE *tty = open_memstream(&line, &length);
    GuestMemfdProgress p = {
        .id = "m0", .total = 12 * GiB, .tty = tty, .next = FIRST,
    };
    int64_t now = FIRST;

    memset(&events, 0, sizeof(events));
    g_assert_cmpint(guest_memfd_progress_step(&p, GiB - 1, now), ==, EVERY);
    check_event(1, GiB - 1);
    g_assert_cmpuint(events.total, ==, 12 * GiB);
    g_assert_cmpint(guest_memfd_progress_step(&p, GiB, now + EVERY - 1), ==, 1);
    check_event(1, GiB - 1);

    /* What is late is reported once. */
    now += 10 * EVERY + 7;
    g_assert_cmpint(guest_memfd_progress_step(&p, 10 * GiB, now), ==, EVERY);
    check_event(2, 10 * GiB);
    g_assert_cmpint(guest_memfd_progress_step(&p, 10 * GiB, now), ==, EVERY);
    check_event(2, 10 * GiB);

    guest_memfd_progress_end(&p, 11 * GiB);
    check_event(3, 11 * GiB);
    fclose(tty);
    g_assert_cmpstr(line, ==,
                    "\rmemory-backend 'm0': 0 of 12 GiB preallocated"
                    "\rmemory-backend 'm0': 10 of 12 GiB preallocated"
                    "\rmemory-backend 'm0': 11 of 12 GiB preallocated\n");
}

/* A size that is not whole GiB, and nobody who looks */
static void test_line(void)
{
    g_autofree char *line = NULL;
    size_t length;
    FILE *tty = open_memstream(&line, &length);
    GuestMemfdProgress p = { .id = "m0", .total = 1536 * MiB, .tty = tty };

    memset(&events, 0, sizeof(events));
    guest_memfd_progress_step(&p, GiB, 0);
    fclose(tty);
    g_assert_cmpstr(line, ==,
                    "\rmemory-backend 'm0': 1024 of 1536 MiB preallocated");

    p.tty = NULL;
    guest_memfd_progress_end(&p, p.total);
    check_event(2, p.total);
}

int main(int argc, char **argv)
{
    qemu_mutex_init(&file.lock);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-memfd-prealloc/fill", test_fill);
    g_test_add_func("/guest-memfd-prealloc/fail", test_fail);
    g_test_add_func("/guest-memfd-prealloc/short", test_short);
    g_test_add_func("/guest-memfd-prealloc/long", test_long);
    g_test_add_func("/guest-memfd-prealloc/line", test_line);
    return g_test_run();
}
