/*
 * A guest that converts memory under DMA: what its parts share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_GUEST_GUEST_H
#define TESTS_GUEST_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smp.h"

#define ARRAY_SIZE(x)   (sizeof(x) / sizeof((x)[0]))
#define MIN(a, b)       ((a) < (b) ? (a) : (b))
#define MAX(a, b)       ((a) > (b) ? (a) : (b))

#define MIB             (1024 * 1024u)
#define PAGE_SIZE       4096u
#define HUGE_PAGE_SIZE  (2 * MIB)
#define HUGE_PAGE_PAGES (HUGE_PAGE_SIZE / PAGE_SIZE)

/* edu's DMA mask has 28 bits unless told otherwise */
#define DMA_LIMIT_MIB   256
/* Of the bounce area, without DMA */
#define AREA_LIMIT_MIB  2048

/* What the guest is asked to do (the multiboot command line) */
typedef struct Options {
    uint32_t base;              /* MiB: where the bounce area begins */
    uint32_t area;              /* MiB: how large the bounce area is */
    uint32_t ops;               /* random operations */
    uint32_t seed;
    uint32_t faults;            /* DMA attempts at private memory */
    bool progress;              /* print machine-readable progress */
    bool pause;                 /* wait for a byte on COM1 at the end */
    uint32_t gap;               /* conversions: see gap.c */
    uint32_t rounds;            /* no DMA: see rounds.c */
    uint32_t chunk;             /* KiB: of one request in a round */
    uint32_t mix;               /* requests of a round, anywhere, of any size */
    uint32_t piece;             /* KiB: taken out of each chunk, and put back */
    uint32_t share;             /* MiB: no more than that becomes shared */
    uint32_t scatter;           /* KiB: in pieces of this size, anywhere */
    bool touch;                 /* write to all pages in each round */
    bool keep;                  /* what was written survives conversions */
    bool reboot;                /* once, at the end */
    bool write;                 /* no DMA: see write.c */
    bool dma;                   /* of edu, after what virtio= says */
    bool svm;                   /* no DMA: see svm.c */
    bool dies;                  /* the backend of a disk: see disk.c */
    uint32_t cpus;              /* work at once: see smp.c */
    uint32_t storm;             /* small requests of each of them */
    uint32_t dimm;              /* MiB, no DMA: see dimm.c */
    char conv[16];              /* how to convert memory */
    char virtio[16];            /* no DMA of edu: see virtio.h */
} Options;

/* cmdline.c */
extern Options opt;

void parse_cmdline(const char *line);

/* What was done, for the summary and the progress lines */
typedef struct Counters {
    uint32_t conversions;       /* requests that succeeded */
    uint32_t refused;           /* bad requests, refused as they must be */
    uint32_t to_shared_kib;
    uint32_t to_private_kib;
    uint32_t dma_ok;
    uint32_t dma_failed;        /* to private memory, as it must be */
    uint32_t blocked;           /* of those, by phase_faults() */
} Counters;

extern Counters count;          /* of all CPUs */

static inline void count_add(uint32_t *counter, int32_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* smp.c */
typedef struct Cpu {
    uint32_t first;             /* page of the bounce area: its slice */
    uint32_t pages;
    uint32_t shared_pages;
    uint32_t rng;               /* state of the random numbers */
    uint32_t dma_size;          /* bytes of one transfer */
    uint32_t seen;              /* see dimm.c */
} Cpu;

uint32_t cpu_number(void);
Cpu *cpu_of(uint32_t number);
Cpu *this_cpu(void);
/* Here each CPU waits for all others */
void smp_barrier(void);
/* All CPUs do it, each in its slice of the bounce area */
void smp_run(void (*work)(void));
void smp_main(void);

/* smp.S */
extern const uint8_t trampoline[], trampoline_end[];
/* smp.c, for smp.S */
extern uint32_t cpus_started;

typedef struct SpinLock {
    uint32_t taken;
} SpinLock;

static inline void spin_lock(SpinLock *lock)
{
    while (__atomic_exchange_n(&lock->taken, 1, __ATOMIC_ACQUIRE)) {
        asm volatile("pause");
    }
}

static inline void spin_unlock(SpinLock *lock)
{
    __atomic_store_n(&lock->taken, 0, __ATOMIC_RELEASE);
}

/* boot.S */
extern uint8_t stacks[MAX_CPUS][STACK_SIZE];

void halt(void) __attribute__((noreturn));

/* console.c */
void putch(char c);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void fail(const char *fmt, ...)
    __attribute__((format(printf, 1, 2), noreturn));
void pass(void) __attribute__((noreturn));
void wait_for_host(void);
/* Whether a byte has come; it is taken */
bool host_has_sent(void);

/* string.c */
void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int strcmp(const char *a, const char *b);
const char *option(const char *word, const char *key);
uint32_t parse_number(const char *key, const char *s);

/* rng.c */
void rng_seed(uint32_t seed);
uint32_t rng(void);
uint32_t rng_below(uint32_t n);

/* pci.c */
typedef struct PciDevice {
    uint32_t address;           /* as configuration mechanism #1 wants it */
} PciDevice;

/* The first one, or the one after @n others */
bool pci_find(uint16_t vendor, uint16_t device, PciDevice *dev);
bool pci_find_nth(uint16_t vendor, uint16_t device, uint32_t n,
                  PciDevice *dev);
uint32_t pci_read(const PciDevice *dev, uint32_t reg);
/* The guest fails if that is no memory */
uint32_t pci_bar(const PciDevice *dev, uint32_t n);

static inline uint32_t mmio_read(uint32_t base, uint32_t reg)
{
    /* a device register: each access counts */
    return *(volatile uint32_t *)(uintptr_t)(base + reg);
}

static inline void mmio_write(uint32_t base, uint32_t reg, uint32_t val)
{
    /* a device register: each access counts */
    *(volatile uint32_t *)(uintptr_t)(base + reg) = val;
}

static inline void outb(uint16_t port, uint8_t val)
{
    asm volatile("outb %0, %1" : : "a"(val), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t val)
{
    asm volatile("outw %0, %1" : : "a"(val), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t val)
{
    asm volatile("outl %0, %1" : : "a"(val), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t val;

    asm volatile("inb %1, %0" : "=a"(val) : "Nd"(port) : "memory");
    return val;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t val;

    asm volatile("inl %1, %0" : "=a"(val) : "Nd"(port) : "memory");
    return val;
}

/* edu.c */
#define EDU_UNMAPPED    2       /* ENOENT */

void edu_init(void);
/* The device says whether a transfer failed; QEMU's own edu cannot */
bool edu_reports_errors(void);
/* Up to 4096 bytes between its buffer and @addr; 0 or the device's error */
uint32_t edu_dma(uint32_t addr, uint32_t size, bool to_ram);
/* The same in two halves; nobody says whether it failed */
void edu_start(uint32_t addr, uint32_t size, bool to_ram);
bool edu_busy(void);

/* convert.c */
void convert_init(const char *name);
bool convert_possible(void);
/* It can ask, and must get an error each time */
bool convert_refused(void);
/* 0 or a negative error: for requests that may fail */
int32_t convert_try(uint64_t addr, uint64_t size, bool shared);
int32_t convert_bad_command(uint32_t command);
/* An address that is a device's and no memory */
uint32_t convert_mmio_address(void);

/* model.c: what the guest believes about each page of this CPU's slice */
void model_init(uint32_t pages, bool shared);
void model_set(uint32_t first, uint32_t pages, bool shared);
bool model_shared(uint32_t page);
uint32_t model_pages(void);
uint32_t model_shared_pages(void);
/* Pages before the first huge page that lies in the slice as a whole */
uint32_t model_head(void);
/* Slices for all CPUs, of a bounce area that is private; back to one */
void model_split(void);
void model_join(void);
uint32_t page_address(uint32_t page);

/* verify.c: DMA to a page does what the model says, and data is right */
/* Bytes of one transfer: a power of two, at most a page (which it starts as) */
void verify_set_size(uint32_t bytes);
void verify_page(uint32_t page);
void verify_straddle(uint32_t page);
/*
 * A transfer of 4 bytes to or from @page, which is private, moves no data; for
 * a device that cannot report errors.  @other is shared.  An IOMMU sees exactly
 * one access that it must refuse.
 */
void verify_blocked(uint32_t page, uint32_t other, bool to_ram);

/* gap.c */
void run_gap(void);

/* rounds.c */
void run_rounds(void);

/* write.c */
void run_write(void);
/* Something new; is it there still? */
void write_page(uint32_t page);
void write_check(uint32_t page);
void write_all(void);
void write_check_all(void);

/* dimm.c */
void run_dimm(void);

/* svm.c */
void run_svm(void);

/* reboot.c */
void reboot_begin(void);
void reboot_once(void);

/* main.c */
/* Pages of the bounce area; the guest fails if that does */
void convert(uint32_t first, uint32_t pages, bool shared);
typedef struct MultibootInfo MultibootInfo;

void guest_main(uint32_t magic, const MultibootInfo *info);

#endif
