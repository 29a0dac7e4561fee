/*
 * Pages that come from where those of a mounted filesystem do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gmem-test.h"

#define PARAMETER   "/sys/module/kvm/parameters/gmem_resource"

/* A mount that is nowhere, with options NULL or "name=value" and "name" */
static int mount_of(const char *type, const char *const *options)
{
    int fs = syscall(SYS_fsopen, type, 0), fd = -1;
    bool ok = fs >= 0;

    for (; ok && *options; options++) {
        char name[32];
        const char *value = strchr(*options, '=');

        snprintf(name, sizeof(name), "%.*s", (int)strcspn(*options, "="),
                 *options);
        ok = !syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, name, value + 1, 0);
    }
    if (ok && !syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) {
        fd = syscall(SYS_fsmount, fs, 0, 0);
    }
    NEED(fd >= 0, "a mount of %s", type);
    close(fs);
    return fd;
}

static int mount_of_pool(const char *option)
{
    char pagesize[32];
    const char *options[] = { pagesize, option, NULL };

    snprintf(pagesize, sizeof(pagesize), "pagesize=%lluK",
             (PAGE << provider->order) / 1024);
    return mount_of("hugetlbfs", options);
}

/* The kernel speaks the other interface for this call only.  0, or an errno */
static int create_from(uint64_t flags, uint64_t size, uint64_t fd, int *file)
{
    int result, error;

    NEED(write_text(PARAMETER, "Y"), PARAMETER);
    result = create(vm, FLAG_HUGETLB | FLAG_MMAP | flags, size, fd);
    error = errno;
    NEED(write_text(PARAMETER, "N"), PARAMETER);
    if (result >= 0 && file) {
        *file = result;
    } else if (result >= 0) {
        close(result);
    }
    return result < 0 ? error : 0;
}

static uint64_t word(int fd)
{
    return (uint32_t)fd;
}

static void refused(const struct counters *before)
{
    const uint64_t size = PAGE << provider->order;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY);
    int null = open("/dev/null", O_RDWR);
    int mount = mount_of_pool(NULL), file;

    CHECK(create_from(0, size, word(-1), NULL) == EBADF);
    CHECK(create_from(0, size, word(null), NULL) == EINVAL);
    CHECK(create_from(0, size, word(proc), NULL) == EINVAL);
    CHECK(create_from(0, size, word(vm), NULL) == EINVAL);
    CHECK(create_from(0, size + PAGE, word(mount), NULL) == EINVAL);
    CHECK(create_from(FLAG_HUGEPAGE, size, word(mount), NULL) == EINVAL);
    CHECK(create_from(0, size, word(mount) | 1ull << 32, NULL) == EINVAL);

    file = openat(mount, ".", O_TMPFILE | O_RDWR, 0600);
    NEED(file >= 0, "a file of hugetlbfs");
    CHECK(create_from(0, size, word(file), NULL) == EINVAL, "not its root");
    close(file);

    close(mount);

    mount = mount_of_pool("min_size=1");
    CHECK(create_from(0, size, word(mount), NULL) == EOPNOTSUPP);
    close(mount);
    close(proc);
    close(null);
    CHECK(become(*before), "what is refused reserves nothing");
}

/* A user who may not write there */
static void not_permitted(void)
{
    int mount = mount_of_pool(NULL), parameter = open(PARAMETER, O_WRONLY), fd;

    NEED(!fchmodat(mount, ".", 0555, 0));
    NEED(parameter >= 0 && write(parameter, "Y", 1) == 1);
    NEED(!seteuid(1000));
    fd = create(vm, FLAG_HUGETLB | FLAG_MMAP, PAGE << provider->order,
                word(mount));
    CHECK(fd < 0 && errno == EACCES);
    NEED(!seteuid(0) && write(parameter, "N", 1) == 1);
    close(parameter);
    close(mount);
}

static void limited(struct counters before)
{
    const uint64_t size = PAGE << provider->order;
    int mount, file = -1;
    char option[32];

    snprintf(option, sizeof(option), "size=%lu", size);
    mount = mount_of_pool(option);
    CHECK(create_from(0, 2 * size, word(mount), NULL) == ENOMEM, "a limit of one");
    NEED(!create_from(0, size, word(mount), &file));
    CHECK(create_from(0, size, word(mount), NULL) == ENOMEM, "one more");
    before.reserved++;
    CHECK(become(before));
    /* The file goes on without the mount, and its limit with it. */
    close(mount);
    NEED(!fallocate(file, FALLOC_FL_KEEP_SIZE, 0, size));
    before.free--;
    before.reserved--;
    CHECK(become(before));
    close(file);
    before.free++;
    CHECK(become(before));

    mount = mount_of_pool(option);
    NEED(!create_from(0, size, word(mount), &file));
    close(file);
    CHECK(!create_from(0, size, word(mount), NULL), "again");
    close(mount);
}

void case_mount_pool(void)
{
    struct counters before = counters();

    if (!has_pool()) {
        skip("the buddy allocator does not have a pool");
    }
    refused(&before);
    not_permitted();
    limited(before);
}

/* With tmpfs, the option huge= says whether there may be huge pages. */
void case_mount_tmpfs(void)
{
    const uint64_t size = PAGE << PMD_ORDER;
    const char *limit[] = { "huge=always", NULL };
    const char *huge[] = { "huge=always", "size=0", NULL };
    const char *small[] = { "huge=never", "size=0", NULL };
    long before = large_folios(PMD_ORDER);
    int mount = mount_of("tmpfs", limit), file = -1;

    CHECK(create_from(0, size, word(mount), NULL) == EOPNOTSUPP);
    close(mount);

    mount = mount_of("tmpfs", small);
    NEED(!create_from(0, size + PAGE, word(mount), &file));
    NEED(!fallocate(file, FALLOC_FL_KEEP_SIZE, 0, size));
    CHECK(large_folios(PMD_ORDER) == before);
    close(file);
    close(mount);

    mount = mount_of("tmpfs", huge);
    NEED(!create_from(0, size + PAGE, word(mount), &file));
    close(mount);
    NEED(!fallocate(file, FALLOC_FL_KEEP_SIZE, 0, size));
    CHECK(large_folios(PMD_ORDER) == before + 1);
    close(file);
    CHECK(large_folios(PMD_ORDER) == before);
}
