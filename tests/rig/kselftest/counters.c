/*
 * Numbers that the kernel says about pools, the vmemmap and VMs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gmem-test.h"

#define LIMIT   10      /* seconds: against pages that never come back */

long read_number(const char *path)
{
    FILE *f = fopen(path, "r");
    long value = -1;

    if (f) {
        if (fscanf(f, "%ld", &value) != 1) {
            value = -1;
        }
        fclose(f);
    }
    return value;
}

bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

long large_folios(unsigned order)
{
    FILE *f = fopen("/sys/kernel/debug/folio_restructure/folios", "r");
    unsigned of;
    long number, found = 0;

    NEED(f, "folios of debugfs");
    while (fscanf(f, "%u %ld", &of, &number) == 2) {
        if (of == order) {
            found = number;
        }
    }
    fclose(f);
    return found;
}

bool has_pool(void)
{
    return provider->flag & FLAG_HUGETLB;
}

bool folds(void)
{
    char line[4096] = "";
    bool on = false;
    FILE *f;

    if (!has_pool() ||
        read_number("/proc/sys/vm/hugetlb_optimize_vmemmap") == 0) {
        return false;
    }
    /* The pool was filled at boot, maybe before the sysctl was set. */
    f = fopen("/proc/cmdline", "r");
    if (f) {
        on = fgets(line, sizeof(line), f) &&
            strstr(line, "hugetlb_free_vmemmap=on");
        fclose(f);
    }
    return on;
}

long pool_counter(const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
             (PAGE << provider->order) / 1024, name);
    return read_number(path);
}

static long vmemmap_pages(void)
{
    FILE *f = fopen("/proc/vmstat", "r");
    long sum = 0, value;
    char name[64];

    while (f && fscanf(f, "%63s %ld", name, &value) == 2) {
        if (!strcmp(name, "nr_memmap_pages") ||
            !strcmp(name, "nr_memmap_boot_pages")) {
            sum += value;
        }
    }
    if (f) {
        fclose(f);
    }
    return sum;
}

struct counters counters(void)
{
    struct counters c = { .vmemmap = vmemmap_pages() };

    if (has_pool()) {
        c.free = pool_counter("free_hugepages");
        c.reserved = pool_counter("resv_hugepages");
    }
    return c;
}

bool become(struct counters wanted)
{
    time_t end = time(NULL) + LIMIT;

    do {
        struct counters now = counters();

        if (now.free == wanted.free && now.reserved == wanted.reserved &&
            now.vmemmap == wanted.vmemmap) {
            return true;
        }
        sched_yield();
    } while (time(NULL) < end);
    return false;
}

long statistic(int vm_fd, const char *name)
{
    int fd = ioctl(vm_fd, KVM_GET_STATS_FD, NULL);
    struct kvm_stats_header header;
    struct kvm_stats_desc *desc;
    uint64_t value = 0;
    size_t size;
    bool found = false;

    NEED(fd >= 0, "KVM_GET_STATS_FD");
    NEED(pread(fd, &header, sizeof(header), 0) == sizeof(header));
    size = sizeof(*desc) + header.name_size;
    desc = malloc(size);
    for (uint32_t i = 0; i < header.num_desc && !found; i++) {
        NEED(pread(fd, desc, size, header.desc_offset + i * size) ==
             (ssize_t)size);
        if (!strcmp(desc->name, name)) {
            found = pread(fd, &value, sizeof(value),
                          header.data_offset + desc->offset) == sizeof(value);
        }
    }
    NEED(found, "the statistic %s", name);
    free(desc);
    close(fd);
    return value;
}
