/*
 * The host's pools of huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <dirent.h>
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/memfd.h"
#include "qemu/mmap-alloc.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "system/hostmem.h"
#include "huge-page-pool.h"

#define HUGEPAGES_DIR "/sys/kernel/mm/hugepages"
#define NODE_HUGEPAGES_DIR "/sys/devices/system/node/node%lu/hugepages"

/* A page that a device has pinned comes back after the process has ended. */
#define LATE ", or try again if a VM has just ended, whose pages may still be " \
             "on their way back"

/* What the host has instead, for an error message. */
static char *offered_sizes(void)
{
    GString *list = g_string_new("which offers: ");
    DIR *dir = opendir(HUGEPAGES_DIR);
    const char *separator = "";
    struct dirent *entry;

    if (!dir) {
        g_string_printf(list, "whose sizes cannot be read from "
                        HUGEPAGES_DIR ": %s", strerror(errno));
        return g_string_free(list, false);
    }
    while ((entry = readdir(dir))) {
        unsigned long kib;

        if (sscanf(entry->d_name, "hugepages-%lukB", &kib) == 1) {
            g_autofree char *size = size_to_str(kib * KiB);

            g_string_append_printf(list, "%s%s", separator, size);
            separator = ", ";
        }
    }
    closedir(dir);
    g_string_append(list, *separator ? "" : "none");
    return g_string_free(list, false);
}

/* Files of huge pages need neither /proc nor /sys, which may not be there. */
uint64_t huge_page_size(uint64_t size, Error **errp)
{
    uint64_t found = 0;
    int fd = -1;

    if (size && !is_power_of_2(size)) {
        error_setg(errp, "hugetlbsize=%" PRIu64 " is not a power of two", size);
        return 0;
    }
    fd = qemu_memfd_create("huge-page-size", 0, true, size, 0, NULL);
    if (fd >= 0) {
        found = qemu_fd_getpagesize(fd);
        close(fd);
    } else if (!size || (errno != ENODEV && errno != EINVAL)) {
        bool denied = errno == EACCES || errno == EPERM;

        error_setg(errp, "hugetlb=on: the host's kernel refuses a file of huge "
                   "pages (%s); %s", strerror(errno), denied ?
                   "allow it in the host's security policy, or leave the "
                   "option out" : "leave the option out");
        return 0;
    }
    if (size && found != size) {
        g_autofree char *offered = offered_sizes();

        error_setg(errp, "hugetlbsize=%" PRIu64 " is not a huge page size of "
                   "this host, %s", size, offered);
        return 0;
    }
    return found;
}

/* A counter of the pool of huge pages of @size bytes, one of those in @dir. */
static bool huge_page_counter(const char *dir, uint64_t size,
                              const char *counter, uint64_t *value)
{
    g_autofree char *path = g_strdup_printf("%s/hugepages-%" PRIu64 "kB/%s",
                                            dir, size / KiB, counter);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) &&
           !qemu_strtou64(g_strchomp(text), NULL, 10, value);
}

/* How many huge pages the host may make when the pool is empty */
static uint64_t overcommit_left(uint64_t page_size)
{
    uint64_t overcommit = 0, surplus = 0;

    huge_page_counter(HUGEPAGES_DIR, page_size, "nr_overcommit_hugepages",
                      &overcommit);
    huge_page_counter(HUGEPAGES_DIR, page_size, "surplus_hugepages", &surplus);
    return overcommit - MIN(surplus, overcommit);
}

bool huge_page_pool_check(uint64_t page_size, uint64_t needed, Error **errp)
{
    uint64_t nr_free, all = 0, reserved = 0, more, avail;

    if (!huge_page_counter(HUGEPAGES_DIR, page_size, "free_hugepages",
                           &nr_free)) {
        return true;
    }
    huge_page_counter(HUGEPAGES_DIR, page_size, "nr_hugepages", &all);
    huge_page_counter(HUGEPAGES_DIR, page_size, "resv_hugepages", &reserved);
    more = overcommit_left(page_size);
    avail = nr_free - MIN(reserved, nr_free) + more;
    if (needed > avail) {
        g_autofree char *size_str = size_to_str(page_size);

        error_setg(errp, "not enough free huge pages of %s: %" PRIu64
                   " needed, %" PRIu64 " free; reserve more in " HUGEPAGES_DIR
                   "/hugepages-%" PRIu64 "kB/nr_hugepages or, for the default "
                   "size, with sysctl vm.nr_hugepages%s", size_str, needed,
                   avail, page_size / KiB, needed <= all + more ? LATE : "");
        return false;
    }
    return true;
}

char *huge_page_node_list(const unsigned long *nodes, unsigned long size)
{
    GString *list = g_string_new(NULL);

    for (unsigned long node = find_first_bit(nodes, size); node < size;
         node = find_next_bit(nodes, size, node + 1)) {
        g_string_append_printf(list, "%s%lu", list->len ? ", " : "", node);
    }
    return g_string_free(list, false);
}

bool huge_page_node_check(const unsigned long *nodes, uint64_t page_size,
                          uint64_t needed, Error **errp)
{
    unsigned long first = find_first_bit(nodes, MAX_NODES);
    g_autofree char *size_str = size_to_str(page_size);
    g_autofree char *list = huge_page_node_list(nodes, MAX_NODES);
    uint64_t avail = overcommit_left(page_size);

    for (unsigned long node = first; node < MAX_NODES;
         node = find_next_bit(nodes, MAX_NODES, node + 1)) {
        g_autofree char *dir = g_strdup_printf(NODE_HUGEPAGES_DIR, node);
        uint64_t nr_free;

        if (!huge_page_counter(dir, page_size, "free_hugepages", &nr_free)) {
            return true;
        }
        avail += nr_free;
    }
    if (needed > avail) {
        error_setg(errp, "not enough free huge pages of %s on the nodes that "
                   "policy=bind allows (%s): %" PRIu64 " needed, %" PRIu64
                   " free; reserve more in " NODE_HUGEPAGES_DIR
                   "/hugepages-%" PRIu64 "kB/nr_hugepages", size_str, list,
                   needed, avail, first, page_size / KiB);
        return false;
    }
    return true;
}
