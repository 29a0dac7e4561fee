/*
 * The registers of guest-memfd-testdev and edu, for guests of either kind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_GUEST_DEVICES_H
#define TESTS_GUEST_DEVICES_H

#define TESTDEV_VENDOR_ID       0x1234
#define TESTDEV_DEVICE_ID       0x11f0
#define TESTDEV_REG_ADDR        0x00
#define TESTDEV_REG_SIZE        0x08
#define TESTDEV_REG_COMMAND     0x10
#define TESTDEV_REG_STATUS      0x18
#define TESTDEV_TO_PRIVATE      1
#define TESTDEV_TO_SHARED       2

#define EDU_VENDOR_ID           0x1234
#define EDU_DEVICE_ID           0x11e8

#define EDU_REG_ID              0x00
#define EDU_REG_LIVENESS        0x04
#define EDU_REG_FACTORIAL       0x08
#define EDU_REG_STATUS          0x20
#define EDU_REG_DMA_SRC         0x80
#define EDU_REG_DMA_DST         0x88
#define EDU_REG_DMA_COUNT       0x90
#define EDU_REG_DMA_CMD         0x98
#define EDU_REG_DMA_ERROR       0xa0

#define EDU_ID                  0x010000edu
#define EDU_STATUS_COMPUTING    0x01
#define EDU_DMA_RUN             0x1
#define EDU_DMA_TO_RAM          0x2
#define EDU_BUF_START           0x40000

#endif
