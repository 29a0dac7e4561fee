/*
 * The host's pools of huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "huge-page-pool.h"

#define HUGEPAGES_DIR "/sys/kernel/mm/hugepages"

char *huge_page_sizes(void)
{
    g_autoptr(GDir) dir = g_dir_open(HUGEPAGES_DIR, 0, NULL);
    GString *list = g_string_new(NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        unsigned long kib;

        if (sscanf(name, "hugepages-%lukB", &kib) == 1) {
            g_autofree char *size = size_to_str(kib * KiB);

            g_string_append_printf(list, "%s%s", list->len ? ", " : "", size);
        }
    }
    if (!list->len) {
        g_string_append(list, "none");
    }
    return g_string_free(list, false);
}

/* A counter of the pool of huge pages of @size bytes. */
static bool huge_page_counter(uint64_t size, const char *counter,
                              uint64_t *value)
{
    g_autofree char *path = g_strdup_printf(HUGEPAGES_DIR "/hugepages-%" PRIu64
                                            "kB/%s", size / KiB, counter);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) &&
           !qemu_strtou64(g_strchomp(text), NULL, 10, value);
}

bool huge_page_pool_exists(uint64_t size)
{
    uint64_t unused;

    return huge_page_counter(size, "nr_hugepages", &unused);
}

bool huge_page_default_size(uint64_t *size)
{
    g_autofree char *text = NULL;
    const char *line;
    unsigned long kib;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        return false;
    }
    line = strstr(text, "Hugepagesize:");
    if (!line || sscanf(line, "Hugepagesize: %lu kB", &kib) != 1) {
        return false;
    }
    *size = kib * KiB;
    return true;
}

bool huge_page_pool_check(uint64_t page_size, uint64_t needed, Error **errp)
{
    uint64_t nr_free, reserved = 0, overcommit = 0, surplus = 0, avail;

    if (!huge_page_counter(page_size, "free_hugepages", &nr_free)) {
        return true;
    }
    huge_page_counter(page_size, "resv_hugepages", &reserved);
    huge_page_counter(page_size, "nr_overcommit_hugepages", &overcommit);
    huge_page_counter(page_size, "surplus_hugepages", &surplus);

    avail = nr_free - MIN(reserved, nr_free) +
            overcommit - MIN(surplus, overcommit);
    if (needed > avail) {
        g_autofree char *size_str = size_to_str(page_size);

        error_setg(errp, "not enough free huge pages of %s: %" PRIu64
                   " needed, %" PRIu64 " free; reserve more in " HUGEPAGES_DIR
                   "/hugepages-%" PRIu64 "kB/nr_hugepages or, for the default "
                   "size, with sysctl vm.nr_hugepages", size_str, needed, avail,
                   page_size / KiB);
        return false;
    }
    return true;
}
