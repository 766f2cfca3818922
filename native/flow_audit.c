/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_audit.c - whether the links of a flow table lead where they may; flow_audit.h tells what is asked.
 *
 * The main thread does this, while no other knows of the table.
 */
#include "flow_audit.h"

#include <errno.h>
#include <stdlib.h>

#include "flow_entry.h"

/* One bit for each entry. */
struct audit {
	const struct gw_flow_pool *pool;
	uint32_t end, slots;
	uint64_t *flow;   /* those that are flows */
	uint64_t *linked; /* those that chains lead to */
	uint64_t *loose;  /* those that the free stack, or a header, leads to */
};

static bool look(struct audit *audit, const struct gw_flow_bucket *bucket, uint32_t buckets);
static bool look_at_entry(struct audit *audit, uint32_t index);
static bool look_at_header(struct audit *audit, struct gw_flow_entry *entry);
static bool follow(struct audit *audit, uint64_t *bits, uint32_t index);
static bool mark(uint64_t *bits, uint32_t index);

bool gw_flow_audit(const struct gw_flow_pool *pool, const struct gw_flow_bucket *bucket, uint32_t buckets,
                   uint32_t slots)
{
	struct audit audit = { .pool = pool, .end = gw_flow_pool_end(pool), .slots = slots };
	size_t words;
	bool fine;

	if (audit.end == 0 || audit.end > pool->max + 1) {
		errno = EINVAL;
		return false;
	}
	words = audit.end / 64 + 1;
	audit.flow = calloc(3 * words, sizeof(uint64_t));
	if (!audit.flow)
		return false;
	audit.linked = audit.flow + words;
	audit.loose = audit.linked + words;
	fine = look(&audit, bucket, buckets);
	for (size_t i = 0; i < words; i++)
		fine = fine && !(audit.linked[i] & ~audit.flow[i]) && !(audit.loose[i] & audit.flow[i]);
	free(audit.flow);
	if (!fine)
		errno = EINVAL;
	return fine;
}

static bool look(struct audit *audit, const struct gw_flow_bucket *bucket, uint32_t buckets)
{
	if (!follow(audit, audit->loose, (uint32_t)atomic_load(&audit->pool->free)))
		return false;
	for (uint32_t i = 0; i < buckets; i++)
		if (atomic_load_explicit(&bucket[i].sequence, memory_order_relaxed) & 1 ||
		    !follow(audit, audit->linked, atomic_load_explicit(&bucket[i].head, memory_order_relaxed)))
			return false;
	for (uint32_t index = 1; index < audit->end; index++)
		if (!look_at_entry(audit, index))
			return false;
	return true;
}

static bool look_at_entry(struct audit *audit, uint32_t index)
{
	struct gw_flow_entry *entry = gw_flow_entry_at(audit->pool, index);
	const uint32_t next = atomic_load_explicit(&entry->next, memory_order_relaxed);

	if (atomic_load_explicit(&entry->seen, memory_order_relaxed) == 0)
		return follow(audit, audit->loose, next);
	mark(audit->flow, index);
	return GW_KEY_SLOT(gw_entry_key_word(entry)) < audit->slots && look_at_header(audit, entry) &&
	       follow(audit, audit->linked, next);
}

/* A header that is too long for its entry goes on in as many others as it takes. */
static bool look_at_header(struct audit *audit, struct gw_flow_entry *entry)
{
	const uint64_t rest = gw_entry_get(&entry->word[GW_ENTRY_REST]);
	const unsigned len = gw_entry_header_len(rest);
	uint32_t index = gw_entry_continuation(rest);

	if (len > GW_GENEVE_MAX)
		return false;
	for (unsigned left = gw_header_continuations(len), first = 1; left > 0; left--, first = 0) {
		if (index == 0 || index >= audit->end || (first && !mark(audit->loose, index)))
			return false;
		index = atomic_load_explicit(&gw_flow_entry_at(audit->pool, index)->next, memory_order_relaxed);
	}
	return true;
}

/* Notes where a link leads to.  False if it leads nowhere, or where another one leads to. */
static bool follow(struct audit *audit, uint64_t *bits, uint32_t index)
{
	return index == 0 || (index < audit->end && mark(bits, index));
}

static bool mark(uint64_t *bits, uint32_t index)
{
	const uint64_t bit = 1ull << index % 64, before = bits[index / 64];

	bits[index / 64] = before | bit;
	return !(before & bit);
}
