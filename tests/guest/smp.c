/*
 * Several CPUs: they start, have a slice of the bounce area each, and work at
 * once
 *
 * The number of a CPU is that of its stack.  What a CPU has for itself is in
 * its Cpu; all else is shared by all of them: spinlocks guard edu with what its
 * buffer holds, and the console, and counters are added to atomically.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PORT_FW_CFG_SELECTOR    0x510
#define PORT_FW_CFG_DATA        0x511
#define FW_CFG_NB_CPUS          0x05

#define LOCAL_APIC              0xfee00000u
#define APIC_ICR                0x300
#define ICR_OTHERS              0xc0000u        /* all but this CPU */
#define ICR_ASSERT              0x4000u
#define ICR_INIT                0x500u
#define ICR_STARTUP             0x600u

uint32_t cpus_started = 1;

static Cpu cpus[MAX_CPUS] = {
    [0 ... MAX_CPUS - 1] = { .dma_size = PAGE_SIZE },
};
static void (*cpu_work)(void);
static uint32_t arrived, barriers;

uint32_t cpu_number(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);

    return (here - (uintptr_t)stacks) / STACK_SIZE;
}

Cpu *cpu_of(uint32_t number)
{
    return &cpus[number];
}

Cpu *this_cpu(void)
{
    return &cpus[cpu_number()];
}

void smp_barrier(void)
{
    uint32_t number = __atomic_load_n(&barriers, __ATOMIC_ACQUIRE);

    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == opt.cpus) {
        arrived = 0;
        __atomic_store_n(&barriers, number + 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&barriers, __ATOMIC_ACQUIRE) == number) {
        asm volatile("pause");
    }
}

/* What all CPUs do at once */
static void work_together(void)
{
    rng_seed(opt.seed + cpu_number() * 1000003);
    smp_barrier();
    cpu_work();
    smp_barrier();
}

/* The others come here, with more of them than are needed, too */
void smp_main(void)
{
    if (cpu_number() < opt.cpus) {
        work_together();
    }
    halt();
}

static uint32_t machine_cpus(void)
{
    uint32_t low;

    outw(PORT_FW_CFG_SELECTOR, FW_CFG_NB_CPUS);
    low = inb(PORT_FW_CFG_DATA);
    return low | inb(PORT_FW_CFG_DATA) << 8;
}

static void start_others(void)
{
    memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
    mmio_write(LOCAL_APIC, APIC_ICR, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
    mmio_write(LOCAL_APIC, APIC_ICR, ICR_OTHERS | ICR_ASSERT | ICR_STARTUP |
               TRAMPOLINE / PAGE_SIZE);
}

void smp_run(void (*work)(void))
{
    if (opt.cpus == 1) {
        work();
        return;
    }
    if (opt.cpus > machine_cpus()) {
        fail("cpus=%u: the machine has %u", opt.cpus, machine_cpus());
    }
    model_split();
    cpu_work = work;
    start_others();
    work_together();
    model_join();
}
