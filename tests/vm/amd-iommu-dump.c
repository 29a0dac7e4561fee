/*
 * The page table of a device behind an AMD IOMMU, read from /dev/mem
 *
 * amd-iommu-dump QWORD0 prints "IOVA SIZE" (hexadecimal) of each entry; QWORD0
 * is the first one of the device table entry, as in debugfs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define ENTRIES         512
#define PRESENT         0x1ull
#define ADDRESS         0x000ffffffffff000ull
#define LEVEL(entry)    ((entry) >> 9 & 7)
/* of an entry of another size than its level has */
#define LEVEL_SIZED     7

static int mem;

static uint64_t entry_size(uint64_t entry, int level)
{
    uint64_t size = 1ull << (12 + 9 * (level - 1));
    unsigned bit;

    if (LEVEL(entry) == LEVEL_SIZED) {
        /* as many ones from bit 12 up as the size has bits above 8 KiB */
        size = 8192;
        for (bit = 12; entry & (1ull << bit); bit++) {
            size <<= 1;
        }
    }
    return size;
}

static bool walk(uint64_t table, int level, uint64_t start)
{
    uint64_t entries[ENTRIES];
    uint64_t step = 1ull << (12 + 9 * (level - 1));
    uint64_t done = start;
    unsigned i;

    if (pread(mem, entries, sizeof(entries), table) != sizeof(entries)) {
        perror("/dev/mem");
        return false;
    }
    for (i = 0; i < ENTRIES; i++) {
        uint64_t entry = entries[i];
        uint64_t iova = start + i * step;
        int next = LEVEL(entry);

        if (!(entry & PRESENT) || iova < done) {
            continue;           /* a large entry is there several times */
        }
        if (level > 1 && next && next != LEVEL_SIZED) {
            if (next >= level || !walk(entry & ADDRESS, next, iova)) {
                return false;
            }
        } else {
            printf("%" PRIx64 " %" PRIx64 "\n", iova, entry_size(entry, level));
            done = iova + entry_size(entry, level);
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    uint64_t dte = 0;
    int mode;

    if (argc == 2) {
        sscanf(argv[1], "%" SCNx64, &dte);
    }
    mode = LEVEL(dte);
    mem = open("/dev/mem", O_RDONLY);
    if (mem < 0 || mode < 1 || mode > 6) {
        fprintf(stderr, "amd-iommu-dump: no /dev/mem, or no page table\n");
        return 1;
    }
    return walk(dte & ADDRESS, mode, 0) ? 0 : 1;
}
