/*
 * Output by QEMU's debug console, the end by isa-debug-exit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PORT_DEBUG_CONSOLE      0xe9
#define PORT_DEBUG_EXIT         0xf4
#define PORT_COM1               0x3f8
#define PORT_COM1_LINE_STATUS   (PORT_COM1 + 5)
#define COM1_DATA_READY         0x01

/* QEMU exits with (code << 1) | 1 */
#define EXIT_CODE_PASS          0x10
#define EXIT_CODE_FAIL          0x11

static SpinLock console_lock;

void putch(char c)
{
    outb(PORT_DEBUG_CONSOLE, c);
}

static void put_text(const char *s)
{
    while (*s) {
        putch(*s++);
    }
}

static void print_number(uint32_t val, uint32_t base, bool negative, int width,
                         char pad)
{
    char buf[12];
    int n = 0;

    do {
        buf[n++] = "0123456789abcdef"[val % base];
        val /= base;
    } while (val);
    if (negative) {
        buf[n++] = '-';
    }
    for (; width > n; width--) {
        putch(pad);
    }
    while (n) {
        putch(buf[--n]);
    }
}

/* Knows %s %c %d %u %x %%, a width, and 0 as padding; all of 32 bits */
static void vprint(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        char pad = ' ';
        int width = 0;

        if (*fmt != '%') {
            putch(*fmt);
            continue;
        }
        fmt++;
        if (*fmt == '0') {
            pad = '0';
        }
        for (; *fmt >= '0' && *fmt <= '9'; fmt++) {
            width = width * 10 + (*fmt - '0');
        }
        switch (*fmt) {
        case 's':
            put_text(va_arg(ap, const char *));
            break;
        case 'c':
            putch(va_arg(ap, int));
            break;
        case 'd': {
            int32_t val = va_arg(ap, int32_t);

            print_number(val < 0 ? -(uint32_t)val : (uint32_t)val, 10, val < 0,
                         width, pad);
            break;
        }
        case 'u':
            print_number(va_arg(ap, uint32_t), 10, false, width, pad);
            break;
        case 'x':
            print_number(va_arg(ap, uint32_t), 16, false, width, pad);
            break;
        case '\0':
            return;
        default:
            putch(*fmt);
            break;
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    spin_lock(&console_lock);
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    spin_unlock(&console_lock);
}

static void __attribute__((noreturn)) leave(uint8_t code)
{
    outb(PORT_DEBUG_EXIT, code);
    /* only where there is no isa-debug-exit */
    halt();
}

void fail(const char *fmt, ...)
{
    va_list ap;

    /* for good: the first failure is the last line */
    spin_lock(&console_lock);
    put_text("FAIL: ");
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    putch('\n');
    leave(EXIT_CODE_FAIL);
}

void pass(void)
{
    print("PASS\n");
    leave(EXIT_CODE_PASS);
}

/* The host looks at the state of the machine, then sends a byte */
void wait_for_host(void)
{
    print("PAUSED\n");
    while (!host_has_sent()) {
        asm volatile("pause");
    }
}

bool host_has_sent(void)
{
    if (!(inb(PORT_COM1_LINE_STATUS) & COM1_DATA_READY)) {
        return false;
    }
    inb(PORT_COM1);
    return true;
}
