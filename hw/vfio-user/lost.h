/*
 * vfio-user: a server that is lost
 *
 * QEMU does not trust a server.  One that closes its socket, sends what
 * makes no sense, does not answer in time, or sends more than anybody takes, is
 * disconnected: it unmaps all memory then, nothing waits for it, and nothing
 * is sent to it or queued for it any more.
 *
 * All of these but vfio_user_report() and vfio_user_lost() are called with the
 * proxy's lock held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_USER_LOST_H
#define HW_VFIO_USER_LOST_H

#include "hw/vfio-user/proxy.h"
#include "hw/vfio/vfio-container.h"

/**
 * vfio_user_fail_msg - complete a request that a lost server will not answer
 *
 * @msg: on no list any more
 */
void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg);

/**
 * vfio_user_disconnect_lost - disconnect the server, and say so
 *
 * All requests are completed as refused.
 */
void vfio_user_disconnect_lost(VFIOUserProxy *proxy);

/**
 * vfio_user_wait - wait until so many requests, of type WAIT, are complete
 *
 * They have twice x-msg-timeout together.  Who does not answer by then is
 * disconnected, which completes them: QEMU cannot know what such a server has mapped.
 * The time counts in two parts, so that a server is not lost because QEMU was
 * stopped, and has yet to read an answer that came in time.
 *
 * Returns: false if the server did not answer in time
 */
bool vfio_user_wait(VFIOUserProxy *proxy, VFIOUserMsg **msgs, unsigned nr);

/**
 * vfio_user_report - print why a request failed, and free @err
 *
 * Nothing is printed of a server that is lost: a guest can go on to convert
 * memory, and to access the device.
 *
 * Returns: -ENOTCONN if the server is lost, else -EIO
 */
int vfio_user_report(VFIOUserProxy *proxy, Error *err);

/** vfio_user_lost - is the server of a container gone for good? */
bool vfio_user_lost(VFIOContainer *bcontainer);

#endif
