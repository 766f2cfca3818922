/* SPDX-License-Identifier: MIT-0 */
/*
 * ring.c - records on their way from one U thread to one T thread; ring.h tells how it works.
 */
#include "ring.h"

static bool has_room(struct gw_ring *ring, uint64_t bytes);
static uint64_t record_size(size_t len);

struct gw_ring_record *gw_ring_reserve(struct gw_ring *ring, size_t len)
{
	uint64_t size = record_size(len), to_end;

	/* Read only when it could help: at the first record after a publish. */
	if (gw_ring_count(ring->filled) != 0 &&
	    atomic_load_explicit(&ring->head, memory_order_relaxed) == ring->filled) {
		ring->known_tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
		if (ring->known_tail == ring->filled)
			ring->filled = (gw_ring_generation(ring->filled) + 1) << GW_RING_GENERATION_SHIFT;
	}
	to_end = GW_RING_BYTES - (gw_ring_count(ring->filled) & (GW_RING_BYTES - 1));
	if (to_end < size) {
		if (!has_room(ring, to_end + size))
			return NULL;
		gw_ring_at(ring, ring->filled)->len = GW_RING_WRAP;
		ring->filled += to_end;
	} else if (!has_room(ring, size)) {
		return NULL;
	}
	return gw_ring_at(ring, ring->filled);
}

static bool has_room(struct gw_ring *ring, uint64_t bytes)
{
	if (gw_ring_used(ring->filled, ring->known_tail) + bytes <= GW_RING_BYTES)
		return true;
	ring->known_tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	return gw_ring_used(ring->filled, ring->known_tail) + bytes <= GW_RING_BYTES;
}

void gw_ring_commit(struct gw_ring *ring, struct gw_ring_record *record, size_t len)
{
	record->len = (uint32_t)len;
	atomic_store_explicit(&ring->packets,
	                      atomic_load_explicit(&ring->packets, memory_order_relaxed) + record->packets,
	                      memory_order_relaxed);
	ring->filled += record_size(len);
}

static uint64_t record_size(size_t len)
{
	return (sizeof(struct gw_ring_record) + len + GW_RING_ALIGN - 1) & ~(uint64_t)(GW_RING_ALIGN - 1);
}

void gw_ring_publish(struct gw_ring *ring, uint64_t now_ns)
{
	atomic_store_explicit(&ring->last_ns, now_ns, memory_order_relaxed);
	/* Ordered before the look at whether the consumer sleeps (duty.h). */
	atomic_store_explicit(&ring->head, ring->filled, memory_order_seq_cst);
}

const struct gw_ring_record *gw_ring_peek(struct gw_ring *ring)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	for (;;) {
		const struct gw_ring_record *record;

		if (tail == ring->known_head) {
			ring->known_head = atomic_load_explicit(&ring->head, memory_order_acquire);
			if (tail == ring->known_head)
				return NULL;
		}
		if (gw_ring_generation(tail) != gw_ring_generation(ring->known_head))
			tail = gw_ring_generation(ring->known_head) << GW_RING_GENERATION_SHIFT;
		record = gw_ring_at(ring, tail);
		if (record->len != GW_RING_WRAP) {
			atomic_store_explicit(&ring->tail, tail, memory_order_release);
			return record;
		}
		tail += GW_RING_BYTES - (gw_ring_count(tail) & (GW_RING_BYTES - 1));
	}
}

void gw_ring_release(struct gw_ring *ring, const struct gw_ring_record *record)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	atomic_store_explicit(&ring->tail, tail + record_size(record->len), memory_order_release);
}

const struct gw_ring_record *gw_ring_walk(const struct gw_ring *ring, uint64_t *position)
{
	const uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);

	while (*position != head) {
		const struct gw_ring_record *record;

		if (gw_ring_generation(*position) != gw_ring_generation(head)) {
			*position = gw_ring_generation(head) << GW_RING_GENERATION_SHIFT;
			continue;
		}
		record = gw_ring_at(ring, *position);
		if (record->len != GW_RING_WRAP) {
			*position += record_size(record->len);
			return record;
		}
		*position += GW_RING_BYTES - (gw_ring_count(*position) & (GW_RING_BYTES - 1));
	}
	return NULL;
}
