/*
 * svm=1: an interrupt that a hypervisor injects is delivered once
 *
 * The guest is a hypervisor here.  Its own guest, L2, is flat and without paging
 * as well, has an IDT and a GDT, and begins with an injected interrupt.  The
 * handler has the host stop the machine: QEMU's CPU leaves its loop while L2
 * runs, with no #VMEXIT since VMRUN.  L2 has interrupts off, and exits after the
 * handler.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define CPUID_FEATURES          0x80000001u
#define CPUID_ECX_SVM           (1u << 2)

#define MSR_EFER                0xc0000080u
#define EFER_SVME               (1u << 12)
#define MSR_VM_HSAVE_PA         0xc0010117u

/* Offsets in the VMCB */
#define VMCB_INTERCEPTS         0x010
#define INTERCEPT_VMRUN         (1u << 0)
#define INTERCEPT_VMMCALL       (1u << 1)
#define VMCB_ASID               0x058
#define VMCB_EXIT_CODE          0x070
#define EXIT_VMMCALL            0x81
#define VMCB_EVENT_INJ          0x0a8
#define EVENT_VALID             (1u << 31)
#define EVENT_INTR              (0u << 8)
#define VMCB_ES                 0x400
#define VMCB_CS                 0x410
#define VMCB_SS                 0x420
#define VMCB_DS                 0x430
#define VMCB_GDTR               0x460
#define VMCB_IDTR               0x480
#define VMCB_EFER               0x4d0
#define VMCB_CR0                0x558
#define VMCB_RFLAGS             0x570
#define RFLAGS_RESERVED         (1u << 1)
#define VMCB_RIP                0x578
#define VMCB_RSP                0x5d8

/* Selectors, and the attributes of flat segments */
#define CODE                    0x08
#define DATA                    0x10
#define CODE_ATTRIBUTES         0xc9b
#define DATA_ATTRIBUTES         0xc93

#define VECTOR                  0x40u
#define INTERRUPT_GATE          0x8e00u

#define PORT_PVPANIC            0x505
#define PVPANIC_PANICKED        0x01

static uint32_t vmcb[PAGE_SIZE / 4] __attribute__((aligned(PAGE_SIZE)));
static uint8_t host_save[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static uint8_t stack[PAGE_SIZE] __attribute__((aligned(16)));
static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
static uint64_t idt[VECTOR + 1];
static uint32_t deliveries;

/* With -action panic=pause the machine stops, until the host lets it go on. */
static void __attribute__((interrupt))
handler(void *frame __attribute__((unused)))
{
    if (++deliveries == 1) {
        outb(PORT_PVPANIC, PVPANIC_PANICKED);
    }
}

static void __attribute__((naked)) l2(void)
{
    asm volatile("vmmcall");
}

static uint64_t rdmsr(uint32_t msr)
{
    uint64_t val;

    asm volatile("rdmsr" : "=A"(val) : "c"(msr));
    return val;
}

static void wrmsr(uint32_t msr, uint64_t val)
{
    asm volatile("wrmsr" : : "c"(msr), "A"(val) : "memory");
}

static bool cpu_has_svm(void)
{
    uint32_t eax = CPUID_FEATURES, ecx;

    asm("cpuid" : "+a"(eax), "=c"(ecx) : : "ebx", "edx");
    return ecx & CPUID_ECX_SVM;
}

static uint32_t address(const void *object)
{
    return (uintptr_t)object;
}

static void set(uint32_t offset, uint32_t val)
{
    vmcb[offset / 4] = val;
}

static void set_segment(uint32_t offset, uint32_t selector, uint32_t attributes,
                        uint32_t limit, uint32_t base)
{
    set(offset, selector | attributes << 16);
    set(offset + 4, limit);
    set(offset + 8, base);
}

static void fill_vmcb(void)
{
    uint32_t cr0;

    set(VMCB_INTERCEPTS, INTERCEPT_VMRUN | INTERCEPT_VMMCALL);
    set(VMCB_ASID, 1);
    set(VMCB_EVENT_INJ, EVENT_VALID | EVENT_INTR | VECTOR);

    set_segment(VMCB_CS, CODE, CODE_ATTRIBUTES, UINT32_MAX, 0);
    set_segment(VMCB_DS, DATA, DATA_ATTRIBUTES, UINT32_MAX, 0);
    set_segment(VMCB_ES, DATA, DATA_ATTRIBUTES, UINT32_MAX, 0);
    set_segment(VMCB_SS, DATA, DATA_ATTRIBUTES, UINT32_MAX, 0);
    set_segment(VMCB_GDTR, 0, 0, sizeof(gdt) - 1, address(gdt));
    set_segment(VMCB_IDTR, 0, 0, sizeof(idt) - 1, address(idt));

    asm("mov %%cr0, %0" : "=r"(cr0));
    set(VMCB_CR0, cr0);
    set(VMCB_EFER, rdmsr(MSR_EFER));
    set(VMCB_RFLAGS, RFLAGS_RESERVED);
    set(VMCB_RIP, address(l2));
    set(VMCB_RSP, address(stack + sizeof(stack)));
}

void run_svm(void)
{
    uint32_t entry = address(handler);

    if (!cpu_has_svm()) {
        fail("the CPU has no SVM");
    }
    idt[VECTOR] = (uint64_t)((entry & 0xffff0000) | INTERRUPT_GATE) << 32 |
                  CODE << 16 | (entry & 0xffff);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
    wrmsr(MSR_VM_HSAVE_PA, address(host_save));
    fill_vmcb();

    /* The handler keeps all registers; VMRUN and #VMEXIT keep ours. */
    asm volatile("vmrun" : : "a"(vmcb) : "cc", "memory");

    if (vmcb[VMCB_EXIT_CODE / 4] != EXIT_VMMCALL) {
        fail("L2 ended with exit code 0x%x", vmcb[VMCB_EXIT_CODE / 4]);
    }
    if (deliveries != 1) {
        fail("the interrupt was delivered %u times", deliveries);
    }
}
