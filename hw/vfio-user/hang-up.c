/*
 * vfio-user: when a server does not do what it should
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/vfio-user/hang-up.h"

void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    msg->hdr->flags = VFIO_USER_REPLY | VFIO_USER_ERROR;
    msg->hdr->error_reply = EIO;
    vfio_user_process(proxy, msg);
}

void vfio_user_fail(VFIOUserProxy *proxy)
{
    VFIOUserMsg *msg = proxy->part_recv;

    vfio_user_shutdown(proxy);
    qio_channel_shutdown(proxy->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    proxy->state = VFIO_PROXY_ERROR;

    proxy->part_recv = NULL;
    if (msg != NULL && msg->type == VFIO_MSG_REQ) {
        if (msg->fds != NULL) {
            vfio_user_putfds(msg);
        }
        msg->type = VFIO_MSG_NOWAIT;
        vfio_user_recycle(proxy, msg);
    } else if (msg != NULL) {
        vfio_user_fail_msg(proxy, msg);
    }
    while ((msg = QTAILQ_FIRST(&proxy->pending)) != NULL) {
        QTAILQ_REMOVE(&proxy->pending, msg, next);
        vfio_user_fail_msg(proxy, msg);
    }
}

void vfio_user_forget(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    if (msg == proxy->part_recv) {
        /* it will not be read, so nothing after it can be */
        vfio_user_fail(proxy);
    } else {
        VFIOUserMsgQ *list = msg->pending ? &proxy->pending : &proxy->outgoing;

        QTAILQ_REMOVE(list, msg, next);
    }
}
