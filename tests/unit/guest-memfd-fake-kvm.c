/*
 * A KVM for unit tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "qemu/memfd.h"
#include "qapi/error.h"
#include "system/address-spaces.h"
#include "system/system.h"
#include "guest-memfd-core.h"
#include "guest-memfd-fake-kvm.h"

/* As the driver knows it: the offset, size, attributes, flags, error_offset */
#define SET_MEMORY_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, uint64_t[16])

const hwaddr gpas[ADDRESSES] = { 0x100000, 0x40000000 };

static Block *const b = &block[0];

FakeKVM kvm;
KVMState *kvm_state;
AddressSpace address_space_memory;
MlockState mlock_state;

bool should_mlock(MlockState state)
{
    return state == MLOCK_ON || state == MLOCK_ON_FAULT;
}

bool is_mlock_on_fault(MlockState state)
{
    return state == MLOCK_ON_FAULT;
}

int kvm_vm_check_extension(KVMState *s, unsigned int extension)
{
    switch (extension) {
    case KVM_CAP_GUEST_MEMFD:
    case KVM_CAP_USER_MEMORY2:
        return 1;
    case KVM_CAP_MEMORY_ATTRIBUTES:
        return kvm.no_attribute ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE;
    case KVM_CAP_GUEST_MEMFD_FLAGS:
        return kvm.file_flags;
    default:
        return 0;
    }
}

static int fake_set_attributes(const struct kvm_memory_attributes *a)
{
    if (kvm.refuse & BIT_ULL(++kvm.calls)) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < ARRAY_SIZE(gpas); i++) {
        for (uint64_t o = 0; o < SIZE; o += PAGE) {
            if (gpas[i] + o >= a->address &&
                gpas[i] + o < a->address + a->size) {
                kvm.attributes[i][o / PAGE] = a->attributes;
            }
        }
    }
    return 0;
}

/* An order that it has pages of; its pool may be short. */
static int check_order(uint64_t word, uint64_t size, uint64_t flags)
{
    if ((word != 9 && word != 18) || size & ((PAGE << word) - 1) ||
        ((flags & GUEST_MEMFD_FLAG_INIT_SHARED) && !kvm.huge_shared)) {
        return -EINVAL;
    }
    return -kvm.create_huge;
}

/* Whatever directory, so that a test needs no mount */
static int check_resource(uint64_t word)
{
    struct stat st;

    if (word > UINT32_MAX) {
        return -EINVAL;
    }
    return fstat((int)word, &st) ? -EBADF :
           S_ISDIR(st.st_mode) ? -kvm.create_huge : -EINVAL;
}

static int check_create(const struct kvm_create_guest_memfd *create)
{
    uint64_t word = create->reserved[0];

    if ((create->flags & FILE_THP) && !kvm.thp) {
        return -EINVAL;
    }
    if (!(create->flags & FILE_HUGETLB)) {
        return word ? -EINVAL : 0;
    }
    switch (kvm.pages) {
    case FAKE_ORDER:
        return check_order(word, create->size, create->flags);
    case FAKE_RESOURCE:
        return check_resource(word);
    default:
        return -EINVAL;
    }
}

static int fake_create(const struct kvm_create_guest_memfd *create)
{
    int err = kvm.create ? -kvm.create : check_create(create);

    kvm.creates++;
    kvm.created = create->flags;
    kvm.created_word = create->reserved[0];
    return err ?: qemu_memfd_create("test", create->size, false, 0, 0,
                                    &error_abort);
}

int kvm_vm_ioctl(KVMState *s, unsigned long type, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, type);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (type == KVM_CREATE_GUEST_MEMFD) {
        return fake_create(arg);
    }
    g_assert_cmpuint(type, ==, KVM_SET_MEMORY_ATTRIBUTES);
    return fake_set_attributes(arg);
}

/* All of a range or nothing, but huge pages one by one. */
static int fake_in_place(uint64_t *a)
{
    uint64_t offset = a[0], size = a[1], attributes = a[2];
    uint64_t end = offset + size;
    int ret = kvm.in_place;

    if (kvm.held_calls && kvm.held >= offset && kvm.held < end) {
        uint64_t huge = guest_memfd_huge_page_size(b->gm);
        uint64_t folio = QEMU_ALIGN_DOWN(kvm.held, huge);

        kvm.held_calls--;
        if (kvm.names != NAMES_NOTHING) {
            a[4] = kvm.names == NAMES_FOLIO ? folio : kvm.held;
        }
        end = huge > PAGE ? MAX(offset, folio) : offset;
        ret = kvm.held_errno ?: EAGAIN;
    }
    for (uint64_t o = offset; !kvm.in_place && o < end; o += PAGE) {
        kvm.attributes[0][o / PAGE] = attributes;
    }
    errno = ret;
    return ret ? -1 : 0;
}

/* The C library's is not called by what is linked with this. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    return request == SET_MEMORY_ATTRIBUTES2 ? fake_in_place(arg) :
           syscall(SYS_ioctl, fd, request, arg);
}

void flatview_for_each_range(FlatView *fv, flatview_cb cb, void *opaque)
{
    for (size_t i = 0; i < ARRAY_SIZE(gpas); i++) {
        if (cb(int128_make64(gpas[i]), int128_make64(SIZE), &b->mr, 0,
               opaque)) {
            break;
        }
    }
}

int kvm_convert_memory(hwaddr start, hwaddr size, bool to_private)
{
    kvm.conversions++;
    kvm.gpa = start;
    kvm.size = size;
    kvm.to_private = to_private;
    return kvm.convert;
}

const char *memory_region_name(const MemoryRegion *mr)
{
    return "b0";
}

ram_addr_t memory_region_get_ram_addr(MemoryRegion *mr)
{
    return RAM_ADDR;
}

void kvm_hwpoison_page_add(ram_addr_t ram_addr)
{
    kvm.poisoned++;
    kvm.poison = ram_addr;
}

static void on_sigbus(int n, siginfo_t *siginfo, void *context)
{
    if (!guest_memfd_sigbus(siginfo, context)) {
        _exit(3);
    }
}

void setup_kvm(uint64_t page_size, uint32_t flags, const GuestMemfdOps *ops)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    sigaction(SIGBUS, &action, NULL);
    fake_reset();
    memset(&kvm, 0, sizeof(kvm));
    memset(&core_discards, 0, sizeof(core_discards));
    memset(b, 0, sizeof(*b));
    core_init_block(&b->rb, &b->mr, SIZE);
    b->rb.page_size = page_size;
    b->rb.flags = RAM_SHARED | flags;
    b->rb.fd = qemu_memfd_create("test", SIZE, false, 0, 0, &error_abort);
    b->rb.guest_memfd = b->rb.fd;
    b->rb.host = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, b->rb.fd,
                      0);
    g_assert_true(b->rb.host != MAP_FAILED);
    if (!ops) {
        guest_memfd_kvm_choose(GUEST_MEMFD_CONVERSION_TWO_COPY, &ops,
                               &error_abort);
    }
    b->rb.fd_is_guest_memfd = ops == &guest_memfd_in_place_ops;
    b->gm = guest_memfd_new(&b->rb, "b0", ops, false, &error_abort);
}

void teardown_kvm(void)
{
    guest_memfd_free(b->gm);
    munmap(b->rb.host, SIZE);
    close(b->rb.fd);
}
