/*
 * A guest for QEMU's machine virt on Arm that converts its memory
 *
 * It runs in physical addresses, on one CPU, and converts pages by
 * guest-memfd-testdev.  After each conversion DMA of edu has to reach what is
 * shared and fail where memory is private.  What it says ends with PASS, or with
 * a line that starts with FAIL; then it waits for QEMU's end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdbool.h>
#include <stdint.h>

#include "../../guest/devices.h"

/* hw/arm/virt.c, with highmem=off */
#define UART        0x09000000u
#define PCI_MMIO    0x10000000u
#define PCI_CONFIG  0x3f000000u

/* What is converted: so many pages, of the host */
#define AREA        0x44000000u
#define PAGES       64u
#define ROUNDS      500u
#define PAGE        4096u

#define EINVAL      22

static bool is_private[PAGES];
static uint32_t testdev, edu, next_bar = PCI_MMIO;

/* volatile: registers of devices, and memory that a device reads and writes */
typedef volatile uint32_t Word;

static Word *word(uint32_t addr)
{
    return (Word *)(uintptr_t)addr;
}

static uint32_t read32(uint32_t addr)
{
    return *word(addr);
}

static void write32(uint32_t addr, uint32_t val)
{
    *word(addr) = val;
}

static void print(const char *s)
{
    for (; *s; s++) {
        write32(UART, *s);
    }
}

static void print_number(uint64_t n)
{
    char digits[21], *p = digits + sizeof(digits) - 1;

    *p = 0;
    do {
        *--p = '0' + n % 10;
    } while (n /= 10);
    print(p);
}

static void __attribute__((noreturn)) stop(const char *s)
{
    print(s);
    print("\n");
    for (;;) {
        asm volatile("wfi");
    }
}

static void __attribute__((noreturn)) fail(const char *what, uint64_t page)
{
    print("FAIL ");
    print(what);
    print(": page ");
    print_number(page);
    stop("");
}

/* Returns: BAR 0 of a device of bus 0, which then decodes it. */
static uint32_t pci_enable(uint32_t vendor, uint32_t device)
{
    for (uint32_t slot = 0; slot < 32; slot++) {
        uint32_t config = PCI_CONFIG + (slot << 15);
        uint32_t bar = next_bar, size;

        if (read32(config) != (device << 16 | vendor)) {
            continue;
        }
        write32(config + 0x10, UINT32_MAX);
        size = -(read32(config + 0x10) & ~0xfu);
        bar = (bar + size - 1) & -size;
        next_bar = bar + size;
        write32(config + 0x10, bar);
        write32(config + 0x04, 6);      /* memory, DMA */
        return bar;
    }
    fail("no PCI device", device);
}

static int convert(uint32_t addr, uint32_t size, bool private)
{
    write32(testdev + TESTDEV_REG_ADDR, addr);
    write32(testdev + TESTDEV_REG_ADDR + 4, 0);
    write32(testdev + TESTDEV_REG_SIZE, size);
    write32(testdev + TESTDEV_REG_SIZE + 4, 0);
    write32(testdev + TESTDEV_REG_COMMAND,
            private ? TESTDEV_TO_PRIVATE : TESTDEV_TO_SHARED);
    return read32(testdev + TESTDEV_REG_STATUS);
}

/* Returns: whether the device could reach the page. */
static bool dma(uint32_t page, bool to_ram)
{
    uint32_t addr = AREA + page * PAGE;

    write32(edu + EDU_REG_DMA_SRC, to_ram ? EDU_BUF_START : addr);
    write32(edu + EDU_REG_DMA_DST, to_ram ? addr : EDU_BUF_START);
    write32(edu + EDU_REG_DMA_COUNT, PAGE);
    write32(edu + EDU_REG_DMA_CMD,
            EDU_DMA_RUN | (to_ram ? EDU_DMA_TO_RAM : 0));
    while (read32(edu + EDU_REG_DMA_CMD) & EDU_DMA_RUN) {
        asm volatile("yield");
    }
    return !read32(edu + EDU_REG_DMA_ERROR);
}

static void fill(uint32_t page, uint32_t seed)
{
    for (uint32_t i = 0; i < PAGE / 4; i++) {
        word(AREA + page * PAGE)[i] = seed + i;
    }
}

static void verify(uint32_t page, uint32_t seed)
{
    for (uint32_t i = 0; i < PAGE / 4; i++) {
        if (word(AREA + page * PAGE)[i] != seed + i) {
            fail("wrong data", page);
        }
    }
}

/* The device copies one page to the other, if it may. */
static void check_dma(uint32_t from, uint32_t to, uint32_t seed)
{
    fill(from, seed);
    fill(to, ~seed);
    if (dma(from, false) == is_private[from]) {
        fail(is_private[from] ? "DMA from a private page" :
                                "no DMA from a page", from);
    }
    if (is_private[from]) {
        return;
    }
    if (dma(to, true) == is_private[to]) {
        fail(is_private[to] ? "DMA to a private page" : "no DMA to a page", to);
    }
    verify(from, seed);
    verify(to, is_private[to] ? ~seed : seed);
}

static uint32_t random_below(uint32_t limit)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
}

void guest_main(void)
{
    uint32_t private_pages = 0;

    testdev = pci_enable(TESTDEV_VENDOR_ID, TESTDEV_DEVICE_ID);
    edu = pci_enable(EDU_VENDOR_ID, EDU_DEVICE_ID);
    if (convert(AREA + 1, PAGE, true) != -EINVAL ||
        convert(AREA, PAGE / 2, true) != -EINVAL ||
        convert(UART, PAGE, true) != -EINVAL) {
        fail("a bad request is granted", 0);
    }
    if (convert(AREA, PAGES * PAGE, false)) {
        fail("all cannot be shared", 0);
    }
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t page = random_below(PAGES);
        uint32_t nr = 1 + random_below(page + 8 < PAGES ? 8 : PAGES - page);
        bool private = random_below(2);

        if (convert(AREA + page * PAGE, nr * PAGE, private)) {
            fail("a request is refused", page);
        }
        for (uint32_t j = page; j < page + nr; j++) {
            is_private[j] = private;
        }
        page = random_below(PAGES);
        check_dma(page, (page + 1 + random_below(PAGES - 1)) % PAGES, i << 16);
    }
    for (uint32_t i = 0; i < PAGES; i++) {
        private_pages += is_private[i];
    }
    print("private ");
    print_number(private_pages);
    stop("\nPASS");
}

/* A stack, and zeroes where the program wants some; QEMU has put them there. */
asm(".section .text.start, \"ax\"\n"
    ".global _start\n"
    "_start:\n"
    "    adrp x0, stack_end\n"
    "    add x0, x0, :lo12:stack_end\n"
    "    mov sp, x0\n"
    "    b guest_main\n"
    ".bss\n"
    ".balign 16\n"
    "    .skip 16384\n"
    "stack_end:\n");
