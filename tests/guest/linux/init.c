/*
 * The first process of a Linux guest, whose memory converts under DMA
 *
 * It is the only one, and ends the machine.  It talks to the host like the
 * guest of the directory above: lines to the debug console, a byte from COM1
 * when it waits, the outcome to isa-debug-exit.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <unistd.h>

#include "linux.h"

#define PORT_CONSOLE    0xe9
#define PORT_EXIT       0xf4
#define EXIT_PASS       16
#define EXIT_FAIL       17

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_PFN     ((1ull << 55) - 1)

Options opt = {
    .ops = 1000,
    .seed = 1,
    .fill = 64,
    .disk = "/dev/vda",
};

static pthread_mutex_t say_lock = PTHREAD_MUTEX_INITIALIZER;
static int pagemap;

static void say_args(const char *fmt, va_list args)
{
    char line[512];
    char *c;

    vsnprintf(line, sizeof(line), fmt, args);
    pthread_mutex_lock(&say_lock);
    for (c = line; *c; c++) {
        outb(*c, PORT_CONSOLE);
    }
    outb('\n', PORT_CONSOLE);
    pthread_mutex_unlock(&say_lock);
}

void say(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say_args(fmt, args);
    va_end(args);
}

static void __attribute__((noreturn)) leave(int status)
{
    outb(status, PORT_EXIT);
    for (;;) {
        pause();
    }
}

void fail(const char *fmt, ...)
{
    char line[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    say("FAIL %s", line);
    leave(EXIT_FAIL);
}

uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

uint64_t physical_address(const void *page)
{
    uint64_t entry;

    if (pread(pagemap, &entry, sizeof(entry),
              (uintptr_t)page / PAGE_SIZE * sizeof(entry)) != sizeof(entry)) {
        fail("pagemap: %s", strerror(errno));
    }
    if (!(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_PFN)) {
        fail("pagemap: no page at %p", page);
    }
    return (entry & PAGEMAP_PFN) * PAGE_SIZE;
}

static void parse(const char *word)
{
    static const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {
        { "ops=", &opt.ops },
        { "seed=", &opt.seed },
        { "fill=", &opt.fill },
        { "private=", &opt.private },
    };
    size_t i;

    if (!strncmp(word, "disk=", 5)) {
        opt.disk = word + 5;
        return;
    }
    if (!strncmp(word, "share=", 6)) {
        opt.share = word + 6;
        return;
    }
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        size_t len = strlen(numbers[i].name);

        if (!strncmp(word, numbers[i].name, len) &&
            sscanf(word + len, "%lu", numbers[i].value) == 1) {
            return;
        }
    }
    fail("option %s is unknown", word);
}

void mount_at(const char *source, const char *type, const char *path)
{
    mkdir(path, 0755);
    if (mount(source, path, type, 0, NULL)) {
        fail("mount %s: %s", path, strerror(errno));
    }
}

static void load_modules(void)
{
    char line[64], path[80];
    FILE *list = fopen("/modules/list", "r");
    int fd;

    while (list && fgets(line, sizeof(line), list)) {
        line[strcspn(line, "\n")] = '\0';
        snprintf(path, sizeof(path), "/modules/%s.ko", line);
        fd = open(path, O_RDONLY);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0)) {
            fail("%s: %s", path, strerror(errno));
        }
        close(fd);
    }
    if (list) {
        fclose(list);
    }
}

/* A driver may find its disk after it was loaded. */
static void wait_for_disk(void)
{
    char event[sizeof(struct inotify_event) + 256];
    int watch = inotify_init1(0);

    if (watch < 0 || inotify_add_watch(watch, "/dev", IN_CREATE) < 0) {
        fail("inotify: %s", strerror(errno));
    }
    while (access(opt.disk, F_OK)) {
        if (read(watch, event, sizeof(event)) <= 0) {
            fail("inotify: %s", strerror(errno));
        }
    }
    close(watch);
}

/* RAM, as the kernel knows it */
static void say_ram(void)
{
    FILE *iomem = fopen("/proc/iomem", "r");
    unsigned long start, end;
    char line[128];

    if (!iomem) {
        fail("/proc/iomem: %s", strerror(errno));
    }
    while (fgets(line, sizeof(line), iomem)) {
        if (sscanf(line, "%lx-%lx : System RAM", &start, &end) == 2 &&
            strstr(line, " : System RAM")) {
            say("ram start=%lu size=%lu", start, end + 1 - start);
        }
    }
    fclose(iomem);
}

/* Returns: what the host says. */
static char wait_for_host(void)
{
    struct termios raw;
    int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    char c;

    if (fd < 0 || tcgetattr(fd, &raw)) {
        fail("/dev/ttyS0: %s", strerror(errno));
    }
    cfmakeraw(&raw);
    raw.c_cflag |= CLOCAL | CREAD;
    if (tcsetattr(fd, TCSANOW, &raw)) {
        fail("/dev/ttyS0: %s", strerror(errno));
    }
    say("PAUSED");
    if (read(fd, &c, 1) != 1) {
        fail("/dev/ttyS0: %s", strerror(errno));
    }
    close(fd);
    return c;
}

/* The host has plugged or unplugged memory: most of what is free is used. */
static void use_memory(void)
{
    struct sysinfo info;

    say_ram();
    if (sysinfo(&info)) {
        fail("sysinfo: %s", strerror(errno));
    }
    opt.fill = info.freeram / 4 * 3 * info.mem_unit / MIB;
    fill_start();
    fill_stop();
}

int main(int argc, char **argv)
{
    int i;

    /* Nobody would be told of it otherwise. */
    if (ioperm(PORT_CONSOLE, 1, 1) || ioperm(PORT_EXIT, 4, 1)) {
        return 1;
    }
    for (i = 1; i < argc; i++) {
        parse(argv[i]);
    }
    mount_at("devtmpfs", "devtmpfs", "/dev");
    mount_at("proc", "proc", "/proc");
    mount_at("sysfs", "sysfs", "/sys");
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    if (pagemap < 0) {
        fail("/proc/self/pagemap: %s", strerror(errno));
    }
    load_modules();
    share_mount();
    wait_for_disk();
    say("cpus n=%ld", sysconf(_SC_NPROCESSORS_ONLN));
    say_ram();
    devices_init();
    fill_start();
    workers_run();
    fill_stop();
    share_copy();
    while (wait_for_host() == 'm') {
        use_memory();
    }
    say("PASS");
    leave(EXIT_PASS);
}
