/*
 * Random numbers of a CPU: xorshift32, the same for the same seed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

void rng_seed(uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 0x6b43a9b5;

    /* zero is the one state that it never leaves */
    this_cpu()->rng = state ?: 1;
}

uint32_t rng(void)
{
    uint32_t state = this_cpu()->rng;

    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    this_cpu()->rng = state;
    return state;
}

uint32_t rng_below(uint32_t n)
{
    return ((uint64_t)rng() * n) >> 32;
}
