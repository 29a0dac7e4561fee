/*
 * Ways in which the guest asks for memory to become shared or private
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "devices.h"
#include "guest.h"

typedef struct ConvertOps {
    const char *name;
    /* NULL if it can be used, else why not */
    const char *(*init)(void);
    int32_t (*convert)(uint64_t addr, uint64_t size, bool shared);
    int32_t (*bad_command)(uint32_t command);
    uint32_t (*mmio_address)(void);
    bool refused;               /* each request, as the memory is ordinary */
} ConvertOps;

/* conv=testdev: the PCI device guest-memfd-testdev */

/* One for each CPU, so that no lock of the guest keeps requests apart */
static uint32_t testdevs[MAX_CPUS];

static const char *testdev_init(void)
{
    PciDevice dev;
    uint32_t i;

    for (i = 0; i < opt.cpus; i++) {
        if (!pci_find_nth(TESTDEV_VENDOR_ID, TESTDEV_DEVICE_ID, i, &dev)) {
            return "no testdev (guest-memfd-testdev, PCI 1234:11f0), or fewer "
                   "than CPUs";
        }
        testdevs[i] = pci_bar(&dev, 0);
        print("testdev: at 0x%x\n", testdevs[i]);
    }
    return NULL;
}

static int32_t testdev_command(uint32_t command)
{
    uint32_t testdev = testdevs[cpu_number()];

    asm volatile("" : : : "memory");
    mmio_write(testdev, TESTDEV_REG_COMMAND, command);
    asm volatile("" : : : "memory");
    return mmio_read(testdev, TESTDEV_REG_STATUS);
}

static int32_t testdev_convert(uint64_t addr, uint64_t size, bool shared)
{
    uint32_t testdev = testdevs[cpu_number()];

    mmio_write(testdev, TESTDEV_REG_ADDR, addr);
    mmio_write(testdev, TESTDEV_REG_ADDR + 4, addr >> 32);
    mmio_write(testdev, TESTDEV_REG_SIZE, size);
    mmio_write(testdev, TESTDEV_REG_SIZE + 4, size >> 32);
    return testdev_command(shared ? TESTDEV_TO_SHARED : TESTDEV_TO_PRIVATE);
}

static uint32_t testdev_mmio_address(void)
{
    return testdevs[cpu_number()] & ~(PAGE_SIZE - 1);
}

/*
 * conv=hypercall: KVM_HC_MAP_GPA_RANGE (Linux Documentation/virt/kvm/x86/
 * hypercalls.rst), for KVM with private memory.  Arguments are 32 bits wide
 * here, and sizes are in pages: what does not fit is refused like KVM would.
 */

#define KVM_HC_MAP_GPA_RANGE    12
#define KVM_HC_UNKNOWN          0xffff
#define MAP_GPA_RANGE_ENCRYPTED (1 << 4)
#define HC_EAGAIN               11
#define HC_EINVAL               22

static bool cpu_is_amd;

static const char *hypercall_init(void)
{
    uint32_t eax = 0x40000000, ebx, ecx, edx;

    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    if (ebx != 0x4b4d564b || ecx != 0x564b4d56 || edx != 0x4d) {
        return "no KVM, so no KVM_HC_MAP_GPA_RANGE";
    }
    eax = 0;
    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    cpu_is_amd = ebx == 0x68747541;     /* "Auth" of AuthenticAMD */
    return NULL;
}

static int32_t hypercall(uint32_t nr, uint32_t a0, uint32_t a1, uint32_t a2)
{
    int32_t ret = nr;

    if (cpu_is_amd) {
        asm volatile("vmmcall" : "+a"(ret) : "b"(a0), "c"(a1), "d"(a2)
                     : "memory");
    } else {
        asm volatile("vmcall" : "+a"(ret) : "b"(a0), "c"(a1), "d"(a2)
                     : "memory");
    }
    return ret;
}

static int32_t hypercall_convert(uint64_t addr, uint64_t size, bool shared)
{
    uint64_t pages = size / PAGE_SIZE;
    int32_t ret;

    if (addr >> 32 || pages >> 32 || size % PAGE_SIZE) {
        return -HC_EINVAL;
    }
    ret = hypercall(KVM_HC_MAP_GPA_RANGE, addr, pages,
                    shared ? 0 : MAP_GPA_RANGE_ENCRYPTED);
    if (addr % PAGE_SIZE || !pages) {
        return ret;             /* KVM does not ask QEMU */
    }
    /* KVM of a TDX or SEV-SNP guest takes nothing else from QEMU. */
    if (ret && ret != HC_EAGAIN && ret != HC_EINVAL) {
        fail("KVM_HC_MAP_GPA_RANGE has answered %d", ret);
    }
    return -ret;
}

static int32_t hypercall_bad_command(uint32_t command)
{
    return hypercall(KVM_HC_UNKNOWN, command, 0, 0);
}

/* The local APIC: there in any machine, and no RAM. */
static uint32_t hypercall_mmio_address(void)
{
    return 0xfee00000;
}

/*
 * conv=none, conv=refused: memory that is shared and stays so.  The second one
 * asks the testdev all the same.
 */

static const char *none_init(void)
{
    return NULL;
}

static const ConvertOps convert_ops[] = {
    {
        .name = "testdev",
        .init = testdev_init,
        .convert = testdev_convert,
        .bad_command = testdev_command,
        .mmio_address = testdev_mmio_address,
    }, {
        .name = "hypercall",
        .init = hypercall_init,
        .convert = hypercall_convert,
        .bad_command = hypercall_bad_command,
        .mmio_address = hypercall_mmio_address,
    }, {
        .name = "none",
        .init = none_init,
    }, {
        .name = "refused",
        .init = testdev_init,
        .convert = testdev_convert,
        .refused = true,
    },
};

static const ConvertOps *ops;

void convert_init(const char *name)
{
    const char *error;
    uint32_t i;

    for (i = 0; i < ARRAY_SIZE(convert_ops); i++) {
        if (!strcmp(convert_ops[i].name, name)) {
            error = convert_ops[i].init();
            if (error) {
                fail("%s", error);
            }
            ops = &convert_ops[i];
            return;
        }
    }
    fail("conv=%s is unknown", name);
}

bool convert_possible(void)
{
    return ops->convert && !ops->refused;
}

bool convert_refused(void)
{
    return ops->refused;
}

int32_t convert_try(uint64_t addr, uint64_t size, bool shared)
{
    return ops->convert(addr, size, shared);
}

int32_t convert_bad_command(uint32_t command)
{
    return ops->bad_command(command);
}

uint32_t convert_mmio_address(void)
{
    return ops->mmio_address();
}
