/*
 * What a guest sees: contents of private pages, and the sizes of its mappings
 *
 * The guest is pieces of code of a few bytes, which end with HLT.  It is in
 * real mode with 32-bit addresses, so that it reaches all of 4 GiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gmem-test.h"

#define BASE    (1ull << 30)    /* of the file; aligned for each provider */

enum { READ = 0x100, WRITE = 0x120, COUNT = 0x140 };

static const struct {
    uint64_t ip;
    uint8_t bytes[16];
} code[] = {
    /* mov (%ebx),%eax; mov 4(%ebx),%edx; hlt */
    { READ, { 0x66, 0x67, 0x8b, 0x03, 0x66, 0x67, 0x8b, 0x53, 0x04, 0xf4 } },
    /* mov %eax,(%ebx); mov %edx,4(%ebx); hlt */
    { WRITE, { 0x66, 0x67, 0x89, 0x03, 0x66, 0x67, 0x89, 0x53, 0x04, 0xf4 } },
    /* 1: incl (%ebx); dec %ecx; jnz 1b; hlt */
    { COUNT, { 0x66, 0x67, 0xff, 0x03, 0x66, 0x49, 0x75, 0xf8, 0xf4 } },
};

static int vcpu;
static struct kvm_run *run;

static void set_slot(uint32_t slot, uint64_t address, uint64_t size,
                     const struct memory *m, uint8_t *host)
{
    struct kvm_userspace_memory_region2 region = {
        .slot = slot,
        .flags = m ? KVM_MEM_GUEST_MEMFD : 0,
        .guest_phys_addr = address,
        .memory_size = size,
        .userspace_addr = (uintptr_t)host,
        .guest_memfd = m ? m->fd : 0,
    };

    NEED(!ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region), "slot %u", slot);
}

static void new_guest(const struct memory *m)
{
    uint8_t *first = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_sregs sregs;

    for (unsigned i = 0; i < ARRAY_SIZE(code); i++) {
        memcpy(first + code[i].ip, code[i].bytes, sizeof(code[i].bytes));
    }
    set_slot(0, 0, PAGE, NULL, first);
    set_slot(1, BASE, m->pages * PAGE, m, m->map);
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    NEED(vcpu >= 0, "a vCPU");
    run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
               PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    NEED(run != MAP_FAILED);
    NEED(!ioctl(vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.ds.limit = UINT32_MAX;
    sregs.ds.g = 1;
    NEED(!ioctl(vcpu, KVM_SET_SREGS, &sregs));
}

/* False if it did not come to its end */
static bool run_guest(struct kvm_regs *regs)
{
    int tries = 0, ret;

    regs->rflags = 2;
    NEED(!ioctl(vcpu, KVM_SET_REGS, regs));
    do {
        run->exit_reason = KVM_EXIT_UNKNOWN;
        ret = ioctl(vcpu, KVM_RUN, NULL);
        /* A conversion came between: the guest runs on. */
    } while (ret && (errno == EFAULT || errno == EAGAIN || errno == EINTR) &&
             ++tries < 100000);
    NEED(!ioctl(vcpu, KVM_GET_REGS, regs));
    return CHECK(!ret && run->exit_reason == KVM_EXIT_HLT,
                 "KVM_RUN at 0x%llx: %d, exit reason %u", regs->rbx, ret,
                 run->exit_reason);
}

static bool guest_read(uint64_t page, unsigned word, uint64_t *value)
{
    struct kvm_regs regs = {
        .rip = READ,
        .rbx = BASE + page * PAGE + word * 8,
    };
    bool ok = run_guest(&regs);

    *value = regs.rdx << 32 | (uint32_t)regs.rax;
    return ok;
}

static bool guest_write(uint64_t page, unsigned word, uint64_t value)
{
    struct kvm_regs regs = {
        .rip = WRITE,
        .rbx = BASE + page * PAGE + word * 8,
        .rax = (uint32_t)value,
        .rdx = value >> 32,
    };

    return run_guest(&regs);
}

/* The guest has private pages as well as shared ones. */
static bool guest_right(struct memory *m, uint64_t page)
{
    uint64_t first = 0, last = 0, wanted = word_of(page, m->stamp[page]);

    return guest_read(page, 0, &first) && guest_read(page, LAST_WORD, &last) &&
        CHECK(first == wanted && last == wanted,
              "page 0x%lx of the guest, %s: 0x%lx, 0x%lx, wanted 0x%lx", page,
              m->shared[page] ? "shared" : "private", first, last, wanted);
}

static bool guest_stamp(struct memory *m, uint64_t page)
{
    /* Others than those of the host */
    static uint32_t last = 1u << 31;

    m->stamp[page] = ++last;
    return guest_write(page, 0, word_of(page, last)) &&
        guest_write(page, LAST_WORD, word_of(page, last));
}

void case_guest_data(void)
{
    struct memory m = new_allocated();
    /* At the ends of folios of each size, and elsewhere */
    uint64_t pages[64];

    new_guest(&m);
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        uint64_t size = 1ull << any(provider->order + 1);

        pages[i] = (any(m.pages) & -size) + (i & 1 ? size - 1 : 0);
        CHECK(guest_right(&m, pages[i]), "zero");
        NEED(guest_stamp(&m, pages[i]));
    }
    for (unsigned i = 0; i < conversions / 4; i++) {
        uint64_t page = pages[any(ARRAY_SIZE(pages))];
        bool private = random() & 1;

        NEED(!convert(&m, page, 1, private, NULL));
        CHECK(right(&m, page), "the host");
        CHECK(guest_right(&m, page), "the guest");
        CHECK(guest_right(&m, pages[any(ARRAY_SIZE(pages))]));
        NEED(guest_stamp(&m, page));
        CHECK(right(&m, page), "what the guest has written");
        if (!private) {
            NEED(stamp_page(&m, page));
            CHECK(guest_right(&m, page), "what the host has written");
        }
    }
    NEED(!convert(&m, 0, m.pages, true, NULL));
    CHECK(all_folios_right(&m));
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        CHECK(guest_right(&m, pages[i]));
    }
    drop_memory(&m);
}

/* Pages that are always touched, so that nothing else is mapped */
static bool is_touched(uint64_t page)
{
    if (page >= first_of(1)) {
        return page == first_of(1) + 77;
    }
    return page < 512 || page % 512 == 17;
}

struct levels {
    long pages_4k, pages_2m, pages_1g;
};

static struct levels levels_now(void)
{
    return (struct levels) {
        .pages_4k = statistic(vm, "pages_4k"),
        .pages_2m = statistic(vm, "pages_2m"),
        .pages_1g = statistic(vm, "pages_1g"),
    };
}

/* A mapping is as large as the page tables and the folio allow. */
static struct levels model_levels(const struct memory *m)
{
    uint8_t *orders = malloc(huge_pages());
    struct levels levels = { 0 };
    uint64_t last_2m = -1ull, last_1g = -1ull;

    for (uint64_t page = 0; page < first_of(2); page++) {
        uint64_t offset = page & (huge_pages() - 1);

        if (!offset) {
            model_orders(m, page >> provider->order, orders);
        }
        if (!is_touched(page)) {
            continue;
        }
        if (orders[offset] >= 18) {
            levels.pages_1g += page >> 18 != last_1g;
            last_1g = page >> 18;
        } else if (orders[offset] >= 9) {
            levels.pages_2m += page >> 9 != last_2m;
            last_2m = page >> 9;
        } else {
            levels.pages_4k++;
        }
    }
    free(orders);
    return levels;
}

static void check_levels(const struct memory *m, struct levels base,
                         const char *what)
{
    struct levels wanted = model_levels(m), now;
    uint64_t value;

    for (uint64_t page = 0; page < first_of(2); page++) {
        if (is_touched(page)) {
            NEED(guest_read(page, 0, &value), "%s", what);
        }
    }
    now = levels_now();
    CHECK(now.pages_4k - base.pages_4k == wanted.pages_4k &&
          now.pages_2m == wanted.pages_2m && now.pages_1g == wanted.pages_1g,
          "%s: %ld of 4K, %ld of 2M, %ld of 1G; wanted %ld, %ld, %ld", what,
          now.pages_4k - base.pages_4k, now.pages_2m, now.pages_1g,
          wanted.pages_4k, wanted.pages_2m, wanted.pages_1g);
}

void case_guest_levels(void)
{
    struct memory m = new_allocated();
    struct kvm_regs regs = { .rip = READ };
    struct levels base;

    new_guest(&m);
    /* The page with the code */
    NEED(run_guest(&regs));
    base = levels_now();
    CHECK(!base.pages_2m && !base.pages_1g);
    check_levels(&m, base, "whole");
    NEED(!convert(&m, 5, 1, false, NULL));
    check_levels(&m, base, "one page is shared");
    NEED(!convert(&m, 300, 1, false, NULL));
    check_levels(&m, base, "another one is");
    NEED(!convert(&m, 5, 1, true, NULL));
    check_levels(&m, base, "the first one is private again");
    NEED(!convert(&m, 300, 1, true, NULL));
    check_levels(&m, base, "whole again");
    NEED(!convert(&m, huge_pages() / 2, 1, false, NULL));
    check_levels(&m, base, "one page in the middle");
    NEED(!convert(&m, 0, first_of(2), false, NULL));
    check_levels(&m, base, "all of it is shared");
    NEED(!convert(&m, 0, first_of(2), true, NULL));
    check_levels(&m, base, "all of it is private");
    drop_memory(&m);
}

#define COUNTS  100000
#define COUNTER 3

static bool stop;

/* Count, again and again: how often, or NULL */
static void *count(void *opaque)
{
    uintptr_t *rounds = opaque;

    do {
        struct kvm_regs regs = {
            .rip = COUNT,
            .rbx = BASE + COUNTER * PAGE,
            .rcx = COUNTS,
        };

        if (!run_guest(&regs)) {
            return NULL;
        }
        ++*rounds;
    } while (!__atomic_load_n(&stop, __ATOMIC_RELAXED));
    return rounds;
}

/* A guest counts in a page that is in ever other folios meanwhile. */
void case_guest_storm(void)
{
    struct memory m = new_allocated();
    uintptr_t rounds = 0;
    uint64_t value = 0;
    unsigned busy = 0;
    pthread_t thread;
    uint32_t wanted;
    void *done;

    new_guest(&m);
    NEED(!pthread_create(&thread, NULL, count, &rounds));
    for (unsigned i = 0; i < conversions; i++) {
        const uint64_t starts[] = { COUNTER, 0, 2, COUNTER + 1, 256 };
        const uint64_t most[] = { 1, 2, 4, 16, 256 };
        uint64_t start = starts[any(ARRAY_SIZE(starts))];
        uint64_t pages = most[any(ARRAY_SIZE(most))];
        bool private = random() & 1;
        int ret = convert(&m, start, pages, private, NULL);

        busy += ret == EAGAIN;
        CHECK(!ret || ret == EAGAIN, "%s", strerror(ret));
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    NEED(!pthread_join(thread, &done) && done, "the guest ends");
    note("the guest has counted %lu times, EAGAIN for %u conversions", rounds,
         busy);
    wanted = rounds * COUNTS;
    CHECK(guest_read(COUNTER, 0, &value) && (uint32_t)value == wanted,
          "%u, wanted %u", (uint32_t)value, wanted);
    NEED(!convert(&m, 0, m.pages, true, NULL));
    NEED(!convert(&m, 0, m.pages, true, NULL), "merged for certain");
    CHECK(folios_right(&m, 0));
    CHECK(guest_read(COUNTER, 0, &value) && (uint32_t)value == wanted);
    drop_memory(&m);
}
