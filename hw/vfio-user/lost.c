/*
 * vfio-user: a server that is lost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-guest-memfd.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "hw/qdev-core.h"
#include "hw/vfio-user/container.h"
#include "hw/vfio-user/lost.h"

void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    msg->hdr->flags = VFIO_USER_REPLY | VFIO_USER_ERROR;
    msg->hdr->error_reply = ENOTCONN;
    vfio_user_process(proxy, msg);
}

/* Whoever plugs a device is told by the error of that. */
static void report_lost(VFIOUserProxy *proxy)
{
    DeviceState *dev = DEVICE(proxy->req_arg);

    error_report("%s: disconnected the server, unplug the device",
                 proxy->sockname);
    if (qatomic_load_acquire(&dev->realized)) {
        qapi_event_send_vfio_user_lost(dev->id, proxy->sockname);
    }
}

void vfio_user_disconnect_lost(VFIOUserProxy *proxy)
{
    VFIOUserMsg *msg = proxy->part_recv;

    if (proxy->state == VFIO_PROXY_CONNECTED) {
        report_lost(proxy);
    }
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
    while ((msg = QTAILQ_FIRST(&proxy->outgoing)) != NULL) {
        QTAILQ_REMOVE(&proxy->outgoing, msg, next);
        proxy->unread -= vfio_user_msg_bytes(msg);
        if (msg->type == VFIO_MSG_ASYNC) {
            vfio_user_recycle(proxy, msg);
        } else {
            vfio_user_fail_msg(proxy, msg);
        }
    }
    proxy->num_outgoing = 0;
    while ((msg = QTAILQ_FIRST(&proxy->pending)) != NULL) {
        QTAILQ_REMOVE(&proxy->pending, msg, next);
        vfio_user_fail_msg(proxy, msg);
    }
}

/* The last answer is waited for first: a server that keeps the order wakes us once. */
bool vfio_user_wait(VFIOUserProxy *proxy, VFIOUserMsg **msgs, unsigned nr)
{
    int64_t end = 0;
    unsigned parts = 2;

    while (nr) {
        VFIOUserMsg *msg = msgs[nr - 1];
        int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (msg->complete) {
            nr--;
        } else if (now < end) {
            qemu_cond_timedwait(&msg->cv, &proxy->lock, MIN(end - now, INT_MAX));
        } else if (parts) {
            parts--;
            end = now + proxy->wait_time;
        } else {
            vfio_user_disconnect_lost(proxy);
            return false;
        }
    }
    return true;
}

int vfio_user_report(VFIOUserProxy *proxy, Error *err)
{
    QEMU_LOCK_GUARD(&proxy->lock);

    if (proxy->state == VFIO_PROXY_CONNECTED) {
        error_report_err(err);
        return -EIO;
    }
    error_free(err);
    return -ENOTCONN;
}

bool vfio_user_lost(VFIOContainer *bcontainer)
{
    VFIOUserProxy *proxy = VFIO_IOMMU_USER(bcontainer)->proxy;

    QEMU_LOCK_GUARD(&proxy->lock);
    return proxy->state == VFIO_PROXY_ERROR;
}
