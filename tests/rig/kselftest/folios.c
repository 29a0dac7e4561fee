/*
 * Which folios there are, from /proc/kpageflags
 *
 * Private pages are in no page table, so /proc/self/pagemap does not say where
 * they are: a page of each huge page is shared for a moment, and the others are
 * beside it, as the memory of a file does not move.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/kernel-page-flags.h>

#include "gmem-test.h"

#define PRESENT         (1ull << 63)    /* in an entry of pagemap */
#define FRAME           ((1ull << 55) - 1)

static uint64_t frame_of(struct memory *m, uint64_t page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0, value, at = (uintptr_t)m->map / PAGE + page;

    NEED(fd >= 0 && peek(m, page, 0, &value));
    NEED(pread(fd, &entry, sizeof(entry), at * sizeof(entry)) ==
         sizeof(entry) && entry & PRESENT && entry & FRAME,
         "the frame of page 0x%lx", page);
    close(fd);
    return entry & FRAME;
}

void learn_frames(struct memory *m)
{
    for (unsigned huge = 0; huge < provider->huge; huge++) {
        uint64_t page = first_of(huge);
        bool private = !m->shared[page];

        if (private) {
            NEED(!convert(m, page, 1, false, NULL));
        }
        m->frame[huge] = frame_of(m, page);
        m->there[huge] = true;
        if (m->frame[huge] & (huge_pages() - 1)) {
            /* No pool can have such a page. */
            NEED(!has_pool(), "frame 0x%lx", m->frame[huge]);
            skip("the kernel found no huge page");
        }
        if (private) {
            NEED(!convert(m, page, 1, true, NULL));
        }
    }
}

static bool flags_right(const uint64_t *flags, const uint8_t *orders,
                        uint64_t first)
{
    for (uint64_t i = 0; i < huge_pages(); i++) {
        bool large = orders[i];
        bool head = large && !(i & ((1ull << orders[i]) - 1));
        uint64_t wanted = !large ? 0 : head ? 1ull << KPF_COMPOUND_HEAD :
            1ull << KPF_COMPOUND_TAIL;
        uint64_t mask = 1ull << KPF_COMPOUND_HEAD | 1ull << KPF_COMPOUND_TAIL |
            1ull << KPF_HUGE | 1ull << KPF_BUDDY | 1ull << KPF_NOPAGE;

        if (!CHECK((flags[i] & mask) == wanted,
                   "page 0x%lx is to be in a folio of order %u: flags 0x%lx",
                   first + i, orders[i], flags[i])) {
            return false;
        }
    }
    return true;
}

bool folios_right(struct memory *m, unsigned huge)
{
    size_t size = huge_pages() * sizeof(uint64_t);
    uint64_t *flags = malloc(size);
    uint8_t *orders = malloc(huge_pages());
    int fd = open("/proc/kpageflags", O_RDONLY);
    bool ok;

    NEED(m->frame[huge], "huge page %u has a frame", huge);
    ok = CHECK(fd >= 0) &&
        CHECK(pread(fd, flags, size, m->frame[huge] * sizeof(uint64_t)) ==
              (ssize_t)size, "/proc/kpageflags");
    model_orders(m, huge, orders);
    ok = ok && flags_right(flags, orders, first_of(huge));
    close(fd);
    free(orders);
    free(flags);
    return ok;
}

/* The kernel's own counters, where no other file has large folios */
static bool numbers_right(struct memory *m)
{
    uint8_t *orders = malloc(huge_pages());
    bool ok = true;

    for (unsigned order = 1; order <= provider->order; order++) {
        uint64_t pages = 0;

        for (unsigned huge = 0; huge < provider->huge; huge++) {
            model_orders(m, huge, orders);
            for (uint64_t i = 0; m->there[huge] && i < huge_pages(); i++) {
                pages += orders[i] == order;
            }
        }
        ok &= CHECK(large_folios(order) == (long)(pages >> order),
                    "folios of order %u: %lu", order, pages >> order);
    }
    free(orders);
    return ok;
}

bool all_folios_right(struct memory *m)
{
    bool ok = numbers_right(m);

    for (unsigned huge = 0; huge < provider->huge; huge++) {
        ok &= folios_right(m, huge);
    }
    return ok;
}
