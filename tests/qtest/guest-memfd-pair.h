/*
 * A VM with a good device and one whose server misbehaves (vfio-user)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_PAIR_H
#define GUEST_MEMFD_PAIR_H

#include "guest-memfd-clock.h"
#include "guest-memfd-misbehave.h"

/* Slot of the port of the bad device on q35's root bus */
#define PAIR_BAD_SLOT 4

/* Two ports, for devices that are plugged and unplugged by a guest */
#define PAIR_PORTS \
    "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off " \
    "-device pcie-root-port,id=rp-good,chassis=1 " \
    "-device ioh3420,id=rp-bad,chassis=2,addr=" stringify(PAIR_BAD_SLOT) " "

/* 128M of memory that is private, and room for more */
#define PAIR_MACHINE \
    "-nodefaults -machine q35,memory-backend=m0 -m 128M,slots=2,maxmem=4G " \
    "-object " BACKEND ",id=m0,size=128M,driver=emulated,init=private " \
    PAIR_PORTS

/*
 * Time enough for a server that is good.  QEMU waits twice as long; a test that
 * has it pass has a clock of its own.
 */
#define PAIR_TIMEOUT_MS 20000

typedef struct Pair {
    QTestState *qts;
    Server *good;
    Server *bad;
    BadServer *front;       /* stands in front of @bad */
    GmClock *clock;         /* NULL: the bad device has PAIR_TIMEOUT_MS, too */
    char *log;              /* of QEMU; NULL: that of the test */
} Pair;

/**
 * pair_start_servers - start the servers
 *
 * Returns: false, with the test skipped, if there is none
 */
bool pair_start_servers(Pair *p);

/** pair_set_clock - the time-out of the bad device passes when it is silent */
void pair_set_clock(Pair *p, GmClock *clock);

/** pair_own_log - QEMU writes to a file, and not to the log of the test */
void pair_own_log(Pair *p);

/** pair_start_vm - start QEMU, without devices, with @machine and @args */
void pair_start_vm(Pair *p, const char *machine, const char *args);

/** pair_stop - stop QEMU, if it runs, and the servers */
void pair_stop(Pair *p);

/** pair_log - what QEMU has written; with pair_own_log() */
char *pair_log(Pair *p);

/** pair_device_add - the response to plugging the good or the bad device */
QDict *pair_device_add(Pair *p, bool bad);

/** pair_plug - plug it, which must work */
void pair_plug(Pair *p, bool bad);

/**
 * pair_unplug_bad - the guest lets go of the bad device
 *
 * A slot that was powered on, by a reset, waits for the guest.
 */
void pair_unplug_bad(Pair *p);

#endif
