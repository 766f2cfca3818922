/* SPDX-License-Identifier: MIT-0 */
/*
 * shared.h - what all threads of the fast path share, as plain data.
 *
 * The handler (handler.h) owns all of it and fills it in before any U or T thread runs.  What changes later is atomic.
 */
#ifndef GW_SHARED_H
#define GW_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "trace.h"
#include "ways.h"

struct gw_shared {
	unsigned receivers;
	unsigned tunnel_threads; /* for each interface */
	unsigned offloads;       /* enum gw_offload */
	bool receive_only;       /* nothing goes back */
	uint64_t multiplier;     /* of the hash of ENI IDs: odd, secret */
	struct gw_flows *flows;
	struct gw_gate **gate;                    /* of each receiver */
	struct gw_waiting **waiting;              /* of each receiver */
	_Atomic bool stop;                        /* tells the receivers to stop */
	_Atomic bool paused;                      /* tells them to return at once, and leave all as it is */
	_Atomic bool polls;                       /* tells them to sleep in poll: fence.h */
	_Atomic(struct gw_promotion *) promotion; /* while thread K works, or NULL: promote.h */
	_Atomic(struct gw_sources *) sources;     /* the newest table, or NULL: source.h */
	struct gw_trace trace;
	struct gw_outlets outlets;
};

#endif
