/*
 * libseccomp, for a program that insists on a filter: it has none
 *
 * Loaded before it (LD_PRELOAD), because the kernel of L1 has no seccomp.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

void *seccomp_init(unsigned int action)
{
    static char filter;

    (void)action;
    return &filter;
}

int seccomp_attr_set(void *filter, int attribute, unsigned int value)
{
    (void)filter;
    (void)attribute;
    (void)value;
    return 0;
}

int seccomp_rule_add(void *filter, unsigned int action, int call,
                     unsigned int n, ...)
{
    (void)filter;
    (void)action;
    (void)call;
    (void)n;
    return 0;
}

int seccomp_load(const void *filter)
{
    (void)filter;
    return 0;
}

void seccomp_release(void *filter)
{
    (void)filter;
}
