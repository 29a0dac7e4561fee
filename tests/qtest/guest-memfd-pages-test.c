/*
 * Huge pages of a guest_memfd, in an ordinary VM
 *
 * On a KVM that only seems to have them (guest-memfd-fake-kvm.c).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "qobject/qlist.h"

#define FAKE_KVM "libguest-memfd-fake-kvm.so"
#define HUGE (2 * MiB)
#define SHARED_FILE (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

#define NONE "-accel kvm -machine none -object " BACKEND ",id=m0,size=4M,"
#define MACHINE "-accel kvm -nodefaults -S -machine q35"

/* Why a test cannot run; @huge: as many huge pages are needed */
static const char *problem(uint64_t huge)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm, flags = 0;

    if (kvm < 0) {
        return "no access to /dev/kvm";
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm >= 0) {
        flags = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
        close(vm);
    }
    close(kvm);
    if (flags < 0 || (flags & SHARED_FILE) != SHARED_FILE) {
        return "this kernel's KVM has no guest_memfd that can be mapped";
    }
    return gm_huge_pages_free(HUGE) < huge ?
           "not enough free huge pages of 2 MiB" : NULL;
}

/* Returns: a lock, to be closed; -1 if the test is skipped. */
static int begin(uint64_t huge, const char *pages)
{
    int lock = gm_lock_huge_pages();
    const char *why = problem(huge);

    if (why) {
        g_test_skip(why);
        close(lock);
        return -1;
    }
    g_setenv("FAKE_KVM_PAGES", pages, true);
    gm_preload(FAKE_KVM);
    return lock;
}

static void end(int lock)
{
    gm_preload(NULL);
    g_unsetenv("FAKE_KVM_PAGES");
    g_unsetenv("FAKE_KVM_FALLOCATE");
    close(lock);
}

static void test_resource(void)
{
    int lock = begin(0, "resource");

    if (lock >= 0) {
        gm_check_refused("", NONE "hugetlb=on,hugetlbsize=2M", "hugetlb=on of "
                         "'m0': the guest_memfd of this kernel takes huge pages "
                         "from a mounted filesystem only");
        end(lock);
    }
}

static void test_refused(void)
{
    int lock = begin(2, "order");

    if (lock < 0) {
        return;
    }
    gm_check_refused("", NONE "hugetlb=on,hugetlbsize=2M -only-migratable",
                     "disallowing migration blocker");
#ifdef CONFIG_NUMA
    gm_check_refused("", NONE "hugetlb=on,hugetlbsize=2M,host-nodes=0,"
                     "policy=bind", "policy=bind of 'm0' needs prealloc=on");
#endif
    g_setenv("FAKE_KVM_FALLOCATE", "28", true);
    gm_check_refused("", NONE "hugetlb=on,hugetlbsize=2M,prealloc=on",
                     "bytes of the guest_memfd of 'm0': No space left on device "
                     "(no huge page is left");
    g_setenv("FAKE_KVM_FALLOCATE", "12", true);
    gm_check_refused("", NONE "x-provider=thp,prealloc=on",
                     "(the host, or the control group of QEMU, has no memory "
                     "left");
    end(lock);
}

/* Where the process has mapped a guest_memfd of @size bytes; 0: nowhere */
static uint64_t mapped_at(QTestState *qts, uint64_t size)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", qtest_pid(qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        uint64_t from, to;

        if (strstr(*line, "guest_memfd") || strstr(*line, "kvm-gmem")) {
            g_assert_cmpint(sscanf(*line, "%" SCNx64 "-%" SCNx64, &from, &to),
                            ==, 2);
            if (to - from == size) {
                return from;
            }
        }
    }
    return 0;
}

static void check_prealloc(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-memdev' }");
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        g_assert_true(qdict_get_bool(qobject_to(QDict, qlist_entry_obj(e)),
                                     "prealloc"));
    }
    qobject_unref(rsp);
}

/* All of a file was allocated, in whole huge pages, by @parts calls. */
static void check_allocated(const char *log, uint64_t size, unsigned parts)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t sum = 0, starts = 0;
    unsigned nr = 0;

    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (; lines[nr] && *lines[nr]; nr++) {
        uint64_t offset, length;

        g_assert_cmpint(sscanf(lines[nr], "%" SCNu64 " %" SCNu64, &offset,
                               &length), ==, 2);
        g_assert_cmpuint(offset % HUGE, ==, 0);
        g_assert_cmpuint(offset % (size / parts), ==, 0);
        sum += length;
        starts |= 1ULL << offset / (size / parts);
    }
    g_assert_cmpuint(nr, ==, parts);
    g_assert_cmpuint(sum, ==, size);
    g_assert_cmphex(starts, ==, (1ULL << parts) - 1);
}

/* How it is mapped, filled, and bound */
static void test_ordinary(const void *options)
{
    int lock = begin(64, "order");
    g_autofree char *log = NULL;
    g_autofree char *args = NULL;
    QTestState *qts;
    QDict *rsp;

    if (lock < 0) {
        return;
    }
    close(g_file_open_tmp(NULL, &log, NULL));
    g_setenv("FAKE_KVM_FALLOCATE", log, true);
    args = g_strdup_printf(MACHINE ",memory-backend=m0 -m 128M -object "
                           BACKEND ",id=m0,size=128M,prealloc=on,"
                           "prealloc-threads=8,%s", (const char *)options);
    qts = qtest_init(args);
    g_assert_cmphex(mapped_at(qts, 128 * MiB), !=, 0);
    g_assert_cmphex(mapped_at(qts, 128 * MiB) % HUGE, ==, 0);
    check_prealloc(qts);
    check_allocated(log, 128 * MiB, 2);
    g_assert_null(gm_block(qts, "m0"));

    /* KVM has no log of it. */
    rsp = qtest_qmp(qts, "{ 'execute': 'migrate', 'arguments': {"
                    " 'uri': 'exec:cat >/dev/null' } }");
    gm_assert_failure(qts, rsp, "for which KVM logs no writes");
    qtest_quit(qts);
    unlink(log);
    end(lock);
}

#define PROGRESS "GUEST_MEMFD_PREALLOC_PROGRESS"

static int64_t take_progress(QDict *event)
{
    QDict *data = qdict_get_qdict(event, "data");
    int64_t done = qdict_get_int(data, "done");

    g_assert_cmpstr(qdict_get_str(data, "id"), ==, "m1");
    g_assert_cmpint(qdict_get_int(data, "total"), ==, 128 * MiB);
    qobject_unref(event);
    return done;
}

/* A client learns how far object-add is, although QEMU's main loop waits. */
static void test_progress(void)
{
    int lock = begin(0, "order");
    g_autofree char *dir = NULL;
    g_autofree char *pipe = NULL;
    int64_t done = -1;
    QTestState *qts;
    QDict *event, *rsp;
    int reader;

    if (lock < 0) {
        return;
    }
    dir = g_dir_make_tmp(NULL, NULL);
    pipe = g_build_filename(dir, "fallocate", NULL);
    g_assert_cmpint(mkfifo(pipe, 0600), ==, 0);
    g_setenv("FAKE_KVM_FALLOCATE", pipe, true);
    qts = qtest_init("-accel kvm -machine none");
    qtest_qmp_send(qts, "{ 'execute': 'object-add', 'arguments': {"
                   " 'qom-type': '" BACKEND "', 'id': 'm1', 'driver': 'kvm',"
                   " 'x-provider': 'thp', 'prealloc': true,"
                   " 'prealloc-threads': 1, 'size': %" PRIu64 " } }",
                   128 * MiB);

    /* It cannot write to the pipe before there is a reader. */
    event = qtest_qmp_eventwait_ref(qts, PROGRESS);
    g_assert_cmpint(take_progress(event), ==, 0);
    reader = open(pipe, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(reader, >=, 0);
    rsp = qtest_qmp_receive(qts);
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    while ((event = qtest_qmp_event_ref(qts, PROGRESS))) {
        done = take_progress(event);
    }
    g_assert_cmpint(done, ==, 128 * MiB);
    qtest_quit(qts);
    close(reader);
    unlink(pipe);
    rmdir(dir);
    end(lock);
}

/* What QEMU writes to the error output as it starts with @args */
static char *said(const char *args)
{
    g_autofree char *log = NULL;
    g_autofree char *all = NULL;
    char *text = NULL;

    close(g_file_open_tmp(NULL, &log, NULL));
    all = g_strdup_printf("%s 2>%s", args, log);
    qtest_quit(qtest_init(all));
    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    unlink(log);
    return text;
}

/* The guest sees memory at an address that is not aligned to its huge pages. */
static void test_congruent(void)
{
    const struct {
        const char *before, *all;
        bool fits;
    } rows[] = {
        { "32M", "64M", true },
        { "33M", "65M", false },
    };
    int lock = begin(16, "order");

    if (lock < 0) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *args = g_strdup_printf(
            MACHINE " -m %s -object memory-backend-ram,id=n0,size=%s "
            "-object " BACKEND ",id=m0,size=32M,hugetlb=on,hugetlbsize=2M,"
            "reserve=off -numa node,memdev=n0 -numa node,memdev=m0",
            rows[i].all, rows[i].before);
        g_autofree char *text = said(args);

        g_assert_nonnull(strstr(text, "reserve=off: the huge pages of 'm0'"));
        g_assert_cmpint(!strstr(text, "in smaller pages"), ==, rows[i].fits);
    }
    end(lock);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("guest-memfd-pages/congruent", test_congruent);
    qtest_add_data_func("guest-memfd-pages/ordinary/hugetlb",
                        "hugetlb=on,hugetlbsize=2M", test_ordinary);
    qtest_add_data_func("guest-memfd-pages/ordinary/thp", "x-provider=thp",
                        test_ordinary);
    qtest_add_func("guest-memfd-pages/progress", test_progress);
    qtest_add_func("guest-memfd-pages/refused", test_refused);
    qtest_add_func("guest-memfd-pages/resource", test_resource);
    return g_test_run();
}
