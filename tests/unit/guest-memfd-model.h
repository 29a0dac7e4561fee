/*
 * What a block of guest_memfd memory should be, kept by a unit test
 *
 * An array of pages that is told what the test asked for and what was answered.
 * It shares no code with what it judges: it reads the map as QMP shows it, and
 * the bits of the test's own driver and listeners.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef GUEST_MEMFD_MODEL_H
#define GUEST_MEMFD_MODEL_H

#include "qapi/qapi-commands-guest-memfd.h"
#include "system/guest-memfd-driver.h"

typedef struct Model Model;

/**
 * model_new - begin with a new block
 *
 * @driver: bits that the test's driver keeps, one for each page, set if private
 * @pages: how many
 * @private: the state that all pages start in, and return to with a reset
 */
Model *model_new(GuestMemfd *gm, const unsigned long *driver, unsigned pages,
                 bool private);
void model_free(Model *m);

/**
 * model_add_listener - a listener is registered
 *
 * @mapped: bits that it keeps, one for each page of the block
 * @first, @nr: the pages that it should follow: those wholly in its section
 */
void model_add_listener(Model *m, const unsigned long *mapped, unsigned first,
                        unsigned nr);

/** model_remove_listener - it has left, and must have nothing mapped */
void model_remove_listener(Model *m, const unsigned long *mapped);

/**
 * model_convert - the test asked for a conversion
 *
 * @result: the answer; if it is not 0, all is as it was
 */
void model_convert(Model *m, unsigned first, unsigned nr, bool private,
                   int result);

/**
 * model_undo_failed - a conversion failed, and so did taking it back
 *
 * The pages may be in either state: that in which the driver has them, from now
 * on.
 */
void model_undo_failed(Model *m, unsigned first, unsigned nr);

/** model_reset - the block was reset; @result as with model_convert() */
void model_reset(Model *m, int result);

/**
 * model_converted - the driver's converted() was called
 *
 * To be called by the test's driver.  It must be told of each page that changes.
 */
void model_converted(Model *m, unsigned first, unsigned nr, bool private);

/**
 * model_is_private - what a page should be
 */
bool model_is_private(const Model *m, unsigned page);

/**
 * model_check - map, driver and listeners have what they should have
 *
 * @exact: listeners have all shared pages mapped; else one may be behind, but
 *         it has no private page mapped
 */
void model_check(const Model *m, bool exact);

#endif
