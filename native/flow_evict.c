/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_evict.c - who makes room when the flow table is full.  flow_evict.h has the rules.
 *
 * No list knows which entries are whose: samples from all over the pool do.  A slot above its share holds many entries, so
 * that samples find it.  Nothing is locked; what was seen here may have changed when the caller removes it.
 */
#include "flow_evict.h"

#include "flow_entry.h"

/* How many entries to choose among, and how many to draw at most until one may go.  The limit bounds what a packet costs.  A
 * slot that holds a hundredth of the table finds its own among so many. */
#define SAMPLE 32u
#define LIMIT 1024u

/* The lowest goes first. */
enum rank { OWN, RICH, POOR, NOBODY };

struct hunt {
	unsigned slot;
	bool own_first; /* the slot has used up its share */
	uint32_t rich;  /* a slot that holds this much may lose an entry */
	enum rank rank; /* the victim's */
	struct gw_flow_victim victim;
};

static struct hunt hunt_for(const struct gw_flow_shares *shares, uint32_t max, unsigned slot);
static uint32_t sample(const struct gw_flow_pool *pool, uint32_t number);
static void judge(const struct gw_flow_shares *shares, const struct gw_flow_pool *pool, struct hunt *hunt,
                  uint32_t index);
static enum rank rank_of(const struct gw_flow_shares *shares, const struct hunt *hunt, unsigned slot);

struct gw_flow_victim gw_flow_victim(struct gw_flow_shares *shares, const struct gw_flow_pool *pool, unsigned slot)
{
	struct hunt hunt = hunt_for(shares, pool->max, slot);

	for (unsigned drawn = 0; hunt.rank >= POOR && drawn < LIMIT; drawn += SAMPLE) {
		uint32_t hand = atomic_fetch_add_explicit(&shares->hand, SAMPLE, memory_order_relaxed);

		for (uint32_t i = 0; i < SAMPLE; i++)
			__builtin_prefetch(gw_flow_entry_at(pool, sample(pool, hand + i)));
		for (uint32_t i = 0; i < SAMPLE; i++)
			judge(shares, pool, &hunt, sample(pool, hand + i));
	}
	return hunt.victim;
}

static struct hunt hunt_for(const struct gw_flow_shares *shares, uint32_t max, unsigned slot)
{
	uint32_t held = gw_flow_held(shares, slot);
	/* A slot that holds nothing yet is about to. */
	uint32_t holders = atomic_load_explicit(&shares->holders, memory_order_relaxed) + (held == 0);
	uint32_t share = max / (holders ? holders : 1);
	bool own_first = held >= share;

	return (struct hunt){
		.slot = slot, .own_first = own_first, .rich = own_first ? held : share + 1, .rank = NOBODY
	};
}

/* The pool was filled in the order of time, so neighbours are of one age: the samples are spread over all of it, by
 * multiples of the golden ratio. */
static uint32_t sample(const struct gw_flow_pool *pool, uint32_t number)
{
	return 1 + (uint32_t)((uint64_t)(number * 0x9e3779b1u) * pool->max >> 32);
}

static void judge(const struct gw_flow_shares *shares, const struct gw_flow_pool *pool, struct hunt *hunt,
                  uint32_t index)
{
	const struct gw_flow_entry *entry = gw_flow_entry_at(pool, index);
	uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
	unsigned slot = GW_KEY_SLOT(gw_entry_key_word(entry));
	enum rank rank;

	/* An entry that has just become a continuation holds a sender's bytes where its slot was. */
	if (seen == 0 || slot >= shares->slots)
		return;
	rank = rank_of(shares, hunt, slot);
	if (rank < hunt->rank || (rank == hunt->rank && (int32_t)(seen - hunt->victim.seen) < 0)) {
		hunt->victim = (struct gw_flow_victim){ .index = index, .seen = seen, .slot = slot };
		hunt->rank = rank;
	}
}

static enum rank rank_of(const struct gw_flow_shares *shares, const struct hunt *hunt, unsigned slot)
{
	if (slot == hunt->slot)
		return hunt->own_first ? OWN : POOR;
	return gw_flow_held(shares, slot) >= hunt->rich ? RICH : POOR;
}
