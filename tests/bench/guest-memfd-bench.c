/*
 * What the benchmarks of guest_memfd memory share
 *
 * A request makes a range shared that is private, the next one makes it private
 * again; so the layout stays what it is:
 *
 *  uniform: all private;
 *  mixed:   the first page of each 2 MiB is shared, the rest is private.
 *
 * With --ops as many pairs of requests are made, at the same places each time,
 * else for about --ms milliseconds.  Time is that of the CPU, which counts no
 * other program; threads are measured by the clock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "guest-memfd-bench.h"

#define PAGE (4 * KiB)
#define HUGE_PAGE (2 * MiB)
#define PLACES 65536
#define FEW_PLACES 1024         /* enough for --ops, and quick under valgrind */
#define MAX_STEP 256            /* pairs between two looks at the clock */
#define MIN_PAIRS 16
#define MAX_THREADS 64

static char *groups, *layouts, *sizes, *requests, *threads;
static int64_t ops;
static int64_t ms = 50;

static const GOptionEntry entries[] = {
    { "groups", 0, 0, G_OPTION_ARG_STRING, &groups,
      "only these, separated by commas", "A,B" },
    { "layouts", 0, 0, G_OPTION_ARG_STRING, &layouts,
      "uniform, mixed", "A,B" },
    { "sizes", 0, 0, G_OPTION_ARG_STRING, &sizes,
      "sizes of the block", "1G,1T" },
    { "requests", 0, 0, G_OPTION_ARG_STRING, &requests,
      "sizes of requests", "4K,2M" },
    { "threads", 0, 0, G_OPTION_ARG_STRING, &threads,
      "instead: so many threads at once, --ops pairs each", "1,2" },
    { "ops", 0, 0, G_OPTION_ARG_INT64, &ops, "pairs of requests", "N" },
    { "ms", 0, 0, G_OPTION_ARG_INT64, &ms, "time for each case", "N" },
    { }
};

typedef struct Case {
    const BenchTarget *target;
    void *opaque;
    uint64_t size;
    uint64_t request;
    bool mixed;
    unsigned step;
    unsigned places;
    uint64_t *at;               /* so many offsets */
} Case;

static bool chosen(const char *list, const char *name)
{
    g_auto(GStrv) names = list ? g_strsplit(list, ",", -1) : NULL;

    return !names || g_strv_contains((const char *const *)names, name);
}

/* The next of a list of sizes; false at its end */
static bool next_size(char ***words, uint64_t *size)
{
    if (!**words) {
        return false;
    }
    if (qemu_strtosz(*(*words)++, NULL, size) < 0 || !*size) {
        error_report("'%s' is no size", (*words)[-1]);
        exit(1);
    }
    return true;
}

static void print(const Case *c, const char *group, const char *what,
                  const char *metric, double value)
{
    printf("{\"group\": \"%s\", \"case\": \"%s\", \"side\": \"%s\", "
           "\"metric\": \"%s\", \"value\": %.2f}\n", group, what,
           c->target->side, metric, value);
    fflush(stdout);
}

/*
 * Random places.  Those of one step differ, for it is mended only after it;
 * requests of a page leave out the ones that are shared in a mixed layout.
 */
static void choose_places(Case *c)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint64_t nr = c->size / c->request;

    c->places = ops && !threads ? FEW_PLACES : PLACES;
    c->step = c->mixed ? MAX(1, MIN(MAX_STEP, nr / 2)) : MAX_STEP;
    for (unsigned i = 0; i < c->places; i++) {
        bool again;

        do {
            uint64_t r = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

            c->at[i] = r % nr * c->request;
            again = c->request < HUGE_PAGE && c->at[i] % HUGE_PAGE == 0;
            for (unsigned j = i - MIN(i, c->step - 1); c->mixed && j < i; j++) {
                again |= c->at[j] == c->at[i];
            }
        } while (again);
    }
}

/* Downwards: QEMU's search for the next shared page is short then. */
static void mix(Case *c, uint64_t start, uint64_t end)
{
    for (uint64_t o = end; o > start; o -= HUGE_PAGE) {
        c->target->convert(c->opaque, o - HUGE_PAGE, PAGE, false);
    }
}

static void convert_and_back(Case *c, uint64_t offset)
{
    c->target->convert(c->opaque, offset, c->request, false);
    c->target->convert(c->opaque, offset, c->request, true);
}

/* A request that does nothing would be fast. */
static void check(Case *c, uint64_t offset)
{
    uint64_t last = offset + c->request - PAGE;

    c->target->convert(c->opaque, offset, c->request, false);
    g_assert_false(c->target->is_private(c->opaque, offset));
    g_assert_false(c->target->is_private(c->opaque, last));
    c->target->convert(c->opaque, offset, c->request, true);
    g_assert_true(c->target->is_private(c->opaque, offset));
    g_assert_true(c->target->is_private(c->opaque, last));
    if (c->mixed && c->request > PAGE) {
        mix(c, offset, offset + c->request);
        g_assert_false(c->target->is_private(c->opaque, offset));
        g_assert_true(c->target->is_private(c->opaque, last));
    }
}

static int64_t cpu_clock(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
}

/* Nanoseconds a request; steps grow until reading the clock is nothing. */
static double measure(Case *c)
{
    int64_t spent = 0, done = 0, step = 1;

    while (ops ? done < ops : spent < ms * SCALE_MS || done < MIN_PAIRS) {
        const uint64_t *at = c->at + done % c->places;
        int64_t nr = MIN(step, c->places - done % c->places);
        int64_t start, elapsed;

        nr = ops ? MIN(nr, ops - done) : nr;
        start = cpu_clock();
        for (unsigned i = 0; i < nr; i++) {
            convert_and_back(c, at[i]);
        }
        elapsed = cpu_clock() - start;
        spent += elapsed;
        done += nr;
        if (elapsed < SCALE_MS) {
            step = MIN(2 * step, c->step);
        }
        for (unsigned i = 0; c->mixed && c->request > PAGE && i < nr; i++) {
            mix(c, at[i], at[i] + c->request);
        }
    }
    return spent / 2.0 / done;
}

static void measure_requests(Case *c, const char *what)
{
    g_auto(GStrv) words = g_strsplit(requests ?: "4K,2M,1G", ",", -1);
    char **word = words;

    while (next_size(&word, &c->request)) {
        g_autofree char *size = size_to_str(c->request);
        g_autofree char *name = g_strdup_printf("%s by %s", what, size);

        choose_places(c);
        check(c, c->at[0]);
        print(c, c->target->group, name, "ns", measure(c));
    }
}

static void measure_layouts(const BenchTarget *target, uint64_t size)
{
    static const char *const names[] = { "uniform", "mixed" };
    g_autofree uint64_t *at = g_new(uint64_t, PLACES);
    g_autofree char *size_name = size_to_str(size);

    for (int mixed = 0; mixed < 2; mixed++) {
        Case c = { .target = target, .size = size, .mixed = mixed, .at = at };
        g_autofree char *what = g_strdup_printf("%s %s", size_name,
                                                names[mixed]);

        if (!chosen(layouts, names[mixed])) {
            continue;
        }
        c.opaque = target->create(size);
        if (mixed) {
            mix(&c, 0, size);
        }
        if (target->bytes) {
            print(&c, "memory", what, "bytes", target->bytes(c.opaque));
        }
        measure_requests(&c, what);
        target->destroy(c.opaque);
    }
}

/* Several threads, each with its own places */

static QemuEvent go;

static void *convert_many(void *opaque)
{
    Case *c = opaque;

    qemu_event_wait(&go);
    for (int64_t i = 0; i < ops; i++) {
        convert_and_back(c, c->at[i % PLACES]);
    }
    return NULL;
}

/* Thread @n takes every @nr-th 2 MiB. */
static void own_places(Case *c, unsigned n, unsigned nr)
{
    choose_places(c);
    for (unsigned i = 0; i < PLACES; i++) {
        uint64_t huge = c->at[i] / HUGE_PAGE / nr * nr + n;

        c->at[i] = huge * HUGE_PAGE % c->size + c->at[i] % HUGE_PAGE;
    }
}

static void measure_threads(const BenchTarget *target, uint64_t size,
                            unsigned nr, bool same)
{
    g_autofree char *what = g_strdup_printf("%s, %u at once",
                                            same ? "one block" : "own blocks",
                                            nr);
    g_autofree Case *c = g_new0(Case, nr);
    g_autofree QemuThread *thread = g_new(QemuThread, nr);
    int64_t start;

    qemu_event_reset(&go);
    for (unsigned n = 0; n < nr; n++) {
        c[n] = (Case) { .target = target, .size = size, .request = PAGE,
                        .at = g_new(uint64_t, PLACES) };
        c[n].opaque = n && same ? c[0].opaque : target->create(size);
        own_places(&c[n], n, nr);
        qemu_thread_create(&thread[n], "bench", convert_many, &c[n],
                           QEMU_THREAD_JOINABLE);
    }
    start = get_clock();
    qemu_event_set(&go);
    for (unsigned n = 0; n < nr; n++) {
        qemu_thread_join(&thread[n]);
    }
    print(&c[0], "threads", what, "ns",
          (double)(get_clock() - start) / (2 * nr * ops));
    for (unsigned n = 0; n < nr; n++) {
        if (!n || !same) {
            target->destroy(c[n].opaque);
        }
        g_free(c[n].at);
    }
}

static void measure_all_threads(const BenchTarget *target, uint64_t size)
{
    g_auto(GStrv) words = g_strsplit(threads, ",", -1);

    for (char **word = words; *word; word++) {
        uint64_t nr;

        if (qemu_strtou64(*word, NULL, 10, &nr) < 0 || !nr ||
            nr > MAX_THREADS || !ops) {
            error_report("--threads takes numbers up to %d, and --ops",
                         MAX_THREADS);
            exit(1);
        }
        measure_threads(target, size, nr, false);
        if (target->shared_by_threads) {
            measure_threads(target, size, nr, true);
        }
    }
}

int bench_main(int argc, char **argv, const BenchTarget *targets)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_auto(GStrv) words = NULL;
    GError *err = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        error_report("%s", err->message);
        g_error_free(err);
        return 1;
    }
    qemu_event_init(&go, false);
    words = g_strsplit(sizes ?: "1G,16G,256G,1T,4T", ",", -1);
    for (; targets->group; targets++) {
        char **word = words;
        uint64_t size;

        while (chosen(groups, targets->group) && next_size(&word, &size)) {
            if (threads) {
                measure_all_threads(targets, size);
            } else {
                measure_layouts(targets, size);
            }
        }
    }
    return 0;
}
