/*
 * Random conversions, compared with a model, alone and beside others
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gmem-test.h"

/* A range of [0, @end): single pages, some, parts of a huge page, and more */
static void random_range(uint64_t end, uint64_t *page, uint64_t *pages)
{
    const uint64_t most[] = { 1, 16, 600, huge_pages(), 2 * huge_pages() };

    *page = any(end);
    *pages = 1 + any(most[any(ARRAY_SIZE(most))]);
    if (!any(4)) {
        *page &= -huge_pages();
    }
    if (*page + *pages > end) {
        *pages = end - *page;
    }
}

static void look_around(struct memory *m, uint64_t page, uint64_t pages)
{
    const uint64_t where[] = { page - 1, page, page + any(pages),
                               page + pages - 1, page + pages };

    for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
        if (where[i] < m->pages) {
            CHECK(right(m, where[i]));
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        uint64_t written = page + any(pages);

        if (m->shared[written]) {
            NEED(stamp_page(m, written));
        }
    }
}

void case_storm(void)
{
    /* To look at the folios of 1 GiB takes as long as ten conversions. */
    unsigned every = provider->order == 9 ? 1 : 16;
    struct memory m = new_allocated();
    struct counters whole = counters();

    for (unsigned i = 0; i < conversions; i++) {
        struct counters wanted = whole;
        bool private = random() & 1;
        uint64_t page, pages;

        random_range(m.pages, &page, &pages);
        NEED(!convert(&m, page, pages, private, NULL), "conversion %u: pages "
             "0x%lx to 0x%lx, %s", i, page, page + pages,
             private ? "private" : "shared");
        look_around(&m, page, pages);
        if (i % every == 0) {
            wanted.vmemmap += model_vmemmap(&m);
            CHECK(become(wanted), "conversion %u: vmemmap: %ld, wanted %ld", i,
                  counters().vmemmap - whole.vmemmap, model_vmemmap(&m));
            NEED(all_folios_right(&m),
                 "conversion %u: pages 0x%lx to 0x%lx, %s", i, page,
                 page + pages, private ? "private" : "shared");
        }
    }
    CHECK(provider->order == 9 ? all_right(&m) : some_right(&m, 5000));
    NEED(!convert(&m, 0, m.pages, true, NULL));
    CHECK(all_folios_right(&m) && become(whole));
    drop_memory(&m);
}

/* What others do meanwhile; the last huge page is punched, too */

static struct memory shared_memory;
static bool stop;

static bool stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

/* Page faults: what is read belongs to that page. */
static void fault(unsigned *state)
{
    uint64_t page = rand_r(state) % shared_memory.pages, value = 0;
    /* Of no page of the model */
    const unsigned word = 8;

    if (peek(&shared_memory, page, LAST_WORD, &value)) {
        CHECK(belongs(page, value), "page 0x%lx: 0x%lx", page, value);
    }
    poke(&shared_memory, page, word, word_of(page, 1));
    if (peek(&shared_memory, page, word, &value)) {
        CHECK(belongs(page, value), "page 0x%lx: 0x%lx", page, value);
    }
}

static void call_mincore(unsigned *state)
{
    static unsigned char there[1 << 19];

    (void)state;
    CHECK(!mincore(shared_memory.map, shared_memory.pages * PAGE, there));
}

/* As others do who find a page and don't know yet what it is */
static void find_page(unsigned *state)
{
    uint64_t page = rand_r(state) % huge_pages();
    unsigned char there;

    CHECK(!mincore(shared_memory.map + page * PAGE, PAGE, &there));
}

static void call_punch(unsigned *state)
{
    uint64_t last = shared_memory.pages - huge_pages();
    int ret;

    if (rand_r(state) & 1) {
        ret = punch(&shared_memory, last, huge_pages());
    } else {
        ret = fallocate(shared_memory.fd, FALLOC_FL_KEEP_SIZE, last * PAGE,
                        PAGE << provider->order) ? errno : 0;
    }
    CHECK(!ret || ret == EAGAIN, "%s", strerror(ret));
}

static void compact(unsigned *state)
{
    (void)state;
    CHECK(write_text("/proc/sys/vm/compact_memory", "1"));
}

static void lock(unsigned *state)
{
    uint64_t page = rand_r(state) % (shared_memory.pages - 8);

    /* It fails for private pages, but locks those before them. */
    mlock(shared_memory.map + page * PAGE, 8 * PAGE);
    munlock(shared_memory.map + page * PAGE, 8 * PAGE);
}

static void look(unsigned *state)
{
    unsigned huge = rand_r(state) % provider->huge;
    uint64_t frame = shared_memory.frame[huge] + rand_r(state) % huge_pages();
    uint64_t flags[64];
    int fd = open("/proc/kpageflags", O_RDONLY);

    CHECK(fd >= 0 && pread(fd, flags, sizeof(flags),
                           (frame & -64ull) * 8) == sizeof(flags));
    close(fd);
}

struct helper {
    void (*work)(unsigned *state);
    unsigned least;     /* rounds */
    unsigned rounds;
    pthread_t thread;
};

static void *help(void *opaque)
{
    struct helper *helper = opaque;
    unsigned state = seed;

    while (!stopped()) {
        helper->work(&state);
        __atomic_add_fetch(&helper->rounds, 1, __ATOMIC_RELAXED);
        sched_yield();
    }
    return NULL;
}

static void start_helpers(struct helper *helpers, unsigned number)
{
    stop = false;
    for (unsigned i = 0; i < number; i++) {
        NEED(!pthread_create(&helpers[i].thread, NULL, help, &helpers[i]));
    }
}

static void stop_helpers(struct helper *helpers, unsigned number)
{
    stop = true;
    for (unsigned i = 0; i < number; i++) {
        pthread_join(helpers[i].thread, NULL);
    }
}

static bool all_helped(struct helper *helpers, unsigned number)
{
    for (unsigned i = 0; i < number; i++) {
        if (__atomic_load_n(&helpers[i].rounds, __ATOMIC_RELAXED) <
            helpers[i].least) {
            return false;
        }
    }
    return true;
}

/* A page may have a reference for a moment. */
static int convert_again(struct memory *m, uint64_t page, uint64_t pages,
                         bool private, unsigned *again)
{
    int ret;

    while ((ret = convert(m, page, pages, private, NULL)) == EAGAIN &&
           *again < 100000) {
        ++*again;
        sched_yield();
    }
    return ret;
}

void case_storm_beside(void)
{
    struct helper helpers[] = {
        { .work = fault, .least = 1000 }, { .work = fault, .least = 1000 },
        { .work = call_mincore, .least = 20 },
        { .work = call_punch, .least = provider->order == 9 ? 20 : 2 },
        { .work = compact, .least = 2 }, { .work = lock, .least = 100 },
        { .work = look, .least = 100 },
    };
    struct memory *m = &shared_memory;
    uint64_t kept = (provider->huge - 1) << provider->order;
    unsigned again = 0;

    shared_memory = new_allocated();
    start_helpers(helpers, ARRAY_SIZE(helpers));
    for (unsigned i = 0;
         i < conversions || !all_helped(helpers, ARRAY_SIZE(helpers)); i++) {
        bool private = random() & 1;
        uint64_t page, pages;
        int ret;

        random_range(m->pages, &page, &pages);
        ret = convert_again(m, page, pages, private, &again);
        NEED(!ret, "conversion %u: %s", i, strerror(ret));
        if (page < kept) {
            look_around(m, page, page + pages > kept ? kept - page : pages);
        }
    }
    stop_helpers(helpers, ARRAY_SIZE(helpers));
    note("EAGAIN %u times", again);
    for (unsigned i = 0; i < 2000; i++) {
        CHECK(right(m, any(kept)));
    }
    NEED(!convert_again(m, 0, m->pages, true, &again));
    /* What a helper held for a moment may be in pieces: nobody holds it now. */
    NEED(!convert(m, 0, m->pages, true, NULL));
    for (unsigned huge = 0; huge < provider->huge - 1; huge++) {
        CHECK(folios_right(m, huge));
    }
    drop_memory(m);
}

/*
 * Who has found a small folio writes its count of references if that was not
 * zero; meanwhile, its struct page may have become one that can only be read.
 */
void case_storm_merge(void)
{
    struct helper helpers[] = {
        { .work = find_page, .least = 1000 },
        { .work = find_page, .least = 1000 },
    };
    struct memory *m = &shared_memory;
    unsigned merges = provider->order == 9 ? conversions / 2 : 4;
    unsigned again = 0;

    shared_memory = new_allocated();
    start_helpers(helpers, ARRAY_SIZE(helpers));
    for (unsigned i = 0;
         i < merges || !all_helped(helpers, ARRAY_SIZE(helpers)); i++) {
        NEED(!convert_again(m, 0, 512, false, &again));
        NEED(!convert_again(m, 0, 512, true, &again));
    }
    stop_helpers(helpers, ARRAY_SIZE(helpers));
    NEED(!convert(m, 0, m->pages, true, NULL));
    CHECK(folios_right(m, 0));
    drop_memory(m);
}
