/*
 * vfio-user: when a server does not do what it should
 *
 * A server is no part of QEMU's trust.  One that closes its socket, sends what
 * makes no sense, does not answer what it is asked about memory, or sends more
 * than anybody takes, is hung up on: it lets go of all memory then, nobody waits
 * for it, and nothing is sent to it or queued for it any more.
 *
 * All of these but vfio_user_report() are called with the proxy's lock held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_USER_HANG_UP_H
#define HW_VFIO_USER_HANG_UP_H

#include "hw/vfio-user/proxy.h"

/**
 * vfio_user_fail_msg - complete a request as if the server had refused it
 *
 * @msg: on no list any more
 */
void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/** vfio_user_fail - hang up; all requests are completed as if refused */
void vfio_user_fail(VFIOUserProxy *proxy);

/**
 * vfio_user_timed_out - nobody waits for the answer to @msg any more
 *
 * One answer about memory that does not come in time is made good by a request
 * for the opposite, since a server works in order.  If that is not answered
 * either nobody knows what the server has mapped, so it is hung up on.
 */
void vfio_user_timed_out(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/** vfio_user_answered - an answer to @msg, which is still the request, begins */
void vfio_user_answered(VFIOUserProxy *proxy, const VFIOUserMsg *msg);

/**
 * vfio_user_unexpected - an answer begins that nobody waits for
 *
 * Returns true if there were too many in a row.
 */
bool vfio_user_unexpected(VFIOUserProxy *proxy);

/**
 * vfio_user_flooded - the server has sent a request
 *
 * Returns true if too many wait already, or too many answers which the server
 * does not read.
 */
bool vfio_user_flooded(VFIOUserProxy *proxy);

/**
 * vfio_user_report - print why a request failed, and free @err
 *
 * A server that was hung up on is named once: a guest can go on to cause
 * requests to it.
 */
void vfio_user_report(VFIOUserProxy *proxy, Error *err);

#endif
