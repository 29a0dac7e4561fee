/*
 * What a test program of the rig says of each check
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdarg.h>
#include <stdio.h>

#include "result.h"

bool failed;

void result(bool ok, const char *fmt, ...)
{
    va_list ap;

    printf("%sok - ", ok ? "" : "not ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    failed |= !ok;
}
