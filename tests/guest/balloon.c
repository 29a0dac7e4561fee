/*
 * virtio=balloon: pages of either state go into the balloon and come back
 *
 * Every other page is kept, and must keep what is in it.  What was given is
 * empty then, or still what it was; the summary says how many are empty.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "virtio.h"

#define BALLOON_F_REPORTING     (1u << 5)
#define BALLOON_F_STATS         (1u << 1)

enum { INFLATE, DEFLATE, REPORTING = 3 };

#define LIST_PAGE               (3 * VIRTQUEUE_PAGES)
/* Shared ones, then as many private ones */
#define FIRST_PAGE              16
#define HALF                    16u
#define END_PAGE                (FIRST_PAGE + 2 * HALF)
#define NO_MEMORY               0xfee00u        /* a page frame: the APIC */

static VirtioDevice dev;
static Virtqueue inflate, deflate, reporting;

static void fill(uint32_t page)
{
    uint32_t *p = (uint32_t *)(uintptr_t)page_address(page);
    uint32_t i;

    for (i = 0; i < PAGE_SIZE / 4; i++) {
        p[i] = page << 16 | (i + 1);
    }
}

static void fill_all(void)
{
    uint32_t page;

    for (page = FIRST_PAGE; page < END_PAGE; page++) {
        fill(page);
    }
}

static bool has_data(uint32_t page)
{
    /* memory that the host takes away */
    volatile uint32_t *p = (uint32_t *)(uintptr_t)page_address(page);
    uint32_t first = p[0], i;

    for (i = 0; i < PAGE_SIZE / 4; i++) {
        if (p[i] != (first ? page << 16 | (i + 1) : 0)) {
            fail("page %u (%s) has 0x%x at 0x%x", page,
                 model_shared(page) ? "shared" : "private", p[i], i * 4);
        }
    }
    return first;
}

static bool given(uint32_t page)
{
    return page % 2;
}

/* How many of the given pages are empty; all have data again */
static uint32_t count_empty(uint32_t first, uint32_t pages)
{
    uint32_t page, n = 0;

    for (page = FIRST_PAGE; page < END_PAGE; page++) {
        bool may_be_empty = given(page) && page - first < pages;

        if (has_data(page)) {
            continue;
        }
        if (!may_be_empty) {
            fail("page %u (%s) was kept and is empty", page,
                 model_shared(page) ? "shared" : "private");
        }
        fill(page);
        n++;
    }
    return n;
}

static void give(Virtqueue *vq, uint32_t first, uint32_t pages)
{
    uint32_t *list = (uint32_t *)(uintptr_t)page_address(LIST_PAGE);
    VirtioBuffer buf = { .addr = page_address(LIST_PAGE), .size = 0 };
    uint32_t page, n = 0;

    list[n++] = NO_MEMORY;
    for (page = first; page < first + pages; page++) {
        if (given(page)) {
            list[n++] = page_address(page) / PAGE_SIZE;
        }
    }
    buf.size = n * sizeof(list[0]);
    virtio_request(vq, &buf, 1, false);
}

static void start(void)
{
    uint32_t features = BALLOON_F_REPORTING | BALLOON_F_STATS;

    features = virtio_start(&dev, features);
    virtio_queue_init(&inflate, &dev, INFLATE, 0);
    virtio_queue_init(&deflate, &dev, DEFLATE, VIRTQUEUE_PAGES);
    if (!(features & BALLOON_F_REPORTING)) {
        fail("balloon: no free page reporting (free-page-reporting=on)");
    }
    virtio_queue_init(&reporting, &dev, REPORTING, 2 * VIRTQUEUE_PAGES);
    virtio_driver_ok(&dev);
}

/* False if the device did not like it, and was started again */
static bool report(uint32_t first, uint32_t pages)
{
    VirtioBuffer buf[HALF];
    uint32_t page, n = 0;

    for (page = first; page < first + pages; page++) {
        if (given(page)) {
            buf[n++] = (VirtioBuffer) {
                .addr = page_address(page),
                .size = PAGE_SIZE,
            };
        }
    }
    virtio_add(&reporting, buf, n, true);
    virtio_kick(&reporting);
    switch (virtio_wait(&reporting, VIRTIO_DONE)) {
    case VIRTIO_DONE:
        return true;
    case VIRTIO_NEEDS_RESET:
        start();
        return false;
    default:
        fail("balloon: a report had no answer");
    }
}

/* Half of a page, no memory, more than there is: nothing to be freed */
static void report_nonsense(void)
{
    VirtioBuffer buf[] = {
        { .addr = page_address(FIRST_PAGE) + 1, .size = PAGE_SIZE },
        { .addr = page_address(FIRST_PAGE + HALF) + 1, .size = PAGE_SIZE },
        { .addr = page_address(FIRST_PAGE + HALF), .size = 1 },
        { .addr = NO_MEMORY * PAGE_SIZE, .size = PAGE_SIZE },
    };
    VirtioBuffer far = { .addr = 0xfffff000u, .size = 0xffffffffu };

    virtio_add(&reporting, buf, ARRAY_SIZE(buf), true);
    virtio_kick(&reporting);
    if (virtio_wait(&reporting, VIRTIO_ANY) != VIRTIO_DONE) {
        start();
    }
    virtio_add(&reporting, &far, 1, true);
    virtio_kick(&reporting);
    virtio_wait(&reporting, VIRTIO_ANY);
    start();
    if (count_empty(0, 0)) {
        fail("pages are empty of which a part was reported");
    }
}

static void run_reports(void)
{
    bool done;

    report_nonsense();
    done = report(FIRST_PAGE, HALF);
    print("summary given=%u shared-done=%u shared-empty=%u ", HALF / 2, done,
          count_empty(FIRST_PAGE, HALF));
    done = report(FIRST_PAGE + HALF, 2);
    print("private-done=%u private-empty=%u ", done,
          count_empty(FIRST_PAGE + HALF, 2));
    done = report(FIRST_PAGE + HALF, HALF);
    print("all-private-done=%u all-private-empty=%u\n", done,
          count_empty(FIRST_PAGE + HALF, HALF));
}

void run_balloon(void)
{
    uint32_t shared, private, mixed;

    virtio_find(&dev, VIRTIO_ID_BALLOON);
    start();
    if (convert_possible()) {
        convert(FIRST_PAGE + HALF, HALF, false);
    }
    fill_all();

    give(&inflate, FIRST_PAGE, HALF);
    shared = count_empty(FIRST_PAGE, HALF);
    give(&inflate, FIRST_PAGE + HALF, HALF);
    private = count_empty(FIRST_PAGE + HALF, HALF);
    give(&inflate, FIRST_PAGE, 2 * HALF);
    mixed = count_empty(FIRST_PAGE, 2 * HALF);
    give(&deflate, FIRST_PAGE, 2 * HALF);
    if (count_empty(0, 0)) {
        fail("pages are empty that have left the balloon");
    }
    print("summary given=%u shared-empty=%u private-empty=%u mixed-empty=%u\n",
          HALF / 2, shared, private, mixed);
    if (opt.pause) {
        wait_for_host();
    }

    run_reports();

    /* what was in the balloon is memory like any other */
    if (convert_possible()) {
        convert(FIRST_PAGE, HALF, false);
        convert(FIRST_PAGE + HALF, HALF, true);
        fill_all();
        if (count_empty(0, 0)) {
            fail("pages are empty that were converted and written to");
        }
    }
}
