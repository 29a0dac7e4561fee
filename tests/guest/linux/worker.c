/*
 * Threads that convert a page of 2 MiB, small page by small page, and have two
 * devices do DMA there
 *
 * Each has a page and a part of the disk to itself, and remembers what must be
 * in both.  The kernel has the driver of the disk: with O_DIRECT its DMA is to
 * the page itself, and only to what is shared.  The edu device is on a server
 * that has mapped what is shared: DMA to anything else fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "linux.h"

#define DISK_PAGES      512u    /* of each worker */
#define IO_PAGES        16u     /* at most, of one request */

typedef struct Worker {
    pthread_t thread;
    unsigned int number;
    uint64_t rng;
    Testdev testdev;
    int disk;
    uint8_t *page;
    uint64_t gpa;
    bool private[HUGE_PAGE_PAGES];
    /* what has to be there */
    uint8_t *page_model;
    uint8_t *disk_model;
    unsigned long conversions;
    unsigned long reads;
    unsigned long writes;
    unsigned long dma_ok;
    unsigned long dma_failed;
} Worker;

/* A part of the page */
typedef struct Part {
    unsigned int first;
    unsigned int n;
} Part;

static Worker workers[NR_WORKERS];

static unsigned int random_below(Worker *w, unsigned int n)
{
    return random_next(&w->rng) % n;
}

static Part random_part(Worker *w, unsigned int most)
{
    unsigned int n = 1 + random_below(w, most);

    return (Part) { random_below(w, HUGE_PAGE_PAGES - n + 1), n };
}

static void verify(Worker *w, Part part, const char *what)
{
    size_t i = part.first * PAGE_SIZE;

    if (memcmp(w->page + i, w->page_model + i, part.n * PAGE_SIZE)) {
        while (w->page[i] == w->page_model[i]) {
            i++;
        }
        fail("worker %u, %s: byte at 0x%lx (%s) is 0x%02x, not 0x%02x",
             w->number, what, w->gpa + i,
             w->private[i / PAGE_SIZE] ? "private" : "shared",
             w->page[i], w->page_model[i]);
    }
}

static void convert(Worker *w, Part part, bool to_private)
{
    uint64_t gpa = w->gpa + part.first * PAGE_SIZE;
    unsigned int i;
    int err = testdev_convert(&w->testdev, gpa, part.n * PAGE_SIZE,
                              to_private);

    if (err) {
        fail("conversion of %u pages at 0x%lx to %s: %s", part.n, gpa,
             to_private ? "private" : "shared", strerror(-err));
    }
    w->conversions++;
    for (i = part.first; i < part.first + part.n; i++) {
        w->private[i] = to_private;
    }
    /* The emulated driver keeps what is in a page. */
    verify(w, part, "after a conversion");
}

/* Have memory that a device of the kernel's may use */
static Part shared_part(Worker *w)
{
    Part part = random_part(w, IO_PAGES);
    unsigned int i;

    for (i = part.first; i < part.first + part.n; i++) {
        if (w->private[i]) {
            convert(w, part, false);
            break;
        }
    }
    return part;
}

static void write_random(Worker *w, Part part)
{
    size_t start = part.first * PAGE_SIZE;
    size_t i;

    for (i = start; i < start + part.n * PAGE_SIZE; i += sizeof(uint64_t)) {
        *(uint64_t *)(w->page_model + i) = random_next(&w->rng);
    }
    memcpy(w->page + start, w->page_model + start, part.n * PAGE_SIZE);
}

static void do_convert(Worker *w)
{
    /* Now and then large ones */
    unsigned int most = random_below(w, 8) ? 32 : HUGE_PAGE_PAGES;

    convert(w, random_part(w, most), random_below(w, 2));
}

static void do_write(Worker *w)
{
    write_random(w, random_part(w, 8));
}

static void do_verify(Worker *w)
{
    verify(w, random_part(w, 32), "when it was read");
}

/* What is at @page of this worker's part of the disk, in the disk */
static off_t disk_offset(Worker *w, unsigned int page)
{
    return (w->number * DISK_PAGES + page) * PAGE_SIZE;
}

static void do_disk_write(Worker *w)
{
    Part part = shared_part(w);
    unsigned int to = random_below(w, DISK_PAGES - part.n + 1);
    size_t size = part.n * PAGE_SIZE;
    ssize_t done = pwrite(w->disk, w->page + part.first * PAGE_SIZE, size,
                          disk_offset(w, to));

    if (done != (ssize_t)size) {
        fail("%s: %zd of %zu bytes were written: %s", opt.disk, done, size,
             strerror(errno));
    }
    memcpy(w->disk_model + to * PAGE_SIZE,
           w->page_model + part.first * PAGE_SIZE, size);
    w->writes++;
}

static void do_disk_read(Worker *w)
{
    Part part = shared_part(w);
    unsigned int from = random_below(w, DISK_PAGES - part.n + 1);
    size_t size = part.n * PAGE_SIZE;
    ssize_t done = pread(w->disk, w->page + part.first * PAGE_SIZE, size,
                         disk_offset(w, from));

    if (done != (ssize_t)size) {
        fail("%s: %zd of %zu bytes were read: %s", opt.disk, done, size,
             strerror(errno));
    }
    memcpy(w->page_model + part.first * PAGE_SIZE,
           w->disk_model + from * PAGE_SIZE, size);
    verify(w, part, "after a read of the disk");
    w->reads++;
}

static void do_edu(Worker *w)
{
    unsigned int from = random_below(w, HUGE_PAGE_PAGES);
    unsigned int to = random_below(w, HUGE_PAGE_PAGES);
    bool wanted = !w->private[from] && !w->private[to];
    unsigned int err = edu_copy(w->gpa + from * PAGE_SIZE,
                                w->gpa + to * PAGE_SIZE, PAGE_SIZE);

    if (wanted != !err) {
        fail("worker %u: edu's DMA from 0x%lx (%s) to 0x%lx (%s): %s",
             w->number, w->gpa + from * PAGE_SIZE,
             w->private[from] ? "private" : "shared",
             w->gpa + to * PAGE_SIZE, w->private[to] ? "private" : "shared",
             strerror(err));
    }
    if (wanted) {
        memcpy(w->page_model + to * PAGE_SIZE,
               w->page_model + from * PAGE_SIZE, PAGE_SIZE);
        w->dma_ok += 2;
    } else {
        w->dma_ok += !w->private[from];
        w->dma_failed++;
    }
    verify(w, (Part) { to, 1 }, "after DMA of edu");
}

static void *work(void *opaque)
{
    static void (*const ops[])(Worker *) = {
        do_convert, do_convert, do_write, do_verify,
        do_disk_write, do_disk_read, do_edu,
    };
    const Part all = { 0, HUGE_PAGE_PAGES };
    Worker *w = opaque;
    unsigned long i;

    write_random(w, all);
    for (i = 0; i < opt.ops; i++) {
        ops[random_below(w, sizeof(ops) / sizeof(ops[0]))](w);
    }
    verify(w, all, "in the end");
    if (physical_address(w->page) != w->gpa) {
        fail("worker %u: the kernel has moved 0x%lx", w->number, w->gpa);
    }
    return NULL;
}

static void *allocate(size_t size, int flags)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | flags, -1, 0);

    if (p == MAP_FAILED || mlock(p, size)) {
        fail("no memory for a worker: %s", strerror(errno));
    }
    return p;
}

static void reserve_huge_pages(void)
{
    FILE *f = fopen("/proc/sys/vm/nr_hugepages", "w");

    if (!f || fprintf(f, "%d\n", NR_WORKERS) < 0 || fclose(f)) {
        fail("/proc/sys/vm/nr_hugepages: %s", strerror(errno));
    }
}

static void worker_init(Worker *w)
{
    size_t size = DISK_PAGES * PAGE_SIZE;

    w->rng = opt.seed * NR_WORKERS + w->number;
    testdev_init(&w->testdev, w->number);
    w->page = allocate(HUGE_PAGE_SIZE, MAP_HUGETLB);
    w->gpa = physical_address(w->page);
    if (w->gpa % HUGE_PAGE_SIZE) {
        fail("worker %u: 0x%lx is not a huge page", w->number, w->gpa);
    }
    memset(w->private, opt.private, sizeof(w->private));
    w->page_model = allocate(HUGE_PAGE_SIZE, 0);
    w->disk_model = allocate(size, 0);
    w->disk = open(opt.disk, O_RDWR | O_DIRECT);
    if (w->disk < 0 || pread(w->disk, w->disk_model, size,
                             disk_offset(w, 0)) != (ssize_t)size) {
        fail("%s: %s", opt.disk, strerror(errno));
    }
}

/* As zlib has it */
static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
    uint32_t crc = ~0u;
    size_t i;
    int bit;

    for (i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        }
    }
    return ~crc;
}

/* What has to be on the disk, and which pages are in which state */
static void say_disk(Worker *w, const char *when)
{
    say("disk worker=%u when=%s offset=%lu size=%lu crc=%u", w->number, when,
        (unsigned long)disk_offset(w, 0), DISK_PAGES * PAGE_SIZE,
        crc32_of(w->disk_model, DISK_PAGES * PAGE_SIZE));
}

static void say_states(Worker *w)
{
    unsigned int i, first = 0;

    for (i = 1; i <= HUGE_PAGE_PAGES; i++) {
        if (i == HUGE_PAGE_PAGES || w->private[i] != w->private[first]) {
            say("run gpa=%lu size=%lu private=%d",
                w->gpa + first * PAGE_SIZE, (i - first) * PAGE_SIZE,
                w->private[first]);
            first = i;
        }
    }
}

void workers_run(void)
{
    unsigned int i;

    reserve_huge_pages();
    for (i = 0; i < NR_WORKERS; i++) {
        workers[i].number = i;
        worker_init(&workers[i]);
        say_disk(&workers[i], "start");
    }
    for (i = 0; i < NR_WORKERS; i++) {
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
            fail("no thread for a worker");
        }
    }
    for (i = 0; i < NR_WORKERS; i++) {
        Worker *w = &workers[i];

        pthread_join(w->thread, NULL);
        if (fsync(w->disk)) {
            fail("%s: %s", opt.disk, strerror(errno));
        }
        say_disk(w, "end");
        say_states(w);
        say("worker number=%u conversions=%lu reads=%lu writes=%lu "
            "dma-ok=%lu dma-failed=%lu", i, w->conversions, w->reads,
            w->writes, w->dma_ok, w->dma_failed);
    }
}
