/*
 * vfio-user: when a server does not do what it should
 *
 * A server is no part of QEMU's trust.  One that closes its socket, sends what
 * makes no sense, does not answer what it is asked about memory, or sends more
 * than anybody takes, is hung up on: it lets go of all memory then, nobody waits
 * for it, and nothing is sent to it or queued for it any more.
 *
 * All of these but vfio_user_report() and vfio_user_lost() are called with the
 * proxy's lock held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_USER_HANG_UP_H
#define HW_VFIO_USER_HANG_UP_H

#include "hw/vfio-user/proxy.h"
#include "hw/vfio/vfio-container.h"

/**
 * vfio_user_fail_msg - complete a request that a lost server will not answer
 *
 * @msg: on no list any more
 */
void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/** vfio_user_fail - hang up, and say so; all requests are completed as refused */
void vfio_user_fail(VFIOUserProxy *proxy);

/**
 * vfio_user_timed_out - nobody waits for the answer to @msg any more
 *
 * One answer about memory that does not come in time is made good by a request
 * for the opposite, since a server works in order.  If that is not answered
 * either, or if it goes on like that, nobody knows what the server has mapped, so
 * it is hung up on.  Answers that come, in time or late, make up for it.
 */
void vfio_user_timed_out(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/** vfio_user_answered - an answer to @msg, which is still the request, begins */
void vfio_user_answered(VFIOUserProxy *proxy, const VFIOUserMsg *msg);

/**
 * vfio_user_unexpected - an answer begins that nobody waits for, maybe any more
 *
 * Returns true if there were too many in a row.
 */
bool vfio_user_unexpected(VFIOUserProxy *proxy, uint32_t id);

/** vfio_user_count_request - one of the server is put on the list */
void vfio_user_count_request(VFIOUserProxy *proxy, const VFIOUserMsg *msg);

/**
 * vfio_user_flooded - the server sends one more request
 *
 * Returns true if too many wait already, or too much that the server does not
 * read.
 */
bool vfio_user_flooded(VFIOUserProxy *proxy);

/**
 * vfio_user_report - print why a request failed, and free @err
 *
 * Of a server that was hung up on, vfio_user_fail() has said all: a guest can go
 * on to convert memory, and to access the device.
 *
 * Returns: -ENOTCONN if the server is gone; else it has not answered in time,
 * -ETIMEDOUT.
 */
int vfio_user_report(VFIOUserProxy *proxy, Error *err);

/** vfio_user_lost - is the server of a container gone for good? */
bool vfio_user_lost(VFIOContainer *bcontainer);

#endif
