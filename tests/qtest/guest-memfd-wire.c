/*
 * Messages of vfio-user on a socket
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "guest-memfd-wire.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define UNKNOWN_COMMAND 0xffff

bool wire_is_reply(const VFIOUserHdr *hdr)
{
    return (hdr->flags & VFIO_USER_TYPE) == VFIO_USER_REPLY;
}

size_t wire_body_size(const Message *m)
{
    return m->hdr.size - sizeof(m->hdr);
}

/* All of it, or false: the other side has hung up. */
static bool receive(int fd, void *buf, size_t size, Message *m)
{
    char control[CMSG_SPACE(sizeof(int) * WIRE_MAX_FDS)];
    size_t got = 0;

    while (got < size) {
        struct iovec iov = { (char *)buf + got, size - got };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1,
            .msg_control = control, .msg_controllen = sizeof(control),
        };
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (n <= 0) {
            return false;
        }
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c;
             c = CMSG_NXTHDR(&msg, c)) {
            unsigned nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            g_assert_cmpuint(m->nr_fds + nr, <=, WIRE_MAX_FDS);
            memcpy(m->fds + m->nr_fds, CMSG_DATA(c), nr * sizeof(int));
            m->nr_fds += nr;
        }
        got += n;
    }
    return true;
}

void wire_close_fds(Message *m)
{
    while (m->nr_fds) {
        close(m->fds[--m->nr_fds]);
    }
}

bool wire_receive(int fd, Message *m)
{
    m->nr_fds = 0;
    if (!receive(fd, &m->hdr, sizeof(m->hdr), m)) {
        wire_close_fds(m);
        return false;
    }
    g_assert_cmpuint(m->hdr.size, >=, sizeof(m->hdr));
    g_assert_cmpuint(m->hdr.size, <=, sizeof(m->hdr) + WIRE_MAX_BODY);
    if (!receive(fd, m->body, wire_body_size(m), m)) {
        wire_close_fds(m);
        return false;
    }
    return true;
}

bool wire_send_part(int fd, const Message *m, size_t size)
{
    char control[CMSG_SPACE(sizeof(int) * WIRE_MAX_FDS)] = { };
    struct iovec iov = { (void *)m, size };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (m->nr_fds) {
        struct cmsghdr *c = (struct cmsghdr *)control;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * m->nr_fds);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * m->nr_fds);
        memcpy(CMSG_DATA(c), m->fds, sizeof(int) * m->nr_fds);
    }
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0) {
        return true;
    }
    /* What hangs up without having read everything resets the connection. */
    g_assert_true(errno == EPIPE || errno == ECONNRESET);
    return false;
}

void wire_pass_on(int fd, Message *m)
{
    wire_send_part(fd, m, m->hdr.size);
    wire_close_fds(m);
}

void wire_make_reply(Message *m)
{
    wire_close_fds(m);
    m->hdr.size = sizeof(m->hdr);
    m->hdr.flags = VFIO_USER_REPLY;
}

void wire_make_error(Message *m, uint32_t error)
{
    wire_make_reply(m);
    m->hdr.flags |= VFIO_USER_ERROR;
    m->hdr.error_reply = error;
}

unsigned wire_flood(int fd, uint16_t id, uint32_t flags, unsigned count)
{
    Message m = { .hdr = { .id = id, .command = UNKNOWN_COMMAND,
                           .size = sizeof(m.hdr), .flags = flags } };
    unsigned sent = 0;

    while (sent < count && wire_send_part(fd, &m, m.hdr.size)) {
        sent++;
    }
    return sent;
}

bool wire_all_read(int fd)
{
    struct pollfd pfd = { .fd = fd };
    int left = 0;

    g_assert_cmpint(ioctl(fd, SIOCOUTQ, &left), ==, 0);
    return !left || (poll(&pfd, 1, 0) > 0 && pfd.revents);
}
