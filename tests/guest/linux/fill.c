/*
 * Threads that fill memory with a pattern, and verify it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "linux.h"

#define GIB4            (4096 * MIB)

typedef struct Filler {
    pthread_t thread;
    uint64_t *words;
    size_t nr_words;
    uint64_t passes;
    uint64_t high_pages;        /* of its memory: at 4 GiB and above */
} Filler;

static Filler fillers[NR_FILLERS];
static uint64_t *memory;
static size_t size;
static atomic_bool stopping;

static uint64_t pattern(const Filler *f, size_t i)
{
    return ((uintptr_t)&f->words[i] ^ (f->passes + opt.seed)) *
           0x9e3779b97f4a7c15ull;
}

static void *fill(void *opaque)
{
    Filler *f = opaque;
    cpu_set_t cpu;
    size_t i;

    /* Each has memory of another node, and the time that workers leave. */
    CPU_ZERO(&cpu);
    CPU_SET(f - fillers, &cpu);
    if (sched_setaffinity(0, sizeof(cpu), &cpu) || nice(19) < 0) {
        fail("thread to fill memory: %s", strerror(errno));
    }
    do {
        for (i = 0; i < f->nr_words; i++) {
            f->words[i] = pattern(f, i);
        }
        for (i = 0; i < f->nr_words; i++) {
            if (f->words[i] != pattern(f, i)) {
                fail("pass %lu: %p (guest physical 0x%lx) is 0x%lx, not 0x%lx",
                     f->passes, &f->words[i],
                     physical_address(&f->words[i]), f->words[i],
                     pattern(f, i));
            }
        }
        f->passes++;
    } while (!stopping);
    for (i = 0; i < f->nr_words; i += PAGE_SIZE / sizeof(*f->words)) {
        f->high_pages += physical_address(&f->words[i]) >= GIB4;
    }
    return NULL;
}

void fill_start(void)
{
    unsigned int i;

    stopping = false;
    size = opt.fill * MIB;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("no %lu MiB of memory: %s", opt.fill, strerror(errno));
    }
    for (i = 0; i < NR_FILLERS; i++) {
        Filler *f = &fillers[i];

        *f = (Filler) { 0 };
        f->nr_words = size / sizeof(*memory) / NR_FILLERS;
        f->words = memory + i * f->nr_words;
        if (pthread_create(&f->thread, NULL, fill, f)) {
            fail("no thread to fill memory");
        }
    }
}

void fill_stop(void)
{
    unsigned int i;

    stopping = true;
    for (i = 0; i < NR_FILLERS; i++) {
        Filler *f = &fillers[i];

        pthread_join(f->thread, NULL);
        say("fill passes=%lu bytes=%zu high=%lu", f->passes,
            f->nr_words * sizeof(*f->words), f->high_pages * PAGE_SIZE);
    }
    munmap(memory, size);
}
