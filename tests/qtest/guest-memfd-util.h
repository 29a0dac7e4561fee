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

/** gm_is_arm - the machine is virt, not q35 */
bool gm_is_arm(void);

/**
 * gm_machine_args - the command line for a machine with PCI whose memory is object
 * m0: q35, or virt on Arm
 *
 * @args: the rest, with m0 and the size of memory
 */
char *gm_machine_args(const char *args);

/** gm_start - start QEMU with gm_machine_args() */
QTestState *gm_start(const char *args);

/** gm_ram_base - the guest physical address of the memory of gm_start() */
uint64_t gm_ram_base(void);

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

/** gm_config_readl - read a register of PCI config space (q35, pc) */
uint32_t gm_config_readl(QTestState *qts, int devfn, uint8_t reg);

/**
 * gm_config_writel - write a register of PCI config space
 *
 * @devfn: bits 8 to 15 are the number of the bus
 */
void gm_config_writel(QTestState *qts, int devfn, uint8_t reg, uint32_t val);

/* The registers that say what is RAM below 1 MiB */
#define GM_PAM0 0x90
#define GM_PAM_REGS 7

/** gm_pam_write - write register @nr of those of q35 */
void gm_pam_write(QTestState *qts, unsigned nr, uint8_t val);

/**
 * gm_preload - what is started from now on has a library of
 * tests/guest-memfd loaded before libc; NULL: has none
 */
void gm_preload(const char *library);

/** gm_huge_pages - a counter of the pool of huge pages of @size bytes */
uint64_t gm_huge_pages(uint64_t size, const char *counter);

/** gm_huge_pages_free - how many nobody has, nor is promised */
uint64_t gm_huge_pages_free(uint64_t size);

/**
 * gm_check_refused - a QEMU that is started must exit with status 1 and an error
 * that has @needle in it
 *
 * @prefix: what starts it, "" or "command "
 */
void gm_check_refused(const char *prefix, const char *args,
                      const char *needle);

/**
 * gm_warnings - what a QEMU that starts, and is told to quit then, says
 *
 * Returns: its standard error, to be freed
 */
char *gm_warnings(const char *args);

/** gm_check_property - a property of an object, a string, is @value */
void gm_check_property(QTestState *qts, const char *id, const char *name,
                       const char *value);

/**
 * gm_lock_huge_pages - no other test has to do with the pools of huge pages
 *
 * Returns: a file descriptor; closing it ends that.
 */
int gm_lock_huge_pages(void);

/**
 * gm_drain_rcu - what waits for the end of an RCU grace period has been done
 */
void gm_drain_rcu(QTestState *qts);

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
