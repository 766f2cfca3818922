/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_evict.h - who holds how much of the flow table, and who makes room when it is full.
 *
 * Each slot has a share: the table divided by the number of slots that hold anything.  A slot that has used up its share
 * loses a flow of its own, or, if none is among the samples, one of a slot that holds as much.  A slot that has not takes
 * from one above its share, and there is one then, for the table is full.  Among the flows that may go it is the oldest that
 * goes, and the oldest of all samples where none may.  A flow that has traffic is never older than a second.
 *
 * All that takes an entry counts: flows, fragments, and the continuations of long headers.
 */
#ifndef GW_FLOW_EVICT_H
#define GW_FLOW_EVICT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "flow_pool.h"
#include "gwlbtun.h"

/* By enum gw_flow_class.  A thread that learns for the slot writes its first line, and no other: the others are for those
 * that forget. */
struct gw_flow_slot {
	_Alignas(64) _Atomic uint64_t flows[GW_FLOW_CLASSES];
	_Atomic uint32_t held; /* entries */
	_Alignas(64) _Atomic uint64_t timed_out[GW_FLOW_CLASSES];
	_Alignas(64) _Atomic uint64_t evicted[GW_FLOW_CLASSES];
};
_Static_assert(sizeof(struct gw_flow_slot) == 3 * 64, "three cache lines");

struct gw_flow_shares {
	size_t slots_at; /* from the shares themselves, bytes */
	uint32_t slots;
	_Alignas(64) _Atomic uint32_t holders; /* slots that hold any entry */
	_Atomic uint32_t hand;
};

/* A flow that may go: its entry, its slot, and when it was last seen.  index 0: there is none. */
struct gw_flow_victim {
	uint32_t index, seen;
	unsigned slot;
};

static inline struct gw_flow_slot *gw_flow_slot_at(const struct gw_flow_shares *shares, unsigned slot)
{
	return (struct gw_flow_slot *)((char *)shares + shares->slots_at) + slot;
}

static inline uint32_t gw_flow_held(const struct gw_flow_shares *shares, unsigned slot)
{
	return atomic_load_explicit(&gw_flow_slot_at(shares, slot)->held, memory_order_relaxed);
}

/* Counts an entry that a slot has taken from the pool. */
static inline void gw_flow_hold(struct gw_flow_shares *shares, unsigned slot)
{
	if (atomic_fetch_add_explicit(&gw_flow_slot_at(shares, slot)->held, 1, memory_order_relaxed) == 0)
		atomic_fetch_add_explicit(&shares->holders, 1, memory_order_relaxed);
}

/* Counts an entry that a slot gives back.  Its gw_flow_hold() has returned, so holders is never too small. */
static inline void gw_flow_let_go(struct gw_flow_shares *shares, unsigned slot)
{
	if (atomic_fetch_sub_explicit(&gw_flow_slot_at(shares, slot)->held, 1, memory_order_relaxed) == 1)
		atomic_fetch_sub_explicit(&shares->holders, 1, memory_order_relaxed);
}

/* Chooses the flow that makes room in a full table for an entry that a slot wants. */
struct gw_flow_victim gw_flow_victim(struct gw_flow_shares *shares, const struct gw_flow_pool *pool, unsigned slot);

#endif
