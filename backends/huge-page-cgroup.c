/*
 * Huge pages that the control group of QEMU may have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "huge-page-pool.h"

/*
 * Documentation/admin-guide/cgroup-v1/hugetlb.rst and cgroup-v2.rst: a page is
 * charged when it is reserved, and again when it is taken from the pool.
 */
static const struct {
    const char *limit, *used;
} counters[2][2] = {
    { { "rsvd.max", "rsvd.current" }, { "max", "current" } },
    { { "rsvd.limit_in_bytes", "rsvd.usage_in_bytes" },
      { "limit_in_bytes", "usage_in_bytes" } },
};

/* A hierarchy of control groups, and the group that QEMU is in */
typedef struct Hierarchy {
    bool v1;
    char *group;        /* as the kernel calls it */
    char *mount;        /* where the top of what is mounted is */
    char *dir;          /* of the group, there or below */
} Hierarchy;

static void hierarchy_clear(Hierarchy *h)
{
    g_free(h->group);
    g_free(h->mount);
    g_free(h->dir);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Hierarchy, hierarchy_clear)

static char **read_lines(const char *proc, const char *name)
{
    g_autofree char *path = g_build_filename(proc, name, NULL);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ?
           g_strsplit(text, "\n", -1) : g_new0(char *, 1);
}

static bool in_list(const char *list, const char *word)
{
    g_auto(GStrv) words = g_strsplit(list, ",", -1);

    return g_strv_contains((const char *const *)words, word);
}

/*
 * cgroups(7): lines of "number:controllers:group".  The unified hierarchy has
 * number 0 and names no controllers.  A controller is in one hierarchy only.
 */
static bool find_group(const char *proc, Hierarchy *h)
{
    g_auto(GStrv) lines = read_lines(proc, "cgroup");

    for (char **line = lines; *line && !h->v1; line++) {
        g_auto(GStrv) part = g_strsplit(*line, ":", 3);

        if (g_strv_length(part) != 3) {
            continue;
        }
        h->v1 = in_list(part[1], "hugetlb");
        if (h->v1 || g_str_equal(part[0], "0")) {
            g_free(h->group);
            h->group = g_strdup(part[2]);
        }
    }
    /* What begins so is not below the root of QEMU's namespace. */
    return h->group && !g_str_has_prefix(h->group, "/..");
}

/*
 * proc_pid_mountinfo(5): "id parent device root mount options fields - type
 * source options", where spaces within a field are octal.  In a container the
 * root can be a group above, and the rest of the hierarchy is not mounted.
 */
static bool find_mount(const char *proc, Hierarchy *h)
{
    g_auto(GStrv) lines = read_lines(proc, "mountinfo");

    for (char **line = lines; *line; line++) {
        char *rest = strstr(*line, " - ");
        g_auto(GStrv) field = NULL, filesystem = NULL;
        g_autofree char *root = NULL;
        const char *below;

        if (!rest) {
            continue;
        }
        field = g_strsplit(*line, " ", 6);
        filesystem = g_strsplit(rest + 3, " ", 3);
        if (g_strv_length(field) < 6 || g_strv_length(filesystem) < 3 ||
            !g_str_equal(filesystem[0], h->v1 ? "cgroup" : "cgroup2") ||
            (h->v1 && !in_list(filesystem[2], "hugetlb"))) {
            continue;
        }
        root = g_strcompress(field[3]);
        below = g_str_equal(root, "/") ? h->group : NULL;
        if (!below && strstart(h->group, root, &below) && *below &&
            *below != '/') {
            below = NULL;
        }
        if (below) {
            h->mount = g_strcompress(field[4]);
            h->dir = g_build_filename(h->mount, below, NULL);
            return true;
        }
    }
    return false;
}

/* Returns: false if the group has no such limit. */
static bool read_counter(const char *dir, const char *size, const char *name,
                         uint64_t *value)
{
    g_autofree char *path = g_strdup_printf("%s/hugetlb.%s.%s", dir, size,
                                            name);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) &&
           !qemu_strtou64(g_strchomp(text), NULL, 10, value);
}

/* The kernel's mem_fmt() of mm/hugetlb_cgroup.c */
static char *format_size(uint64_t size)
{
    return size >= GiB ? g_strdup_printf("%" PRIu64 "GB", size / GiB) :
           size >= MiB ? g_strdup_printf("%" PRIu64 "MB", size / MiB) :
                         g_strdup_printf("%" PRIu64 "KB", size / KiB);
}

static bool check_group(const Hierarchy *h, const char *dir, uint64_t page_size,
                        uint64_t needed, Error **errp)
{
    g_autofree char *name = format_size(page_size);

    for (size_t i = 0; i < ARRAY_SIZE(counters[0]); i++) {
        const char *counter = counters[h->v1][i].limit;
        g_autofree char *size_str = NULL;
        uint64_t limit, used = 0, left;

        if (!read_counter(dir, name, counter, &limit)) {
            continue;
        }
        read_counter(dir, name, counters[h->v1][i].used, &used);
        left = (limit - MIN(used, limit)) / page_size;
        if (needed <= left) {
            continue;
        }
        size_str = size_to_str(page_size);
        error_setg(errp, "not enough huge pages of %s in the control group of "
                   "QEMU: %" PRIu64 " needed, %" PRIu64 " free, limit %" PRIu64
                   "; raise %s/hugetlb.%s.%s, or make the memory smaller",
                   size_str, needed, left, limit / page_size, dir, name,
                   counter);
        return false;
    }
    return true;
}

bool huge_page_cgroup_check(const char *proc, uint64_t page_size,
                            uint64_t needed, Error **errp)
{
    g_auto(Hierarchy) h = { };

    if (!find_group(proc, &h) || !find_mount(proc, &h)) {
        return true;
    }
    /* A page is charged to the group and to all groups above it. */
    for (;;) {
        char *above;

        if (!check_group(&h, h.dir, page_size, needed, errp)) {
            return false;
        }
        if (strlen(h.dir) <= strlen(h.mount)) {
            return true;
        }
        above = g_path_get_dirname(h.dir);
        g_free(h.dir);
        h.dir = above;
    }
}
