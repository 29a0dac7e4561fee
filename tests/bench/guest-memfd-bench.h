/*
 * What the benchmarks of guest_memfd memory share
 *
 * Each program measures one way to keep the state of the pages of a block, and
 * prints a record a line, in JSON: group, case, side, metric, value.
 * scripts/bench.py runs them in turn and compares.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_BENCH_H
#define GUEST_MEMFD_BENCH_H

/**
 * struct BenchTarget - something that converts
 *
 * @group: what is measured; compared are targets of the same group
 * @side: "ours" or "qemu"
 */
typedef struct BenchTarget {
    const char *group;
    const char *side;

    /** @create: a block of @size bytes, all private */
    void *(*create)(uint64_t size);

    void (*destroy)(void *opaque);

    /** @convert: one request; whatever fails ends the program */
    void (*convert)(void *opaque, uint64_t offset, uint64_t size,
                    bool to_private);

    /** @is_private: the state of a page */
    bool (*is_private)(void *opaque, uint64_t offset);

    /** @bytes: optional; memory that this takes */
    uint64_t (*bytes)(void *opaque);

    /** @shared_by_threads: may several threads convert one block at once? */
    bool shared_by_threads;
} BenchTarget;

/**
 * bench_main - measure what the command line names
 *
 * @targets: ends with one that has no group
 *
 * Returns: the exit code.
 */
int bench_main(int argc, char **argv, const BenchTarget *targets);

#endif
