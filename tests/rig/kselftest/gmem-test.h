/*
 * Huge pages in a guest_memfd: what the parts of its test share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_RIG_KSELFTEST_GMEM_TEST_H
#define TESTS_RIG_KSELFTEST_GMEM_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "../probes/gmem.h"

#define ARRAY_SIZE(x)   (sizeof(x) / sizeof((x)[0]))

/* Where the pages of a file are from */
struct provider {
    const char *name;
    uint64_t flag;
    unsigned order;     /* of a huge page */
    uint64_t huge;      /* how many of them the file of a case has */
};

extern const struct provider *provider;

/* Which folios a huge page consists of while parts of it are shared */
enum scheme { FLAT, STAGED, LOG };

extern enum scheme scheme;

#define PMD_ORDER       9

/* Options */
extern unsigned int seed;
extern unsigned int conversions;

/* A software-protected VM, of the case */
extern int kvm;
extern int vm;

/* Results: tap.c */

struct test_case {
    const char *name;
    void (*run)(void);
};

/*
 * Run those whose names have one of @words, or all without a word, each in a
 * process; false if one has failed
 */
bool run_cases(const struct test_case *cases, unsigned number,
               char *const *words);

/* A check of a case, which goes on anyway */
#define CHECK(condition, ...) \
    check(condition, __FILE__, __LINE__, #condition, " " __VA_ARGS__)

/* Without this the case cannot go on */
#define NEED(condition, ...) \
    do { \
        if (!CHECK(condition, __VA_ARGS__)) { \
            end_case(); \
        } \
    } while (0)

bool __attribute__((format(printf, 5, 6)))
check(bool ok, const char *file, int line, const char *what, const char *fmt,
      ...);
void end_case(void) __attribute__((noreturn));
void skip(const char *fmt, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
/* A comment */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Numbers of the kernel: counters.c */

struct counters {
    long free;          /* of the pool */
    long reserved;
    long vmemmap;       /* pages of all struct pages, of whatever memory */
};

bool has_pool(void);
/* Is the vmemmap of the pool's pages folded (HVO)? */
bool folds(void);
long pool_counter(const char *name);
struct counters counters(void);
/* True as soon as they are as @wanted, false if they never are */
bool become(struct counters wanted);
/* Of a VM, from its binary statistics */
long statistic(int vm_fd, const char *name);
long read_number(const char *path);
/* Large folios of all files, by debugfs */
long large_folios(unsigned order);
bool write_text(const char *path, const char *text);

/* Files: memory.c */

/*
 * A mapped guest_memfd, at an address that is aligned as its huge pages are,
 * and what is known about each page of it
 */
struct memory {
    int fd;
    uint64_t pages;
    uint8_t *map;
    uint8_t *shared;
    uint32_t *stamp;    /* what has been written, 0: nothing */
    uint64_t *frame;    /* of each huge page; 0: not known */
    bool *there;        /* each huge page: allocated */
};

/* A file descriptor, or -1 and errno */
int create(int vm_fd, uint64_t flags, uint64_t size, uint64_t reserved);

/* The provider's, with more flags */
struct memory new_memory(uint64_t flags);
/* All of it allocated, and the frames known */
struct memory new_allocated(void);
void drop_memory(struct memory *m);

uint64_t huge_pages(void);      /* How many small pages a huge one has */
uint64_t first_of(unsigned huge);

int convert(struct memory *m, uint64_t page, uint64_t pages, bool private,
            uint64_t *error);
/* 0 or an errno */
int punch(struct memory *m, uint64_t page, uint64_t pages);
int allocate(struct memory *m, uint64_t page, uint64_t pages);
/* That is in order, and is known afterwards */
void note_punched(struct memory *m, uint64_t page, uint64_t pages);

/* Words of a page, read and written by the host; false for SIGBUS */
bool peek(struct memory *m, uint64_t page, unsigned word, uint64_t *value);
bool poke(struct memory *m, uint64_t page, unsigned word, uint64_t value);

#define LAST_WORD       (PAGE / 8 - 1)
/* What words of a page are: an upper half that says which page it is */
uint64_t word_of(uint64_t page, uint32_t stamp);
bool belongs(uint64_t page, uint64_t value);

/* Write something new to a shared page */
bool stamp_page(struct memory *m, uint64_t page);
/* It is as it should be: SIGBUS, or what was written */
bool right(struct memory *m, uint64_t page);
/* So are all, or @number at random and those at the ends */
bool all_right(struct memory *m);
bool some_right(struct memory *m, unsigned number);

/* A page at random */
uint64_t any(uint64_t below);

/* What should be, by the rules of the scheme: model.c */

/* The order of the folio that each page of a huge page is in */
void model_orders(const struct memory *m, unsigned huge, uint8_t *orders);
/* vmemmap pages more than when all huge pages are whole */
long model_vmemmap(const struct memory *m);

/* What is: folios.c */

/* Learn where each huge page is, from its first page, shared for a moment */
void learn_frames(struct memory *m);
/* The folios of a huge page are those of the model */
bool folios_right(struct memory *m, unsigned huge);
bool all_folios_right(struct memory *m);

/* What holds a page: hold.c */

struct holder {
    const char *name;
    bool (*hold)(void *page);
    void (*release)(void);
};

extern const struct holder holders[3];

/* Cases */

void case_create_arguments(void);
void case_create_short(void);
void case_create_init_shared(void);
void case_fallocate_arguments(void);

void case_counters(void);
void case_close_broken(void);
void case_close_pinned(void);
void case_punch_pinned(void);
void case_punch_part(void);
void case_punch(void);
void case_pool_shrinks(void);
void case_node(void);
void case_node_empty(void);

void case_mount_pool(void);
void case_mount_tmpfs(void);
void case_memcg(void);
void case_hugetlb_cgroup(void);

void case_convert_data(void);
void case_convert_unallocated(void);
void case_layouts(void);
void case_busy(void);
void case_mlock(void);

void case_nomem_shared(void);
void case_nomem_private(void);
void case_nomem_allocate(void);
void case_nomem_create(void);
void case_nomem_random(void);

void case_storm(void);
void case_storm_beside(void);
void case_storm_merge(void);

void case_broken(void);

void case_guest_levels(void);
void case_guest_data(void);
void case_guest_storm(void);

#endif
