/*
 * Run a program with a limit for locked memory
 *
 *   limited BYTES PROGRAM [ARGUMENT...]
 *
 * Without CAP_IPC_LOCK, to which no such limit applies.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <linux/capability.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rlimit limit;
    unsigned long bytes;

    if (argc < 3 || sscanf(argv[1], "%lu", &bytes) != 1) {
        fprintf(stderr, "usage: limited BYTES PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    limit.rlim_cur = limit.rlim_max = bytes;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) ||
        prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)) {
        perror("limited");
        return 2;
    }
    execv(argv[2], argv + 2);
    perror(argv[2]);
    return 2;
}
