/*
 * What the tests of guest_memfd memory share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_UTIL_H
#define GUEST_MEMFD_UTIL_H

#include "libqos/pci.h"
#include "libqtest.h"
#include "qobject/qdict.h"

#define BACKEND "memory-backend-guest-memfd"

/** gm_block - what query-guest-memfd shows of block @id; NULL if there is none */
QDict *gm_block(QTestState *qts, const char *id);

/** gm_stat - one counter of a direction of block @id, "to-private" or other */
uint64_t gm_stat(QTestState *qts, const char *id, const char *direction,
                 const char *counter);

/** gm_bytes - a member of block @id, such as "shared-bytes" */
uint64_t gm_bytes(QTestState *qts, const char *id, const char *member);

/**
 * gm_listener - a counter of the listener of block @id whose section starts at
 * @gpa, "extents" for example
 */
uint64_t gm_listener(QTestState *qts, const char *id, uint64_t gpa,
                     const char *counter);

/** gm_convert - x-guest-memfd-convert, which must work */
void gm_convert(QTestState *qts, const char *id, uint64_t offset, uint64_t size,
                bool private);

/** gm_convert_fails - x-guest-memfd-convert must fail with @needle in the text */
void gm_convert_fails(QTestState *qts, const char *id, uint64_t offset,
                      uint64_t size, bool private, const char *needle);

/**
 * gm_map_string - the map of block @id as "S4096 P8192 …", fetched in pages of
 * @limit runs, equal neighbours joined
 */
char *gm_map_string(QTestState *qts, const char *id, unsigned limit);

/** gm_assert_map - the map of block @id is @expected, see gm_map_string() */
void gm_assert_map(QTestState *qts, const char *id, const char *expected);

/** gm_assert_failure - run a command that must fail with @needle in the text */
void gm_assert_failure(QTestState *qts, QDict *response, const char *needle);

/**
 * gm_lock_huge_pages - no other test has to do with the pools of huge pages
 *
 * Returns: a file descriptor; closing it ends that.
 */
int gm_lock_huge_pages(void);

/** gm_object_del - object-del, until the memory's last user has let go */
void gm_object_del(QTestState *qts, const char *id);

/** gm_eject_dimm - what a guest's ACPI does when it gives a DIMM back (q35) */
void gm_eject_dimm(QTestState *qts, const char *id, unsigned slot);

/**
 * gm_slot_power_off - what a guest does to let go of the device of a root port
 *
 * In @slot of q35's root bus, without ACPI; until DEVICE_DELETED.
 */
void gm_slot_power_off(QTestState *qts, unsigned slot);

/* A guest-memfd-testdev, through which a guest asks for conversions */
typedef struct GmTestdev {
    QPCIBus *bus;
    QPCIDevice *dev;
    QPCIBar bar;
} GmTestdev;

/* Its commands */
#define GM_TO_PRIVATE 1
#define GM_TO_SHARED 2

/** gm_testdev_open - use the one in @slot of q35's root bus */
GmTestdev gm_testdev_open(QTestState *qts, unsigned slot);

void gm_testdev_close(GmTestdev *t);

/**
 * gm_testdev_command - ask for a conversion by guest physical address
 *
 * Returns: 0, or the negative errno that the guest sees.
 */
int gm_testdev_command(GmTestdev *t, uint64_t gpa, uint64_t size,
                       uint32_t command);

/**
 * gm_assert_failed_event - wait for GUEST_MEMFD_CONVERSION_FAILED, which must be
 * about this range of block @id, with @needle in the text
 */
void gm_assert_failed_event(QTestState *qts, const char *id, uint64_t offset,
                            uint64_t size, bool private, const char *needle);

#endif
