/* SPDX-License-Identifier: MIT-0 */
/*
 * duty.h - who does the work of a T thread: itself, or a U thread that relieves it while it sleeps.
 *
 * Theory of operation
 *
 * The work of a T thread is to write what its rings hold and to send on what its queue does (tunnel.h).  The thread on duty
 * does it, and no other at the time.  A T thread with nothing to do goes off duty and sleeps; a U thread that has something
 * for it may take the duty then (relief.h), or call the T thread to it.
 *
 * `who` is one of
 *
 *     GW_DUTY_THREAD         the T thread works, and looks at rings and queue once more before it sleeps
 *     GW_DUTY_NOBODY         it sleeps in poll on its bell and its queue
 *     GW_DUTY_ABSENT         it does not run yet; Python watches its bell and its queue, and starts it
 *     GW_DUTY_RECEIVER + 2i  U thread i works; with GW_DUTY_CALLED, the T thread is to be woken when i goes off duty: it
 *                            found itself relieved and sleeps on its bell alone, or another U thread has work for it
 *
 * A thread that publishes a record looks at `who` after it, and a thread that goes off duty looks at the rings after it, all
 * in one total order (seq_cst): one of them sees the other.
 *
 * A U thread goes off duty everywhere when it is asked to (gate.h: an endpoint is to go, or a T thread has sockets to close),
 * and whenever it returns to Python.  A T thread ends on duty only.
 */
#ifndef GW_DUTY_H
#define GW_DUTY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "gate.h"
#include "ring.h"

enum { GW_DUTY_THREAD, GW_DUTY_NOBODY, GW_DUTY_ABSENT, GW_DUTY_RECEIVER = 4 };
#define GW_DUTY_CALLED 1u

struct gw_duty {
	int bell; /* wakes the T thread */
	_Atomic uint32_t who;
	_Atomic int cpu; /* the core that it went to sleep on */
	/* Constant. */
	const _Atomic bool *stop;    /* tells it to look up from its sleep */
	struct gw_gate *const *gate; /* one for each receiver */
	struct gw_ring *ring;        /* it drains every stride-th of them from this one on */
	unsigned rings, stride;
};

/* The U thread that a value of `who` names, or -1. */
static inline int gw_duty_receiver(uint32_t who)
{
	return who >= GW_DUTY_RECEIVER ? (int)(who - GW_DUTY_RECEIVER) / 2 : -1;
}

static inline struct gw_ring *gw_duty_ring(const struct gw_duty *duty, unsigned i)
{
	return &duty->ring[i * duty->stride];
}

/* Whether its rings hold no record. */
static inline bool gw_duty_rings_empty(const struct gw_duty *duty)
{
	for (unsigned i = 0; i < duty->rings; i++)
		if (gw_ring_waiting(gw_duty_ring(duty, i)) != 0)
			return false;
	return true;
}

/* ---- The T thread ------------------------------------------------------------------------------------------------*/

/* Puts the thread on duty when it begins. */
void gw_duty_begin(struct gw_duty *duty);

/* Goes off duty and sleeps until there is work, then comes on duty again.  True if the thread must read its queue. */
bool gw_duty_rest(struct gw_duty *duty, int queue);

/* ---- U threads ---------------------------------------------------------------------------------------------------*/

/* Takes over from a T thread that sleeps.  That thread goes on polling its queue until its bell rings.  False if it does not
 * sleep. */
bool gw_duty_take(struct gw_duty *duty, unsigned receiver);

/* Whether the U thread is on duty. */
bool gw_duty_is_of(const struct gw_duty *duty, unsigned receiver);

/* Goes off duty.  Wakes the T thread if there is work for it that it would not notice by itself. */
void gw_duty_give_back(struct gw_duty *duty, unsigned receiver);

/* ---- Anyone ------------------------------------------------------------------------------------------------------*/

/* To be called after a store that the T thread must see: the thread then comes on duty, or looks before it sleeps. */
void gw_duty_call(struct gw_duty *duty);

/* Control threads: calls the T thread to duty, also when a U thread has it now. */
void gw_duty_recall(struct gw_duty *duty);

/* Control threads: from now on, work for this T thread makes Python start it. */
void gw_duty_vacate(struct gw_duty *duty);

#endif
