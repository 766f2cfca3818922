/* SPDX-License-Identifier: MIT-0 */
/*
 * progress.h - whether a thread of the packet path stands still while there is work for it.
 *
 * Theory of operation: a control thread looks about once a second.  A thread that sleeps because nothing is there to do is
 * well.  One for which work was there at two looks in a row, and which has done none of it in between, has stood still.  What
 * it has done is a sum of its counters, so the packet path does nothing for this.
 *
 * A struct gw_progress belongs to the control thread that looks.
 */
#ifndef GW_PROGRESS_H
#define GW_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct gw_progress {
	uint64_t done;  /* at the last look */
	unsigned looks; /* in a row, at which work was there and nothing had been done since the one before */
};

/* Looks.  waits: there is something to do.  done: a number that changes with all that the thread does.  Returns `looks`. */
unsigned gw_progress_look(struct gw_progress *progress, bool waits, uint64_t done);

/* Whether there is something to read. */
bool gw_progress_readable(int fd);

#endif
