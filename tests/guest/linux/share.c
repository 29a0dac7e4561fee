/*
 * A directory of the host, which virtiofsd shares
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "linux.h"

void share_mount(void)
{
    if (opt.share) {
        mount_at(opt.share, "virtiofs", "/share");
    }
}

/*
 * The workers' I/O is to pages of theirs (O_DIRECT).  Here the daemon reads and
 * writes pages of the kernel's, and makes a file.
 */
void share_copy(void)
{
    static char buf[64 * 1024];
    unsigned long bytes = 0;
    char path[256];
    int from, to;
    ssize_t n;

    if (!opt.share) {
        return;
    }
    snprintf(path, sizeof(path), "%s.copy", opt.disk);
    from = open(opt.disk, O_RDONLY);
    to = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (from < 0 || to < 0) {
        fail("%s: %s", from < 0 ? opt.disk : path, strerror(errno));
    }
    while ((n = read(from, buf, sizeof(buf))) > 0) {
        if (write(to, buf, n) != n) {
            fail("%s: %s", path, strerror(errno));
        }
        bytes += n;
    }
    if (n < 0) {
        fail("%s: %s", opt.disk, strerror(errno));
    }
    /* Without the daemon nothing could be written back. */
    if (fsync(to) || close(to) || close(from)) {
        fail("%s: %s", path, strerror(errno));
    }
    say("copy bytes=%lu", bytes);
}
