/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_cycle.c - fence cycles; kernel_cycle.h tells how.
 *
 * The functions stand in the order of a cycle: wanted, begun, awaited, published, ended.
 */
#include "kernel_cycle.h"

#include <stdlib.h>

#define MS 1000000ull

/* More than a program takes from its stamp to the socket or the queue. */
#define GRACE_NS 50000ull

/* How long a cycle waits for the queues at most, and a receiver for its rings until that counts against an endpoint. */
#define AWAIT_NS (200 * MS)

/* The pauses between two looks of a cycle, and between two cycles: the first, and the longest. */
#define LOOK_NS 50000ull
#define LOOK_MOST_NS (2 * MS)
#define PACE_NS (2 * MS)
#define PACE_MOST_NS (16 * MS)

/* For how long after something was wanted it is looked at each pace, and the pause between two looks later. */
#define LIVELY_NS (1000 * MS)
#define LAZY_NS (100 * MS)

/* Cycles in a row in which an endpoint did not get through until its entries die. */
#define FAILURES 10u

static void look_for_wanted(struct gw_kernel_cycle *cycle, uint64_t now_ns);
static void collect(struct gw_kernel_cycle *cycle, uint64_t now_ns);
static void advance_out(struct gw_kernel_cycle *cycle, uint64_t now_ns);
static bool queues_through(struct gw_kernel_cycle *cycle, struct gw_kernel_slot *slot);
static bool advance_in(struct gw_kernel_cycle *cycle, unsigned i, uint64_t now_ns);
static bool rings_through(struct gw_kernel_cycle *cycle, unsigned i, bool too_long);
static void close_cycle(struct gw_kernel_cycle *cycle, bool all, uint64_t now_ns);
static bool note_failure(struct gw_kernel_cycle *cycle, struct gw_kernel_slot *slot, unsigned *failures);
static void look_at_stuck(struct gw_kernel_cycle *cycle);

bool gw_kernel_cycle_begin(struct gw_kernel_cycle *cycle, struct gw_shared *shared, struct gw_kernel_slots *slots,
                           struct gw_kernel_globals *globals, struct gw_kernel_counts *counts, struct gw_fence **fence)
{
	cycle->shared = shared;
	cycle->slots = slots;
	cycle->globals = globals;
	cycle->counts = counts;
	cycle->fence = fence;
	cycle->receiver = calloc(shared->receivers, sizeof(*cycle->receiver));
	for (unsigned i = 0; cycle->receiver && i < shared->receivers; i++)
		cycle->receiver[i].fence = fence[i];
	cycle->pace_ns = PACE_NS;
	return cycle->receiver != NULL;
}

void gw_kernel_cycle_end(struct gw_kernel_cycle *cycle)
{
	free(cycle->receiver);
}

/* ---- Wanted ------------------------------------------------------------------------------------------------------*/

void gw_kernel_cycle_include(struct gw_kernel_cycle *cycle, unsigned receiver)
{
	/* The programs have no place for more: their packets go up, and only what has changed is told of them. */
	if (receiver < GW_KERNEL_RECEIVERS)
		cycle->receiver[receiver].asked = true;
}

void gw_kernel_cycle_hurry(struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	cycle->pace_ns = PACE_NS;
	cycle->lively_ns = now_ns + LIVELY_NS;
	if (cycle->state == GW_CYCLE_OVER && cycle->begin_ns > now_ns + PACE_NS)
		cycle->begin_ns = cycle->next_ns = now_ns + PACE_NS;
}

bool gw_kernel_cycle_rests(const struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	return cycle->state == GW_CYCLE_OVER && now_ns >= cycle->lively_ns &&
	       !atomic_load_explicit(&cycle->shared->polls, memory_order_relaxed);
}

uint64_t gw_kernel_cycle_step(struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	bool pending = false;

	if (now_ns < cycle->next_ns)
		return cycle->next_ns;
	if (cycle->stuck)
		look_at_stuck(cycle);
	if (cycle->state == GW_CYCLE_OVER && now_ns >= cycle->begin_ns)
		look_for_wanted(cycle, now_ns);
	else if (cycle->state == GW_CYCLE_GRACE)
		collect(cycle, now_ns);
	if (cycle->state == GW_CYCLE_AWAITS)
		advance_out(cycle, now_ns);
	for (unsigned i = 0; i < cycle->shared->receivers; i++)
		pending |= !advance_in(cycle, i, now_ns);
	cycle->next_ns = cycle->begin_ns;
	if (cycle->state == GW_CYCLE_GRACE) {
		cycle->next_ns = cycle->t0 + GRACE_NS;
	} else if (cycle->state == GW_CYCLE_AWAITS || pending) {
		if (cycle->state == GW_CYCLE_AWAITS || now_ns + cycle->look_ns < cycle->begin_ns)
			cycle->next_ns = now_ns + cycle->look_ns;
		cycle->look_ns = cycle->look_ns < LOOK_MOST_NS ? 2 * cycle->look_ns : LOOK_MOST_NS;
	}
	return cycle->next_ns;
}

static void look_for_wanted(struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	for (unsigned i = 0; i < cycle->slots->count; i++) {
		const unsigned slot = cycle->slots->on[i]->endpoint->slot;

		if (!__atomic_load_n(&cycle->slots->shown[slot].wanted, __ATOMIC_RELAXED))
			continue;
		/* Receivers get there with the next packet. */
		atomic_store_explicit(&cycle->shared->polls, true, memory_order_relaxed);
		cycle->lively_ns = now_ns + LIVELY_NS;
		cycle->state = GW_CYCLE_GRACE;
		cycle->t0 = now_ns;
		return;
	}
	cycle->begin_ns = now_ns + cycle->pace_ns;
	if (now_ns < cycle->lively_ns)
		return;
	cycle->begin_ns = now_ns + LAZY_NS;
	atomic_store_explicit(&cycle->shared->polls, false, memory_order_relaxed);
	/* Who has not moved for so long may sleep in recvmmsg. */
	for (unsigned i = 0; i < cycle->shared->receivers; i++)
		cycle->receiver[i].state = GW_RECEIVER_OVER;
}

/* ---- Begun -------------------------------------------------------------------------------------------------------*/

static void collect(struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	struct gw_kernel_slots *slots = cycle->slots;

	for (unsigned i = 0; i < slots->count; i++) {
		struct gw_kernel_slot *slot = slots->on[i];
		const bool wanted = __atomic_exchange_n(&slots->shown[slot->endpoint->slot].wanted, 0,
		                                        __ATOMIC_SEQ_CST) != 0;

		slot->fenced = wanted || slot->carried;
		slot->carried = wanted;
		for (unsigned queue = 0; slot->fenced && queue < gw_kernel_slot_queues(slots); queue++)
			gw_fence_begin_queue(&slot->queue[queue], gw_kernel_slot_tunnel(slots, slot, queue));
	}
	for (unsigned i = 0; i < cycle->shared->receivers; i++) {
		struct gw_kernel_receiver *receiver = &cycle->receiver[i];

		if (!receiver->asked || receiver->state != GW_RECEIVER_OVER || atomic_load(&receiver->fence->fd) < 0)
			continue;
		receiver->state = GW_RECEIVER_SOCKET;
		receiver->t0 = cycle->t0;
		gw_fence_begin_socket(&receiver->socket, receiver->fence);
	}
	cycle->state = GW_CYCLE_AWAITS;
	cycle->awaits_ns = now_ns;
	cycle->look_ns = LOOK_NS;
}

/* ---- The way out -------------------------------------------------------------------------------------------------*/

static void advance_out(struct gw_kernel_cycle *cycle, uint64_t now_ns)
{
	bool all = true;

	for (unsigned i = 0; i < cycle->slots->count; i++)
		all &= queues_through(cycle, cycle->slots->on[i]);
	if (all)
		__atomic_store_n(&cycle->globals->done_out_ns, cycle->t0, __ATOMIC_RELEASE);
	if (all || now_ns - cycle->awaits_ns >= AWAIT_NS)
		close_cycle(cycle, all, now_ns);
}

static bool queues_through(struct gw_kernel_cycle *cycle, struct gw_kernel_slot *slot)
{
	bool all = true;

	for (unsigned i = 0; slot->fenced && i < gw_kernel_slot_queues(cycle->slots); i++)
		all &= gw_fence_queue_through(&slot->queue[i], gw_kernel_slot_tunnel(cycle->slots, slot, i),
		                              cycle->fence);
	return all;
}

static void close_cycle(struct gw_kernel_cycle *cycle, bool all, uint64_t now_ns)
{
	for (unsigned i = 0; i < cycle->slots->count; i++) {
		struct gw_kernel_slot *slot = cycle->slots->on[i];

		if (queues_through(cycle, slot)) {
			slot->failures = 0;
		} else {
			slot->carried = true;
			(void)note_failure(cycle, slot, &slot->failures);
		}
		/* What is through counts for nothing as long as others are not. */
		slot->carried |= slot->fenced && !all;
	}
	__atomic_fetch_add(&cycle->counts->fences, 1, __ATOMIC_RELAXED);
	if (!all)
		__atomic_fetch_add(&cycle->counts->unfenced, 1, __ATOMIC_RELAXED);
	cycle->state = GW_CYCLE_OVER;
	cycle->begin_ns = now_ns + cycle->pace_ns;
	cycle->pace_ns = cycle->pace_ns < PACE_MOST_NS ? 2 * cycle->pace_ns : PACE_MOST_NS;
}

/* An endpoint that fails too often gets a new life, and so need not be waited for: what is through concerns no entry of it.  True
 * then.  failures: of its queues, or of one of its rings. */
static bool note_failure(struct gw_kernel_cycle *cycle, struct gw_kernel_slot *slot, unsigned *failures)
{
	if (++*failures < FAILURES)
		return false;
	gw_kernel_slot_renew(cycle->slots, slot);
	__atomic_fetch_add(&cycle->counts->resets, 1, __ATOMIC_RELAXED);
	*failures = 0;
	slot->fenced = slot->carried = false;
	for (unsigned i = 0; i < cycle->shared->receivers; i++)
		slot->ring[i].look.through |= !slot->ring[i].stuck;
	return true;
}

/* ---- The way in --------------------------------------------------------------------------------------------------*/

/* False: there is something to look at again. */
static bool advance_in(struct gw_kernel_cycle *cycle, unsigned i, uint64_t now_ns)
{
	struct gw_kernel_receiver *receiver = &cycle->receiver[i];
	const struct gw_kernel_slots *slots = cycle->slots;
	bool too_long;

	if (receiver->state == GW_RECEIVER_SOCKET) {
		if (!gw_fence_socket_through(&receiver->socket, receiver->fence))
			return false;
		for (unsigned k = 0; k < slots->count; k++)
			if (!slots->on[k]->ring[i].stuck)
				gw_fence_begin_ring(&slots->on[k]->ring[i].look, &slots->on[k]->endpoint->ring[i]);
		receiver->state = GW_RECEIVER_RINGS;
		receiver->rings_ns = now_ns;
	}
	if (receiver->state == GW_RECEIVER_OVER)
		return true;
	too_long = now_ns - receiver->rings_ns >= AWAIT_NS;
	if (too_long)
		receiver->rings_ns = now_ns;
	if (!rings_through(cycle, i, too_long))
		return false;
	__atomic_store_n(&cycle->globals->done_in_ns[i], receiver->t0, __ATOMIC_RELEASE);
	receiver->state = GW_RECEIVER_OVER;
	return true;
}

static bool rings_through(struct gw_kernel_cycle *cycle, unsigned i, bool too_long)
{
	bool all = true;

	for (unsigned k = 0; k < cycle->slots->count; k++) {
		struct gw_kernel_slot *slot = cycle->slots->on[k];
		struct gw_kernel_ring *ring = &slot->ring[i];

		if (ring->stuck)
			continue;
		if (gw_fence_ring_through(&ring->look, &slot->endpoint->ring[i])) {
			ring->failures = 0;
		} else if (too_long && note_failure(cycle, slot, &ring->failures)) {
			ring->look.through = false;
			gw_kernel_slot_stick(slot, ring);
			cycle->stuck = true;
		} else {
			all = false;
		}
	}
	return all;
}

/* An endpoint whose rings are all through what they were stuck at begins anew. */
static void look_at_stuck(struct gw_kernel_cycle *cycle)
{
	cycle->stuck = false;
	for (unsigned k = 0; k < cycle->slots->count; k++) {
		struct gw_kernel_slot *slot = cycle->slots->on[k];

		for (unsigned i = 0; slot->stuck > 0 && i < cycle->shared->receivers; i++)
			if (slot->ring[i].stuck &&
			    gw_fence_ring_through(&slot->ring[i].look, &slot->endpoint->ring[i]))
				gw_kernel_slot_unstick(slot, &slot->ring[i]);
		cycle->stuck |= slot->stuck > 0;
	}
}
