/*
 * No memory: each allocation of an operation fails once
 *
 * An operation that fails has changed nothing, one that succeeds everything.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmem-test.h"

#define DEBUGFS         "/sys/kernel/debug/"
/* So many are each made to fail, and then fewer and fewer */
#define EACH            24

static const struct {
    const char *path, *value;
} settings[] = {
    { DEBUGFS "failslab/task-filter", "Y" },
    { DEBUGFS "failslab/ignore-gfp-wait", "N" },
    { DEBUGFS "failslab/verbose", "0" },
    { DEBUGFS "fail_page_alloc/task-filter", "Y" },
    { DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N" },
    { DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N" },
    { DEBUGFS "fail_page_alloc/min-order", "0" },
    { DEBUGFS "fail_page_alloc/verbose", "0" },
};

static int nth_fd;

static void set_up(void)
{
    nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
    if (nth_fd < 0) {
        skip("the kernel has no /proc/PID/fail-nth");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
        if (!write_text(settings[i].path, settings[i].value)) {
            skip("cannot write %s", settings[i].path);
        }
    }
}

static void arm(unsigned nth)
{
    char text[16];
    int size = snprintf(text, sizeof(text), "%u", nth);

    NEED(pwrite(nth_fd, text, size, 0) == size);
}

/* True if an allocation has failed since arm() */
static bool disarm(void)
{
    char text[16] = "";

    NEED(pread(nth_fd, text, sizeof(text) - 1, 0) > 0);
    NEED(pwrite(nth_fd, "0", 1, 0) == 1);
    return !atoi(text);
}

static unsigned next(unsigned nth)
{
    return nth < EACH ? nth + 1 : nth + nth / 3;
}

struct state {
    struct memory m;
    struct counters whole;
    unsigned failed;    /* allocations */
    unsigned refused;   /* operations */
};

static struct state new_state(void)
{
    struct state s = { .m = new_memory(0) };
    struct memory *m = &s.m;

    NEED(!allocate(m, 0, m->pages));
    learn_frames(m);
    s.whole = counters();
    NEED(!convert(m, 0, 128, false, NULL));
    NEED(!convert(m, first_of(1), 128, false, NULL));
    for (uint64_t i = 0; i < 128; i++) {
        NEED(stamp_page(m, i) && stamp_page(m, first_of(1) + i));
    }
    NEED(!convert(m, 0, m->pages, true, NULL));
    return s;
}

/* All is as the model says; looking at the folios of 1 GiB takes long */
static void check_state(struct state *s, unsigned nth)
{
    struct counters wanted = s->whole;

    wanted.vmemmap += model_vmemmap(&s->m);
    CHECK(become(wanted), "allocation %u: vmemmap: %ld pages more, wanted %ld",
          nth, counters().vmemmap - s->whole.vmemmap, model_vmemmap(&s->m));
    if (provider->order == 9 || nth % 16 == 1) {
        CHECK(folios_right(&s->m, 0) && folios_right(&s->m, 1),
              "allocation %u", nth);
    }
    for (unsigned i = 0; i < 128; i++) {
        CHECK(right(&s->m, i) && right(&s->m, first_of(1) + i),
              "allocation %u", nth);
    }
}

static void share(struct state *s, uint64_t page, uint64_t pages)
{
    struct memory *m = &s->m;
    bool failed;

    for (unsigned nth = 1; ; nth = next(nth)) {
        uint64_t error;
        int ret;

        arm(nth);
        ret = convert(m, page, pages, false, &error);
        failed = disarm();
        s->failed += failed;
        s->refused += !!ret;
        CHECK(!ret || (failed && ret == ENOMEM),
              "allocation %u: %s, page 0x%lx", nth, strerror(ret), error);
        check_state(s, nth);
        NEED(!convert(m, 0, m->pages, true, NULL));
        check_state(s, nth);
        if (!failed) {
            break;
        }
    }
}

void case_nomem_shared(void)
{
    struct state s;

    set_up();
    s = new_state();
    share(&s, 5, 1);
    share(&s, 5, 80);
    share(&s, first_of(1) - 2, 4);
    /* A node of the page cache is asked for again; vmemmap is not. */
    CHECK(s.refused || !folds(), "a split needs memory");
    note("%u allocations failed, %u conversions were refused", s.failed,
         s.refused);
    /* The next page, where a part of it is shared already */
    for (unsigned nth = 1; ; nth = next(nth)) {
        bool failed;
        int ret;

        NEED(!convert(&s.m, 64, 1, false, NULL));
        arm(nth);
        ret = convert(&s.m, 3, 1, false, NULL);
        failed = disarm();
        CHECK(!ret || (failed && ret == ENOMEM), "%s", strerror(ret));
        check_state(&s, nth);
        NEED(!convert(&s.m, 0, s.m.pages, true, NULL));
        if (!failed) {
            break;
        }
    }
    check_state(&s, 1);
    drop_memory(&s.m);
}

void case_nomem_private(void)
{
    struct state s;
    bool failed;

    set_up();
    s = new_state();
    for (unsigned nth = 1; ; nth = next(nth)) {
        int ret;

        /* A range in the middle of another one: more to be recorded */
        NEED(!convert(&s.m, 4, 8, false, NULL));
        arm(nth);
        ret = convert(&s.m, 6, 4, true, NULL);
        failed = disarm();
        s.failed += failed;
        CHECK(!ret, "allocation %u: %s", nth, strerror(ret));
        for (uint64_t i = 4; i < 12; i++) {
            CHECK(right(&s.m, i), "allocation %u", nth);
        }
        /* A conversion merges what an earlier one could not. */
        NEED(!convert(&s.m, 6, 4, true, NULL));
        check_state(&s, nth);
        NEED(!convert(&s.m, 0, s.m.pages, true, NULL));
        check_state(&s, nth);
        if (!failed) {
            break;
        }
    }
    note("%u allocations failed", s.failed);
    NEED(!convert(&s.m, 0, s.m.pages, false, NULL));
    check_state(&s, 1);
    drop_memory(&s.m);
}

/* fallocate(), of a huge page that is to be in pieces */
void case_nomem_allocate(void)
{
    struct counters base = counters();
    unsigned refused = 0;
    struct memory m;

    set_up();
    m = new_memory(0);
    base.reserved += has_pool() ? provider->huge : 0;
    NEED(!convert(&m, 3, 1, false, NULL));
    for (unsigned nth = 1; ; nth = next(nth)) {
        struct counters wanted = base;
        bool failed;
        int ret;

        arm(nth);
        ret = allocate(&m, 0, huge_pages());
        failed = disarm();
        refused += !!ret;
        CHECK(!ret || (failed && (ret == ENOMEM || ret == ENOSPC)),
              "allocation %u: %s", nth, strerror(ret));
        if (!ret) {
            wanted.free -= has_pool();
            wanted.reserved -= has_pool();
            wanted.vmemmap += model_vmemmap(&m);
        }
        CHECK(become(wanted), "allocation %u: %s", nth, strerror(ret));
        /* Also what a failure has left, where small pages do */
        NEED(!punch(&m, 0, huge_pages()));
        note_punched(&m, 0, huge_pages());
        CHECK(become(base), "allocation %u, punched", nth);
        if (!failed) {
            break;
        }
    }
    /* Small pages do where no huge one was promised. */
    CHECK(refused || !has_pool(), "a huge page needs memory");
    note("refused %u times", refused);
    drop_memory(&m);
}

void case_nomem_create(void)
{
    struct counters base = counters();
    bool failed;

    set_up();
    for (unsigned nth = 1; ; nth = next(nth)) {
        int fd;

        arm(nth);
        fd = create(vm, provider->flag | FLAG_MMAP, PAGE << provider->order,
                    has_pool() ? provider->order : 0);
        failed = disarm();
        CHECK(fd >= 0 || (failed && errno == ENOMEM), "allocation %u", nth);
        if (fd >= 0) {
            close(fd);
        }
        CHECK(become(base), "allocation %u", nth);
        if (!failed) {
            CHECK(nth > 1 && fd >= 0);
            break;
        }
    }
}

/* Some of all allocations fail. */
void case_nomem_random(void)
{
    unsigned refused = 0, number = 100;
    struct state s;
    int fail;

    set_up();
    s = new_state();
    fail = open("/proc/self/make-it-fail", O_WRONLY);
    NEED(fail >= 0);
    NEED(write_text(DEBUGFS "failslab/probability", "15"));
    NEED(write_text(DEBUGFS "failslab/times", "-1"));
    NEED(write_text(DEBUGFS "fail_page_alloc/probability", "3"));
    NEED(write_text(DEBUGFS "fail_page_alloc/times", "-1"));
    for (unsigned i = 0; i < number; i++) {
        uint64_t page = any(first_of(2));
        uint64_t pages = 1 + any(i & 1 ? 4 : first_of(2) - page);
        bool private = random() & 1;
        int ret;

        if (i % 4 == 3) {
            /* There is something to split again. */
            page = 0;
            pages = first_of(2);
            private = true;
        } else if (page + pages > first_of(2)) {
            pages = 1;
        }
        NEED(pwrite(fail, "1", 1, 0) == 1);
        ret = convert(&s.m, page, pages, private, NULL);
        while (pwrite(fail, "0", 1, 0) != 1) {
            /* This write has failed, too. */
        }
        CHECK(!ret || ret == ENOMEM, "%s", strerror(ret));
        refused += !!ret;
        CHECK(some_right(&s.m, 20));
    }
    write_text(DEBUGFS "failslab/probability", "0");
    write_text(DEBUGFS "fail_page_alloc/probability", "0");
    note("%u of %u conversions were refused", refused, number);
    CHECK((refused || !folds()) && refused < number);
    /* What could not be merged is merged now. */
    NEED(!convert(&s.m, 0, s.m.pages, true, NULL));
    check_state(&s, 1);
    NEED(!convert(&s.m, 0, 128, false, NULL));
    check_state(&s, 1);
    drop_memory(&s.m);
}
