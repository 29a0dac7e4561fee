/*
 * Cases of a test, each in a process of its own, and their results as TAP
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gmem-test.h"

#define LIMIT   900     /* seconds: against cases that hang */
#define MOST    10      /* failed checks that a case prints */

enum { PASSED, FAILED, SKIPPED };

/* Why a case is skipped; its parent reads it */
static char *reason;
static int failures;

void note(const char *fmt, ...)
{
    va_list ap;

    printf("# ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

bool check(bool ok, const char *file, int line, const char *what,
           const char *fmt, ...)
{
    int error = errno;
    va_list ap;

    if (ok) {
        return true;
    }
    if (__atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED) < MOST) {
        printf("# %s:%d: %s:", file, line, what);
        va_start(ap, fmt);
        vprintf(fmt, ap);
        va_end(ap);
        printf(" (errno: %s)\n", strerror(error));
    }
    return false;
}

void end_case(void)
{
    fflush(stdout);
    _exit(failures ? FAILED : PASSED);
}

void skip(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, PAGE, fmt, ap);
    va_end(ap);
    fflush(stdout);
    _exit(failures ? FAILED : SKIPPED);
}

static int run_case(const struct test_case *test)
{
    int status;
    pid_t pid;

    pid = fork();
    if (!pid) {
        alarm(LIMIT);
        srandom(seed);
        vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
        NEED(vm >= 0, "a software-protected VM");
        test->run();
        end_case();
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return FAILED;
    }
    if (!WIFEXITED(status)) {
        note("killed by signal %d", WTERMSIG(status));
        return FAILED;
    }
    return WEXITSTATUS(status);
}

/* A case has ended, so its files and pins have gone. */
static bool all_is_back(struct counters before)
{
    struct counters now;
    bool late;

    if (become(before)) {
        return true;
    }
    now = counters();
    /* This drains what CPUs have collected for the LRU lists. */
    late = write_text("/proc/sys/vm/compact_memory", "1") && become(before);
    note("free %ld, reserved %ld, vmemmap %ld; before: %ld, %ld, %ld; %s",
         now.free, now.reserved, now.vmemmap, before.free, before.reserved,
         before.vmemmap,
         late ? "all is back once LRU batches are drained" : "lost");
    return false;
}

static bool wanted(const char *name, char *const *words)
{
    if (!*words) {
        return true;
    }
    for (; *words; words++) {
        if (strstr(name, *words)) {
            return true;
        }
    }
    return false;
}

bool run_cases(const struct test_case *cases, unsigned number,
               char *const *words)
{
    bool ok = true;
    unsigned plan = 0;

    reason = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < number; i++) {
        plan += wanted(cases[i].name, words);
    }
    printf("TAP version 14\n1..%u\n", plan);
    for (unsigned i = 0, test = 0; i < number; i++) {
        struct counters before = counters();
        long taint = read_number("/proc/sys/kernel/tainted");
        time_t start = time(NULL);
        int result;

        if (!wanted(cases[i].name, words)) {
            continue;
        }
        result = run_case(&cases[i]);
        if (!all_is_back(before)) {
            result = FAILED;
        }
        if (read_number("/proc/sys/kernel/tainted") != taint) {
            note("the kernel is tainted now: see its log");
            result = FAILED;
        }
        ok &= result == PASSED || result == SKIPPED;
        note("%ld s", (long)(time(NULL) - start));
        printf("%sok %u - %s", result == PASSED || result == SKIPPED ? "" :
               "not ", ++test, cases[i].name);
        if (result == SKIPPED) {
            printf(" # SKIP %s", reason);
        }
        putchar('\n');
    }
    return ok && plan;
}
