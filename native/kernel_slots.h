/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_slots.h - the endpoints whose flows may take the kernel.
 *
 * Theory of operation
 *
 * Each time an endpoint is switched on, it gets a new life: a number that its entries in the map bear.  To switch it off is to
 * count the life up, and all its entries are dead at that moment, however many they are.  Sweeps delete them later; meanwhile
 * the slot may be used again.  Lives count on from endpoint to endpoint of a slot, so no entry ever comes to life again.
 *
 * Another K may have left slots on, for the next program.  An endpoint that is switched on there again, and is the same one by its
 * ENI ID and interface, keeps its life and its entries.  Those that are not are switched off (gw_kernel_slots_settle()).
 *
 * All of this is used under K's lock (kernel_path.c).  A U thread reads the life of an endpoint that it holds.
 */
#ifndef GW_KERNEL_SLOTS_H
#define GW_KERNEL_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/layout.h"
#include "endpoint.h"
#include "fence.h"
#include "shared.h"

struct gw_kernel_ring {
	struct gw_fence_ring look;
	unsigned failures; /* looks in a row for too long */
	bool stuck;        /* nobody waits for it */
};

struct gw_kernel_slot {
	struct gw_endpoint *endpoint;
	uint32_t life;
	unsigned place; /* among those that are on */
	/* Fence cycles' (kernel_cycle.c). */
	bool fenced;  /* this one is about its queues */
	bool carried; /* and so is the next one */
	unsigned failures;
	unsigned stuck;               /* so many of its rings are; no flow may take the kernel while one is */
	struct gw_fence_queue *queue; /* of each thread of gwi, and then of gwo */
	struct gw_kernel_ring *ring;  /* of each receiver */
};

struct gw_kernel_slots {
	const struct gw_shared *shared;
	struct gw_kernel_endpoint *shown; /* what the programs see, by slot */
	unsigned max, count;
	uint32_t *life;                  /* the last one, by slot */
	struct gw_kernel_slot **by_slot; /* NULL: off */
	struct gw_kernel_slot **on;      /* `count` of them */
};

/* In zeroed memory.  False: no memory. */
bool gw_kernel_slots_begin(struct gw_kernel_slots *slots, const struct gw_shared *shared,
                           struct gw_kernel_endpoint *shown, unsigned max);
void gw_kernel_slots_end(struct gw_kernel_slots *slots);

/* Switches off what is shown as on without an endpoint that is. */
void gw_kernel_slots_settle(struct gw_kernel_slots *slots);

/* What gw_kernel_endpoint_on() and _off() do.  0 or -errno. */
int gw_kernel_slot_on(struct gw_kernel_slots *slots, struct gw_endpoint *endpoint, uint32_t gwi, const int *queues,
                      uint32_t queue_length);
void gw_kernel_slot_off(struct gw_kernel_slots *slots, struct gw_endpoint *endpoint);

/* Lets all entries of an endpoint die. */
void gw_kernel_slot_renew(struct gw_kernel_slots *slots, struct gw_kernel_slot *slot);

/* The records in a ring do not move; they do again. */
void gw_kernel_slot_stick(struct gw_kernel_slot *slot, struct gw_kernel_ring *ring);
void gw_kernel_slot_unstick(struct gw_kernel_slot *slot, struct gw_kernel_ring *ring);

/* The threads of both interfaces together, in the order of gw_kernel_slot.queue. */
static inline unsigned gw_kernel_slot_queues(const struct gw_kernel_slots *slots)
{
	return 2 * slots->shared->tunnel_threads;
}

static inline struct gw_tunnel *gw_kernel_slot_tunnel(const struct gw_kernel_slots *slots,
                                                      const struct gw_kernel_slot *slot, unsigned queue)
{
	const unsigned threads = slots->shared->tunnel_threads;

	return &slot->endpoint->tunnel[queue / threads][queue % threads];
}

/* An endpoint that is on under that life, or NULL. */
static inline struct gw_kernel_slot *gw_kernel_slot_of(const struct gw_kernel_slots *slots, unsigned slot,
                                                       uint32_t life)
{
	struct gw_kernel_slot *found = slot < slots->max ? slots->by_slot[slot] : NULL;

	return found && found->life == life ? found : NULL;
}

#endif
