/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_slots.c - the endpoints whose flows may take the kernel; kernel_slots.h tells how they come and go.
 */
#include "kernel_slots.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>

static bool was_left_on(const struct gw_kernel_endpoint *shown, const struct gw_endpoint *endpoint, uint32_t gwi);
static void set_life(struct gw_kernel_slots *slots, struct gw_kernel_slot *slot);
static void show_life(struct gw_kernel_slot *slot);
static void give_life(struct gw_kernel_slots *slots, unsigned number);
static void free_slot(struct gw_kernel_slot *slot);

bool gw_kernel_slots_begin(struct gw_kernel_slots *slots, const struct gw_shared *shared,
                           struct gw_kernel_endpoint *shown, unsigned max)
{
	slots->shared = shared;
	slots->shown = shown;
	slots->max = max;
	slots->life = calloc(max, sizeof(*slots->life));
	slots->by_slot = calloc(max, sizeof(struct gw_kernel_slot *));
	slots->on = calloc(max, sizeof(struct gw_kernel_slot *));
	if (!slots->life || !slots->by_slot || !slots->on)
		return false;
	for (unsigned number = 0; number < max; number++) {
		slots->life[number] = shown[number].life;
		/* A K that left in the midst of something: what was to be told is not known. */
		if (shown[number].changing) {
			__atomic_store_n(&shown[number].on, 0, __ATOMIC_RELEASE);
			__atomic_store_n(&shown[number].changing, 0, __ATOMIC_RELEASE);
		}
	}
	return true;
}

void gw_kernel_slots_settle(struct gw_kernel_slots *slots)
{
	for (unsigned number = 0; number < slots->max; number++) {
		if (slots->by_slot[number] || !slots->shown[number].on)
			continue;
		__atomic_store_n(&slots->shown[number].on, 0, __ATOMIC_RELEASE);
		give_life(slots, number);
	}
}

void gw_kernel_slots_end(struct gw_kernel_slots *slots)
{
	while (slots->on && slots->count > 0)
		gw_kernel_slot_off(slots, slots->on[0]->endpoint);
	free(slots->life);
	free(slots->by_slot);
	free(slots->on);
}

int gw_kernel_slot_on(struct gw_kernel_slots *slots, struct gw_endpoint *endpoint, uint32_t gwi, const int *queues,
                      uint32_t queue_length)
{
	struct gw_kernel_endpoint *shown = &slots->shown[endpoint->slot];
	struct gw_kernel_slot *slot;

	if (slots->by_slot[endpoint->slot])
		return -EEXIST;
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		return -ENOMEM;
	slot->endpoint = endpoint;
	slot->queue = calloc(gw_kernel_slot_queues(slots), sizeof(*slot->queue));
	slot->ring = calloc(slots->shared->receivers, sizeof(*slot->ring));
	if (!slot->queue || !slot->ring) {
		free_slot(slot);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < gw_kernel_slot_queues(slots); i++) {
		slot->queue[i].fd = queues[i];
		slot->queue[i].length = queue_length;
	}
	/* A receiver whose rings are being looked at has nothing of it. */
	for (unsigned i = 0; i < slots->shared->receivers; i++)
		slot->ring[i].look.through = true;
	slot->place = slots->count;
	slots->on[slots->count++] = slots->by_slot[endpoint->slot] = slot;
	if (was_left_on(shown, endpoint, gwi)) {
		slot->life = slots->life[endpoint->slot];
		atomic_store(&endpoint->kernel_life, slot->life);
		return 0;
	}
	__atomic_store_n(&shown->on, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&shown->eni, htobe64(endpoint->eni), __ATOMIC_RELAXED);
	__atomic_store_n(&shown->gwi, gwi, __ATOMIC_RELAXED);
	set_life(slots, slot);
	__atomic_store_n(&shown->on, 1, __ATOMIC_RELEASE);
	return 0;
}

/* Whether another K has left the endpoint on. */
static bool was_left_on(const struct gw_kernel_endpoint *shown, const struct gw_endpoint *endpoint, uint32_t gwi)
{
	return shown->on && shown->life && shown->eni == htobe64(endpoint->eni) && shown->gwi == gwi;
}

static void set_life(struct gw_kernel_slots *slots, struct gw_kernel_slot *slot)
{
	give_life(slots, slot->endpoint->slot);
	slot->life = slots->life[slot->endpoint->slot];
	show_life(slot);
}

/* To U threads, which then ask for its flows. */
static void show_life(struct gw_kernel_slot *slot)
{
	atomic_store(&slot->endpoint->kernel_life, slot->stuck ? 0 : slot->life);
}

/* 0 is no life: it means that there is none. */
static void give_life(struct gw_kernel_slots *slots, unsigned number)
{
	if (++slots->life[number] == 0)
		++slots->life[number];
	__atomic_store_n(&slots->shown[number].life, slots->life[number], __ATOMIC_RELEASE);
}

static void free_slot(struct gw_kernel_slot *slot)
{
	free(slot->queue);
	free(slot->ring);
	free(slot);
}

void gw_kernel_slot_off(struct gw_kernel_slots *slots, struct gw_endpoint *endpoint)
{
	struct gw_kernel_slot *slot = slots->by_slot[endpoint->slot];

	if (!slot || slot->endpoint != endpoint)
		return;
	__atomic_store_n(&slots->shown[endpoint->slot].on, 0, __ATOMIC_RELEASE);
	set_life(slots, slot);
	atomic_store(&endpoint->kernel_life, 0);
	slots->by_slot[endpoint->slot] = NULL;
	slots->on[slot->place] = slots->on[--slots->count];
	slots->on[slot->place]->place = slot->place;
	free_slot(slot);
}

void gw_kernel_slot_renew(struct gw_kernel_slots *slots, struct gw_kernel_slot *slot)
{
	set_life(slots, slot);
}

void gw_kernel_slot_stick(struct gw_kernel_slot *slot, struct gw_kernel_ring *ring)
{
	ring->stuck = true;
	slot->stuck++;
	show_life(slot);
}

void gw_kernel_slot_unstick(struct gw_kernel_slot *slot, struct gw_kernel_ring *ring)
{
	ring->stuck = false;
	slot->stuck--;
	show_life(slot);
}
