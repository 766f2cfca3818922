/* SPDX-License-Identifier: MIT-0 */
/*
 * counters.h - what one thread counts.
 *
 * Theory of operation: only that thread writes its counters, or the thread that is on duty for it (duty.h), so counting is a
 * load and a store.  Anyone may read them.  They are on cache lines of their own.
 */
#ifndef GW_COUNTERS_H
#define GW_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

#include "gwlbtun.h"

struct gw_counters {
	_Alignas(64) _Atomic uint64_t value[GW_COUNTERS];
};

static inline void gw_count(struct gw_counters *counters, enum gw_counter counter, uint64_t by)
{
	_Atomic uint64_t *value = &counters->value[counter];

	atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + by, memory_order_relaxed);
}

static inline void gw_set(struct gw_counters *counters, enum gw_counter counter, uint64_t value)
{
	atomic_store_explicit(&counters->value[counter], value, memory_order_relaxed);
}

static inline uint64_t gw_get(const struct gw_counters *counters, enum gw_counter counter)
{
	return atomic_load_explicit(&counters->value[counter], memory_order_relaxed);
}

#endif
