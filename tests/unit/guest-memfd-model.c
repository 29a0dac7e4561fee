/*
 * What a block of guest_memfd memory should be, kept by a unit test
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "guest-memfd-model.h"

typedef struct Follower {
    const unsigned long *mapped;
    unsigned first;
    unsigned end;
} Follower;

struct Model {
    GuestMemfd *gm;
    const unsigned long *driver;
    unsigned pages;
    bool init_private;
    bool *want;                 /* private pages */
    bool *told;                 /* the same, as converted() was told */
    GArray *followers;          /* Follower */
};

/* One page of somebody's bits; not by the functions that he uses himself */
static bool bit(const unsigned long *bits, unsigned page)
{
    const unsigned width = 8 * sizeof(*bits);

    return bits[page / width] >> (page % width) & 1;
}

static void set_all(Model *m, bool *pages, bool private)
{
    for (unsigned i = 0; i < m->pages; i++) {
        pages[i] = private;
    }
}

Model *model_new(GuestMemfd *gm, const unsigned long *driver, unsigned pages,
                 bool private)
{
    Model *m = g_new0(Model, 1);

    m->gm = gm;
    m->driver = driver;
    m->pages = pages;
    m->init_private = private;
    m->want = g_new0(bool, pages);
    m->told = g_new0(bool, pages);
    m->followers = g_array_new(false, false, sizeof(Follower));
    set_all(m, m->want, private);
    set_all(m, m->told, private);
    return m;
}

void model_free(Model *m)
{
    g_array_unref(m->followers);
    g_free(m->want);
    g_free(m->told);
    g_free(m);
}

void model_add_listener(Model *m, const unsigned long *mapped, unsigned first,
                        unsigned nr)
{
    Follower f = { .mapped = mapped, .first = first, .end = first + nr };

    g_assert_cmpuint(f.end, <=, m->pages);
    g_array_append_val(m->followers, f);
}

void model_remove_listener(Model *m, const unsigned long *mapped)
{
    for (unsigned i = 0; i < m->pages; i++) {
        g_assert_false(bit(mapped, i));
    }
    for (guint i = 0; i < m->followers->len; i++) {
        if (g_array_index(m->followers, Follower, i).mapped == mapped) {
            g_array_remove_index(m->followers, i);
            return;
        }
    }
    g_assert_not_reached();
}

void model_convert(Model *m, unsigned first, unsigned nr, bool private,
                   int result)
{
    g_assert_cmpuint(first + nr, <=, m->pages);
    for (unsigned i = first; i < first + nr && result == 0; i++) {
        m->want[i] = private;
    }
}

void model_undo_failed(Model *m, unsigned first, unsigned nr)
{
    g_assert_cmpuint(first + nr, <=, m->pages);
    for (unsigned i = first; i < first + nr; i++) {
        m->want[i] = bit(m->driver, i);
    }
}

void model_reset(Model *m, int result)
{
    if (result == 0) {
        set_all(m, m->want, m->init_private);
    } else {
        model_undo_failed(m, 0, m->pages);
    }
}

void model_converted(Model *m, unsigned first, unsigned nr, bool private)
{
    g_assert_cmpuint(nr, >, 0);
    g_assert_cmpuint(first + nr, <=, m->pages);
    for (unsigned i = first; i < first + nr; i++) {
        m->told[i] = private;
    }
}

bool model_is_private(const Model *m, unsigned page)
{
    g_assert_cmpuint(page, <, m->pages);
    return m->want[page];
}

/* The map as QMP shows it: runs that touch, alternate, and end with the block */
static void check_map(const Model *m)
{
    const uint64_t page_size = qemu_real_host_page_size();
    uint64_t at = 0;
    bool last = false, more = true;

    while (more) {
        g_autoptr(GuestMemfdMapInfo) info =
            qmp_query_guest_memfd_map(guest_memfd_id(m->gm), true, at, true, 5,
                                      &error_abort);

        g_assert_nonnull(info->runs);
        for (GuestMemfdRunList *r = info->runs; r; r = r->next) {
            bool private = r->value->q_private;

            g_assert_cmpuint(r->value->offset, ==, at);
            g_assert_cmpuint(r->value->size, >, 0);
            g_assert_cmpuint(r->value->size % page_size, ==, 0);
            g_assert_true(at == 0 || private != last);
            last = private;
            while (at < r->value->offset + r->value->size) {
                g_assert_cmpuint(at / page_size, <, m->pages);
                g_assert_cmpint(m->want[at / page_size], ==, private);
                at += page_size;
            }
        }
        g_assert_cmpuint(info->next_offset, ==, at);
        more = info->has_next_offset;
    }
    g_assert_cmpuint(at, ==, m->pages * page_size);
}

void model_check(const Model *m, bool exact)
{
    for (unsigned i = 0; i < m->pages; i++) {
        g_assert_cmpint(bit(m->driver, i), ==, m->want[i]);
        g_assert_cmpint(m->told[i], ==, m->want[i]);
    }
    for (guint i = 0; i < m->followers->len; i++) {
        const Follower *f = &g_array_index(m->followers, Follower, i);

        for (unsigned j = 0; j < m->pages; j++) {
            bool may = j >= f->first && j < f->end && !m->want[j];

            g_assert_false(bit(f->mapped, j) && !may);
            g_assert_false(exact && may && !bit(f->mapped, j));
        }
    }
    check_map(m);
}
