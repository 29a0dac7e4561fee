/*
 * What it costs to share parts of a huge page of a guest_memfd
 *
 * "restructure ORDER REPEATS" prints a line for each figure: what was shared,
 * what is measured, a value. Memory is that of the vmemmap that comes back, in
 * bytes, and of what else the kernel allocates, by /proc/meminfo.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "gmem.h"

#define MIB             (1ull << 20)
#define PMD_PAGES       512
#define STORM           5000

static int vm;

static void die(const char *what)
{
    fprintf(stderr, "restructure: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long read_number(const char *path, const char *key)
{
    char line[200];
    long value = -1;
    FILE *f = fopen(path, "r");

    if (!f) {
        die(path);
    }
    while (value < 0 && fgets(line, sizeof(line), f)) {
        if (!strncmp(line, key, strlen(key)) &&
            sscanf(line + strlen(key), "%ld", &value) != 1) {
            value = -1;
        }
    }
    fclose(f);
    return value;
}

static long vmemmap_bytes(void)
{
    return read_number("/sys/kernel/debug/folio_restructure/vmemmap_pages",
                       "") * PAGE;
}

static long slab_bytes(void)
{
    return read_number("/proc/meminfo", "Slab:") * 1024;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double convert(int fd, uint64_t page, uint64_t pages, int to_private)
{
    double start = now();

    if (convert_pages(fd, page, pages, to_private, NULL)) {
        die("a conversion");
    }
    return now() - start;
}

static int create(uint64_t size, int order)
{
    struct kvm_create_guest_memfd create = {
        .size = size, .flags = FLAG_MMAP | FLAG_HUGETLB,
    };
    uint8_t page_order = order;
    int fd;

    memcpy(create.reserved, &page_order, 1);
    fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
    if (fd < 0) {
        die("KVM_CREATE_GUEST_MEMFD");
    }
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size)) {
        die("fallocate");
    }
    return fd;
}

static void print(const char *what, const char *metric, double value)
{
    printf("%s|%s|%.9g\n", what, metric, value);
}

/* Which pages are shared: @count runs of @pages each @step pages. */
struct pattern {
    const char *what;
    uint64_t count, pages, step;
};

static void measure(const struct pattern *p, int fd, uint64_t first)
{
    long vmemmap = vmemmap_bytes(), slab = slab_bytes();
    double shared = 0, private = 0;

    for (uint64_t i = 0; i < p->count; i++) {
        shared += convert(fd, first + i * p->step, p->pages, 0);
    }
    print(p->what, "vmemmap-bytes", vmemmap_bytes() - vmemmap);
    print(p->what, "slab-bytes", slab_bytes() - slab);
    for (uint64_t i = 0; i < p->count; i++) {
        private += convert(fd, first + i * p->step, p->pages, 1);
    }
    print(p->what, "to-shared-seconds", shared);
    print(p->what, "to-private-seconds", private);
    print(p->what, "left-vmemmap-bytes", vmemmap_bytes() - vmemmap);
}

/* A second page, not beside the first */
static void measure_second(int fd, uint64_t pages)
{
    double seconds;

    convert(fd, 5, 1, 0);
    seconds = convert(fd, pages / 2, 1, 0);
    print("second page", "to-shared-seconds", seconds);
    seconds = convert(fd, pages / 2, 1, 1);
    print("second page", "to-private-seconds", seconds);
    convert(fd, 5, 1, 1);
}

/* The same numbers each time */
static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* Few pages at a time, to shared or back */
static void storm(int fd, uint64_t pages)
{
    uint64_t random = 1;
    double seconds = 0;

    for (int i = 0; i < STORM; i++) {
        uint64_t nr = 1 + next_random(&random) % 4;
        uint64_t first = next_random(&random) % (pages - nr);

        seconds += convert(fd, first, nr, next_random(&random) & 1);
    }
    print("at random", "conversions-per-second", STORM / seconds);
    convert(fd, 0, pages, 1);
}

static void one_huge_page(int order)
{
    uint64_t pages = 1ull << order;
    const struct pattern patterns[] = {
        { "one page", 1, 1, 1 },
        { "every 512th page", pages / PMD_PAGES, 1, PMD_PAGES },
        { "half of it", 1, pages / 2, 1 },
        { "all of it", 1, pages, 1 },
    };
    int fd = create(pages * PAGE, order);

    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        if (patterns[i].count > 1 || i != 1) {
            measure(&patterns[i], fd, i < 2 ? 5 : 0);
        }
    }
    measure_second(fd, pages);
    storm(fd, pages);
    close(fd);
}

/* Single pages here and there, the same ones each time */
static void scattered(int fd, uint64_t pages, uint64_t count)
{
    long vmemmap = vmemmap_bytes(), slab = slab_bytes();
    uint64_t random = 1;
    char what[100];

    for (uint64_t i = 0; i < count; i++) {
        convert(fd, next_random(&random) % pages, 1, 0);
    }
    snprintf(what, sizeof(what), "2 GiB: %llu single pages",
             (unsigned long long)count);
    print(what, "vmemmap-bytes", vmemmap_bytes() - vmemmap);
    print(what, "slab-bytes", slab_bytes() - slab);
    convert(fd, 0, pages, 1);
}

/* 2 GiB with a bounce area of 64 MiB */
static void bounce(int order)
{
    uint64_t pages = 2048 * MIB / PAGE;
    const struct pattern patterns[] = {
        { "2 GiB: 64 MiB in one piece", 1, 64 * MIB / PAGE, 1 },
        { "2 GiB: 64 MiB in 32 pieces", 32, 2 * MIB / PAGE, 64 * MIB / PAGE },
    };
    int fd = create(pages * PAGE, order);

    measure(&patterns[0], fd, 0);
    measure(&patterns[1], fd, 0);
    for (uint64_t count = 1; count <= 64 * MIB / PAGE; count *= 16) {
        scattered(fd, pages, count);
    }
    scattered(fd, pages, 64 * MIB / PAGE);
    close(fd);
}

int main(int argc, char **argv)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int order = argc == 3 ? atoi(argv[1]) : 0;

    if (!order) {
        fprintf(stderr, "usage: restructure ORDER REPEATS\n");
        return 2;
    }
    vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 1ul);
    if (vm < 0) {
        die("a software-protected VM");
    }
    for (int i = 0; i < atoi(argv[2]); i++) {
        one_huge_page(order);
    }
    if (order == 18) {
        bounce(order);
    }
    return 0;
}
