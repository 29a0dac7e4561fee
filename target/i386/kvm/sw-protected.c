/*
 * Software-protected VMs
 *
 * KVM_X86_SW_PROTECTED_VM gives an ordinary guest private memory, without any
 * hardware that protects it: for the development and the tests of what has to
 * handle private memory.  The kernel offers it with CONFIG_KVM_SW_PROTECTED_VM
 * (Documentation/virt/kvm/api.rst, 4.2 and 8.20).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include "qapi/error.h"
#include "qemu/bitops.h"
#include "qemu/error-report.h"
#include "qom/object_interfaces.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "hw/qdev-core.h"
#include "system/guest-memfd-host.h"
#include "system/guest-memfd-kvm.h"
#include "system/kvm.h"
#include "system/system.h"
#include "kvm_i386.h"
#include "../confidential-guest.h"

#define TYPE_SW_PROTECTED_GUEST "x-sw-protected-guest"
OBJECT_DECLARE_SIMPLE_TYPE(SwProtectedGuest, SW_PROTECTED_GUEST)

struct SwProtectedGuest {
    X86ConfidentialGuest parent_obj;
    Notifier machine_done;
};

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(SwProtectedGuest, sw_protected_guest,
                                          SW_PROTECTED_GUEST,
                                          X86_CONFIDENTIAL_GUEST,
                                          { TYPE_USER_CREATABLE }, { })

static bool launches_private(ConfidentialGuestSupport *cgs)
{
    return cgs->require_guest_memfd;
}

static void finish_launch(Notifier *notifier, void *unused)
{
    guest_memfd_finish_launch(&error_fatal);
}

/*
 * Nothing but a conversion in place brings firmware into private memory here:
 * KVM fills it from outside for TDX and SEV-SNP only.
 */
static bool prepare_launch(SwProtectedGuest *sp, Error **errp)
{
    const GuestMemfdOps *ops;

    if (!guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_IN_PLACE, &ops, errp)) {
        error_prepend(errp, "private-launch=on: ");
        return false;
    }
    sp->machine_done.notify = finish_launch;
    qemu_add_machine_init_done_notifier(&sp->machine_done);
    return true;
}

static int sw_protected_kvm_init(ConfidentialGuestSupport *cgs, Error **errp)
{
    X86MachineState *x86ms = X86_MACHINE(qdev_get_machine());

    /* Such VMs have one address space, and SMM is another one. */
    if (x86ms->smm == ON_OFF_AUTO_ON) {
        error_setg(errp, "smm=on: " TYPE_SW_PROTECTED_GUEST " has no system "
                   "management mode; use -machine smm=off");
        return -EINVAL;
    }
    x86ms->smm = ON_OFF_AUTO_OFF;

    if (!kvm_enable_hypercall(BIT_ULL(KVM_HC_MAP_GPA_RANGE))) {
        error_setg(errp, TYPE_SW_PROTECTED_GUEST " needs "
                   "KVM_CAP_EXIT_HYPERCALL with KVM_HC_MAP_GPA_RANGE, which "
                   "this kernel's KVM does not have");
        return -EOPNOTSUPP;
    }

    if (launches_private(cgs) &&
        !prepare_launch(SW_PROTECTED_GUEST(cgs), errp)) {
        return -EOPNOTSUPP;
    }

    cgs->ready = true;
    return 0;
}

static int sw_protected_kvm_type(X86ConfidentialGuest *cg)
{
    if (!kvm_is_vm_type_supported(KVM_X86_SW_PROTECTED_VM)) {
        error_report(TYPE_SW_PROTECTED_GUEST " needs KVM_X86_SW_PROTECTED_VM, "
                     "which this kernel's KVM does not offer; it needs "
                     "CONFIG_KVM_SW_PROTECTED_VM and two-dimensional paging");
        exit(1);
    }
    return KVM_X86_SW_PROTECTED_VM;
}

/*
 * Other confidential machines require a guest_memfd for all of their memory, ROM
 * included, and start from firmware that is measured into it.  Here that is
 * private-launch=on.  Else firmware is ordinary and shared, and private memory
 * is what memory-backend-guest-memfd has.
 */
static bool get_private_launch(Object *obj, Error **errp)
{
    return launches_private(CONFIDENTIAL_GUEST_SUPPORT(obj));
}

static void set_private_launch(Object *obj, bool value, Error **errp)
{
    if (phase_check(PHASE_ACCEL_CREATED)) {
        error_setg(errp, "property 'private-launch' of '%s' cannot change any "
                   "more", object_get_typename(obj));
        return;
    }
    CONFIDENTIAL_GUEST_SUPPORT(obj)->require_guest_memfd = value;
}

static void sw_protected_guest_init(Object *obj)
{
}

static void sw_protected_guest_finalize(Object *obj)
{
}

static void sw_protected_guest_class_init(ObjectClass *oc, const void *data)
{
    CONFIDENTIAL_GUEST_SUPPORT_CLASS(oc)->kvm_init = sw_protected_kvm_init;
    X86_CONFIDENTIAL_GUEST_CLASS(oc)->kvm_type = sw_protected_kvm_type;
    object_class_property_add_bool(oc, "private-launch", get_private_launch,
                                   set_private_launch);
    object_class_property_set_description(oc, "private-launch",
        "Start from private memory, firmware included");
}
