/*
 * Huge pages in a guest_memfd, from HugeTLB pools and from the buddy allocator
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmem-test.h"

static const struct provider providers[] = {
    { "2M", FLAG_HUGETLB, 9, 4 },
    { "1G", FLAG_HUGETLB, 18, 2 },
    { "thp", FLAG_HUGEPAGE, 9, 4 },
};

static const char *const schemes[] = { "flat", "staged", "log" };

static const struct test_case cases[] = {
    { "create: arguments", case_create_arguments },
    { "create: the pool is short", case_create_short },
    { "create: memory that starts shared", case_create_init_shared },
    { "fallocate: arguments", case_fallocate_arguments },
    { "mount: hugetlbfs", case_mount_pool },
    { "mount: tmpfs", case_mount_tmpfs },
    { "pool: counters", case_counters },
    { "pool: closed in pieces", case_close_broken },
    { "pool: closed while pages are held", case_close_pinned },
    { "pool: shrinks", case_pool_shrinks },
    { "node: mbind()", case_node },
    { "node: an empty pool", case_node_empty },
    { "charge: memory", case_memcg },
    { "charge: HugeTLB", case_hugetlb_cgroup },
    { "punch: attributes stay", case_punch },
    { "punch: pages are held", case_punch_pinned },
    { "punch: small pages", case_punch_part },
    { "convert: contents", case_convert_data },
    { "convert: before there is memory", case_convert_unallocated },
    { "convert: folios and vmemmap", case_layouts },
    { "convert: pages are held", case_busy },
    { "convert: mlock", case_mlock },
    { "guest: contents", case_guest_data },
    { "guest: sizes of mappings", case_guest_levels },
    { "guest: counts while pages convert", case_guest_storm },
    { "poison: a broken page", case_broken },
    { "no memory: create", case_nomem_create },
    { "no memory: fallocate", case_nomem_allocate },
    { "no memory: to shared", case_nomem_shared },
    { "no memory: to private", case_nomem_private },
    { "no memory: at random", case_nomem_random },
    { "storm: alone", case_storm },
    { "storm: beside others", case_storm_beside },
    { "storm: lookups while a page merges", case_storm_merge },
};

const struct provider *provider;
enum scheme scheme;
unsigned int seed = 1;
unsigned int conversions = 400;
int kvm;
int vm;

__attribute__((noreturn))
static void usage(FILE *to, int code)
{
    fprintf(to,
            "usage: gmem-hugepage-test [-h] [-l] [-p PROVIDER] [-s SEED] "
            "[-n NUMBER] [CASE ...]\n"
            "\n"
            "Test what KVM's guest_memfd does with huge pages; prints TAP.\n"
            "The scheme is what kvm.gmem_restructure says.\n"
            "\n"
            "  -p PROVIDER  where huge pages are from: 2M, 1G (HugeTLB) or thp "
            "(default: 2M)\n"
            "  -s SEED      of what is random (default: %u)\n"
            "  -n NUMBER    of conversions at random (default: %u)\n"
            "  -l           list the cases\n"
            "  CASE         a part of the names of the cases to run\n",
            seed, conversions);
    exit(code);
}

static void find_provider(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(providers); i++) {
        if (!strcmp(providers[i].name, name)) {
            provider = &providers[i];
            return;
        }
    }
    errx(2, "%s: not a provider: 2M, 1G and thp are", name);
}

static void find_scheme(void)
{
    static const char path[] = "/sys/module/kvm/parameters/gmem_restructure";
    FILE *f = fopen(path, "r");
    char name[16];

    if (!f || fscanf(f, "%15s", name) != 1) {
        err(2, "%s", path);
    }
    fclose(f);
    for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++) {
        if (!strcmp(schemes[i], name)) {
            scheme = i;
            return;
        }
    }
    errx(2, "%s: the scheme %s is not known", path, name);
}

static unsigned number(const char *text)
{
    unsigned value;
    char end;

    if (sscanf(text, "%u%c", &value, &end) != 1) {
        errx(2, "%s: not a number", text);
    }
    return value;
}

int main(int argc, char **argv)
{
    int option;

    setvbuf(stdout, NULL, _IOLBF, 0);
    find_provider("2M");
    while ((option = getopt(argc, argv, "hlp:s:n:")) != -1) {
        switch (option) {
        case 'h':
            usage(stdout, 0);
        case 'l':
            for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
                printf("%s\n", cases[i].name);
            }
            return 0;
        case 'p':
            find_provider(optarg);
            break;
        case 's':
            seed = number(optarg);
            break;
        case 'n':
            conversions = number(optarg);
            break;
        default:
            usage(stderr, 2);
        }
    }
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        err(2, "/dev/kvm");
    }
    find_scheme();
    printf("# %s, %s\n", provider->name, schemes[scheme]);
    return !run_cases(cases, ARRAY_SIZE(cases), argv + optind);
}
