/* SPDX-License-Identifier: MIT-0 */
/*
 * gate.h - how control threads wait until a receiver has let go of what it found.
 *
 * Theory of operation
 *
 * A receiver (a U thread) reads tables that control threads change: of endpoints, and of sources.  It holds what it finds
 * there in two ways.
 *
 * - Inside its gate, for one batch.  The receiver goes in before it looks at the tables, and out when it has let go of what
 *   it found: `epoch` is odd in between.  A thread that takes something out of a table waits for an odd epoch to change.
 * - As long as it is on duty for T threads (relief.h), of which `held` is the number.  It goes off duty everywhere once it is
 *   asked to, and says so: `obeyed` catches up with `asked`.  The bell wakes it for that.
 *
 * All of this is in one total order (seq_cst).  The receiver owns its gate; control threads call what is below "Control
 * threads", and any thread may ring.
 */
#ifndef GW_GATE_H
#define GW_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gw_gate {
	_Alignas(64) _Atomic uint32_t epoch;
	int bell;                /* rung when the receiver is asked for something */
	_Atomic uint32_t asked;  /* how often others asked it to go off duty */
	_Atomic uint32_t obeyed; /* how many of those requests it has obeyed */
	_Atomic unsigned held;   /* how many T threads it is on duty for */
};

/* Works on zeroed memory.  False with errno. */
bool gw_gate_begin(struct gw_gate *gate);
void gw_gate_end(struct gw_gate *gate);

/* ---- The receiver ------------------------------------------------------------------------------------------------*/

static inline void gw_gate_go_in(struct gw_gate *gate)
{
	atomic_fetch_add(&gate->epoch, 1);
}

static inline void gw_gate_go_out(struct gw_gate *gate)
{
	atomic_fetch_add(&gate->epoch, 1);
}

/* True if the receiver must go off duty everywhere.  Afterwards it says so by gw_gate_obey(). */
static inline bool gw_gate_is_asked(const struct gw_gate *gate, uint32_t *asked)
{
	*asked = atomic_load(&gate->asked);
	return *asked != atomic_load_explicit(&gate->obeyed, memory_order_relaxed);
}

static inline void gw_gate_obey(struct gw_gate *gate, uint32_t asked)
{
	atomic_store(&gate->obeyed, asked);
}

/* ---- Control threads ---------------------------------------------------------------------------------------------*/

/* Wakes the receiver if it sleeps in poll. */
void gw_gate_ring(const struct gw_gate *gate);

/* Asks the receiver to go off duty everywhere, soon. */
void gw_gate_call_off(struct gw_gate *gate);

/* Waits until the receiver is outside, or has been since the call. */
void gw_gate_await_epoch(const struct gw_gate *gate);

/* Waits until the receiver has been outside and off duty everywhere: it has let go of all that it had found before. */
void gw_gate_await(struct gw_gate *gate);

#endif
