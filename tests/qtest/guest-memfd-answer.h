/*
 * Replies of vfio-user that are made up in place of the server
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_ANSWER_H
#define GUEST_MEMFD_ANSWER_H

#include <linux/vfio.h>
#include "guest-memfd-wire.h"

/* 6 BARs, the ROM, and the config space */
#define NR_REGIONS (VFIO_PCI_CONFIG_REGION_INDEX + 1)
#define REGION_RW (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)

/* What a server says about a PCI device */
typedef struct DeviceConfig {
    uint8_t space[4096];
    uint64_t region[NR_REGIONS];        /* their sizes */
    uint32_t irq_flags;                 /* of each kind of interrupts */
    uint32_t irq_count;
    uint32_t irq_error;                 /* of setting them up */
    uint32_t io_error;                  /* of an access to the other regions */
    uint8_t fill;                       /* or what is read there */
    /* The reply about region 0, if info_argsz is not 0 */
    uint32_t info_argsz;
    uint32_t info_flags;
    uint32_t info_cap_offset;
    uint32_t info_caps[24];             /* behind it */
} DeviceConfig;

/**
 * answer_config - @m becomes the reply, if it is about regions or interrupts
 *
 * Writes are dropped.
 *
 * Returns: false if it is not
 */
bool answer_config(const DeviceConfig *c, Message *m);

/** answer_new_maps - mappings without a server that has them */
GTree *answer_new_maps(void);

/**
 * answer_dma - @m becomes the reply, if it is to map or unmap memory
 *
 * Returns: false if it is not
 */
bool answer_dma(GTree *maps, Message *m);

/** answer_maps - the mappings, as the server prints them */
char *answer_maps(GTree *maps);

#endif
