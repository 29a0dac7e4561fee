/*
 * Progress of the preallocation of a guest_memfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BACKENDS_GUEST_MEMFD_PROGRESS_H
#define BACKENDS_GUEST_MEMFD_PROGRESS_H

/* How long a preallocation takes before it is reported, and how often it is */
#define GUEST_MEMFD_PROGRESS_FIRST_MS 3000
#define GUEST_MEMFD_PROGRESS_EVERY_MS 1000

/**
 * struct GuestMemfdProgress - reports to QMP and to a terminal
 *
 * @id: of the memory backend
 * @total: bytes to allocate
 * @tty: gets a line that is written again and again; NULL: nobody looks
 * @next: the time, in ms, of the next report
 * @reported: whether there has been one
 */
typedef struct GuestMemfdProgress {
    const char *id;
    uint64_t total;
    FILE *tty;
    int64_t next;
    bool reported;
} GuestMemfdProgress;

/**
 * guest_memfd_progress_step - report if it is time to
 *
 * @done: bytes that are allocated
 * @now: in ms
 *
 * Sends the event, and writes to the terminal, in the calling thread.
 *
 * Returns: the ms until the next report.
 */
int guest_memfd_progress_step(GuestMemfdProgress *p, uint64_t done,
                              int64_t now);

/** guest_memfd_progress_end - the last report, if there has been another one */
void guest_memfd_progress_end(GuestMemfdProgress *p, uint64_t done);

#endif
