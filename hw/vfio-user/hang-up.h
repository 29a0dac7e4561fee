/*
 * vfio-user: when a server does not do what it should
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
 *
 * This and the following are called with the lock of the proxy held.
 */
void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/**
 * vfio_user_fail - hang up
 *
 * The server is gone, or what it sends makes no sense.  It hears that nobody
 * listens any more, so that it lets go of all memory, and nobody waits for it.
 */
void vfio_user_fail(VFIOUserProxy *proxy);

/** vfio_user_forget - nobody waits for @msg any more, but it is not complete */
void vfio_user_forget(VFIOUserProxy *proxy, VFIOUserMsg *msg);

#endif
