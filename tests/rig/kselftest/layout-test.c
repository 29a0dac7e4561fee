/*
 * Which folios a guest_memfd's huge page consists of (virt/kvm/gmem_layout.h of
 * the rig's kernel): all sets of shared pages of a small huge page, and random
 * ones of 2 MiB and of 1 GiB.  Prints TAP.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gmem_layout.h"

#define MOST    (1ul << 18)

static const char *const names[] = { "flat", "staged", "log" };

static unsigned long sums[MOST + 1];    /* shared pages before each */
static unsigned char orders[MOST];
static int test;
static bool failed;

static bool is_shared(void *arg, unsigned long start, unsigned long nr)
{
    const unsigned long *first = arg;

    return sums[start - *first + nr] != sums[start - *first];
}

static bool allowed(enum gmem_scheme scheme, unsigned max, unsigned pmd,
                    unsigned order)
{
    return !order || order == max || scheme == GMEM_LOG ||
        (scheme == GMEM_STAGED && order == pmd && pmd < max);
}

/* How few folios there can be: of all ways to divide it in halves again */
static unsigned long fewest(enum gmem_scheme scheme, unsigned max, unsigned pmd,
                            unsigned long start, unsigned order)
{
    unsigned long half = (1ul << order) / 2;

    if (!order || (allowed(scheme, max, pmd, order) &&
                   sums[start + 2 * half] == sums[start])) {
        return 1;
    }
    return fewest(scheme, max, pmd, start, order - 1) +
        fewest(scheme, max, pmd, start + half, order - 1);
}

/* NULL, or what is wrong; @first is the index of the huge page */
static const char *problem(enum gmem_scheme scheme, unsigned max, unsigned pmd,
                           unsigned long first)
{
    unsigned long pages = 1ul << max, count = 0;

    for (unsigned long i = 0; i < pages; i++) {
        orders[i] = gmem_layout_order(scheme, max, pmd, first + i, is_shared,
                                      &first);
    }
    for (unsigned long i = 0; i < pages; count++) {
        unsigned order = orders[i];
        unsigned long size = 1ul << order;

        if (!allowed(scheme, max, pmd, order)) {
            return "a size that the scheme does not have";
        }
        if (i & (size - 1)) {
            return "a folio is not aligned";
        }
        for (unsigned long k = 1; k < size; k++) {
            if (orders[i + k] != order) {
                return "the pages of a folio do not agree on its size";
            }
        }
        if (order && sums[i + size] != sums[i]) {
            return "a shared page is in a folio with others";
        }
        i += size;
    }
    if (count != fewest(scheme, max, pmd, 0, max)) {
        return "there could be fewer folios";
    }
    return NULL;
}

static void result(const char *what, enum gmem_scheme scheme, const char *why)
{
    printf("%sok %d - %s, %s\n", why ? "not " : "", ++test, names[scheme],
           what);
    if (why) {
        printf("# %s\n", why);
    }
    failed |= !!why;
}

static void share_bits(unsigned long bits, unsigned long pages)
{
    for (unsigned long i = 0; i < pages; i++) {
        sums[i + 1] = sums[i] + (bits >> i & 1);
    }
}

/* All sets of shared pages of a huge page of 16 pages */
static void all_sets(enum gmem_scheme scheme)
{
    const unsigned max = 4;
    const char *why = NULL;

    for (unsigned pmd = 2; pmd <= max; pmd += 2) {
        for (unsigned long bits = 0; !why && bits < 1ul << (1 << max); bits++) {
            share_bits(bits, 1ul << max);
            why = problem(scheme, max, pmd, 0);
        }
    }
    result("all sets of 16 pages", scheme, why);
}

/* Runs of shared pages, as many and as long as chance has it */
static void share_at_random(unsigned long pages)
{
    static unsigned char shared[MOST];
    long runs = random() % 2 ? random() % 4 : random() % 200;

    memset(shared, 0, pages);
    while (runs--) {
        unsigned long start = random() % pages;
        unsigned long length = 1ul << random() % 12;

        for (unsigned long i = 0; i < length && start + i < pages; i++) {
            shared[start + i] = 1;
        }
    }
    for (unsigned long i = 0; i < pages; i++) {
        sums[i + 1] = sums[i] + shared[i];
    }
}

static void random_sets(enum gmem_scheme scheme, unsigned max, unsigned number,
                        const char *what)
{
    const char *why = NULL;

    srandom(1);
    while (!why && number--) {
        share_at_random(1ul << max);
        /* Not the first one of its file */
        why = problem(scheme, max, 9, (unsigned long)random() % 64 << max);
    }
    result(what, scheme, why);
}

/* The figures that are known: one page, of 1 GiB and of 2 MiB */
static void one_page(enum gmem_scheme scheme, unsigned max,
                     unsigned long wanted, const char *what)
{
    unsigned long pages = 1ul << max, count = 0, zero = 0;

    for (unsigned long i = 0; i < pages; i++) {
        sums[i + 1] = i >= 5;
    }
    for (unsigned long i = 0; i < pages; count++) {
        i += 1ul << gmem_layout_order(scheme, max, 9, i, is_shared, &zero);
    }
    result(what, scheme, count == wanted ? NULL : "another number of folios");
}

int main(void)
{
    static const unsigned long of_1g[] = { 1 << 18, 511 + 512, 19 };
    static const unsigned long of_2m[] = { 512, 512, 10 };

    printf("TAP version 14\n1..%d\n", 5 * 3);
    for (int scheme = GMEM_FLAT; scheme <= GMEM_LOG; scheme++) {
        all_sets(scheme);
        random_sets(scheme, 9, 2000, "random sets of 2 MiB");
        random_sets(scheme, 18, 20, "random sets of 1 GiB");
        one_page(scheme, 9, of_2m[scheme], "one page of 2 MiB");
        one_page(scheme, 18, of_1g[scheme], "one page of 1 GiB");
    }
    return failed;
}
