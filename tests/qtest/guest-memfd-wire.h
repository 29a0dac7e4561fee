/*
 * Messages of vfio-user on a socket
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_WIRE_H
#define GUEST_MEMFD_WIRE_H

#include "hw/vfio-user/protocol.h"

/* The largest message is a read of all of the config space. */
#define WIRE_MAX_BODY 8192
#define WIRE_MAX_FDS 16

/* The structures of protocol.h, each of which begins with the header, fit. */
typedef struct Message {
    VFIOUserHdr hdr;
    char body[WIRE_MAX_BODY] QEMU_ALIGNED(8);
    int fds[WIRE_MAX_FDS];
    unsigned nr_fds;
} Message;

/** wire_is_reply - is @hdr that of a reply, not of a request? */
bool wire_is_reply(const VFIOUserHdr *hdr);

/** wire_body_size - the bytes behind the header */
size_t wire_body_size(const Message *m);

/**
 * wire_receive - wait for a message
 *
 * Returns: false if the other side has hung up
 */
bool wire_receive(int fd, Message *m);

/**
 * wire_send_part - send the first @size bytes of a message, and its descriptors,
 * which stay open
 *
 * Returns: false if the other side has hung up
 */
bool wire_send_part(int fd, const Message *m, size_t size);

/** wire_pass_on - send a message, and close its descriptors */
void wire_pass_on(int fd, Message *m);

/** wire_close_fds - close the descriptors of a message */
void wire_close_fds(Message *m);

/** wire_make_reply - a request becomes the reply that it succeeded */
void wire_make_reply(Message *m);

/** wire_make_error - a request becomes the reply that it failed */
void wire_make_error(Message *m, uint32_t error);

/**
 * wire_flood - send messages without a body, which QEMU does not know
 *
 * Returns: how many were sent before the other side hung up
 */
unsigned wire_flood(int fd, uint16_t id, uint32_t flags, unsigned count);

/** wire_all_read - the other side has read everything, or has hung up */
bool wire_all_read(int fd);

#endif
