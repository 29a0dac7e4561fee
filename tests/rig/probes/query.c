/*
 * Send a line to a UNIX socket, and print the answer up to the line "end"
 *
 *   query SOCKET LINE
 *
 * That is how the vfio-user server of tests/vfio-user says what it has mapped.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    char line[256];
    FILE *f;
    int fd;

    if (argc != 3 || strlen(argv[1]) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "usage: query SOCKET LINE\n");
        return 2;
    }
    strcpy(addr.sun_path, argv[1]);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
        dprintf(fd, "%s\n", argv[2]) < 0) {
        perror(argv[1]);
        return 1;
    }
    f = fdopen(fd, "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (!strcmp(line, "end\n")) {
            return 0;
        }
        fputs(line, stdout);
    }
    fprintf(stderr, "query: no end\n");
    return 1;
}
