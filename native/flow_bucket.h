/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_bucket.h - the head of a chain of entries, under a sequence lock.
 *
 * The sequence number is odd while a writer is at work on the chain.  Readers take no lock and write nothing: they walk the
 * chain, copy, and start over if the number has changed.
 *
 * What they read are atomics, stored with release and loaded with acquire order: who sees a word that a writer stored also
 * sees the odd number that it stored before.  (Fences would do too, but ThreadSanitizer does not model them.)
 */
#ifndef GW_FLOW_BUCKET_H
#define GW_FLOW_BUCKET_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GW_BUCKET_SPINS 100u

struct gw_flow_bucket {
	_Atomic uint32_t sequence;
	_Atomic uint32_t head; /* index of the first entry, 0: none */
};

static inline void gw_bucket_relax(unsigned *spins)
{
	/* The thread that holds the bucket may have lost its core. */
	if (++*spins % GW_BUCKET_SPINS == 0)
		sched_yield();
}

static inline uint32_t gw_bucket_read_begin(const struct gw_flow_bucket *bucket)
{
	unsigned spins = 0;
	uint32_t sequence;

	while ((sequence = atomic_load_explicit(&bucket->sequence, memory_order_acquire)) & 1)
		gw_bucket_relax(&spins);
	return sequence;
}

static inline bool gw_bucket_read_valid(const struct gw_flow_bucket *bucket, uint32_t sequence)
{
	return atomic_load_explicit(&bucket->sequence, memory_order_acquire) == sequence;
}

static inline void gw_bucket_lock(struct gw_flow_bucket *bucket)
{
	unsigned spins = 0;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&bucket->sequence, memory_order_relaxed);

		if (!(sequence & 1) &&
		    atomic_compare_exchange_weak_explicit(&bucket->sequence, &sequence, sequence + 1,
		                                          memory_order_acquire, memory_order_relaxed))
			return;
		gw_bucket_relax(&spins);
	}
}

static inline void gw_bucket_unlock(struct gw_flow_bucket *bucket)
{
	atomic_fetch_add_explicit(&bucket->sequence, 1, memory_order_release);
}

#endif
