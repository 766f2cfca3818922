/* SPDX-License-Identifier: MIT-0 */
/*
 * admission.h - which ENI IDs may have endpoints, and how the control thread that admits them hears of new ones.
 *
 * Theory of operation
 *
 * A U thread that meets an unknown ENI ID announces it in its own waiting room (waiting.h) and then looks whether the control
 * thread sleeps.  The control thread says that it sleeps and then looks at the announcements of all rooms once more: one of
 * them sees the other (seq_cst).  Only the first to announce rings the bell.
 *
 * The list of allowed IDs is set once, before any receiver runs.  Whether there is room for further endpoints is for the
 * control threads to say; it only tells under which reason packets are counted.
 */
#ifndef GW_ADMISSION_H
#define GW_ADMISSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "waiting.h"

struct gw_admission {
	uint64_t *allowed; /* ENI IDs, ascending; NULL allows all */
	unsigned allowed_count;
	_Atomic bool full; /* no room for further endpoints */
	int bell;          /* ENI IDs have been announced */
	_Atomic bool sleeps;
	/* The control thread's. */
	struct gw_waiting **waiting;
	unsigned rooms;
	unsigned next; /* the room that the next hearing starts with */
};

/* Works on zeroed memory.  waiting: the rooms of all receivers, which exist by then.  False with errno. */
bool gw_admission_begin(struct gw_admission *admission, struct gw_waiting **waiting, unsigned rooms);
void gw_admission_end(struct gw_admission *admission);

/* Allows these IDs, ascending, and no others.  0 or -errno. */
int gw_admission_allow(struct gw_admission *admission, const uint64_t *eni, unsigned enis);

/* Whether an ENI ID may have an endpoint. */
bool gw_admission_allows(const struct gw_admission *admission, uint64_t eni);

/* U threads: announces the ID of a packet that waits in the thread's own room. */
void gw_admission_announce(struct gw_admission *admission, struct gw_waiting *own, uint64_t eni);

/* The counter for a packet that has waited in vain: it names the reason why there is no endpoint. */
unsigned gw_admission_refusal(const struct gw_admission *admission);

/* Control thread: what gw_handler_listen() does. */
unsigned gw_admission_listen(struct gw_admission *admission, uint64_t *eni, unsigned most, int timeout_ms);

#endif
