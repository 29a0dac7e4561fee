/*
 * A device that does DMA, and what it has mapped (tests/vfio-user/edu-server.c)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_SERVER_H
#define GUEST_MEMFD_SERVER_H

#include "libqtest.h"
#include "guest-memfd-util.h"

/*
 * A machine with 128M of private memory and a port for the device.  Native
 * PCIe hotplug: a slot that no guest powered on is unplugged at once.
 */
#define SERVER_MACHINE_WITH(memory) \
    "-nodefaults -machine q35,memory-backend=m0 -m 128M,slots=2,maxmem=4G " \
    "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off " \
    "-device pcie-root-port,id=rp,chassis=1,addr=1 " \
    "-object " memory ",id=m0,size=128M "
#define SERVER_MACHINE \
    SERVER_MACHINE_WITH(BACKEND ",driver=emulated,init=private")

/* device_add of the device, for @more options and the path of its socket */
#define SERVER_DEVICE_ADD_WITH(more) \
    "{ 'execute': 'device_add', 'arguments': {" \
    " 'driver': 'vfio-user-pci', 'id': 'dev', 'bus': 'rp'," more \
    " 'socket': { 'type': 'unix', 'path': %s } } }"
#define SERVER_DEVICE_ADD SERVER_DEVICE_ADD_WITH("")

/* Below, ROMs lie over the RAM, and are mapped like all that is no RAM. */
#define FIRMWARE_END 0x100000

typedef struct Server {
    GPid pid;
    char *dir;
    char *socket;
    char *control;
} Server;

/**
 * server_start - start a server, and wait until it listens
 *
 * Returns NULL, with the test skipped, if there is none.
 */
Server *server_start(void);

/** server_plug - the device comes to the port */
void server_plug(QTestState *qts, Server *s);

typedef struct ServerTest {
    const char *name;
    const char *args;           /* of QEMU, if more than SERVER_MACHINE */
    void (*run)(QTestState *qts, Server *s);
} ServerTest;

/**
 * server_add_tests - each with a server of its own, and a machine with the
 * device; @tests ends with one without a name
 */
void server_add_tests(const ServerTest *tests);

/** server_kill - kill it, its sockets stay */
void server_kill(Server *s);

/** server_stop - kill it, and free @s */
void server_stop(Server *s);

/** server_query - the answer of the control socket, without its "end" */
char *server_query(Server *s, const char *command);

/** check_maps - the mappings in a range are @expected, "OFFSET+SIZE …" */
void check_maps(Server *s, uint64_t gpa, uint64_t size, const char *expected);

/**
 * check_exact - every shared byte of block @id, which lies at @gpa, is mapped
 * once, and no private byte is: neighbouring mappings joined, they are the
 * shared runs
 */
void check_exact(QTestState *qts, Server *s, const char *id, uint64_t gpa);

/** check_exact_maps - the same for @maps, lines like those of the server */
void check_exact_maps(QTestState *qts, const char *maps, const char *id,
                      uint64_t gpa);

/** check_safe - no private byte of block @id is mapped (I1) */
void check_safe(QTestState *qts, Server *s, const char *id, uint64_t gpa);

/** check_mapped - all of a range is mapped */
void check_mapped(Server *s, uint64_t gpa, uint64_t size);

/** check_unmapped - nothing of a range is mapped */
void check_unmapped(Server *s, uint64_t gpa, uint64_t size);

#endif
