/* SPDX-License-Identifier: MIT-0 */
/*
 * flow.c - the flow table.
 *
 * Theory of operation
 *
 * U threads learn, T threads find, a control thread expires and forgets; any number of each, at the same time.
 *
 * - Each bucket is a chain under a sequence lock (flow_bucket.h).  Readers take no lock and write nothing.
 * - Entries are never unmapped, so a reader that follows a link into an entry which meanwhile moved to another chain
 *   reads some valid entry, and then sees that the sequence number of its own bucket has changed.
 * - A writer takes one bucket at a time, for some tens of instructions, and holds no other lock.
 *
 * A packet whose header equals the stored one finds that out as a reader, and writes only the entry's clock, once a
 * second.  The table thus stays shared in all cores' caches while flows are steady.
 *
 * An entry is taken from the pool (flow_pool.h), or when that is used up from a flow that must go (flow_evict.h); filled
 * (flow_entry.h) while nobody else can see it; linked; and some day unlinked and given back.  Continuations of a long
 * header belong to their flow's entry, and are written and read under its bucket's sequence number.  The clock of an entry
 * that is free or a continuation is 0, which is how sweeps tell.
 *
 * The hash is SipHash-1-3 under a random key: a sender that does not know the key cannot aim at one bucket.
 */
#include "flow.h"

#include <sched.h>
#include <string.h>

#include "flow_bucket.h"
#include "flow_entry.h"
#include "flow_evict.h"
#include "flow_pool.h"
#include "flow_table.h"
#include "siphash.h"

#define EVICT_TRIES 8u
#define IS_KEPT(kept, slot) ((kept)[(slot) / 64] >> (slot) % 64 & 1)
#define SWEEP_SLICE 1024u /* entries that a sweep looks at before it lets others have the core */

/* The reasons for which an entry leaves its chain. */
enum leave { REPLACED, EVICTED, TIMED_OUT, FORGOTTEN };

static bool already_known(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                          uint32_t now);
static uint32_t search(const struct gw_flows *flows, const struct gw_flow_bucket *bucket, uint32_t sequence,
                       const struct gw_flow_key *key, bool *valid);
static uint32_t take_flow(struct gw_flows *flows, unsigned slot, unsigned header_len, uint32_t *continuation);
static uint32_t take(struct gw_flows *flows, unsigned slot);
static bool evict(struct gw_flows *flows, unsigned slot);
static uint32_t link_entry(struct gw_flows *flows, const struct gw_flow_key *key, uint32_t index, uint32_t now);
static _Atomic uint32_t *locate(const struct gw_flows *flows, struct gw_flow_bucket *bucket,
                                const struct gw_flow_key *key, uint32_t index);
static void unlink_entry(struct gw_flows *flows, _Atomic uint32_t *link, enum leave why);
static void count(struct gw_flows *flows, uint64_t key_word, uint64_t change);
static uint32_t idle_limit(uint64_t key_word, uint32_t tcp_s, uint32_t other_s);
static bool remove_older(struct gw_flows *flows, uint32_t index, unsigned slot, uint32_t before, enum leave why);
static void give_flow(struct gw_flows *flows, uint32_t index);
static void give_continuations(struct gw_flows *flows, unsigned slot, uint32_t first, unsigned number);
static void give(struct gw_flows *flows, unsigned slot, uint32_t index);

/* ---- Made --------------------------------------------------------------------------------------------------------*/

struct gw_flows *gw_flows_new(uint32_t max, uint32_t slots)
{
	return gw_flows_open(max, slots, -1);
}

struct gw_flows *gw_flows_open(uint32_t max, uint32_t slots, int fd)
{
	return gw_flow_table_open(max, slots, fd);
}

/* ---- A packet's key ----------------------------------------------------------------------------------------------*/

void gw_flow_hash(const struct gw_flows *flows, struct gw_flow_key *key)
{
	key->hash = gw_siphash(flows->secret, key->word, GW_KEY_WORDS);
}

void gw_flows_prefetch_bucket(const struct gw_flows *flows, const struct gw_flow_key *key)
{
	__builtin_prefetch(gw_flow_bucket_of(flows, key->hash));
}

void gw_flows_prefetch_entry(const struct gw_flows *flows, const struct gw_flow_key *key)
{
	uint32_t head = atomic_load_explicit(&gw_flow_bucket_of(flows, key->hash)->head, memory_order_relaxed);

	gw_entry_prefetch(gw_flow_entry_at(&flows->pool, head));
}

/* ---- Learned -----------------------------------------------------------------------------------------------------*/

unsigned gw_flows_learn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                        uint32_t now)
{
	enum gw_flow_news news;

	return gw_flows_relearn(flows, key, path, now, &news);
}

unsigned gw_flows_relearn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                          uint32_t now, enum gw_flow_news *news)
{
	uint32_t index, continuation, old;

	*news = GW_FLOW_KNOWN;
	if (already_known(flows, key, path, now))
		return 0;
	/* Taken before the bucket is locked, since making room locks another one. */
	index = take_flow(flows, GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]), path->header_len, &continuation);
	if (!index)
		return GW_drop_flows_full;
	gw_entry_write_key(gw_flow_entry_at(&flows->pool, index), key);
	gw_entry_write_path(&flows->pool, gw_flow_entry_at(&flows->pool, index), path, continuation);
	old = link_entry(flows, key, index, now);
	*news = old ? GW_FLOW_REPLACED : GW_FLOW_NEW;
	if (old)
		give_flow(flows, old);
	return 0;
}

/* True if the key has this path already.  The entry is then marked as used. */
static bool already_known(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                          uint32_t now)
{
	const struct gw_flow_bucket *bucket = gw_flow_bucket_of(flows, key->hash);
	uint32_t sequence = gw_bucket_read_begin(bucket);
	bool valid;
	uint32_t index = search(flows, bucket, sequence, key, &valid);
	struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);

	if (!valid || index == 0 || !gw_entry_path_equals(&flows->pool, entry, path) ||
	    !gw_bucket_read_valid(bucket, sequence))
		return false;
	gw_entry_touch(entry, now);
	return true;
}

/* Returns the entry of a key as a reader sees it, or 0; *valid tells whether that can be trusted. */
static uint32_t search(const struct gw_flows *flows, const struct gw_flow_bucket *bucket, uint32_t sequence,
                       const struct gw_flow_key *key, bool *valid)
{
	uint32_t index = atomic_load_explicit(&bucket->head, memory_order_acquire);

	while (index != 0 && !gw_entry_key_equals(gw_flow_entry_at(&flows->pool, index), key)) {
		index = atomic_load_explicit(&gw_flow_entry_at(&flows->pool, index)->next, memory_order_acquire);
		/* A chain that changes during the walk could lead in circles. */
		if (!gw_bucket_read_valid(bucket, sequence)) {
			*valid = false;
			return 0;
		}
	}
	*valid = index != 0 || gw_bucket_read_valid(bucket, sequence);
	return index;
}

/* Takes an entry, and the continuations that a header of header_len needs, chained to *continuation.  0: there are none. */
static uint32_t take_flow(struct gw_flows *flows, unsigned slot, unsigned header_len, uint32_t *continuation)
{
	uint32_t index = take(flows, slot);
	const unsigned number = gw_header_continuations(header_len);

	*continuation = 0;
	for (unsigned taken = 0; index && taken < number; taken++) {
		uint32_t next = take(flows, slot);

		if (!next) {
			give_continuations(flows, slot, *continuation, taken);
			give(flows, slot, index);
			return 0;
		}
		atomic_store_explicit(&gw_flow_entry_at(&flows->pool, next)->next, *continuation,
		                      memory_order_release);
		*continuation = next;
	}
	return index;
}

static uint32_t take(struct gw_flows *flows, unsigned slot)
{
	/* Another thread may take what this one evicted, so it tries again, but not for ever. */
	for (unsigned tries = 0; tries < EVICT_TRIES; tries++) {
		uint32_t index = gw_flow_pool_take(&flows->pool);

		if (index) {
			gw_flow_hold(&flows->shares, slot);
			return index;
		}
		evict(flows, slot);
	}
	return 0;
}

static bool evict(struct gw_flows *flows, unsigned slot)
{
	struct gw_flow_victim victim = gw_flow_victim(&flows->shares, &flows->pool, slot);

	return victim.index != 0 && remove_older(flows, victim.index, victim.slot, victim.seen, EVICTED);
}

/* Links a filled entry into the chain of its key.  Returns the entry that had the key until then, or 0.  That one is now the
 * caller's. */
static uint32_t link_entry(struct gw_flows *flows, const struct gw_flow_key *key, uint32_t index, uint32_t now)
{
	struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);
	struct gw_flow_bucket *bucket = gw_flow_bucket_of(flows, key->hash);
	_Atomic uint32_t *link;
	uint32_t old = 0;

	gw_bucket_lock(bucket);
	link = locate(flows, bucket, key, 0);
	if (link) {
		old = atomic_load_explicit(link, memory_order_relaxed);
		unlink_entry(flows, link, REPLACED);
	}
	atomic_store_explicit(&entry->next, atomic_load_explicit(&bucket->head, memory_order_relaxed),
	                      memory_order_release);
	atomic_store_explicit(&entry->seen, now, memory_order_relaxed);
	atomic_store_explicit(&bucket->head, index, memory_order_release);
	count(flows, key->word[GW_KEY_WORDS - 1], 1);
	gw_bucket_unlock(bucket);
	return old;
}

/* Returns the link to an entry of a locked bucket's chain, by key or (key NULL) by index; NULL: it is not there. */
static _Atomic uint32_t *locate(const struct gw_flows *flows, struct gw_flow_bucket *bucket,
                                const struct gw_flow_key *key, uint32_t index)
{
	_Atomic uint32_t *link = &bucket->head;
	uint32_t at;

	while ((at = atomic_load_explicit(link, memory_order_relaxed)) != 0) {
		if (key ? gw_entry_key_equals(gw_flow_entry_at(&flows->pool, at), key) : at == index)
			return link;
		link = &gw_flow_entry_at(&flows->pool, at)->next;
	}
	return NULL;
}

static void count(struct gw_flows *flows, uint64_t key_word, uint64_t change)
{
	struct gw_flow_slot *slot = gw_flow_slot_at(&flows->shares, GW_KEY_SLOT(key_word));
	const enum gw_flow_class counted_as = gw_key_class(key_word);

	if (counted_as != GW_FLOW_CLASSES)
		atomic_fetch_add_explicit(&slot->flows[counted_as], change, memory_order_relaxed);
}

/* ---- Found -------------------------------------------------------------------------------------------------------*/

bool gw_flows_find(struct gw_flows *flows, const struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now)
{
	const struct gw_flow_bucket *bucket = gw_flow_bucket_of(flows, key->hash);

	for (;;) {
		uint32_t sequence = gw_bucket_read_begin(bucket);
		bool valid;
		uint32_t index = search(flows, bucket, sequence, key, &valid);

		if (!valid)
			continue;
		if (index == 0)
			return false;
		valid = gw_entry_read_path(&flows->pool, gw_flow_entry_at(&flows->pool, index), path);
		if (!gw_bucket_read_valid(bucket, sequence))
			continue;
		if (valid)
			gw_entry_touch(gw_flow_entry_at(&flows->pool, index), now);
		return valid;
	}
}

bool gw_flows_confirm(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                      uint32_t seen)
{
	const struct gw_flow_bucket *bucket = gw_flow_bucket_of(flows, key->hash);

	for (;;) {
		uint32_t sequence = gw_bucket_read_begin(bucket);
		bool valid;
		uint32_t index = search(flows, bucket, sequence, key, &valid);
		struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);

		if (valid && index == 0)
			return false;
		if (valid && gw_entry_path_equals(&flows->pool, entry, path)) {
			if (!gw_bucket_read_valid(bucket, sequence))
				continue;
			if ((int32_t)(seen - atomic_load_explicit(&entry->seen, memory_order_relaxed)) > 0)
				gw_entry_touch(entry, seen);
			return true;
		}
		if (valid && gw_bucket_read_valid(bucket, sequence))
			return false;
	}
}

/* ---- Removed -----------------------------------------------------------------------------------------------------*/

uint64_t gw_flows_expire(struct gw_flows *flows, uint32_t now, uint32_t tcp_s, uint32_t other_s)
{
	uint32_t end = gw_flow_pool_end(&flows->pool);
	uint64_t removed = 0;

	for (uint32_t index = 1; index < end; index++) {
		struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);
		uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
		uint64_t key_word;
		uint32_t idle;

		if (index % SWEEP_SLICE == 0)
			sched_yield();
		if (seen == 0)
			continue;
		key_word = gw_entry_key_word(entry);
		idle = idle_limit(key_word, tcp_s, other_s);
		if ((int32_t)(now - seen) > (int32_t)idle)
			removed += remove_older(flows, index, GW_KEY_SLOT(key_word), now - idle - 1, TIMED_OUT);
	}
	return removed;
}

static uint32_t idle_limit(uint64_t key_word, uint32_t tcp_s, uint32_t other_s)
{
	if (GW_KEY_KIND(key_word) == GW_KEY_FRAGMENT)
		return other_s < GW_FRAGMENT_IDLE_S ? other_s : GW_FRAGMENT_IDLE_S;
	return GW_KEY_PROTOCOL(key_word) == GW_PROTO_TCP ? tcp_s : other_s;
}

void gw_flows_forget(struct gw_flows *flows, unsigned slot)
{
	uint64_t others[GW_SLOTS_MAX / 64];

	memset(others, 0xff, sizeof(others));
	others[slot / 64] &= ~(1ull << slot % 64);
	gw_flows_forget_others(flows, others);
}

uint64_t gw_flows_forget_others(struct gw_flows *flows, const uint64_t *kept)
{
	uint64_t number = 0;
	bool any = false;

	for (unsigned slot = 0; slot < flows->shares.slots; slot++) {
		struct gw_flow_slot *counts = gw_flow_slot_at(&flows->shares, slot);

		for (unsigned i = 0; i < GW_FLOW_CLASSES && !IS_KEPT(kept, slot); i++) {
			number += atomic_load_explicit(&counts->flows[i], memory_order_relaxed);
			atomic_store_explicit(&counts->timed_out[i], 0, memory_order_relaxed);
			atomic_store_explicit(&counts->evicted[i], 0, memory_order_relaxed);
		}
		any = any || (!IS_KEPT(kept, slot) && gw_flow_held(&flows->shares, slot) > 0);
	}
	for (uint32_t index = 1, end = any ? gw_flow_pool_end(&flows->pool) : 0; index < end; index++) {
		struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);
		uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
		unsigned slot = GW_KEY_SLOT(gw_entry_key_word(entry));

		if (index % SWEEP_SLICE == 0)
			sched_yield();
		if (seen != 0 && slot < flows->shares.slots && !IS_KEPT(kept, slot))
			remove_older(flows, index, slot, seen, FORGOTTEN);
	}
	return number;
}

/* Removes a slot's entry unless it was used after `before`.  Its key is read without the lock, so the entry may have moved
 * on, to another slot or chain: then it stays. */
static bool remove_older(struct gw_flows *flows, uint32_t index, unsigned slot, uint32_t before, enum leave why)
{
	struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);
	struct gw_flow_bucket *bucket;
	struct gw_flow_key key;
	_Atomic uint32_t *link;

	gw_entry_read_key(entry, &key);
	if (GW_KEY_SLOT(key.word[GW_KEY_WORDS - 1]) != slot)
		return false;
	gw_flow_hash(flows, &key);
	bucket = gw_flow_bucket_of(flows, key.hash);
	gw_bucket_lock(bucket);
	link = locate(flows, bucket, NULL, index);
	if (link && (int32_t)(atomic_load_explicit(&entry->seen, memory_order_relaxed) - before) <= 0)
		unlink_entry(flows, link, why);
	else
		link = NULL;
	gw_bucket_unlock(bucket);
	if (link)
		give_flow(flows, index);
	return link != NULL;
}

/* Unlinks the entry that *link leads to from its locked chain.  It is now the caller's, with its continuations. */
static void unlink_entry(struct gw_flows *flows, _Atomic uint32_t *link, enum leave why)
{
	struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, atomic_load_explicit(link, memory_order_relaxed));
	const uint64_t key_word = gw_entry_key_word(entry);
	const enum gw_flow_class counted_as = gw_key_class(key_word);
	struct gw_flow_slot *slot = gw_flow_slot_at(&flows->shares, GW_KEY_SLOT(key_word));

	atomic_store_explicit(link, atomic_load_explicit(&entry->next, memory_order_relaxed), memory_order_release);
	atomic_store_explicit(&entry->seen, 0, memory_order_relaxed);
	count(flows, key_word, (uint64_t)-1);
	if (counted_as != GW_FLOW_CLASSES && (why == EVICTED || why == TIMED_OUT))
		atomic_fetch_add_explicit(&(why == EVICTED ? slot->evicted : slot->timed_out)[counted_as], 1,
		                          memory_order_relaxed);
}

/* Gives back an unlinked entry and its continuations. */
static void give_flow(struct gw_flows *flows, uint32_t index)
{
	const struct gw_flow_entry *entry = gw_flow_entry_at(&flows->pool, index);
	const unsigned slot = GW_KEY_SLOT(gw_entry_key_word(entry));
	const uint64_t rest = gw_entry_get(&entry->word[GW_ENTRY_REST]);

	give_continuations(flows, slot, gw_entry_continuation(rest),
	                   gw_header_continuations(gw_entry_header_len(rest)));
	give(flows, slot, index);
}

static void give_continuations(struct gw_flows *flows, unsigned slot, uint32_t first, unsigned number)
{
	for (uint32_t next; number > 0; number--, first = next) {
		next = atomic_load_explicit(&gw_flow_entry_at(&flows->pool, first)->next, memory_order_relaxed);
		give(flows, slot, first);
	}
}

static void give(struct gw_flows *flows, unsigned slot, uint32_t index)
{
	gw_flow_let_go(&flows->shares, slot);
	gw_flow_pool_give(&flows->pool, index);
}

/* ---- Counted -----------------------------------------------------------------------------------------------------*/

void gw_flows_count(const struct gw_flows *flows, unsigned slot, struct gw_flow_count *count)
{
	const struct gw_flow_slot *counts = gw_flow_slot_at(&flows->shares, slot);

	for (unsigned i = 0; i < GW_FLOW_CLASSES; i++) {
		count[i].size = atomic_load_explicit(&counts->flows[i], memory_order_relaxed);
		count[i].timed_out = atomic_load_explicit(&counts->timed_out[i], memory_order_relaxed);
		count[i].evicted = atomic_load_explicit(&counts->evicted[i], memory_order_relaxed);
	}
}

uint32_t gw_flows_slot_entries(const struct gw_flows *flows, unsigned slot)
{
	return gw_flow_held(&flows->shares, slot);
}

uint64_t gw_flows_entries(const struct gw_flows *flows)
{
	uint64_t entries = 0;

	for (unsigned slot = 0; slot < flows->shares.slots; slot++)
		entries += gw_flow_held(&flows->shares, slot);
	/* One slot may lose meanwhile what another gains. */
	return entries < flows->pool.max ? entries : flows->pool.max;
}

bool gw_flows_are_many(const struct gw_flows *flows)
{
	return gw_flows_entries(flows) > flows->pool.max / 8 * 7;
}

struct gw_flow_chains gw_flows_chains(const struct gw_flows *flows)
{
	return (struct gw_flow_chains){ gw_flow_bucket_of(flows, 0), flows->mask + 1, &flows->pool };
}

void gw_flows_free(struct gw_flows *flows)
{
	gw_flow_table_close(flows);
}
