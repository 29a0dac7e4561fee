/*
 * DMA does what the model says, and data is right
 *
 * Nothing is assumed about data that was there before: a conversion may lose
 * it.  Each check writes what it expects to find.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

/* Of the device, and of all that follows */
static SpinLock edu_lock;

static uint32_t tag;            /* the last one used */
static uint32_t size;           /* of one transfer */

/* What the device's buffer holds: read from @buffer_addr, which had this tag */
static uint32_t buffer_tag;
static uint32_t buffer_addr;
static uint32_t buffer_size;    /* 0: nothing known */

void verify_set_size(uint32_t bytes)
{
    this_cpu()->dma_size = bytes;
}

static void lock_edu(void)
{
    spin_lock(&edu_lock);
    size = this_cpu()->dma_size;
}

static void unlock_edu(void)
{
    spin_unlock(&edu_lock);
}

static uint32_t pattern(uint32_t t, uint32_t addr)
{
    return (t * 0x9e3779b1u) ^ (addr * 0x01000193u);
}

static void fill(uint32_t addr, uint32_t bytes, uint32_t t)
{
    uint32_t *p = (uint32_t *)(uintptr_t)addr;
    uint32_t i;

    for (i = 0; i < bytes; i += sizeof(*p)) {
        *p++ = pattern(t, addr + i);
    }
}

/* @bytes at @addr are those that fill() once wrote to @from */
static void check(uint32_t addr, uint32_t bytes, uint32_t t, uint32_t from,
                  const char *what)
{
    uint32_t *p = (uint32_t *)(uintptr_t)addr;
    uint32_t i;

    for (i = 0; i < bytes; i += sizeof(*p), p++) {
        if (*p != pattern(t, from + i)) {
            fail("%s: at 0x%x is 0x%x, expected 0x%x", what, addr + i, *p,
                 pattern(t, from + i));
        }
    }
}

static void dma_works(uint32_t addr, bool to_ram)
{
    uint32_t error = edu_dma(addr, size, to_ram);

    if (error) {
        fail("DMA %s shared memory at 0x%x failed: error %u",
             to_ram ? "to" : "from", addr, error);
    }
}

static void dma_fails(uint32_t addr, bool to_ram)
{
    uint32_t error = edu_dma(addr, size, to_ram);

    if (!error) {
        fail("DMA %s private memory at 0x%x succeeded",
             to_ram ? "to" : "from", addr);
    }
    if (error != EDU_UNMAPPED) {
        fail("DMA %s private memory at 0x%x: error %u, expected %u",
             to_ram ? "to" : "from", addr, error, EDU_UNMAPPED);
    }
}

/* Transfers [addr, addr + size), watches [start, start + bytes) around it */
static void verify_shared(uint32_t addr, uint32_t start, uint32_t bytes)
{
    uint32_t end = addr + size;

    /* failed transfers since then have left the device's buffer alone */
    if (buffer_size >= size) {
        dma_works(addr, true);
        check(addr, size, buffer_tag, buffer_addr,
              "the device's buffer changed");
    }

    fill(start, bytes, ++tag);
    dma_works(addr, false);
    buffer_tag = tag;
    buffer_addr = addr;
    buffer_size = size;

    fill(start, bytes, ++tag);
    dma_works(addr, true);
    check(addr, size, buffer_tag, addr, "DMA both ways");
    check(start, addr - start, tag, start, "DMA wrote before its start");
    check(end, start + bytes - end, tag, end, "DMA wrote past its end");
}

static void verify_private(uint32_t addr, uint32_t start, uint32_t bytes)
{
    if (!edu_reports_errors()) {
        return;
    }
    fill(start, bytes, ++tag);
    dma_fails(addr, false);
    dma_fails(addr, true);
    check(start, bytes, tag, start, "failed DMA changed memory");
}

void verify_page(uint32_t page)
{
    uint32_t addr = page_address(page);

    lock_edu();
    addr += rng_below(PAGE_SIZE / size) * size;
    if (model_shared(page)) {
        verify_shared(addr, addr, size);
    } else {
        verify_private(addr, addr, size);
    }
    unlock_edu();
}

void verify_blocked(uint32_t page, uint32_t other, bool to_ram)
{
    uint32_t addr = page_address(page);
    uint32_t seen = page_address(other);
    uint32_t private_tag;

    lock_edu();
    size = sizeof(uint32_t);
    fill(seen, size, ++tag);
    dma_works(seen, false);

    private_tag = ++tag;
    fill(addr, size, private_tag);
    if (edu_reports_errors()) {
        dma_fails(addr, to_ram);
    } else {
        edu_dma(addr, size, to_ram);
        count_add(&count.dma_ok, -1); /* it only seems so */
    }
    check(addr, size, private_tag, addr, "blocked DMA changed memory");

    if (!to_ram) {
        fill(seen, size, ++tag);
        dma_works(seen, true);
        if (*(uint32_t *)(uintptr_t)seen == pattern(private_tag, addr)) {
            fail("DMA has read private memory at 0x%x", addr);
        }
    }
    count_add(&count.blocked, 1);
    /* what the device's buffer holds is not known any more */
    buffer_size = 0;
    unlock_edu();
}

/* One transfer, half of it at the end of @page, half in the next one */
void verify_straddle(uint32_t page)
{
    uint32_t border = page_address(page + 1);

    lock_edu();
    if (model_shared(page) && model_shared(page + 1)) {
        verify_shared(border - size / 2, border - size, 2 * size);
    } else {
        verify_private(border - size / 2, border - size, 2 * size);
    }
    unlock_edu();
}
