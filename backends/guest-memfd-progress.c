/*
 * Progress of the preallocation of a guest_memfd
 *
 * QEMU's main loop does not run meanwhile.  An event is written to the sockets
 * of QMP by the thread that sends it, so that clients get it all the same.
 * However, the monitor's own limit of rates holds events back until a timer of
 * the main loop expires.  So the rate is limited here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "guest-memfd-progress.h"

/* Neither number becomes shorter, so nothing of the line before is left. */
static void write_line(const GuestMemfdProgress *p, uint64_t done)
{
    bool gib = p->total % GiB == 0;
    uint64_t unit = gib ? GiB : MiB;

    fputc('\r', p->tty);
    fprintf(p->tty, "memory-backend '%s': %" PRIu64 " of %" PRIu64
            " %s preallocated", p->id, done / unit, p->total / unit,
            gib ? "GiB" : "MiB");
    fflush(p->tty);
}

static void report(GuestMemfdProgress *p, uint64_t done)
{
    p->reported = true;
    qapi_event_send_guest_memfd_prealloc_progress(p->id, done, p->total);
    if (p->tty) {
        write_line(p, done);
    }
}

int guest_memfd_progress_step(GuestMemfdProgress *p, uint64_t done, int64_t now)
{
    if (now >= p->next) {
        report(p, done);
        p->next = now + GUEST_MEMFD_PROGRESS_EVERY_MS;
    }
    return p->next - now;
}

void guest_memfd_progress_end(GuestMemfdProgress *p, uint64_t done)
{
    if (!p->reported) {
        return;
    }
    report(p, done);
    if (p->tty) {
        fputc('\n', p->tty);
    }
}
