/*
 * Let a page of a process fail, as if its memory were broken
 *
 *   poison PID NAME OFFSET
 *
 * NAME is a part of the name of a mapping in /proc/PID/maps, the first one of
 * which is meant; OFFSET counts from its start, in hexadecimal.  The page has
 * been touched.
 * Prints the address and the number of the page's frame.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_SIZE       4096
#define PRESENT         (1ull << 63)    /* in an entry of pagemap */
#define FRAME           ((1ull << 55) - 1)
#define CORRUPT         "/sys/kernel/debug/hwpoison/corrupt-pfn"

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "poison: %s%s\n", what, detail);
    exit(1);
}

/* The address of a mapping */
static uint64_t find_mapping(const char *pid, const char *name)
{
    char path[64], line[512];
    uint64_t start;
    FILE *maps;

    snprintf(path, sizeof(path), "/proc/%s/maps", pid);
    maps = fopen(path, "r");
    if (!maps) {
        die("cannot open ", path);
    }
    while (fgets(line, sizeof(line), maps)) {
        if (strstr(line, name) && sscanf(line, "%" SCNx64, &start) == 1) {
            fclose(maps);
            return start;
        }
    }
    die("no mapping has the name ", name);
    return 0;
}

static uint64_t find_frame(const char *pid, uint64_t address)
{
    uint64_t entry = 0;
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%s/pagemap", pid);
    fd = open(path, O_RDONLY);
    if (fd < 0 || pread(fd, &entry, sizeof(entry),
                        address / PAGE_SIZE * sizeof(entry)) != sizeof(entry)) {
        die("cannot read ", path);
    }
    close(fd);
    if (!(entry & PRESENT) || !(entry & FRAME)) {
        die("the page is not there", "");
    }
    return entry & FRAME;
}

int main(int argc, char **argv)
{
    uint64_t address, frame, offset;
    FILE *corrupt;

    if (argc != 4 || sscanf(argv[3], "%" SCNx64, &offset) != 1) {
        die("usage: poison PID NAME OFFSET", "");
    }
    address = find_mapping(argv[1], argv[2]) + offset;
    frame = find_frame(argv[1], address);
    corrupt = fopen(CORRUPT, "w");
    /* EBUSY: done, but the page is still in use; a guest_memfd keeps it */
    if (!corrupt || fprintf(corrupt, "0x%" PRIx64 "\n", frame) < 0 ||
        (fclose(corrupt) && errno != EBUSY)) {
        die("cannot write ", CORRUPT);
    }
    printf("0x%" PRIx64 " 0x%" PRIx64 "\n", address, frame);
    return 0;
}
