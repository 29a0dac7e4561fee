/*
 * vfio-user: when a server does not do what it should
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hw/vfio-user/container.h"
#include "hw/vfio-user/hang-up.h"

/*
 * What requests that wait may take, and answers that the server does not read:
 * a few of the largest that can be negotiated, or 65536 small ones.
 */
#define MAX_QUEUED (256 * MiB)
#define MESSAGE (4 * KiB)

/* Each answer that nobody waits for belongs to a request that timed out. */
#define MAX_UNEXPECTED 256

/*
 * A request that is not answered in time counts as much as so many answers make
 * up for, and two in a row are too much: a server that answers every second one
 * does not get far, either.
 */
#define MISS 4
#define MAX_MISSES (2 * MISS)

void vfio_user_fail_msg(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    msg->hdr->flags = VFIO_USER_REPLY | VFIO_USER_ERROR;
    msg->hdr->error_reply = ENOTCONN;
    vfio_user_process(proxy, msg);
}

void vfio_user_fail(VFIOUserProxy *proxy)
{
    VFIOUserMsg *msg = proxy->part_recv;

    if (proxy->state == VFIO_PROXY_CONNECTED) {
        error_report("%s: hung up on the server, unplug the device",
                     proxy->sockname);
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

/*
 * Requests that were there when another one timed out had no answer for the same
 * reason.
 */
static void count_miss(VFIOUserProxy *proxy, uint32_t id)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (!proxy->misses || now - proxy->wait_time >= proxy->missed_at) {
        proxy->misses += MISS;
        proxy->missed_at = now;
        proxy->missed_id = id;
    }
}

static void forgive(VFIOUserProxy *proxy)
{
    proxy->misses -= proxy->misses > 0;
}

void vfio_user_timed_out(VFIOUserProxy *proxy, VFIOUserMsg *msg)
{
    if (about_memory(msg)) {
        count_miss(proxy, msg->id);
    }
    if (msg == proxy->part_recv || proxy->misses >= MAX_MISSES) {
        vfio_user_fail(proxy);
    } else if (msg->pending) {
        QTAILQ_REMOVE(&proxy->pending, msg, next);
    } else {
        QTAILQ_REMOVE(&proxy->outgoing, msg, next);
        proxy->num_outgoing--;
    }
}

void vfio_user_answered(VFIOUserProxy *proxy, const VFIOUserMsg *msg)
{
    proxy->unexpected = 0;
    if (about_memory(msg)) {
        forgive(proxy);
    }
}

bool vfio_user_unexpected(VFIOUserProxy *proxy, uint32_t id)
{
    error_report_once("%s: unexpected reply", proxy->sockname);
    if (id == proxy->missed_id) {
        forgive(proxy);
    }
    return ++proxy->unexpected > MAX_UNEXPECTED;
}

void vfio_user_count_request(VFIOUserProxy *proxy, const VFIOUserMsg *msg)
{
    const VFIOUserDMARW *rw = (const VFIOUserDMARW *)msg->hdr;

    proxy->incoming_bytes += MESSAGE + msg->hdr->size;
    if (msg->hdr->command == VFIO_USER_DMA_READ &&
        msg->hdr->size >= sizeof(*rw)) {
        proxy->incoming_bytes += MIN(rw->count, proxy->max_xfer_size);
    }
}

bool vfio_user_flooded(VFIOUserProxy *proxy)
{
    uint64_t unread = 0;
    VFIOUserMsg *msg;

    QTAILQ_FOREACH(msg, &proxy->outgoing, next) {
        unread += MESSAGE + msg->hdr->size;
    }
    return proxy->incoming_bytes > MAX_QUEUED || unread > MAX_QUEUED;
}

int vfio_user_report(VFIOUserProxy *proxy, Error *err)
{
    QEMU_LOCK_GUARD(&proxy->lock);

    if (proxy->state == VFIO_PROXY_CONNECTED) {
        error_report_err(err);
        return -ETIMEDOUT;
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
