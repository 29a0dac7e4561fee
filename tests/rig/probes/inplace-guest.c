/*
 * In-place conversion of guest_memfd, seen by a guest
 *
 * It has 16 pages, which real mode reaches. Its code is pieces of a few bytes
 * in the first one; registers are their arguments, they end with HLT.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "inplace-test.h"

/* QEMU's copy of linux/kvm_para.h is not for others */
#define HC_MAP_GPA_RANGE        12
#define MAP_ENCRYPTED           (1 << 4)

#define SLOT_PAGES      8       /* of each of two slots */
#define SECOND          24      /* first page of the file in the second one */

enum { READ = 0x100, WRITE = 0x110, CONVERT = 0x120, COUNT = 0x130 };

static const struct {
    uint64_t ip;
    uint8_t bytes[15];
} code[] = {
    { READ, { 0x8a, 0x07, 0xf4 } },         /* mov (%bx),%al; hlt */
    { WRITE, { 0x88, 0x07, 0xf4 } },        /* mov %al,(%bx); hlt */
    /* vmmcall, as the rig has an AMD CPU; hlt */
    { CONVERT, { 0x0f, 0x01, 0xd9, 0xf4 } },
    /* 1: incl (%bx); dec %ecx; jnz 1b; hlt */
    { COUNT, { 0x66, 0xff, 0x07, 0x66, 0x49, 0x75, 0xf9, 0xf4 } },
};

struct guest {
    int vcpu;
    struct kvm_run *run;
    struct file file;
};

static int set_slot(uint32_t slot, uint64_t gfn, uint64_t pages,
                    struct file *file, uint64_t pgoff, uint8_t *host)
{
    struct kvm_userspace_memory_region2 region = {
        .slot = slot,
        .flags = pages ? KVM_MEM_GUEST_MEMFD : 0,
        .guest_phys_addr = gfn * PAGE,
        .memory_size = pages * PAGE,
        .userspace_addr = (uintptr_t)host,
        .guest_memfd_offset = pgoff * PAGE,
        .guest_memfd = file->fd,
    };

    return ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

static bool bind_second(struct guest *guest)
{
    return !set_slot(1, SLOT_PAGES, SLOT_PAGES, &guest->file, SECOND,
                     guest->file.map + SECOND * PAGE);
}

/* The page of the file that the guest has at @gfn */
static uint64_t page_of(uint64_t gfn)
{
    return gfn < SLOT_PAGES ? gfn : gfn - SLOT_PAGES + SECOND;
}

static struct guest new_guest(void)
{
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_EXIT_HYPERCALL,
        .args = { 1 << HC_MAP_GPA_RANGE },
    };
    struct guest guest = { .file = new_filled(32) };
    struct kvm_sregs sregs;

    for (size_t i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
        memcpy(guest.file.map + code[i].ip, code[i].bytes, 15);
    }
    need(set_slot(0, 0, SLOT_PAGES, &guest.file, 0, guest.file.map), "a slot");
    need(bind_second(&guest) - 1, "another slot");
    need(ioctl(vm, KVM_ENABLE_CAP, &cap), "KVM_CAP_EXIT_HYPERCALL");
    guest.vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "a vCPU");
    guest.run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
                     PROT_READ | PROT_WRITE, MAP_SHARED, guest.vcpu, 0);
    need(ioctl(guest.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    need(ioctl(guest.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    return guest;
}

/* The reason why it ended: KVM_EXIT_HLT if all is well */
static uint32_t run_guest(struct guest *guest, struct kvm_regs *regs)
{
    regs->rflags = 2;
    need(ioctl(guest->vcpu, KVM_SET_REGS, regs), "KVM_SET_REGS");
    guest->run->exit_reason = KVM_EXIT_UNKNOWN;
    if (ioctl(guest->vcpu, KVM_RUN, NULL) &&
        (errno != EFAULT || guest->run->exit_reason != KVM_EXIT_MEMORY_FAULT)) {
        result(false, "KVM_RUN: %s", strerror(errno));
    }
    need(ioctl(guest->vcpu, KVM_GET_REGS, regs), "KVM_GET_REGS");
    return guest->run->exit_reason;
}

/* The byte that the guest sees, -1 if it does not get there */
static int guest_read(struct guest *guest, uint64_t gfn)
{
    struct kvm_regs regs = { .rip = READ, .rbx = gfn * PAGE };

    return run_guest(guest, &regs) == KVM_EXIT_HLT ? (uint8_t)regs.rax : -1;
}

static bool guest_write(struct guest *guest, uint64_t gfn, uint8_t value)
{
    struct kvm_regs regs = { .rip = WRITE, .rax = value, .rbx = gfn * PAGE };

    return run_guest(guest, &regs) == KVM_EXIT_HLT;
}

/* The guest asks, we do it, the guest gets the answer */
static bool guest_convert(struct guest *guest, uint64_t gfn, bool private)
{
    const uint64_t attributes = private ? MAP_ENCRYPTED : 0;
    struct kvm_run *run = guest->run;
    struct kvm_regs regs = {
        .rip = CONVERT,
        .rax = HC_MAP_GPA_RANGE,
        .rbx = gfn * PAGE,
        .rcx = 1,
        .rdx = attributes,
    };

    if (run_guest(guest, &regs) != KVM_EXIT_HYPERCALL ||
        run->hypercall.nr != HC_MAP_GPA_RANGE ||
        run->hypercall.args[0] != gfn * PAGE ||
        run->hypercall.args[1] != 1 || run->hypercall.args[2] != attributes) {
        return false;
    }
    run->hypercall.ret = convert(&guest->file, page_of(gfn), 1, private, NULL);
    return !ioctl(guest->vcpu, KVM_RUN, NULL) &&
        run->exit_reason == KVM_EXIT_HLT &&
        !ioctl(guest->vcpu, KVM_GET_REGS, &regs) && !regs.rax;
}

static void check_guest_page(struct guest *guest, uint64_t gfn)
{
    uint8_t *host = guest->file.map + page_of(gfn) * PAGE;
    bool ok = guest_read(guest, gfn) == pattern(page_of(gfn));

    ok &= guest_write(guest, gfn, 0x11) && peek(host) == 0x11;
    ok &= poke(host, 0x22) && guest_read(guest, gfn) == 0x22;
    result(ok, "guest and host share page %d", (int)gfn);
    result(guest_convert(guest, gfn, true), "the guest makes it private");
    ok = guest_read(guest, gfn) == 0x22 && guest_write(guest, gfn, 0x33);
    result(ok && peek(host) == -1, "only the guest has it, with its data");
    result(guest_convert(guest, gfn, false), "the guest makes it shared");
    ok = peek(host) == 0x33 && guest_read(guest, gfn) == 0x33;
    ok &= guest_write(guest, gfn, 0x44) && peek(host) == 0x44;
    result(ok, "both have it, with its data");
}

static void check_guest_slots(struct guest *guest)
{
    const uint64_t gfn = SLOT_PAGES + 3;
    bool ok = !convert(&guest->file, 0, 32, true, NULL);

    ok &= guest_write(guest, gfn, 0x55) && guest_read(guest, gfn) == 0x55;
    result(ok, "the guest runs with nothing but private pages");
    /* KVM's emulator, which decodes MMIO, cannot read private code. */
    convert(&guest->file, 0, 1, false, NULL);
    set_slot(1, SLOT_PAGES, 0, &guest->file, 0, NULL);
    ok = guest_read(guest, gfn) == -1;
    result(ok && guest->run->exit_reason == KVM_EXIT_MMIO,
           "without its slot, a private page is MMIO");
    guest->run->mmio.data[0] = 0;
    ioctl(guest->vcpu, KVM_RUN, NULL);
    ok = bind_second(guest) && guest_read(guest, gfn) == 0x55;
    ok &= peek(guest->file.map + page_of(gfn) * PAGE) == -1;
    result(ok, "with a new slot, it is private and has its data");
    ok = !convert(&guest->file, 0, 32, false, NULL);
    ok &= peek(guest->file.map + page_of(gfn) * PAGE) == 0x55;
    result(ok, "all of it is shared again");
}

/* Private pages of a file that is not mapped, shared ones elsewhere */
static void check_guest_two_copies(struct guest *guest)
{
    struct file file = new_file(0, PAGE);
    uint8_t *host = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = !set_slot(2, 15, 1, &file, 0, host);

    *host = 0x66;
    ok &= guest_read(guest, 15) == 0 && guest_write(guest, 15, 0x77);
    ok &= !convert(&file, 0, 1, false, NULL) && guest_read(guest, 15) == 0x66;
    ok &= !convert(&file, 0, 1, true, NULL) && guest_read(guest, 15) == 0x77;
    ok &= !convert(&file, 0, 1, false, NULL) && guest_write(guest, 15, 0x88);
    result(ok && *host == 0x88, "a slot with two copies changes between them");
    close(file.fd);
    ok = guest_read(guest, 15) == 0x88;
    result(ok, "without its file, it has the shared copy");
    set_slot(2, 15, 0, &file, 0, NULL);
    munmap(host, PAGE);
}

#define COUNTS      1000000

static void *count(void *opaque)
{
    struct guest *guest = opaque;
    struct kvm_regs regs = { .rip = COUNT, .rbx = 4 * PAGE, .rcx = COUNTS };
    uint32_t reason;

    /* A fault that a conversion overtakes may end so: try again. */
    do {
        reason = run_guest(guest, &regs);
    } while (reason == KVM_EXIT_MEMORY_FAULT);
    return reason == KVM_EXIT_HLT ? guest : NULL;
}

static void check_guest_race(struct guest *guest)
{
    uint8_t *counter = guest->file.map + 4 * PAGE;
    int conversions = 0, busy = 0;
    bool ok = true;
    pthread_t thread;
    uint32_t value;
    void *done;

    memset(counter, 0, 4);
    pthread_create(&thread, NULL, count, guest);
    while (pthread_tryjoin_np(thread, &done) == EBUSY) {
        bool private = ++conversions & 1;
        int ret = convert(&guest->file, 4, 1, private, NULL);

        busy += ret == EAGAIN;
        ok &= !ret || (private && ret == EAGAIN);
    }
    ok &= done && !convert(&guest->file, 4, 1, false, NULL);
    memcpy(&value, counter, sizeof(value));
    result(ok && value == COUNTS, "a guest counts to %u in a page that is "
           "converted meanwhile", value);
    printf("# %d conversions, EAGAIN for %d\n", conversions, busy);
}

void check_guest(void)
{
    struct guest guest = new_guest();

    check_guest_page(&guest, 3);
    check_guest_page(&guest, SLOT_PAGES + 2);
    check_guest_slots(&guest);
    check_guest_race(&guest);
    set_slot(1, SLOT_PAGES, 0, &guest.file, 0, NULL);
    check_guest_two_copies(&guest);
    drop_file(&guest.file);
    result(guest_read(&guest, 3) == -1 &&
           guest.run->exit_reason == KVM_EXIT_MEMORY_FAULT,
           "without the file, a memory fault");
}
