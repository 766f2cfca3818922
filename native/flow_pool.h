/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_pool.h - the entries of the flow table, and those of them that are free.
 *
 * Theory of operation: an array of entries of 128 bytes, used from the first one up, so that only what was used takes
 * memory.  Entries given back form a stack, which is used first; its head carries a tag against ABA.  Links are indices, 0
 * for none: nothing here depends on where it is mapped, and entry 0 is never used.  Any thread may take and give.
 */
#ifndef GW_FLOW_POOL_H
#define GW_FLOW_POOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define GW_ENTRY_WORDS 15u

struct gw_flow_entry {
	_Atomic uint32_t next; /* in its chain, in the free stack, or the next continuation */
	_Atomic uint32_t seen; /* gw_now_s() of its last packet; 0: not a flow */
	_Atomic uint64_t word[GW_ENTRY_WORDS];
};
_Static_assert(sizeof(struct gw_flow_entry) == 128, "two cache lines");

struct gw_flow_pool {
	size_t entries_at; /* from the pool itself, bytes */
	uint32_t max;
	_Alignas(64) _Atomic uint64_t free; /* tag << 32 | index */
	_Atomic uint32_t fresh;             /* entries from here up were never used */
};

static inline struct gw_flow_entry *gw_flow_entry_at(const struct gw_flow_pool *pool, uint32_t index)
{
	return (struct gw_flow_entry *)((char *)pool + pool->entries_at) + index;
}

/* Entries from here up were never used. */
static inline uint32_t gw_flow_pool_end(const struct gw_flow_pool *pool)
{
	return atomic_load_explicit(&pool->fresh, memory_order_relaxed);
}

/* Makes a pool in zeroed memory.  Its max + 1 entries lie entries_at bytes from it. */
void gw_flow_pool_init(struct gw_flow_pool *pool, size_t entries_at, uint32_t max);

/* Takes an entry.  It is the caller's until it is linked or given back.  0: the pool is used up. */
uint32_t gw_flow_pool_take(struct gw_flow_pool *pool);
void gw_flow_pool_give(struct gw_flow_pool *pool, uint32_t index);

#endif
