/*
 * guest_memfd blocks: QMP
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-guest-memfd.h"
#include "system/guest-memfd.h"
#include "system/hostmem.h"
#include "system/runstate.h"

#define DEFAULT_RUNS 1024
#define MAX_RUNS 4096

static GuestMemfd *find_block(const char *id, Error **errp)
{
    GuestMemfd *gm = guest_memfd_find(id);
    Object *obj;

    if (gm) {
        return gm;
    }
    obj = object_resolve_path_component(object_get_objects_root(), id);
    if (obj && object_dynamic_cast(obj, TYPE_MEMORY_BACKEND)) {
        error_setg(errp, "'%s' is ordinary memory (%s%s), none of which can be "
                   "converted; query-guest-memfd lists what can", id,
                   object_get_typename(obj),
                   object_property_find(obj, "conversion") ?
                   ",conversion=none" : "");
    } else {
        error_setg(errp, "'%s' is no block of guest_memfd memory; "
                   "query-guest-memfd lists those there are", id);
    }
    return NULL;
}

GuestMemfdInfoList *qmp_query_guest_memfd(Error **errp)
{
    GuestMemfdInfoList *list = NULL, **tail = &list;
    GuestMemfd *gm = NULL;

    while ((gm = guest_memfd_next(gm))) {
        QAPI_LIST_APPEND(tail, guest_memfd_query(gm));
    }
    return list;
}

GuestMemfdMapInfo *qmp_query_guest_memfd_map(const char *id, bool has_offset,
                                             uint64_t offset, bool has_limit,
                                             uint32_t limit, Error **errp)
{
    GuestMemfd *gm = find_block(id, errp);
    GuestMemfdMapInfo *info;
    uint64_t next;

    if (!gm) {
        return NULL;
    }
    if (!has_offset) {
        offset = 0;
    }
    if (!has_limit) {
        limit = DEFAULT_RUNS;
    }
    if (!QEMU_IS_ALIGNED(offset, qemu_real_host_page_size()) ||
        offset >= guest_memfd_size(gm)) {
        error_setg(errp, "offset 0x%" PRIx64 " must be a multiple of 0x%"
                   PRIxPTR " below the size of '%s', 0x%" PRIx64, offset,
                   qemu_real_host_page_size(), id, guest_memfd_size(gm));
        return NULL;
    }
    if (!limit || limit > MAX_RUNS) {
        error_setg(errp, "limit %" PRIu32 " must be between 1 and %d", limit,
                   MAX_RUNS);
        return NULL;
    }

    info = g_new0(GuestMemfdMapInfo, 1);
    info->id = g_strdup(id);
    info->runs = guest_memfd_query_map(gm, offset, limit, &next);
    info->has_next_offset = next < guest_memfd_size(gm);
    info->next_offset = next;
    return info;
}

void qmp_x_guest_memfd_convert(const char *id, uint64_t offset, uint64_t size,
                               bool private, Error **errp)
{
    GuestMemfd *gm = find_block(id, errp);

    if (!gm) {
        return;
    }
    /* The guest does not convert memory: a dump has stopped it. */
    if (private && qemu_system_dump_in_progress()) {
        error_setg(errp, "'%s' cannot become private while memory is dumped; "
                   "wait for the event DUMP_COMPLETED", id);
        return;
    }
    guest_memfd_convert_block(gm, offset, size, private, errp);
}
