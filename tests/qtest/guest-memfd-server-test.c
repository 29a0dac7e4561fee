/*
 * memory-backend-guest-memfd and a vfio-user server that misbehaves
 *
 * A VM has two devices: "good" is served as it should be, "bad" by a server that
 * answers late, wrong, twice, never, or dies (guest-memfd-misbehave.c), at one
 * point of something that is done to the memory.  QEMU has to live, the mappings
 * of the good device have to be exact, and private memory is mapped for neither.
 * When the bad one has become good again, or has been replaced, its mappings are
 * exact, too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "guest-memfd-trial.h"

/* A server that does not answer has got no more than was sent at once. */
#define MAX_REQUESTS 128

static const Case cases[] = {
    { "error-0", MISBEHAVE_ERROR, 0, REFUSED },
    { "error-enomem", MISBEHAVE_ERROR, ENOMEM, REFUSED },
    { "error-4095", MISBEHAVE_ERROR, 4095, REFUSED },
    { "error-4096", MISBEHAVE_ERROR, 4096, REFUSED },
    { "error-int-min", MISBEHAVE_ERROR, 0x80000000, REFUSED },
    { "error-minus-1", MISBEHAVE_ERROR, UINT32_MAX, REFUSED },
    { "lie", MISBEHAVE_LIE, EBUSY, REFUSED },
    { "other-command", MISBEHAVE_COMMAND, 0, FINE },
    { "requests", MISBEHAVE_REQUESTS, 0, FINE },
    { "burst", MISBEHAVE_BURST, 5000, FINE },
    { "with-body", MISBEHAVE_SIZE, 32, FINE },
    { "twice", MISBEHAVE_TWICE, 0, LOST },
    { "other-id", MISBEHAVE_ID, 0, LOST },
    { "with-fd", MISBEHAVE_FDS, 0, LOST },
    { "size-huge", MISBEHAVE_SIZE, UINT32_MAX, LOST },
    { "size-too-large", MISBEHAVE_SIZE, 64, LOST },
    { "size-0", MISBEHAVE_SIZE, 0, LOST },
    { "size-short", MISBEHAVE_SIZE, 15, LOST },
    { "no-reply", MISBEHAVE_TYPE, 0, LOST },
    { "half-header-close", MISBEHAVE_HALF_CLOSE, 8, LOST },
    { "half-body-close", MISBEHAVE_HALF_CLOSE, 24, LOST },
    { "close-first", MISBEHAVE_CLOSE_FIRST, 0, LOST },
    { "close-unread", MISBEHAVE_CLOSE_UNREAD, 0, LOST },
    { "close-last", MISBEHAVE_CLOSE_LAST, 0, LOST },
    { "flood", MISBEHAVE_FLOOD, 0, LOST },
    { "flood-answers", MISBEHAVE_FLOOD, 1, LOST },
    { "half-header", MISBEHAVE_HALF, 8, LOST },
    { "half-body", MISBEHAVE_HALF, 24, LOST, true },
    { "drop", MISBEHAVE_DROP, 0, LOST, true },
    { "mute", MISBEHAVE_MUTE, 0, LOST, true },
    { "late", MISBEHAVE_LATE, 0, LOST, true },
    { "stall", MISBEHAVE_STALL, 0, LOST, true },
};

static void check_after(Trial *t)
{
    g_assert_cmpuint(bad_server_disarm(t->p.front), >, 0);
    trial_recover(t);
}

static void scene_to_shared(Trial *t)
{
    trial_arm(t, VFIO_USER_DMA_MAP, 0, 1);
    trial_convert_beside(t, BASE, 2 * MiB, false);
    check_after(t);
}

static void scene_to_private(Trial *t)
{
    gm_convert(t->p.qts, "m0", BASE, 2 * MiB, false);
    trial_arm(t, VFIO_USER_DMA_UNMAP, 0, 1);
    trial_convert_beside(t, BASE, 2 * MiB, true);
    check_after(t);
}

static void scene_split(Trial *t)
{
    gm_convert(t->p.qts, "m0", BASE, 2 * MiB, false);
    trial_arm(t, VFIO_USER_DMA_UNMAP, 0, 1);
    trial_convert_beside(t, BASE + 20 * KiB, 4096, true);
    check_after(t);
}

/* In the middle of mapping the rest of an extent. */
static void scene_split_rest(Trial *t)
{
    gm_convert(t->p.qts, "m0", BASE, 2 * MiB, false);
    trial_arm(t, VFIO_USER_DMA_MAP, 3, 1);
    trial_convert_beside(t, BASE + 20 * KiB, 4096, true);
    check_after(t);
}

/* Some runs are done, and are rolled back. */
static void scene_rollback(Trial *t)
{
    trial_make_runs(t);
    trial_arm(t, VFIO_USER_DMA_MAP, 3, 1);
    trial_convert_beside(t, BASE, 64 * KiB, false);
    check_after(t);

    trial_make_runs(t);
    trial_arm(t, VFIO_USER_DMA_UNMAP, 3, 1);
    trial_convert_beside(t, BASE, 64 * KiB, true);
    check_after(t);
}

/* The same, and the rollback fails as well. */
static void scene_no_rollback(Trial *t)
{
    trial_make_runs(t);
    trial_arm(t, MAP_OR_UNMAP, 3, FOREVER);
    trial_convert_beside(t, BASE, 64 * KiB, false);
    check_after(t);

    trial_make_runs(t);
    trial_arm(t, MAP_OR_UNMAP, 3, FOREVER);
    trial_convert_beside(t, BASE, 64 * KiB, true);
    check_after(t);
}

static void scene_reset(Trial *t)
{
    trial_make_runs(t);
    trial_arm(t, VFIO_USER_DMA_UNMAP, 3, 1);
    qtest_system_reset(t->p.qts);
    check_after(t);
}

/* A server that does not answer gets no request for each of its mappings. */
static void check_bounded(Trial *t)
{
    unsigned requests = bad_server_disarm(t->p.front);

    g_assert_cmpuint(requests, >, 0);
    if (t->c->silent) {
        g_assert_cmpuint(requests, <=, MAX_REQUESTS);
    }
}

static void reset_for_ever(Trial *t, unsigned command)
{
    trial_make_runs(t);
    trial_arm(t, command, 0, FOREVER);
    qtest_system_reset(t->p.qts);
    check_bounded(t);
    trial_recover(t);
}

static void scene_reset_forever(Trial *t)
{
    reset_for_ever(t, MAP_OR_UNMAP);
}

/* One that answers only the requests that come because it has not answered. */
static void scene_reset_half(Trial *t)
{
    reset_for_ever(t, VFIO_USER_DMA_UNMAP);
}

static void scene_unplug(Trial *t)
{
    trial_make_runs(t);
    trial_arm(t, MAP_OR_UNMAP, 0, FOREVER);
    trial_unplug_bad(t);
    check_bounded(t);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    gm_convert(t->p.qts, "m0", BASE, 2 * MiB, false);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    pair_plug(&t->p, true);
    trial_settled(t);
}

/* The device arrives, and misbehaves while it is given the memory. */
static void scene_plug(Trial *t)
{
    QDict *rsp;

    trial_make_runs(t);
    trial_unplug_bad(t);
    trial_arm(t, VFIO_USER_DMA_MAP, 5, FOREVER);
    rsp = pair_device_add(&t->p, true);
    g_assert_cmpint(qdict_haskey(rsp, "return"), ==, t->c->outcome == FINE);
    qobject_unref(rsp);
    check_bounded(t);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    gm_convert(t->p.qts, "m0", BASE + 4 * MiB, 4096, false);
    if (t->c->outcome != FINE) {
        pair_plug(&t->p, true);
    }
    trial_settled(t);
}

static void scene_dimm(Trial *t)
{
    /* It comes */
    trial_arm(t, MAP_OR_UNMAP, 0, FOREVER);
    trial_plug_dimm(t);
    check_exact(t->p.qts, t->p.good, "m1", DIMM_GPA);
    check_bounded(t);
    if (t->c->outcome == LOST) {
        trial_replace_bad(t);
    }
    gm_convert(t->p.qts, "m1", 0, 4096, true);
    gm_convert(t->p.qts, "m1", 0, 4096, false);
    check_exact(t->p.qts, t->p.bad, "m1", DIMM_GPA);

    /* and goes, while the server does not know of it, or lies. */
    trial_arm(t, MAP_OR_UNMAP, 0, FOREVER);
    trial_unplug_dimm(t);
    check_bounded(t);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    trial_replace_bad(t);
    trial_settled(t);
}

static void (*const scenes[])(Trial *t) = {
    scene_to_shared, scene_to_private, scene_split, scene_split_rest,
    scene_rollback, scene_no_rollback, scene_reset, scene_reset_forever,
    scene_reset_half, scene_unplug, scene_plug, scene_dimm,
};

static void test_case(const void *opaque)
{
    Trial t = { .c = opaque };

    if (!trial_start(&t, NULL)) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(scenes); i++) {
        scenes[i](&t);
    }
    trial_stop(&t);
}

static void check_status(QTestState *qts, const char *status)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "return"), "status"), ==,
                    status);
    qobject_unref(rsp);
}

/*
 * A reset that one refuses to unmap memory for leaves it shared.  No guest may
 * boot from it, until another reset works.
 */
static void test_refused_reset(void)
{
    static const Case c = { "refused-reset", MISBEHAVE_ERROR, EBUSY, REFUSED };
    Trial t = { .c = &c };
    g_autofree char *said = NULL;

    if (!trial_start_quiet(&t, NULL)) {
        return;
    }
    /* What has to be shared is, whoever has it mapped. */
    trial_plug_dimm(&t);
    trial_make_runs(&t);
    check_status(t.p.qts, "running");

    trial_arm(&t, VFIO_USER_DMA_UNMAP, 0, FOREVER);
    qtest_system_reset(t.p.qts);
    check_status(t.p.qts, "internal-error");
    qtest_qmp_eventwait(t.p.qts, "STOP");
    g_assert_cmpuint(gm_bytes(t.p.qts, "m0", "shared-bytes"), ==, 8 * 4096);
    check_exact(t.p.qts, t.p.good, "m0", 0);
    check_exact(t.p.qts, t.p.good, "m1", DIMM_GPA);
    check_safe(t.p.qts, t.p.bad, "m0", 0);

    /* The monitor works, and the VM does not continue. */
    gm_assert_failure(t.p.qts, qtest_qmp(t.p.qts, "{ 'execute': 'cont' }"),
                      "Resetting the Virtual Machine is required");
    check_status(t.p.qts, "internal-error");
    said = pair_log(&t.p);
    g_assert_nonnull(strstr(said, "cannot bring all of 'm0' back to its initial "
                            "state: "));
    g_assert_null(strstr(said, "all of 'm1'"));

    /* Nor does it after another one like that. */
    qtest_system_reset(t.p.qts);
    gm_assert_failure(t.p.qts, qtest_qmp(t.p.qts, "{ 'execute': 'cont' }"),
                      "Resetting the Virtual Machine is required");
    check_status(t.p.qts, "internal-error");

    g_assert_cmpuint(bad_server_disarm(t.p.front), >, 0);
    qtest_system_reset(t.p.qts);
    g_assert_cmpuint(gm_bytes(t.p.qts, "m0", "shared-bytes"), ==, 0);
    check_exact(t.p.qts, t.p.bad, "m0", 0);
    check_exact(t.p.qts, t.p.bad, "m1", DIMM_GPA);
    qtest_qmp_assert_success(t.p.qts, "{ 'execute': 'cont' }");
    qtest_qmp_eventwait(t.p.qts, "RESUME");
    check_status(t.p.qts, "running");
    trial_unplug_dimm(&t);
    trial_settled(&t);
    trial_stop_quiet(&t);
}

/* A guest converts pages of two blocks at once, and the second is refused. */
static void test_second_block(void)
{
    static const Case c = { "second-block", MISBEHAVE_ERROR, EBUSY, REFUSED };
    const uint64_t border = DIMM_GPA + 64 * MiB;
    const char *args =
        "-device guest-memfd-testdev,addr=5 "
        "-object " BACKEND ",id=m1,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m1,addr=0x100000000 "
        "-object " BACKEND ",id=m2,size=64M,driver=emulated "
        "-device pc-dimm,memdev=m2,addr=0x104000000";
    Trial t = { .c = &c };
    GmTestdev dev;

    if (!trial_start(&t, args)) {
        return;
    }
    dev = gm_testdev_open(t.p.qts, 5);
    for (int to_private = 0; to_private < 2; to_private++) {
        const char *before = to_private ? "S67108864" : "P67108864";
        unsigned command = to_private ? GM_TO_PRIVATE : GM_TO_SHARED;

        /* Events come once a second. */
        qtest_clock_step(t.p.qts, NANOSECONDS_PER_SECOND);
        gm_convert(t.p.qts, "m1", 0, 64 * MiB, !to_private);
        gm_convert(t.p.qts, "m2", 0, 64 * MiB, !to_private);
        trial_arm(&t, to_private ? VFIO_USER_DMA_UNMAP : VFIO_USER_DMA_MAP, 1,
                  1);
        g_assert_cmpint(gm_testdev_command(&dev, border - 3 * 4096, 5 * 4096,
                                           command), ==, -EBUSY);
        gm_assert_failed_event(t.p.qts, "m2", 0, 2 * 4096, to_private,
                               "a DMA listener refused");
        g_assert_cmpuint(bad_server_disarm(t.p.front), ==, 1);
        gm_assert_map(t.p.qts, "m1", before);
        gm_assert_map(t.p.qts, "m2", before);
        for (int i = 0; i < 2; i++) {
            Server *s = i ? t.p.bad : t.p.good;

            check_exact(t.p.qts, s, "m1", DIMM_GPA);
            check_exact(t.p.qts, s, "m2", border);
        }
        g_assert_cmpint(gm_testdev_command(&dev, border - 3 * 4096, 5 * 4096,
                                           command), ==, 0);
    }
    gm_testdev_close(&dev);
    trial_stop(&t);
}

/*
 * Has QEMU given the bad one up?  Conversions do not tell: a page that is made
 * shared now is not mapped by a server that is lost.
 */
static bool is_lost(Trial *t, uint64_t offset)
{
    g_autofree char *maps = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t iova, size;

    gm_convert(t->p.qts, "m0", offset, 4096, false);
    maps = server_query(t->p.bad, "maps\n");
    lines = g_strsplit(maps, "\n", -1);
    for (int i = 0; lines[i]; i++) {
        if (sscanf(lines[i], "0x%" PRIx64 " 0x%" PRIx64, &iova, &size) == 2 &&
            offset >= iova && offset < iova + size) {
            return false;
        }
    }
    return true;
}

/* Everything at once. */
static void test_random(void)
{
    static const unsigned commands[] = {
        MAP_OR_UNMAP, MAP_OR_UNMAP, VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP,
    };
    unsigned misbehaved = 0;
    Trial t = { };

    if (!trial_start(&t, NULL)) {
        return;
    }
    for (int i = 0; i < 400; i++) {
        uint64_t first = g_test_rand_int_range(4096, 4096 + 512);
        uint64_t nr = g_test_rand_int_range(1, 65);
        unsigned now;
        bool worked;

        t.c = &cases[g_test_rand_int_range(0, ARRAY_SIZE(cases))];
        if (t.c->outcome == LOST && g_test_rand_int() % 4) {
            continue;
        }
        trial_arm(&t, commands[g_test_rand_int_range(0, 4)],
                  g_test_rand_int_range(0, 8), g_test_rand_int_range(1, 8));
        worked = trial_convert(&t, first * 4096, nr * 4096, g_test_rand_bit());
        check_exact(t.p.qts, t.p.good, "m0", 0);
        now = bad_server_disarm(t.p.front);
        g_assert_cmpint(worked, ==, !now || t.c->outcome != REFUSED);
        misbehaved += now;
        check_safe(t.p.qts, t.p.bad, "m0", 0);
        if (is_lost(&t, BASE + 8 * MiB)) {
            trial_replace_bad(&t);
        }
        gm_convert(t.p.qts, "m0", BASE + 8 * MiB, 4096, true);
        check_exact(t.p.qts, t.p.good, "m0", 0);
        check_exact(t.p.qts, t.p.bad, "m0", 0);
    }
    g_assert_cmpuint(misbehaved, >, 50);
    trial_stop(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    trial_init();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *name = g_strdup_printf("guest-memfd-server/%s",
                                                cases[i].name);

        qtest_add_data_func(name, &cases[i], test_case);
    }
    qtest_add_func("guest-memfd-server/refused-reset", test_refused_reset);
    qtest_add_func("guest-memfd-server/second-block", test_second_block);
    qtest_add_func("guest-memfd-server/random", test_random);
    return g_test_run();
}
