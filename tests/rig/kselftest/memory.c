/*
 * Files of a provider, and what is known about each page of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gmem-test.h"

uint64_t huge_pages(void)
{
    return 1ull << provider->order;
}

uint64_t first_of(unsigned huge)
{
    return (uint64_t)huge << provider->order;
}

uint64_t any(uint64_t below)
{
    return ((uint64_t)random() << 31 | random()) % below;
}

/* Access to memory that may be private */

static __thread sigjmp_buf on_sigbus;
/* volatile: the handler looks at it, in the middle of an access */
static __thread volatile bool guarded;

static void sigbus(int signal)
{
    if (!guarded) {
        _exit(128 + signal);
    }
    siglongjmp(on_sigbus, signal);
}

static void guard(void)
{
    const struct sigaction action = {
        .sa_handler = sigbus,
        .sa_flags = SA_NODEFER,
    };
    static bool done;

    if (!done) {
        sigaction(SIGBUS, &action, NULL);
        done = true;
    }
}

/* False for SIGBUS */
static bool access_word(struct memory *m, uint64_t page, unsigned word,
                        uint64_t *value, bool write)
{
    /* volatile: the access has to happen, here */
    volatile uint64_t *p = (uint64_t *)(m->map + page * PAGE) + word;

    if (sigsetjmp(on_sigbus, 0)) {
        guarded = false;
        return false;
    }
    guarded = true;
    if (write) {
        *p = *value;
    } else {
        *value = *p;
    }
    guarded = false;
    return true;
}

bool peek(struct memory *m, uint64_t page, unsigned word, uint64_t *value)
{
    return access_word(m, page, word, value, false);
}

bool poke(struct memory *m, uint64_t page, unsigned word, uint64_t value)
{
    return access_word(m, page, word, &value, true);
}

/* Files */

int create(int vm_fd, uint64_t flags, uint64_t size, uint64_t reserved)
{
    struct kvm_create_guest_memfd args = { .size = size, .flags = flags };

    /* Newer headers have a union here. */
    memcpy((char *)&args + 16, &reserved, sizeof(reserved));
    return ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, &args);
}

struct memory new_memory(uint64_t flags)
{
    uint64_t align = PAGE << provider->order;
    struct memory m = { .pages = provider->huge << provider->order };
    uint8_t *room;

    guard();
    if (has_pool() && pool_counter("free_hugepages") < (long)provider->huge) {
        skip("the pool has %ld free huge pages, %d are needed",
             pool_counter("free_hugepages"), (int)provider->huge);
    }
    m.fd = create(vm, provider->flag | FLAG_MMAP | flags, m.pages * PAGE,
                  has_pool() ? provider->order : 0);
    NEED(m.fd >= 0, "a file");
    room = mmap(NULL, m.pages * PAGE + align, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    NEED(room != MAP_FAILED);
    room = (uint8_t *)(((uintptr_t)room + align - 1) & -align);
    m.map = mmap(room, m.pages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED, m.fd, 0);
    NEED(m.map == room, "mapping the file");
    m.shared = malloc(m.pages);
    memset(m.shared, !!(flags & FLAG_INIT_SHARED), m.pages);
    m.stamp = calloc(m.pages, sizeof(*m.stamp));
    m.frame = calloc(provider->huge, sizeof(*m.frame));
    m.there = calloc(provider->huge, sizeof(*m.there));
    return m;
}

struct memory new_allocated(void)
{
    struct memory m = new_memory(0);

    NEED(!allocate(&m, 0, m.pages));
    learn_frames(&m);
    return m;
}

void drop_memory(struct memory *m)
{
    munmap(m->map, m->pages * PAGE);
    close(m->fd);
    free(m->shared);
    free(m->stamp);
    free(m->frame);
    free(m->there);
}

static void set_shared(struct memory *m, uint64_t page, uint64_t end,
                       bool private)
{
    if (page < end) {
        memset(m->shared + page, !private, end - page);
    }
}

int convert(struct memory *m, uint64_t page, uint64_t pages, bool private,
            uint64_t *error)
{
    uint64_t where;
    int ret = convert_pages(m->fd, page, pages, private, &where);
    uint64_t huge = where & -huge_pages();

    if (!ret) {
        set_shared(m, page, page + pages, private);
    } else if (ret == EAGAIN || ret == ENOMEM) {
        /* The huge pages before that one have been converted. */
        CHECK(where >= (page & -huge_pages()) && where < page + pages,
              "0x%lx of pages 0x%lx to 0x%lx", where, page, page + pages);
        if (where < m->pages) {
            set_shared(m, page, huge, private);
        }
    }
    if (error) {
        *error = where;
    }
    return ret;
}

int punch(struct memory *m, uint64_t page, uint64_t pages)
{
    return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     page * PAGE, pages * PAGE) ? errno : 0;
}

int allocate(struct memory *m, uint64_t page, uint64_t pages)
{
    int ret;

    do {
        ret = fallocate(m->fd, FALLOC_FL_KEEP_SIZE, page * PAGE,
                        pages * PAGE) ? errno : 0;
        /* io_uring notifies a thread as a signal does. */
    } while (ret == EINTR);
    for (uint64_t i = page; !ret && i < page + pages; i++) {
        m->there[i >> provider->order] = true;
    }
    return ret;
}

void note_punched(struct memory *m, uint64_t page, uint64_t pages)
{
    for (uint64_t i = page; i < page + pages; i++) {
        unsigned huge = i >> provider->order;

        m->stamp[i] = 0;
        m->frame[huge] = 0;
        m->there[huge] = false;
    }
}

/* Contents */

static uint32_t tag(uint64_t page)
{
    return (page + 1) * 2654435761u | 1;
}

uint64_t word_of(uint64_t page, uint32_t stamp)
{
    return stamp ? (uint64_t)tag(page) << 32 | stamp : 0;
}

bool belongs(uint64_t page, uint64_t value)
{
    return !value || value >> 32 == tag(page);
}

bool stamp_page(struct memory *m, uint64_t page)
{
    static uint32_t last;
    uint64_t value = word_of(page, ++last);

    m->there[page >> provider->order] = true;
    m->stamp[page] = last;
    return CHECK(m->shared[page] && poke(m, page, 0, value) &&
                 poke(m, page, LAST_WORD, value), "writing page 0x%lx", page);
}

bool right(struct memory *m, uint64_t page)
{
    uint64_t first = 0, last = 0, wanted = word_of(page, m->stamp[page]);

    if (!peek(m, page, 0, &first)) {
        return CHECK(!m->shared[page], "page 0x%lx is shared: SIGBUS", page);
    }
    m->there[page >> provider->order] = true;
    if (!CHECK(m->shared[page], "page 0x%lx is private: 0x%lx", page, first)) {
        return false;
    }
    return CHECK(peek(m, page, LAST_WORD, &last) && first == wanted &&
                 last == wanted, "page 0x%lx: 0x%lx, 0x%lx, wanted 0x%lx", page,
                 first, last, wanted);
}

bool all_right(struct memory *m)
{
    bool ok = true;

    for (uint64_t page = 0; page < m->pages; page++) {
        ok &= right(m, page);
    }
    return ok;
}

bool some_right(struct memory *m, unsigned number)
{
    bool ok = right(m, 0) && right(m, m->pages - 1);

    for (unsigned i = 0; i < number; i++) {
        ok &= right(m, any(m->pages));
    }
    return ok;
}
