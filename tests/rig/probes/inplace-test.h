/*
 * In-place conversion of guest_memfd: what the parts of its test share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VM_INPLACE_TEST_H
#define TESTS_VM_INPLACE_TEST_H

#include <stdbool.h>
#include <stdint.h>

#include "gmem.h"
#include "result.h"

/* A guest_memfd; @map is NULL if it cannot be mapped. */
struct file {
    int fd;
    uint64_t size;
    uint8_t *map;
};

extern int kvm;
extern int vm;      /* software-protected; of all files unless they say else */

/* For what no check can go on without */
int need(int ret, const char *what);

/* The byte that the host sees, -1 for SIGBUS */
int peek(const uint8_t *byte);

/* False for SIGBUS */
bool poke(uint8_t *byte, uint8_t value);

struct file new_file(uint64_t flags, uint64_t size);
void drop_file(struct file *file);

/* What page @i is filled with: never 0 */
uint8_t pattern(uint64_t i);

/* A shared file with a pattern in each page */
struct file new_filled(uint64_t pages);

/* 0 or an errno, with that the page that it is about in @error */
int convert(struct file *file, uint64_t page, uint64_t pages, bool private,
            uint64_t *error);

/* All that a guest sees (inplace-guest.c) */
void check_guest(void);

#endif
