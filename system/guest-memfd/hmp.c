/*
 * guest_memfd blocks: info guest-memfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-guest-memfd.h"
#include "qobject/qdict.h"

static void print_direction(Monitor *mon, const char *name,
                            const GuestMemfdDirectionInfo *d)
{
    g_autofree char *bytes = size_to_str(d->bytes);

    monitor_printf(mon, "  %-10s  %10" PRIu64 "  %10s  %8" PRIu64 "  %8" PRIu64
                   "  %9" PRIu64 "\n", name, d->requests, bytes, d->failures,
                   d->retries, d->rollbacks);
}

static void print_huge_pages(Monitor *mon, const GuestMemfdHugePageInfoList *l)
{
    monitor_printf(mon, "  %-10s  %10s  %10s  %8s\n", "pages of", "shared",
                   "private", "mixed");
    for (; l; l = l->next) {
        g_autofree char *size = size_to_str(l->value->size);

        monitor_printf(mon, "  %-10s  %10" PRIu64 "  %10" PRIu64 "  %8" PRIu64
                       "\n", size, l->value->shared, l->value->q_private,
                       l->value->mixed);
    }
}

static void print_listeners(Monitor *mon, const GuestMemfdListenerInfoList *l)
{
    if (l) {
        monitor_printf(mon, "  %-32s  %8s  %10s  %10s  %10s  %8s\n", "listener",
                       "extents", "mapped", "maps", "unmaps", "splits");
    }
    for (; l; l = l->next) {
        g_autofree char *mapped = size_to_str(l->value->mapped_bytes);

        monitor_printf(mon, "  %-32s  %8" PRIu64 "  %10s  %10" PRIu64 "  %10"
                       PRIu64 "  %8" PRIu64 "\n", l->value->name,
                       l->value->extents, mapped, l->value->map_calls,
                       l->value->unmap_calls, l->value->splits);
    }
}

static void print_block(Monitor *mon, const GuestMemfdInfo *info)
{
    g_autofree char *size = size_to_str(info->size);
    g_autofree char *page = size_to_str(info->page_size);
    g_autofree char *shared = size_to_str(info->shared_bytes);
    g_autofree char *private = size_to_str(info->private_bytes);
    g_autofree char *metadata = size_to_str(info->metadata_bytes);
    g_autofree char *vmemmap = info->has_vmemmap_bytes ?
                               size_to_str(info->vmemmap_bytes) : NULL;

    monitor_printf(mon, "%s: %s in pages of %s, driver=%s conversion=%s init=%s\n",
                   info->id, size, page, GuestMemfdDriver_str(info->driver),
                   GuestMemfdConversion_str(info->conversion),
                   GuestMemfdInit_str(info->init));
    if (!info->mapped) {
        monitor_printf(mon, "  mapped nowhere: no machine and no device has "
                       "it\n");
    }
    monitor_printf(mon, "  shared %s, private %s, metadata %s%s%s\n", shared,
                   private, metadata, vmemmap ? ", vmemmap " : "",
                   vmemmap ?: "");
    if (info->provider != GUEST_MEMFD_PROVIDER_PAGES) {
        monitor_printf(mon, "  provider=%s%s%s\n",
                       GuestMemfdProvider_str(info->provider),
                       info->has_restructure ? " restructure=" : "",
                       info->has_restructure ?
                       GuestMemfdRestructure_str(info->restructure) : "");
    }
    monitor_printf(mon, "  %-11s %10s  %10s  %8s  %8s  %9s\n", "conversions",
                   "requests", "bytes", "failures", "retries", "rollbacks");
    print_direction(mon, "to private", info->to_private);
    print_direction(mon, "to shared", info->to_shared);
    print_huge_pages(mon, info->huge_pages);
    print_listeners(mon, info->listeners);
}

void hmp_info_guest_memfd(Monitor *mon, const QDict *qdict)
{
    const char *id = qdict_get_try_str(qdict, "id");
    g_autoptr(GuestMemfdInfoList) list = qmp_query_guest_memfd(&error_abort);
    bool found = false;

    for (GuestMemfdInfoList *l = list; l; l = l->next) {
        if (!id || !strcmp(id, l->value->id)) {
            print_block(mon, l->value);
            found = true;
        }
    }
    if (id && !found) {
        monitor_printf(mon, "'%s' is not a block of guest_memfd memory; info "
                       "guest-memfd lists those there are\n", id);
    } else if (!found) {
        monitor_printf(mon, "This VM has no guest_memfd memory.\n");
    }
}
