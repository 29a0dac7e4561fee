/*
 * vfio-user: when a server does not do what it should
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "hw/vfio-user/hang-up.h"

/* A server that waits for its answers, and sends one each, comes near neither. */
#define MAX_QUEUED 256
#define MAX_UNEXPECTED 256

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
    while ((msg = QTAILQ_FIRST(&proxy->outgoing)) != NULL) {
        QTAILQ_REMOVE(&proxy->outgoing, msg, next);
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

static bool about_memory(const VFIOUserMsg *msg)
{
    return msg->hdr->command == VFIO_USER_DMA_MAP ||
           msg->hdr->command == VFIO_USER_DMA_UNMAP;
}

void vfio_user_timed_out(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    bool memory = about_memory(msg);

    if (msg == proxy->part_recv || (memory && proxy->unanswered)) {
        vfio_user_fail(proxy);
    } else if (msg->pending) {
        QTAILQ_REMOVE(&proxy->pending, msg, next);
    } else {
        QTAILQ_REMOVE(&proxy->outgoing, msg, next);
        proxy->num_outgoing--;
    }
    proxy->unanswered |= memory;
}

void vfio_user_answered(VFIOUserProxy *proxy, const VFIOUserMsg *msg)
{
    proxy->unexpected = 0;
    if (about_memory(msg)) {
        proxy->unanswered = false;
    }
}

bool vfio_user_unexpected(VFIOUserProxy *proxy)
{
    error_report_once("%s: unexpected reply", proxy->sockname);
    return ++proxy->unexpected > MAX_UNEXPECTED;
}

bool vfio_user_flooded(VFIOUserProxy *proxy)
{
    unsigned queued = 0;
    VFIOUserMsg *msg;

    QTAILQ_FOREACH(msg, &proxy->incoming, next) {
        queued++;
    }
    QTAILQ_FOREACH(msg, &proxy->outgoing, next) {
        queued += (msg->hdr->flags & VFIO_USER_TYPE) == VFIO_USER_REPLY;
    }
    return queued > MAX_QUEUED;
}

void vfio_user_report(VFIOUserProxy *proxy, Error *err)
{
    QEMU_LOCK_GUARD(&proxy->lock);

    if (proxy->state == VFIO_PROXY_CONNECTED || !proxy->reported) {
        proxy->reported = proxy->state != VFIO_PROXY_CONNECTED;
        error_report_err(err);
    } else {
        error_free(err);
    }
}
