/*
 * The page table of a device behind an IOMMU, read from /dev/mem
 *
 * iommu-dump intel|amd TABLE LEVELS prints "IOVA SIZE COUNT" (hexadecimal) of
 * all entries: so many, one after the other, have that size.  TABLE is the
 * physical address of the root; LEVELS is decimal.
 *
 * Intel VT-d specification, "Second-Stage Paging Entries"; AMD I/O
 * Virtualization Technology specification, "I/O Page Tables for Host
 * Translations".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRIES             512
#define ADDRESS             0x000ffffffffff000ull
#define INTEL_READ_WRITE    0x3ull
#define INTEL_LARGE         (1ull << 7)
#define AMD_PRESENT         0x1ull
#define AMD_LEVEL(entry)    ((entry) >> 9 & 7)
/* of an entry of another size than its level has */
#define AMD_LEVEL_SIZED     7

static int mem;
static bool intel;
static struct {
    uint64_t iova;
    uint64_t size;
    uint64_t count;
} run;

static void end_run(void)
{
    if (run.count) {
        printf("%" PRIx64 " %" PRIx64 " %" PRIx64 "\n", run.iova, run.size,
               run.count);
    }
    run.count = 0;
}

static void add(uint64_t iova, uint64_t size)
{
    if (size != run.size || iova != run.iova + run.count * size) {
        end_run();
        run.iova = iova;
        run.size = size;
    }
    run.count++;
}

static bool is_present(uint64_t entry)
{
    return entry & (intel ? INTEL_READ_WRITE : AMD_PRESENT);
}

/* The level of the table that an entry points to; 0 if it maps memory. */
static int next_level(uint64_t entry, int level)
{
    int next = AMD_LEVEL(entry);

    if (level == 1) {
        return 0;
    }
    if (intel) {
        return entry & INTEL_LARGE ? 0 : level - 1;
    }
    return next == AMD_LEVEL_SIZED ? 0 : next;
}

static uint64_t entry_size(uint64_t entry, uint64_t size)
{
    unsigned bit;

    if (!intel && AMD_LEVEL(entry) == AMD_LEVEL_SIZED) {
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
        int next = next_level(entry, level);

        if (!is_present(entry) || iova < done) {
            continue;           /* a large entry is there several times */
        }
        if (next) {
            if (next >= level || !walk(entry & ADDRESS, next, iova)) {
                return false;
            }
        } else {
            done = iova + entry_size(entry, step);
            add(iova, done - iova);
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    uint64_t table = 0;
    int levels = 0;

    if (argc == 4) {
        sscanf(argv[2], "%" SCNx64, &table);
        levels = atoi(argv[3]);
    }
    mem = open("/dev/mem", O_RDONLY);
    if (mem < 0 || levels < 1 || levels > 6) {
        fprintf(stderr, "iommu-dump: no /dev/mem, or no page table\n");
        return 1;
    }
    intel = !strcmp(argv[1], "intel");
    if (!walk(table & ADDRESS, levels, 0)) {
        return 1;
    }
    end_run();
    return 0;
}
