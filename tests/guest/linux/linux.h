/*
 * The first process of a Linux guest: what its parts share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_GUEST_LINUX_H
#define TESTS_GUEST_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIB             (1024 * 1024ul)
#define PAGE_SIZE       4096ul
#define HUGE_PAGE_SIZE  (2 * MIB)
#define HUGE_PAGE_PAGES (HUGE_PAGE_SIZE / PAGE_SIZE)
#define NR_WORKERS      2
#define NR_FILLERS      2

/* What the guest is asked to do (arguments after "--" on the command line) */
typedef struct Options {
    uint64_t ops;               /* random operations of each worker */
    uint64_t seed;
    uint64_t fill;              /* MiB of memory that is filled and verified */
    uint64_t private;           /* the state of all memory at the start */
    const char *disk;           /* a device, or a file of the share */
    const char *share;          /* the tag of a directory of the host, or NULL */
} Options;

extern Options opt;

/* init.c */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void fail(const char *fmt, ...)
    __attribute__((format(printf, 1, 2), noreturn));
void mount_at(const char *source, const char *type, const char *path);
uint64_t random_next(uint64_t *state);
/* The guest physical address of what is mapped there */
uint64_t physical_address(const void *page);

/* device.c */
typedef struct Testdev {
    uint8_t *bar;
} Testdev;

void devices_init(void);
void testdev_init(Testdev *d, unsigned int n);
/* 0 or -errno */
int testdev_convert(Testdev *d, uint64_t gpa, uint64_t size, bool to_private);
/* DMA of up to a page, out of and into memory: 0 or the errno */
unsigned int edu_copy(uint64_t from, uint64_t to, uint64_t size);

/* fill.c */
void fill_start(void);
/* Its memory is free afterwards. */
void fill_stop(void);

/* worker.c */
void workers_run(void);

/* share.c */
void share_mount(void);
/* Copy what is opt.disk within the directory. */
void share_copy(void);

#endif /* TESTS_GUEST_LINUX_H */
