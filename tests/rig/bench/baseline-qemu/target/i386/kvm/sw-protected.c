/*
 * Software-protected VMs, for a QEMU that is else as it was released
 *
 * As much of x-sw-protected-guest (target/i386/kvm of this repository) as the
 * QEMU that the benchmark compares with needs: a type of VM, and the hypercall.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include "qapi/error.h"
#include "qemu/bitops.h"
#include "qom/object_interfaces.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "system/kvm.h"
#include "kvm_i386.h"
#include "../confidential-guest.h"

#define TYPE_SW_PROTECTED_GUEST "x-sw-protected-guest"
OBJECT_DECLARE_SIMPLE_TYPE(SwProtectedGuest, SW_PROTECTED_GUEST)

struct SwProtectedGuest {
    X86ConfidentialGuest parent_obj;
};

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(SwProtectedGuest, sw_protected_guest,
                                          SW_PROTECTED_GUEST,
                                          X86_CONFIDENTIAL_GUEST,
                                          { TYPE_USER_CREATABLE }, { })

static int sw_protected_kvm_init(ConfidentialGuestSupport *cgs, Error **errp)
{
    X86_MACHINE(qdev_get_machine())->smm = ON_OFF_AUTO_OFF;
    if (!kvm_enable_hypercall(BIT_ULL(KVM_HC_MAP_GPA_RANGE))) {
        error_setg(errp, TYPE_SW_PROTECTED_GUEST " needs KVM_HC_MAP_GPA_RANGE");
        return -EOPNOTSUPP;
    }
    cgs->ready = true;
    return 0;
}

static int sw_protected_kvm_type(X86ConfidentialGuest *cg)
{
    return KVM_X86_SW_PROTECTED_VM;
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
}
