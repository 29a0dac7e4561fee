/*
 * A vfio-user server that misbehaves on command
 *
 * A thread of the test stands between QEMU and a real server.  It passes
 * messages on, both ways and in order, but for those requests that it was told to
 * do something about.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_MISBEHAVE_H
#define GUEST_MEMFD_MISBEHAVE_H

#include "guest-memfd-server.h"

/* Commands of vfio-user; 0 is either of these. */
#define EVIL_MAP   2
#define EVIL_UNMAP 3
#define EVIL_GET_INFO 4
#define EVIL_RESET 13

#define EVIL_FOR_EVER UINT_MAX

typedef enum EvilDeed {
    EVIL_ERROR,         /* does not do it, and answers with errno @arg */
    EVIL_LIE,           /* does it, and answers with errno @arg */
    EVIL_DROP,          /* neither does it nor answers */
    EVIL_MUTE,          /* does it, and never answers */
    EVIL_LATE,          /* does it, and answers when disarmed */
    EVIL_STALL,         /* does this, and all that follows, when disarmed */
    EVIL_TWICE,         /* answers twice */
    EVIL_ID,            /* answers another request */
    EVIL_SIZE,          /* says that the answer has @arg bytes */
    EVIL_COMMAND,       /* answers another command */
    EVIL_TYPE,          /* an answer that is neither request nor reply */
    EVIL_FDS,           /* sends a file descriptor along */
    EVIL_REQUESTS,      /* asks QEMU for things before it answers */
    EVIL_BURST,         /* sends @arg requests before it answers */
    EVIL_DMA,           /* does DMA by a message before it answers */
    EVIL_FLOOD,         /* sends requests (@arg 0) or answers (1) without end */
    EVIL_HALF,          /* stops after @arg bytes of an answer */
    EVIL_HALF_CLOSE,    /* the same, and hangs up */
    EVIL_CLOSE_FIRST,   /* hangs up before it does it */
    EVIL_CLOSE_UNREAD,  /* hangs up without having read the request */
    EVIL_CLOSE_LAST,    /* does it, and hangs up */
} EvilDeed;

typedef struct Evil Evil;

/** evil_start - stand in front of @s; QEMU connects to evil_socket() */
Evil *evil_start(Server *s);

/** evil_stop - hang up, and free @e */
void evil_stop(Evil *e);

const char *evil_socket(Evil *e);

/**
 * evil_local - do not bother the server with memory from now on, but remember
 * what is mapped: it can be more than one process can hold open
 */
void evil_local(Evil *e);

/** evil_maps - what is mapped since evil_local(), as the server would say it */
char *evil_maps(Evil *e);

/**
 * evil_negotiate - say this of oneself when QEMU connects, instead of the truth
 *
 * @capabilities: JSON, which stays valid; NULL: the truth
 */
void evil_negotiate(Evil *e, const char *capabilities);

/* The regions of a PCI device: 6 BARs, the ROM, and the config space */
#define EVIL_ROM_REGION 6
#define EVIL_CONFIG_REGION 7
#define EVIL_REGIONS 8

#define EVIL_REGION_RW 3        /* the flags of one that can be used */

/* What a server says instead of the truth about a PCI device */
typedef struct EvilConfig {
    uint8_t space[4096];
    uint64_t region[EVIL_REGIONS];      /* their sizes */
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
} EvilConfig;

/**
 * evil_config - answer like this, and in place of the server, what is asked about
 * regions and interrupts; NULL: the truth
 *
 * Writes are dropped.  A copy is made of @config.
 */
void evil_config(Evil *e, const EvilConfig *config);

/**
 * evil_arm - misbehave, after @skip requests of @command were served, for
 * @count requests
 */
void evil_arm(Evil *e, EvilDeed deed, uint32_t arg, unsigned command,
              unsigned skip, unsigned count);

/**
 * evil_disarm - be good again; returns when all that QEMU has sent is served
 *
 * Returns how often it has misbehaved.
 */
unsigned evil_disarm(Evil *e);

/**
 * evil_flood - send requests, which QEMU has read when this returns; its answers
 * are not read, nor anything else
 */
void evil_flood(Evil *e, unsigned count);

/* DMA of EVIL_DMA; after it, what QEMU has answered */
typedef struct EvilDma {
    uint64_t addr;
    uint64_t count;
    bool write;
    uint8_t data[512];
    uint32_t error;
} EvilDma;

/** evil_set_dma - what EVIL_DMA does; @dma has the answer after evil_disarm() */
void evil_set_dma(Evil *e, EvilDma *dma);

/** evil_gone - wait until QEMU, or the deed, has hung up */
void evil_gone(Evil *e);

#endif
