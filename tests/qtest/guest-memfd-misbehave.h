/*
 * A vfio-user server that misbehaves on command
 *
 * A thread of the test stands between QEMU and a real server.  It passes
 * messages on, both ways and in order, except those requests that it was told to
 * do something about.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_MISBEHAVE_H
#define GUEST_MEMFD_MISBEHAVE_H

#include "guest-memfd-answer.h"
#include "guest-memfd-clock.h"
#include "guest-memfd-server.h"

/* In place of a command: to map or to unmap memory */
#define MAP_OR_UNMAP 0

#define FOREVER UINT_MAX

typedef enum Misbehaviour {
    MISBEHAVE_ERROR,        /* does not do it, and answers with errno @arg */
    MISBEHAVE_LIE,          /* does it, and answers with errno @arg */
    MISBEHAVE_DROP,         /* neither does it nor answers */
    MISBEHAVE_MUTE,         /* does it, and never answers */
    MISBEHAVE_LATE,         /* does it, and answers when disarmed */
    MISBEHAVE_STALL,        /* does this, and all that follows, when disarmed */
    MISBEHAVE_TWICE,        /* answers twice */
    MISBEHAVE_ID,           /* answers another request */
    MISBEHAVE_SIZE,         /* says that the answer has @arg bytes */
    MISBEHAVE_COMMAND,      /* answers another command */
    MISBEHAVE_TYPE,         /* an answer that is neither request nor reply */
    MISBEHAVE_FDS,          /* sends a file descriptor along */
    MISBEHAVE_REQUESTS,     /* sends requests to QEMU before it answers */
    MISBEHAVE_BURST,        /* sends @arg requests before it answers */
    MISBEHAVE_DMA,          /* does DMA by a message before it answers */
    MISBEHAVE_FLOOD,        /* sends requests (@arg 0) or answers (1) without end */
    MISBEHAVE_HALF,         /* stops after @arg bytes of an answer */
    MISBEHAVE_HALF_CLOSE,   /* the same, and hangs up */
    MISBEHAVE_CLOSE_FIRST,  /* hangs up before it does it */
    MISBEHAVE_CLOSE_UNREAD, /* hangs up without having read the request */
    MISBEHAVE_CLOSE_LAST,   /* does it, and hangs up */
} Misbehaviour;

typedef struct BadServer BadServer;

/**
 * bad_server_start - stand in front of @s; QEMU connects to bad_server_socket()
 */
BadServer *bad_server_start(Server *s);

/** bad_server_stop - hang up, and free @b */
void bad_server_stop(BadServer *b);

const char *bad_server_socket(BadServer *b);

/**
 * bad_server_set_clock - @clock runs while the server does not answer
 */
void bad_server_set_clock(BadServer *b, GmClock *clock);

/**
 * bad_server_keep_maps - do not bother the server with memory from now on, but
 * remember what is mapped: it can be more than one process can hold open
 */
void bad_server_keep_maps(BadServer *b);

/**
 * bad_server_maps - what is mapped since bad_server_keep_maps(), as the server
 * prints it
 */
char *bad_server_maps(BadServer *b);

/**
 * bad_server_negotiate - say this of oneself when QEMU connects, instead of the
 * truth
 *
 * @capabilities: JSON, which stays valid; NULL: the truth
 */
void bad_server_negotiate(BadServer *b, const char *capabilities);

/**
 * bad_server_describe - answer like this, and in place of the server, requests
 * about regions and interrupts; NULL: the truth
 *
 * A copy is made of @config.
 */
void bad_server_describe(BadServer *b, const DeviceConfig *config);

/**
 * bad_server_arm - misbehave, after @skip requests of @command were served, for
 * @count requests
 */
void bad_server_arm(BadServer *b, Misbehaviour what, uint32_t arg,
                    unsigned command, unsigned skip, unsigned count);

/**
 * bad_server_disarm - be good again; returns when all that QEMU has sent is
 * served
 *
 * Returns: how often it has misbehaved
 */
unsigned bad_server_disarm(BadServer *b);

/**
 * bad_server_flood - send requests, which QEMU has read when this returns; its
 * answers are not read, nor anything else
 */
void bad_server_flood(BadServer *b, unsigned count);

/* DMA of MISBEHAVE_DMA; after it, what QEMU has answered */
typedef struct ServerDma {
    uint64_t addr;
    uint64_t count;
    bool write;
    uint8_t data[512];
    uint32_t error;
} ServerDma;

/**
 * bad_server_set_dma - what MISBEHAVE_DMA does; @dma has the answer after
 * bad_server_disarm()
 */
void bad_server_set_dma(BadServer *b, ServerDma *dma);

/**
 * bad_server_wait_disconnected - wait until QEMU, or the misbehaviour, has hung
 * up
 */
void bad_server_wait_disconnected(BadServer *b);

#endif
