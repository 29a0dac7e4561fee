/*
 * What files of huge pages are refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "gmem-test.h"

static int try_create(uint64_t flags, uint64_t size, uint64_t reserved)
{
    int fd = create(vm, flags, size, reserved);

    if (fd < 0) {
        return errno;
    }
    close(fd);
    return 0;
}

/* With something in the last reserved word, which nobody has a use for */
static int try_last_word(uint64_t flags, uint64_t size, uint64_t order)
{
    struct kvm_create_guest_memfd args = { .size = size, .flags = flags };
    uint64_t one = 1;
    int fd;

    memcpy((char *)&args + 16, &order, sizeof(order));
    memcpy((char *)&args + sizeof(args) - sizeof(one), &one, sizeof(one));
    fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);
    if (fd < 0) {
        return errno;
    }
    close(fd);
    return 0;
}

void case_create_arguments(void)
{
    const uint64_t size = PAGE << provider->order;
    const uint64_t order = has_pool() ? provider->order : 0;
    struct counters before = counters();
    long offered = ioctl(vm, KVM_CHECK_EXTENSION, CAP_GUEST_MEMFD_FLAGS);

    NEED(offered & provider->flag, "flags 0x%lx", offered);
    CHECK(!try_create(provider->flag, size, order));
    CHECK(!try_create(provider->flag | FLAG_MMAP, size, order));
    CHECK(try_create(provider->flag, 0, order) == EINVAL);
    CHECK(try_create(provider->flag, -size, order) == EINVAL);
    CHECK(try_create(provider->flag, size + 1, order) == EINVAL);
    CHECK(try_create(provider->flag | 1ull << 62, size, order) == EINVAL);
    CHECK(try_create(FLAG_HUGETLB | FLAG_HUGEPAGE, size, order ? order : 9) ==
          EINVAL);
    if (!has_pool()) {
        CHECK(!try_create(provider->flag, size + PAGE, 0),
              "a size that is not a multiple of the huge page");
    } else {
        CHECK(try_create(provider->flag, size + PAGE, order) == EINVAL);
        CHECK(try_create(provider->flag, size / 2, order) == EINVAL);
        CHECK(try_create(provider->flag, size, 0) == EINVAL);
        CHECK(try_create(provider->flag, size, order - 1) == EINVAL);
        CHECK(try_create(provider->flag, size, 63) == EINVAL);
        CHECK(try_create(provider->flag, size, 255) == EINVAL);
        CHECK(try_create(provider->flag, size, order | 1 << 8) == EINVAL);
        CHECK(try_create(provider->flag, size, order | 1ull << 63) == EINVAL);
        CHECK(try_last_word(provider->flag, size, order) == EINVAL);
        /* As a file descriptor of a kernel with the other interface */
        CHECK(try_create(provider->flag, size, -1ull) == EINVAL);
    }
    CHECK(become(before), "what is refused reserves nothing");
}

/* The pool is short: of all pages, and of those that others have reserved */
void case_create_short(void)
{
    const uint64_t size = PAGE << provider->order;
    struct counters before = counters();
    long available = before.free - before.reserved;
    int fd;

    if (!has_pool()) {
        skip("nothing is reserved without a pool");
    }
    NEED(available > 0, "huge pages that nobody has reserved");
    CHECK(try_create(provider->flag, (available + 1) * size, provider->order) ==
          ENOMEM);
    CHECK(try_create(provider->flag, 1ull << 62, provider->order) == ENOMEM);
    CHECK(become(before));

    fd = create(vm, provider->flag, available * size, provider->order);
    NEED(fd >= 0, "a file of all that is left");
    before.reserved += available;
    CHECK(become(before));
    CHECK(try_create(provider->flag, size, provider->order) == ENOMEM,
          "one more");
    close(fd);
    before.reserved -= available;
    CHECK(become(before));
    CHECK(!try_create(provider->flag, size, provider->order));
}

void case_create_init_shared(void)
{
    const uint64_t flags = provider->flag | FLAG_MMAP | FLAG_INIT_SHARED;
    int ret = try_create(flags, PAGE << provider->order,
                         has_pool() ? provider->order : 0);
    struct memory m;

    if (ret && has_pool()) {
        CHECK(ret == EINVAL);
        skip("this kernel has no pool pages that start shared");
    }
    m = new_memory(FLAG_INIT_SHARED);
    NEED(stamp_page(&m, 0) && stamp_page(&m, 3));
    CHECK(right(&m, 0) && right(&m, 1) && right(&m, 3));
    CHECK(right(&m, huge_pages() - 1));
    /* It starts in small pages, and is one huge page when all is private. */
    learn_frames(&m);
    CHECK(folios_right(&m, 0));
    NEED(!convert(&m, 0, huge_pages(), true, NULL));
    CHECK(folios_right(&m, 0) && right(&m, 3));
    NEED(!convert(&m, 3, 1, false, NULL));
    CHECK(folios_right(&m, 0) && right(&m, 3) && right(&m, 0));
    drop_memory(&m);
}

void case_fallocate_arguments(void)
{
    struct memory m = new_memory(0);
    uint64_t half = huge_pages() / 2;
    int unaligned = has_pool() ? EINVAL : 0;

    CHECK(allocate(&m, 0, half) == unaligned);
    CHECK(allocate(&m, half, half) == unaligned);
    CHECK(allocate(&m, half, huge_pages()) == unaligned);
    CHECK(punch(&m, 0, half) == unaligned);
    CHECK(punch(&m, half, half) == unaligned);
    CHECK(punch(&m, 1, 1) == unaligned);
    CHECK(allocate(&m, m.pages, huge_pages()) == EINVAL);
    CHECK(allocate(&m, m.pages - huge_pages(), 2 * huge_pages()) == EINVAL);
    CHECK(fallocate(m.fd, 0, 0, PAGE << provider->order) && errno == EOPNOTSUPP,
          "without KEEP_SIZE");
    CHECK(fallocate(m.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE, 0,
                    PAGE << provider->order) && errno == EOPNOTSUPP);
    CHECK(fallocate(m.fd, FALLOC_FL_KEEP_SIZE, 1, PAGE << provider->order) &&
          errno == EINVAL);
    CHECK(!allocate(&m, 0, huge_pages()));
    CHECK(!allocate(&m, 0, huge_pages()), "again");
    CHECK(!punch(&m, 0, m.pages));
    drop_memory(&m);
}
