/*
 * guest_memfd blocks: the names that other versions of QEMU give to things
 *
 * Proposals for QEMU and downstream versions have options that are called
 * otherwise here.  "Parameter is unexpected" does not help who has a command line
 * with them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "system/guest-memfd-names.h"

#define BACKEND "memory-backend-guest-memfd"

/* @type: NULL for any confidential guest; @option: NULL for the object itself */
static const struct {
    const char *type, *option, *ours;
} names[] = {
    { "memory-backend-memfd-private", NULL, "-object " BACKEND },
    { BACKEND, "private", "init=private" },
    { BACKEND, "gmem-allocator", "hugetlb=on, or x-provider=thp" },
    { BACKEND, "gmem-page-size", "hugetlb=on,hugetlbsize=SIZE" },
    { BACKEND, "guest-memfd", "conversion=none" },
    { BACKEND, "x-guest-memfd", "conversion=none" },
    { BACKEND, "convert-in-place",
      "conversion=in-place|two-copy, or convert-in-place=on|off of the "
      "confidential guest" },
    { "memory-backend-memfd", "guest-memfd", "x-guest-memfd=on" },
    { "memory-backend-memfd", "private", "-object " BACKEND },
    { "memory-backend-ram", "private", "-object " BACKEND },
    { "memory-backend-file", "private", "-object " BACKEND },
    { NULL, "gmem-allocator", "hugetlb=on of " BACKEND },
    { NULL, "gmem-page-size", "hugetlb=on,hugetlbsize=SIZE of " BACKEND },
};

static bool is_guest(const char *type)
{
    return g_str_equal(type, "sev-snp-guest") || g_str_equal(type, "tdx-guest") ||
           g_str_equal(type, "x-sw-protected-guest");
}

bool guest_memfd_check_names(const QDict *object, Error **errp)
{
    const char *type = qdict_get_try_str(object, "qom-type");

    for (size_t i = 0; type && i < ARRAY_SIZE(names); i++) {
        const char *option = names[i].option;

        if ((names[i].type ? !g_str_equal(type, names[i].type) :
                             !is_guest(type)) ||
            (option && !qdict_haskey(object, option))) {
            continue;
        }
        if (option) {
            error_setg(errp, "%s has no option '%s'; use %s", type, option,
                       names[i].ours);
        } else {
            error_setg(errp, "this QEMU has no %s; use %s", type,
                       names[i].ours);
        }
        return false;
    }
    return true;
}
