/*
 * A VM with a good device and one whose server misbehaves (vfio-user)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "guest-memfd-pair.h"

bool pair_start_servers(Pair *p)
{
    p->good = server_start();
    if (!p->good) {
        return false;
    }
    p->bad = server_start();
    p->front = bad_server_start(p->bad);
    return true;
}

void pair_set_clock(Pair *p, GmClock *clock)
{
    p->clock = clock;
    bad_server_set_clock(p->front, clock);
}

void pair_own_log(Pair *p)
{
    int fd = g_file_open_tmp("guest-memfd-XXXXXX", &p->log, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

void pair_start_vm(Pair *p, const char *machine, const char *args)
{
    p->qts = qtest_initf("%s %s%s%s", machine, args ?: "",
                         p->log ? " 2>" : "", p->log ?: "");
}

void pair_stop(Pair *p)
{
    g_clear_pointer(&p->qts, qtest_quit);
    bad_server_stop(p->front);
    server_stop(p->bad);
    server_stop(p->good);
    if (p->log) {
        unlink(p->log);
        g_clear_pointer(&p->log, g_free);
    }
}

char *pair_log(Pair *p)
{
    char *text;

    g_assert_true(g_file_get_contents(p->log, &text, NULL, NULL));
    return text;
}

QDict *pair_device_add(Pair *p, bool bad)
{
    return qtest_qmp(p->qts, "{ 'execute': 'device_add', 'arguments': {"
                     " 'driver': 'vfio-user-pci', 'id': %s, 'bus': %s,"
                     " 'x-msg-timeout': %u,"
                     " 'socket': { 'type': 'unix', 'path': %s } } }",
                     bad ? "bad" : "good", bad ? "rp-bad" : "rp-good",
                     bad && p->clock ? GM_CLOCK_TIMEOUT_MS : PAIR_TIMEOUT_MS,
                     bad ? bad_server_socket(p->front) : p->good->socket);
}

void pair_plug(Pair *p, bool bad)
{
    QDict *rsp = pair_device_add(p, bad);

    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

void pair_unplug_bad(Pair *p)
{
    qtest_qmp_device_del_send(p->qts, "bad");
    gm_slot_power_off(p->qts, PAIR_BAD_SLOT);
}
