/*
 * Make every second page of a range shared, by the test device
 *
 *   alternate SOCKET GPA NUMBER
 *
 * SOCKET is that of -qtest of a QEMU whose vCPUs do not run: far quicker than
 * the monitor, which reads its commands byte by byte.  Whether each was granted
 * is for the caller to see.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE            4096
#define TESTDEV_ID      0x11f01234
#define BAR             0xfe000000
#define COMMAND_MEMORY  2
#define TO_SHARED       2
#define BATCH           64

static FILE *in, *out;

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(out, format, args);
    va_end(args);
}

/* The value after "OK", if there is one. */
static uint64_t answer(void)
{
    char line[256];
    int64_t value;

    if (fflush(out) || !fgets(line, sizeof(line), in) ||
        strncmp(line, "OK", 2)) {
        fprintf(stderr, "alternate: no OK\n");
        exit(1);
    }
    return sscanf(line, "OK %" SCNi64, &value) == 1 ? value : 0;
}

static uint32_t config_read(unsigned devfn, unsigned reg)
{
    say("outl 0xcf8 0x%x\n", 0x80000000 | devfn << 8 | reg);
    answer();
    say("inl 0xcfc\n");
    return answer();
}

static void config_write(unsigned devfn, unsigned reg, uint32_t value)
{
    say("outl 0xcf8 0x%x\n", 0x80000000 | devfn << 8 | reg);
    answer();
    say("outl 0xcfc 0x%x\n", value);
    answer();
}

static void map_device(void)
{
    for (unsigned devfn = 0; devfn < 256; devfn += 8) {
        if (config_read(devfn, 0) == TESTDEV_ID) {
            config_write(devfn, 0x10, BAR);
            config_write(devfn, 4, COMMAND_MEMORY);
            return;
        }
    }
    fprintf(stderr, "alternate: no guest-memfd-testdev\n");
    exit(1);
}

/* The registers of the device in one write, so that there is one answer. */
static void share_pages(uint64_t gpa, unsigned number)
{
    for (unsigned done = 0; done < number; done += BATCH) {
        unsigned n = number - done < BATCH ? number - done : BATCH;

        for (unsigned i = 0; i < n; i++, gpa += 2 * PAGE) {
            say("write 0x%x 0x14 0x%016" PRIx64 "%016" PRIx64 "%08x\n", BAR,
                __builtin_bswap64(gpa), __builtin_bswap64(PAGE),
                __builtin_bswap32(TO_SHARED));
        }
        for (unsigned i = 0; i < n; i++) {
            answer();
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    uint64_t gpa;
    unsigned number;
    int fd;

    if (argc != 4 || strlen(argv[1]) >= sizeof(addr.sun_path) ||
        sscanf(argv[2], "%" SCNx64, &gpa) != 1 ||
        sscanf(argv[3], "%u", &number) != 1) {
        fprintf(stderr, "usage: alternate SOCKET GPA NUMBER\n");
        return 2;
    }
    strcpy(addr.sun_path, argv[1]);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
        perror(argv[1]);
        return 1;
    }
    in = fdopen(fd, "r");
    out = fdopen(dup(fd), "w");
    if (!in || !out) {
        perror("alternate");
        return 1;
    }
    map_device();
    share_pages(gpa, number);
    return 0;
}
