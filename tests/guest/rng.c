/*
 * Random numbers: xorshift32, the same for the same seed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

static uint32_t state = 1;

void rng_seed(uint32_t seed)
{
    /* zero is the one state that it never leaves */
    state = seed * 2654435761u + 0x6b43a9b5;
    if (!state) {
        state = 1;
    }
}

uint32_t rng(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

uint32_t rng_below(uint32_t n)
{
    return ((uint64_t)rng() * n) >> 32;
}
