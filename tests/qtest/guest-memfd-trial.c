/*
 * Memory that is converted beside a vfio-user server that misbehaves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "guest-memfd-trial.h"

/* What QEMU may write about all that goes wrong in one test */
#define MAX_LINES 20

static GmClock *the_clock;

void trial_init(void)
{
    the_clock = gm_clock_init();
}

bool trial_convert(Trial *t, uint64_t offset, uint64_t size, bool private)
{
    QDict *rsp = qtest_qmp(t->p.qts, "{ 'execute': 'x-guest-memfd-convert',"
                           " 'arguments': { 'id': 'm0', 'offset': %" PRIu64
                           ", 'size': %" PRIu64 ", 'private': %i } }",
                           offset, size, private);
    bool ok = qdict_haskey(rsp, "return");

    g_assert_true(ok || qdict_haskey(rsp, "error"));
    qobject_unref(rsp);
    return ok;
}

void trial_convert_beside(Trial *t, uint64_t offset, uint64_t size,
                          bool private)
{
    g_assert_cmpint(trial_convert(t, offset, size, private), ==,
                    t->c->outcome != REFUSED);
}

void trial_make_runs(Trial *t)
{
    for (int i = 0; i < 8; i++) {
        gm_convert(t->p.qts, "m0", BASE + i * 8192, 4096, false);
    }
}

void trial_arm(Trial *t, unsigned command, unsigned skip, unsigned count)
{
    bad_server_arm(t->p.front, t->c->what, t->c->arg, command, skip, count);
}

void trial_unplug_bad(Trial *t)
{
    pair_unplug_bad(&t->p);
    t->lost = 0;
}

void trial_replace_bad(Trial *t)
{
    trial_unplug_bad(t);
    gm_convert(t->p.qts, "m0", 64 * MiB, 4096, false);
    gm_convert(t->p.qts, "m0", 64 * MiB, 4096, true);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    pair_plug(&t->p, true);
}

void trial_plug_dimm(Trial *t)
{
    qtest_qmp_assert_success(t->p.qts, "{ 'execute': 'object-add',"
                             " 'arguments': { 'qom-type': '" BACKEND "',"
                             " 'id': 'm1', 'driver': 'emulated',"
                             " 'size': %" PRIu64 " } }", 128 * MiB);
    qtest_qmp_device_add(t->p.qts, "pc-dimm", "dimm1", "{ 'memdev': 'm1' }");
}

void trial_unplug_dimm(Trial *t)
{
    gm_eject_dimm(t->p.qts, "dimm1", 0);
    gm_object_del(t->p.qts, "m1");
    check_unmapped(t->p.good, DIMM_GPA, 128 * MiB);
}

/*
 * The server has noticed that its client is gone.  It reads one message of
 * those that were sent before, and the end at last, for each answer that it gives
 * here.
 */
static void wait_disconnected(Trial *t)
{
    bad_server_wait_disconnected(t->p.front);
    for (int i = 0; ; i++) {
        g_autofree char *maps = server_query(t->p.bad, "maps\n");

        if (!*maps) {
            return;
        }
        g_assert_cmpint(i, <, 10000);
    }
}

void trial_settled(Trial *t)
{
    gm_convert(t->p.qts, "m0", BASE + 8 * MiB, 4096, false);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    check_exact(t->p.qts, t->p.bad, "m0", 0);
    gm_convert(t->p.qts, "m0", 0, 128 * MiB, true);
    check_exact(t->p.qts, t->p.good, "m0", 0);
    check_exact(t->p.qts, t->p.bad, "m0", 0);
}

void trial_recover(Trial *t)
{
    check_exact(t->p.qts, t->p.good, "m0", 0);
    if (t->c->outcome == LOST) {
        wait_disconnected(t);
        gm_convert(t->p.qts, "m0", 64 * MiB, 4096, false);
        check_exact(t->p.qts, t->p.good, "m0", 0);
        /* It was said before the server could notice. */
        g_assert_cmpuint(t->lost, ==, 1);
        trial_replace_bad(t);
    } else {
        g_assert_cmpuint(t->lost, ==, 0);
        check_safe(t->p.qts, t->p.bad, "m0", 0);
    }
    trial_settled(t);
}

static bool note_event(QTestState *qts, const char *name, QDict *event,
                       void *opaque)
{
    Trial *t = opaque;

    if (strcmp(name, "VFIO_USER_LOST")) {
        return false;
    }
    event = qdict_get_qdict(event, "data");
    g_assert_cmpstr(qdict_get_str(event, "device"), ==, "bad");
    g_assert_true(g_str_has_suffix(qdict_get_str(event, "socket"),
                                   bad_server_socket(t->p.front)));
    t->lost++;
    return true;
}

static bool start(Trial *t, const char *args, bool quiet)
{
    if (!pair_start_servers(&t->p)) {
        return false;
    }
    pair_set_clock(&t->p, the_clock);
    if (quiet) {
        pair_own_log(&t->p);
    }
    pair_start_vm(&t->p, PAIR_MACHINE, args);
    qtest_qmp_set_event_callback(t->p.qts, note_event, t);
    pair_plug(&t->p, false);
    pair_plug(&t->p, true);
    return true;
}

bool trial_start(Trial *t, const char *args)
{
    return start(t, args, false);
}

bool trial_start_quiet(Trial *t, const char *args)
{
    return start(t, args, true);
}

void trial_stop(Trial *t)
{
    pair_stop(&t->p);
}

void trial_stop_quiet(Trial *t)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    qtest_quit(g_steal_pointer(&t->p.qts));
    text = pair_log(&t->p);
    lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), <, MAX_LINES);
    pair_stop(&t->p);
}
