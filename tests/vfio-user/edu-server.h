/*
 * vfio-user server: an edu device with real DMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef EDU_SERVER_H
#define EDU_SERVER_H

#include "libvfio-user.h"

#define EDU_BUF_SIZE            4096

/* More pieces than a transfer of a page can meet in page-sized mappings */
#define EDU_MAX_SG              64

#define CONTROL_MAX_CLIENTS     8

typedef struct Mapping {
    uint64_t iova;
    uint64_t size;
    uint32_t prot;
    bool has_fd;
    /* The library's own mapping holds all of it (see edu_dma_register()) */
    bool whole;
} Mapping;

typedef struct ControlClient {
    int fd;                     /* -1: free */
    bool closing;
    GString *in;
    GString *out;
} ControlClient;

typedef struct EduServer {
    vfu_ctx_t *ctx;
    bool attached;
    bool quit;

    uint32_t addr4;
    uint32_t fact;
    uint32_t status;
    uint32_t irq_status;
    uint64_t dma_src;
    uint64_t dma_dst;
    uint64_t dma_count;
    uint64_t dma_cmd;
    uint32_t dma_error;
    uint8_t buf[EDU_BUF_SIZE];

    GArray *maps;               /* of Mapping, sorted by iova, disjoint */
    dma_sg_t *sgl;

    uint64_t nr_map;
    uint64_t nr_unmap;
    uint64_t nr_dma_ok;
    uint64_t nr_dma_failed;
    uint64_t max_maps;

    int control_fd;
    ControlClient control[CONTROL_MAX_CLIENTS];
} EduServer;

/* edu-device.c: the device behind the socket @path, on success realized */
bool edu_create(EduServer *s, const char *path);

/* edu-control.c: the control socket and those who are connected to it */
void control_close(ControlClient *c);
void control_accept(EduServer *s);
void control_read(EduServer *s, ControlClient *c);
void control_write(ControlClient *c);
bool control_create(EduServer *s, const char *path);

#endif
