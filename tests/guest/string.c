/*
 * The few library functions that the guest needs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;

    asm volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
    void *d = dst;

    asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return dst;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (uint8_t)*a - (uint8_t)*b;
}

/* The value, if @word is "key=value"; else NULL */
const char *option(const char *word, const char *key)
{
    while (*key && *word == *key) {
        word++;
        key++;
    }
    return !*key && *word == '=' ? word + 1 : NULL;
}

uint32_t parse_number(const char *key, const char *s)
{
    uint32_t val = 0;
    const char *p = s;

    for (; *p >= '0' && *p <= '9' && val <= 99999999; p++) {
        val = val * 10 + (*p - '0');
    }
    if (p == s || *p) {
        fail("%s=%s is no number", key, s);
    }
    return val;
}
