/*
 * Two PCI devices, driven from user space: guest-memfd-testdev and edu
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../devices.h"
#include "linux.h"

#define PCI_COMMAND         0x04
#define PCI_COMMAND_MEMORY  0x0002
#define PCI_COMMAND_MASTER  0x0004

static uint8_t *edu;
static pthread_mutex_t edu_lock = PTHREAD_MUTEX_INITIALIZER;

static void write32(uint8_t *reg, uint32_t val)
{
    asm volatile("movl %1, %0" : "=m"(*(uint32_t *)reg) : "r"(val)
                 : "memory");
}

static uint32_t read32(uint8_t *reg)
{
    uint32_t val;

    asm volatile("movl %1, %0" : "=r"(val) : "m"(*(uint32_t *)reg)
                 : "memory");
    return val;
}

static void write64(uint8_t *reg, uint64_t val)
{
    asm volatile("movq %1, %0" : "=m"(*(uint64_t *)reg) : "r"(val)
                 : "memory");
}

static unsigned int read_id(const char *directory, const char *name)
{
    unsigned int id;
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    f = fopen(path, "r");
    if (!f || fscanf(f, "%x", &id) != 1) {
        fail("%s: %s", path, strerror(errno));
    }
    fclose(f);
    return id;
}

static void enable(const char *directory)
{
    char path[256];
    uint16_t command;
    int fd;

    snprintf(path, sizeof(path), "%s/config", directory);
    fd = open(path, O_RDWR);
    if (fd < 0 || pread(fd, &command, 2, PCI_COMMAND) != 2) {
        fail("%s: %s", path, strerror(errno));
    }
    command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    if (pwrite(fd, &command, 2, PCI_COMMAND) != 2) {
        fail("%s: %s", path, strerror(errno));
    }
    close(fd);
}

/* BAR 0 of the n-th of these devices */
static uint8_t *map_bar(unsigned int vendor, unsigned int device,
                        unsigned int n)
{
    char path[256];
    glob_t found;
    size_t i;
    void *bar;
    int fd;

    if (glob("/sys/bus/pci/devices/[0-9]*", 0, NULL, &found)) {
        fail("/sys/bus/pci/devices is empty");
    }
    for (i = 0; i < found.gl_pathc; i++) {
        const char *directory = found.gl_pathv[i];

        if (read_id(directory, "vendor") == vendor &&
            read_id(directory, "device") == device && !n--) {
            break;
        }
    }
    if (i == found.gl_pathc) {
        fail("PCI %x:%x is not there, or fewer than needed", vendor, device);
    }
    enable(found.gl_pathv[i]);
    snprintf(path, sizeof(path), "%s/resource0", found.gl_pathv[i]);
    fd = open(path, O_RDWR);
    if (fd < 0) {
        fail("%s: %s", path, strerror(errno));
    }
    bar = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar == MAP_FAILED) {
        fail("%s: %s", path, strerror(errno));
    }
    close(fd);
    globfree(&found);
    return bar;
}

void testdev_init(Testdev *d, unsigned int n)
{
    d->bar = map_bar(TESTDEV_VENDOR_ID, TESTDEV_DEVICE_ID, n);
}

int testdev_convert(Testdev *d, uint64_t gpa, uint64_t size, bool to_private)
{
    write64(d->bar + TESTDEV_REG_ADDR, gpa);
    write64(d->bar + TESTDEV_REG_SIZE, size);
    write32(d->bar + TESTDEV_REG_COMMAND,
            to_private ? TESTDEV_TO_PRIVATE : TESTDEV_TO_SHARED);
    return read32(d->bar + TESTDEV_REG_STATUS);
}

void devices_init(void)
{
    edu = map_bar(EDU_VENDOR_ID, EDU_DEVICE_ID, 0);
    if (read32(edu + EDU_REG_ID) != EDU_ID) {
        fail("edu: identification is 0x%x", read32(edu + EDU_REG_ID));
    }
}

static unsigned int edu_dma(uint64_t src, uint64_t dst, uint64_t size,
                            bool to_ram)
{
    write64(edu + EDU_REG_DMA_SRC, src);
    write64(edu + EDU_REG_DMA_DST, dst);
    write64(edu + EDU_REG_DMA_COUNT, size);
    write32(edu + EDU_REG_DMA_CMD,
            (to_ram ? EDU_DMA_TO_RAM : 0) | EDU_DMA_RUN);
    while (read32(edu + EDU_REG_DMA_CMD) & EDU_DMA_RUN) {
        /* it works */
    }
    return read32(edu + EDU_REG_DMA_ERROR);
}

unsigned int edu_copy(uint64_t from, uint64_t to, uint64_t size)
{
    unsigned int err;

    pthread_mutex_lock(&edu_lock);
    err = edu_dma(from, EDU_BUF_START, size, false);
    if (!err) {
        err = edu_dma(EDU_BUF_START, to, size, true);
    }
    pthread_mutex_unlock(&edu_lock);
    return err;
}
