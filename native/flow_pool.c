/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_pool.c - the entries of the flow table, and those of them that are free.  flow_pool.h has the theory.
 */
#include "flow_pool.h"

static uint32_t take_freed(struct gw_flow_pool *pool);
static uint32_t take_fresh(struct gw_flow_pool *pool);
static uint64_t head_after(uint64_t head, uint32_t index);

void gw_flow_pool_init(struct gw_flow_pool *pool, size_t entries_at, uint32_t max)
{
	pool->entries_at = entries_at;
	pool->max = max;
	atomic_init(&pool->fresh, 1);
}

uint32_t gw_flow_pool_take(struct gw_flow_pool *pool)
{
	uint32_t index = take_freed(pool);

	return index ? index : take_fresh(pool);
}

static uint32_t take_freed(struct gw_flow_pool *pool)
{
	uint64_t head = atomic_load_explicit(&pool->free, memory_order_acquire);

	while ((uint32_t)head != 0) {
		uint32_t below = atomic_load_explicit(&gw_flow_entry_at(pool, (uint32_t)head)->next,
		                                      memory_order_acquire);

		if (atomic_compare_exchange_weak_explicit(&pool->free, &head, head_after(head, below),
		                                          memory_order_acquire, memory_order_acquire))
			break;
	}
	return (uint32_t)head;
}

/* The head of the free stack with index as the next one. */
static uint64_t head_after(uint64_t head, uint32_t index)
{
	return ((head >> 32) + 1) << 32 | index;
}

static uint32_t take_fresh(struct gw_flow_pool *pool)
{
	uint32_t fresh = atomic_load_explicit(&pool->fresh, memory_order_relaxed);

	while (fresh <= pool->max)
		if (atomic_compare_exchange_weak_explicit(&pool->fresh, &fresh, fresh + 1, memory_order_relaxed,
		                                          memory_order_relaxed))
			return fresh;
	return 0;
}

void gw_flow_pool_give(struct gw_flow_pool *pool, uint32_t index)
{
	uint64_t head = atomic_load_explicit(&pool->free, memory_order_relaxed);

	do
		atomic_store_explicit(&gw_flow_entry_at(pool, index)->next, (uint32_t)head, memory_order_release);
	while (!atomic_compare_exchange_weak_explicit(&pool->free, &head, head_after(head, index),
	                                              memory_order_release, memory_order_relaxed));
}
