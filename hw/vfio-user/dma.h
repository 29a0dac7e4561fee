/*
 * vfio-user: many mappings at once, and the DMA that a server does by messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_USER_DMA_H
#define HW_VFIO_USER_DMA_H

#include "hw/vfio-user/proxy.h"
#include "hw/vfio/vfio-container.h"

/** vfio_user_dma_batch - see @dma_batch of VFIOIOMMUClass; takes the proxy's lock */
void vfio_user_dma_batch(VFIOContainer *bcontainer, VFIODmaRequest *requests,
                         unsigned nr);

/**
 * vfio_user_serve_dma - do the DMA to RAM that a server requests
 *
 * @msg: a request of the server; freed if it is served
 *
 * Called in the thread that receives, with the proxy's lock held and without the
 * BQL: a thread that waits for the server may hold that, while the server waits
 * for this.
 * Memory that is private to the guest is refused.
 *
 * Returns: false if it is anything else, for which the BQL is needed.
 */
bool vfio_user_serve_dma(VFIOUserProxy *proxy, VFIOUserMsg *msg);

#endif
