/*
 * A guest that converts a bounce area under DMA and checks all of it
 *
 * The bounce area starts as private memory.  It is shared in 2 MiB requests, as
 * guests share their bounce buffers, then pieces are taken back, then a long
 * random mix follows; after each step DMA must work exactly where the guest's
 * own model says that memory is shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"
#include "virtio.h"

#define EINVAL                  22

#define MULTIBOOT_BOOT_MAGIC    0x2badb002
#define MULTIBOOT_HAS_MEMORY    0x001
#define MULTIBOOT_HAS_CMDLINE   0x004

/* Room for the kernel and what the loader put behind it */
#define FIRST_BASE_MIB          16
/* The pieces below need 6 huge pages */
#define SMALLEST_AREA_MIB       16

/* Random operations have up to 2^10 pages: 4 MiB */
#define MAX_OP_ORDER            10

struct MultibootInfo {
    uint32_t flags;
    uint32_t mem_lower;         /* KiB */
    uint32_t mem_upper;         /* KiB, from 1 MiB */
    uint32_t boot_device;
    uint32_t cmdline;
};

Counters count;

static uint32_t memory_top;

static void check_memory(const MultibootInfo *info)
{
    if (!(info->flags & MULTIBOOT_HAS_MEMORY)) {
        fail("the loader does not say how much memory there is");
    }
    /* without what the firmware keeps for itself at the end, below 1 MiB */
    memory_top = MIN(info->mem_upper, 0x2ffc00u) * 1024 + MIB;
    memory_top = (memory_top + MIB - 1) & ~(MIB - 1);

    if (opt.base < FIRST_BASE_MIB ||
        (!opt.rounds && !opt.write && opt.area < SMALLEST_AREA_MIB) ||
        opt.base % 2 || opt.area % 2) {
        fail("base (%u) must be even and at least %u, area (%u) even and at "
             "least %u", opt.base, FIRST_BASE_MIB, opt.area,
             SMALLEST_AREA_MIB);
    }
    if (opt.area > AREA_LIMIT_MIB) {
        fail("area (%u) must be %u or less", opt.area, AREA_LIMIT_MIB);
    }
    if ((!opt.rounds || opt.reboot) &&
        (opt.area > DMA_LIMIT_MIB || opt.base > DMA_LIMIT_MIB - opt.area)) {
        fail("the bounce area must end at %u MiB or before: edu's DMA mask",
             DMA_LIMIT_MIB);
    }
    if (!opt.cpus || opt.cpus > MAX_CPUS ||
        (opt.cpus > 1 && opt.area < opt.cpus * SMALLEST_AREA_MIB)) {
        fail("cpus (%u) must be 1 to %u, and area (%u) at least %u for each",
             opt.cpus, MAX_CPUS, opt.area, SMALLEST_AREA_MIB);
    }
    if (memory_top / MIB < opt.base + opt.area) {
        fail("the bounce area ends at %u MiB, memory at %u MiB",
             opt.base + opt.area, memory_top / MIB);
    }
}

static void progress(const char *phase, uint32_t done, uint32_t total)
{
    if (opt.progress) {
        print("progress phase=%s done=%u total=%u conversions=%u "
              "shared-pages=%u dma-ok=%u dma-failed=%u\n", phase, done, total,
              count.conversions, model_shared_pages(), count.dma_ok,
              count.dma_failed);
    }
}

void convert(uint32_t first, uint32_t pages, bool shared)
{
    int32_t status = convert_try(page_address(first),
                                 (uint64_t)pages * PAGE_SIZE, shared);

    if (status) {
        fail("conversion of 0x%x+0x%x to %s: status %d", page_address(first),
             pages * PAGE_SIZE, shared ? "shared" : "private", status);
    }
    model_set(first, pages, shared);
    count_add(&count.conversions, 1);
    count_add(shared ? &count.to_shared_kib : &count.to_private_kib,
              pages * (PAGE_SIZE / 1024));
}

/* First, middle and last page of a range, its neighbours and its borders */
static void verify_range(uint32_t first, uint32_t pages)
{
    uint32_t end = first + pages;

    verify_page(first);
    if (pages > 1) {
        verify_page(end - 1);
    }
    if (pages > 2) {
        verify_page(first + pages / 2);
    }
    if (first > 0) {
        verify_page(first - 1);
        verify_straddle(first - 1);
    }
    if (end < model_pages()) {
        verify_page(end);
        verify_straddle(end - 1);
    }
}

static void phase_private(void)
{
    uint32_t pages = model_pages();

    convert(0, pages, false);
    verify_page(0);
    verify_page(pages / 2);
    verify_page(pages - 1);
    progress("private", 1, 1);
}

static void phase_share(void)
{
    uint32_t page, pages = model_pages();

    for (page = 0; page < pages; page += HUGE_PAGE_PAGES) {
        convert(page, MIN(HUGE_PAGE_PAGES, pages - page), true);
        /* the rest of the bounce area is private still */
        if (page + HUGE_PAGE_PAGES < pages) {
            verify_page(page + HUGE_PAGE_PAGES);
        }
    }
    progress("share", pages, pages);
}

static void phase_dma(void)
{
    uint32_t page, pages = model_pages();
    /* QEMU's own edu takes 100 ms for each transfer */
    uint32_t step = edu_reports_errors() ? HUGE_PAGE_PAGES : pages / 4;

    for (page = 0; page < pages; page += step) {
        verify_page(page);
        verify_page(MIN(page + step, pages) - 1);
        if (page) {
            verify_straddle(page - 1);
        }
    }
    progress("dma", pages, pages);
}

static void phase_take_back(void)
{
    const struct {
        uint32_t first;
        uint32_t pages;
    } piece[] = {
        /* a page; 64 KiB; neither size nor place a power of two */
        { 17, 1 },
        { HUGE_PAGE_PAGES + 32, 16 },
        { 2 * HUGE_PAGE_PAGES + 101, 13 },
        /* what one request shared; the end of one and the start of the next */
        { 3 * HUGE_PAGE_PAGES, HUGE_PAGE_PAGES },
        { 5 * HUGE_PAGE_PAGES - 37, 37 + 21 },
    };
    uint32_t i;

    for (i = 0; i < ARRAY_SIZE(piece); i++) {
        convert(piece[i].first, piece[i].pages, false);
        verify_range(piece[i].first, piece[i].pages);
    }
    /* shared again, by requests that cover what stayed shared as well */
    for (i = 0; i < ARRAY_SIZE(piece); i += 2) {
        convert(piece[i].first, piece[i].pages, true);
        verify_range(piece[i].first, piece[i].pages);
    }
    convert(0, 6 * HUGE_PAGE_PAGES, true);
    for (i = 0; i < ARRAY_SIZE(piece); i++) {
        verify_range(piece[i].first, piece[i].pages);
    }
    progress("take-back", 1, 1);
}

static void random_range(uint32_t *first, uint32_t *pages)
{
    uint32_t total = model_pages();
    uint32_t order, head;

    switch (rng_below(16)) {
    case 0:
        /* a huge page; the first one may begin in the slice of another CPU */
        head = model_head();
        *pages = HUGE_PAGE_PAGES;
        *first = head + rng_below((total - head) / HUGE_PAGE_PAGES) *
                 HUGE_PAGE_PAGES;
        return;
    case 1:
        /* a page */
        *pages = 1;
        break;
    default:
        /* every order of magnitude, the smaller ones more often */
        order = rng_below(MAX_OP_ORDER + 1);
        order = MIN(order, rng_below(MAX_OP_ORDER + 1));
        *pages = 1 + rng_below(1u << order);
        break;
    }
    *first = rng_below(total - *pages + 1);
}

static void phase_random(void)
{
    uint32_t ops = edu_reports_errors() ? opt.ops / opt.cpus
                                        : MIN(opt.ops, 8);
    uint32_t i, page, first, pages;

    /* one piece of a page tells as much about its mapping, in less time */
    verify_set_size(256);
    for (i = 0; i < ops; i++) {
        random_range(&first, &pages);
        convert(first, pages, rng() & 1);
        verify_page(first + rng_below(pages));
        if (first) {
            verify_page(first - 1);
        }
        if (first + pages < model_pages()) {
            verify_page(first + pages);
        }
        verify_page(rng_below(model_pages()));
        verify_straddle(rng_below(model_pages() - 1));
        if (i % 64 == 63) {
            progress("random", i + 1, ops);
        }
    }
    progress("random", ops, ops);

    if (edu_reports_errors()) {
        for (page = 0; page < model_pages(); page += 11) {
            verify_page(page);
        }
        progress("sweep", model_pages(), model_pages());
    }
}

/* As many mappings as can be: every other page of a quarter */
static void phase_fragments(void)
{
    uint32_t pages = model_pages() / 4;
    uint32_t first = model_pages() - pages;
    uint32_t i;

    if (!edu_reports_errors()) {
        return;
    }
    convert(first, pages, true);
    for (i = 0; i < pages; i += 2) {
        convert(first + i, 1, false);
        if (i % 32 == 0) {
            verify_page(first + i);
            verify_page(first + i + 1);
            verify_straddle(first + i);
        }
        if (i % 256 == 254) {
            progress("fragments", i + 2, pages);
        }
    }
    for (i = 0; i < 64; i++) {
        verify_page(first + rng_below(pages));
    }
}

/* For a host that counts what its IOMMU refuses */
static void phase_faults(void)
{
    uint32_t i;

    if (!opt.faults) {
        return;
    }
    convert(0, 1, true);
    convert(1, 1, false);
    for (i = 0; i < opt.faults; i++) {
        verify_blocked(1, 0, i % 2 == 0);
    }
}

static void bad_request(const char *what, uint64_t addr, uint64_t size,
                        bool shared)
{
    int32_t status = convert_try(addr, size, shared);

    if (status >= 0) {
        fail("a bad request (%s: 0x%x%08x+0x%x%08x to %s) had status %d", what,
             (uint32_t)(addr >> 32), (uint32_t)addr, (uint32_t)(size >> 32),
             (uint32_t)size, shared ? "shared" : "private", status);
    }
    count_add(&count.refused, 1);
}

static void phase_bad_requests(void)
{
    const uint32_t bad_commands[] = { 0, 3, 0x80000001, 0xffffffff };
    uint64_t base = page_address(0);
    uint64_t mmio = convert_mmio_address();
    int shared;
    uint32_t i;

    /* the first page of the bounce area is shared, its second one private */
    convert(0, 1, true);
    convert(1, 1, false);

    for (shared = 0; shared <= 1; shared++) {
        bad_request("address unaligned", base + 1, PAGE_SIZE, shared);
        bad_request("address unaligned", base + 0x800, PAGE_SIZE, shared);
        bad_request("size unaligned", base, PAGE_SIZE - 1, shared);
        bad_request("size unaligned", base, 2 * PAGE_SIZE + 1, shared);
        bad_request("size 0", base, 0, shared);
        bad_request("overflow", base, -(uint64_t)PAGE_SIZE, shared);
        bad_request("overflow", -(uint64_t)PAGE_SIZE, 2 * PAGE_SIZE, shared);
        bad_request("2^64-1", base, UINT64_MAX, shared);
        bad_request("2^64-1", UINT64_MAX, PAGE_SIZE, shared);
        bad_request("2^64-1", UINT64_MAX, UINT64_MAX, shared);
    }
    /*
     * Memory that is no RAM cannot become private; it is shared already.  (At
     * 0xf0000 is RAM as well: the firmware has put a copy of itself there.)
     */
    bad_request("past the end of memory", memory_top - PAGE_SIZE,
                2 * PAGE_SIZE, false);
    bad_request("far beyond memory", 1ull << 50, PAGE_SIZE, false);
    bad_request("ends at 2^64", -(uint64_t)PAGE_SIZE, PAGE_SIZE, false);
    bad_request("MMIO", mmio, PAGE_SIZE, false);
    bad_request("hole", memory_top, PAGE_SIZE, false);
    bad_request("ROM", 0xffff0000, PAGE_SIZE, false);
    for (i = 0; i < ARRAY_SIZE(bad_commands); i++) {
        int32_t status;

        convert_try(base, PAGE_SIZE, true);
        status = convert_bad_command(bad_commands[i]);
        if (status >= 0) {
            fail("command 0x%x had status %d", bad_commands[i], status);
        }
        count_add(&count.refused, 1);
    }

    verify_page(0);
    verify_page(1);
    verify_straddle(0);
    for (i = 0; i < 16; i++) {
        verify_page(rng_below(model_pages()));
    }
    progress("bad-requests", count.refused, count.refused);
}

/* Ordinary memory: nothing happens to it, nor to what is mapped of it */
static void phase_refused(void)
{
    uint32_t i, first, pages;

    if (opt.pause) {
        wait_for_host();
    }
    for (i = 0; i < 200; i++) {
        bool shared = i % 2;
        int32_t status;

        random_range(&first, &pages);
        status = convert_try(page_address(first), (uint64_t)pages * PAGE_SIZE,
                             shared);
        if (status != -EINVAL) {
            fail("conversion of 0x%x+0x%x to %s: status %d, not %d",
                 page_address(first), pages * PAGE_SIZE,
                 shared ? "shared" : "private", status, -EINVAL);
        }
        count_add(&count.refused, 1);
        if (i % 32 == 0) {
            verify_page(first);
            verify_page(first + pages - 1);
        }
    }
}

/*
 * Nothing but small requests, so that those of several CPUs meet in QEMU; half of
 * them are at the ends of the slice.
 */
static void phase_storm(void)
{
    uint32_t i, first, pages;

    smp_barrier();
    for (i = 0; i < opt.storm; i++) {
        pages = 1 + rng_below(16);
        if (i % 2) {
            first = rng_below(model_pages() - pages + 1);
        } else {
            first = i % 4 ? 0 : model_pages() - pages;
        }
        convert(first, pages, rng() & 1);
    }
    progress("storm", opt.storm, opt.storm);
    smp_barrier();
}

/* No DMA, so that no lock keeps CPUs apart; each page is written and compared */
static void phase_contents(void)
{
    uint32_t i, page, first, pages;

    write_all();
    for (i = 0; i < opt.ops / opt.cpus / 4; i++) {
        random_range(&first, &pages);
        convert(first, pages, rng() & 1);
        for (page = first; page < first + pages; page++) {
            if (opt.keep) {
                write_check(page);
            }
            write_page(page);
        }
        write_check(rng_below(model_pages()));
    }
    write_check_all();
    progress("contents", model_pages(), model_pages());
}

/* One CPU looks at what all of them have left */
static void phase_joined(void)
{
    uint32_t i, page;

    write_check_all();
    for (page = 0; page < model_pages(); page += 31) {
        verify_page(page);
    }
    for (i = 1; i < opt.cpus; i++) {
        verify_straddle(cpu_of(i)->first - 1);
    }
    progress("joined", model_pages(), model_pages());
}

/* What each CPU does */
static void run_phases(void)
{
    if (opt.cpus > 1) {
        /* all others wait while one has edu */
        verify_set_size(256);
    }
    if (convert_possible()) {
        phase_private();
        phase_share();
    }
    phase_dma();
    if (convert_possible()) {
        phase_take_back();
        phase_random();
        phase_fragments();
        phase_bad_requests();
        phase_faults();
    }
    if (convert_refused()) {
        phase_refused();
    }
    if (opt.cpus > 1) {
        phase_storm();
        phase_contents();
    }
}

static void __attribute__((noreturn)) finish(void)
{
    if (opt.reboot) {
        reboot_once();
    }
    pass();
}

static void run_virtio(void)
{
    /* where memory begins as private */
    if (convert_possible()) {
        convert(0, model_pages(), true);
    }
    if (!strcmp(opt.virtio, "balloon")) {
        run_balloon();
    } else if (!strcmp(opt.virtio, "queues")) {
        run_queues();
    } else if (!strcmp(opt.virtio, "blk")) {
        run_blk();
    } else if (!strcmp(opt.virtio, "fs")) {
        run_fs();
    } else if (!strcmp(opt.virtio, "vsock")) {
        run_vsock();
    } else {
        fail("virtio=%s is unknown", opt.virtio);
    }
    if (opt.pause && !opt.dma) {
        wait_for_host();
    }
}

void guest_main(uint32_t magic, const MultibootInfo *info)
{
    if (magic != MULTIBOOT_BOOT_MAGIC) {
        fail("not started by a multiboot loader");
    }
    if (info->flags & MULTIBOOT_HAS_CMDLINE) {
        parse_cmdline((const char *)(uintptr_t)info->cmdline);
    }
    if (opt.svm) {
        run_svm();
        pass();
    }
    check_memory(info);
    rng_seed(opt.seed);
    print("guest: bounce area at %u MiB, %u MiB; %u operations, seed %u, conv %s\n",
          opt.base, opt.area, opt.ops, opt.seed, opt.conv);

    convert_init(opt.conv);
    model_init(opt.area * (MIB / PAGE_SIZE), !convert_possible());
    if (opt.reboot) {
        edu_init();
        reboot_begin();
    }
    if (opt.rounds) {
        run_rounds();
        finish();
    }
    if (opt.write) {
        run_write();
        pass();
    }
    if (opt.virtio[0]) {
        run_virtio();
        if (!opt.dma) {
            pass();
        }
    }
    if (opt.dimm) {
        run_dimm();
        pass();
    }
    edu_init();
    if (opt.gap) {
        run_gap();
        pass();
    }

    smp_run(run_phases);
    if (opt.cpus > 1) {
        phase_joined();
    }

    print("summary conversions=%u to-shared-kib=%u to-private-kib=%u "
          "refused=%u dma-ok=%u dma-failed=%u blocked=%u shared-pages=%u "
          "pages=%u\n",
          count.conversions, count.to_shared_kib, count.to_private_kib,
          count.refused, count.dma_ok, count.dma_failed, count.blocked,
          model_shared_pages(), model_pages());
    if (opt.pause) {
        wait_for_host();
    }
    finish();
}
