/* SPDX-License-Identifier: MIT-0 */
/*
 * flow.c - the flow table.
 *
 * Theory of operation
 *
 * One mapping holds a header, an array of buckets and a pool of entries of 128 bytes.  All links are indices into the
 * pool, 0 for none, so the mapping has no pointers in it and means the same wherever it is mapped.  It comes zeroed from
 * the kernel; only pages that were used take memory, and the pool is used from its first entry up.
 *
 * U threads learn, T threads find, a control thread expires and forgets; any number of each, at the same time.
 *
 * - Each bucket has a sequence number, odd while a writer is at work on its chain (a seqlock).  Readers take no lock and
 *   write nothing: they walk the chain, copy, and start over if the sequence number has changed.
 * - Entries are never unmapped, so a reader that follows a link into an entry which meanwhile moved to another chain
 *   reads some valid entry, and then sees that the sequence number of its own bucket has changed.
 * - A writer takes one bucket at a time, for some tens of instructions, and holds no other lock.
 * - All words of an entry are atomics, stored with release and loaded with acquire order: who sees a word that a writer
 *   stored also sees the odd sequence number that it stored before.  (Fences would do too, but ThreadSanitizer does not
 *   model them.)
 *
 * A packet whose header equals the stored one finds that out as a reader, and writes only the entry's clock, once a
 * second.  The table thus stays shared in all cores' caches while flows are steady.
 *
 * The hash is SipHash-1-3 under a random key: who does not know the key cannot aim at one bucket.
 *
 * Free entries form a stack whose head carries a tag against ABA.  When it is empty and the pool is used up, a flow has to
 * go.  Each slot has a share: the table divided by the number of slots that hold anything.  A slot that has used up its
 * share loses a flow of its own, or, if none is among the samples, one of a slot that holds as much.  A slot that has not
 * takes from one above its share, and there is one then, for the table is full.  Among the flows that may go it is the
 * oldest that goes.  A flow that has traffic is never older than a second.
 *
 * Headers longer than INLINE_WORDS go on in continuation entries from the same pool; they belong to their flow's entry
 * and are written and read under its bucket's sequence number.  The clock of an entry that is free or a continuation is
 * 0, which is how sweeps tell.
 */
#include "flow.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

/* How many entries from all over the pool to choose among, and how many to draw at most until one may go.  The limit bounds
 * what a packet costs.  A slot that holds a hundredth of the table finds its own among so many. */
#define EVICT_SAMPLE 32u
#define EVICT_LIMIT 1024u
#define SPIN_LIMIT 100u
#define SWEEP_SLICE 1024u /* entries that a sweep looks at before it lets others have the core */

#define INLINE_WORDS 8u
#define CONTINUATION_WORDS 15u
/* GW_HEADER_WORDS is 33: 8 in the entry, 15 and 10 in continuations. */
#define CONTINUATIONS_MAX 2u
_Static_assert(INLINE_WORDS + CONTINUATIONS_MAX * CONTINUATION_WORDS >= GW_HEADER_WORDS, "a header fits");

/* word[0-4] the key, [5] addresses, [6] port, header length and first continuation, [7-14] header.  In a continuation
 * all 15 are header. */
#define WORD_ADDRESSES 5u
#define WORD_REST 6u
#define WORD_HEADER 7u

struct entry {
	_Atomic uint32_t next; /* in its chain, in the free stack, or the next continuation */
	_Atomic uint32_t seen; /* gw_flows_now() of its last packet; 0: not a flow */
	_Atomic uint64_t word[15];
};
_Static_assert(sizeof(struct entry) == 128, "two cache lines");

struct bucket {
	_Atomic uint32_t sequence;
	_Atomic uint32_t head;
};

/* Only who learns or forgets for a slot writes here. */
struct slot_counts {
	_Alignas(64) _Atomic uint64_t flows[2]; /* IPv4, IPv6 */
	_Atomic uint64_t timed_out[2];
	_Atomic uint64_t evicted[2];
	_Atomic uint32_t held; /* entries: flows, fragments, continuations */
};

/* Why an entry leaves its chain. */
enum leave { REPLACED, EVICTED, TIMED_OUT, FORGOTTEN };

struct gw_flows {
	size_t mapped;
	uint64_t secret[2];
	uint32_t max;
	uint32_t mask; /* number of buckets - 1 */
	uint32_t slots;
	size_t buckets_at; /* offsets from the start of the mapping, bytes */
	size_t entries_at;
	_Alignas(64) _Atomic uint64_t free; /* tag << 32 | index */
	_Atomic uint32_t fresh;             /* entries from here up were never used */
	_Atomic uint32_t hand;
	_Atomic uint32_t holders; /* slots that hold any entry */
	_Alignas(64) struct slot_counts slot[];
};

static struct bucket *bucket_of(const struct gw_flows *flows, uint64_t hash)
{
	return (struct bucket *)((char *)flows + flows->buckets_at) + (hash & flows->mask);
}

static struct entry *entry_at(const struct gw_flows *flows, uint32_t index)
{
	return (struct entry *)((char *)flows + flows->entries_at) + index;
}

uint32_t gw_flows_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec + 1;
}

struct gw_flows *gw_flows_new(uint32_t max, uint32_t slots)
{
	size_t buckets = 1, buckets_at, entries_at, size;
	struct gw_flows *flows;

	if (max < 16 || max > 1u << 30 || slots == 0 || slots > GW_SLOTS_MAX) {
		errno = EINVAL;
		return NULL;
	}
	while (buckets < max)
		buckets *= 2;
	buckets_at = (sizeof(*flows) + slots * sizeof(struct slot_counts) + 4095) & ~(size_t)4095;
	entries_at = (buckets_at + buckets * sizeof(struct bucket) + 4095) & ~(size_t)4095;
	size = entries_at + ((size_t)max + 1) * sizeof(struct entry);
	flows = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (flows == MAP_FAILED)
		return NULL;
	/* A million flows are touched at random: fewer TLB misses where the kernel can.  It may refuse. */
	madvise(flows, size, MADV_HUGEPAGE);
	if (getrandom(flows->secret, sizeof(flows->secret), 0) != sizeof(flows->secret)) {
		munmap(flows, size);
		return NULL;
	}
	flows->mapped = size;
	flows->max = max;
	flows->mask = (uint32_t)(buckets - 1);
	flows->slots = slots;
	flows->buckets_at = buckets_at;
	flows->entries_at = entries_at;
	atomic_init(&flows->fresh, 1);
	return flows;
}

void gw_flows_free(struct gw_flows *flows)
{
	munmap(flows, flows->mapped);
}

/* ---- Hash ---------------------------------------------------------------------------------------------------------*/

static uint64_t rotate(uint64_t value, unsigned bits)
{
	return value << bits | value >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] = rotate(v[2], 32);
}

/* SipHash (Aumasson, Bernstein 2012), one round a word and three to finish. */
void gw_flow_hash(const struct gw_flows *flows, struct gw_flow_key *key)
{
	uint64_t v[4] = { flows->secret[0] ^ 0x736f6d6570736575u, flows->secret[1] ^ 0x646f72616e646f6du,
		          flows->secret[0] ^ 0x6c7967656e657261u, flows->secret[1] ^ 0x7465646279746573u };

	for (unsigned i = 0; i <= GW_KEY_WORDS; i++) {
		uint64_t word = i < GW_KEY_WORDS ? key->word[i] : (uint64_t)GW_KEY_WORDS * 8 << 56;

		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	key->hash = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- Entries ------------------------------------------------------------------------------------------------------*/

static void put(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static uint64_t get(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static bool key_equals(const struct entry *entry, const struct gw_flow_key *key)
{
	/* The last word first: it holds the ports, and differs most often. */
	for (unsigned i = GW_KEY_WORDS; i-- > 0;)
		if (get(&entry->word[i]) != key->word[i])
			return false;
	return true;
}

static unsigned header_words(unsigned header_len)
{
	return (header_len + 7) / 8;
}

/* How many continuations a header takes. */
static unsigned continuations(unsigned header_len)
{
	unsigned words = header_words(header_len);

	return words <= INLINE_WORDS ? 0 : (words - INLINE_WORDS + CONTINUATION_WORDS - 1) / CONTINUATION_WORDS;
}

static uint64_t pack_addresses(const struct gw_flow_path *path)
{
	return (uint64_t)path->gwlb_address << 32 | path->own_address;
}

static uint64_t pack_rest(const struct gw_flow_path *path, uint32_t continuation)
{
	return (uint64_t)path->gwlb_port << 48 | (uint64_t)path->header_len << 32 | continuation;
}

static unsigned rest_header_len(uint64_t rest)
{
	return (unsigned)(rest >> 32 & 0xffff);
}

/* Calls for each word of the header kept in an entry, in order: its cell, or NULL where a racing writer has taken the
 * continuation away. */
struct header_cursor {
	const struct gw_flows *flows;
	struct entry *entry;
	unsigned at, end;
	uint32_t next;
};

static struct header_cursor header_cells(const struct gw_flows *flows, struct entry *entry, uint64_t rest)
{
	return (struct header_cursor){ flows, entry, WORD_HEADER, WORD_HEADER + INLINE_WORDS, (uint32_t)rest };
}

static _Atomic uint64_t *next_cell(struct header_cursor *cursor)
{
	if (cursor->at == cursor->end) {
		if (cursor->next == 0 || cursor->next > cursor->flows->max)
			return NULL;
		cursor->entry = entry_at(cursor->flows, cursor->next);
		cursor->next = atomic_load_explicit(&cursor->entry->next, memory_order_acquire);
		cursor->at = 0;
		cursor->end = CONTINUATION_WORDS;
	}
	return &cursor->entry->word[cursor->at++];
}

static void write_path(struct gw_flows *flows, struct entry *entry, const struct gw_flow_path *path,
                       uint32_t continuation)
{
	uint64_t rest = pack_rest(path, continuation);
	struct header_cursor cursor = header_cells(flows, entry, rest);

	put(&entry->word[WORD_ADDRESSES], pack_addresses(path));
	put(&entry->word[WORD_REST], rest);
	for (unsigned i = 0; i < header_words(path->header_len); i++)
		put(next_cell(&cursor), path->header[i]);
}

static bool path_equals(const struct gw_flows *flows, struct entry *entry, const struct gw_flow_path *path)
{
	uint64_t rest = get(&entry->word[WORD_REST]);
	struct header_cursor cursor = header_cells(flows, entry, rest);

	if (rest >> 32 != pack_rest(path, 0) >> 32 || get(&entry->word[WORD_ADDRESSES]) != pack_addresses(path))
		return false;
	for (unsigned i = 0; i < header_words(path->header_len); i++) {
		_Atomic uint64_t *cell = next_cell(&cursor);

		if (!cell || get(cell) != path->header[i])
			return false;
	}
	return true;
}

static bool read_path(const struct gw_flows *flows, struct entry *entry, struct gw_flow_path *path)
{
	uint64_t addresses = get(&entry->word[WORD_ADDRESSES]);
	uint64_t rest = get(&entry->word[WORD_REST]);
	struct header_cursor cursor = header_cells(flows, entry, rest);

	path->gwlb_address = (uint32_t)(addresses >> 32);
	path->own_address = (uint32_t)addresses;
	path->gwlb_port = (uint16_t)(rest >> 48);
	path->header_len = (uint16_t)rest_header_len(rest);
	if (path->header_len > GW_GENEVE_MAX)
		return false;
	for (unsigned i = 0; i < header_words(path->header_len); i++) {
		_Atomic uint64_t *cell = next_cell(&cursor);

		if (!cell)
			return false;
		path->header[i] = get(cell);
	}
	return true;
}

/* Once a second: an entry that was freed meanwhile is left alone, or lives a little longer under its new key. */
static void touch(struct entry *entry, uint32_t now)
{
	uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);

	if (seen != now && seen != 0)
		atomic_compare_exchange_strong_explicit(&entry->seen, &seen, now, memory_order_relaxed,
		                                        memory_order_relaxed);
}

/* ---- Buckets ------------------------------------------------------------------------------------------------------*/

static void relax(unsigned *spins)
{
	/* Whoever holds the bucket may have lost its core. */
	if (++*spins % SPIN_LIMIT == 0)
		sched_yield();
}

static void lock(struct bucket *bucket)
{
	unsigned spins = 0;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&bucket->sequence, memory_order_relaxed);

		if (!(sequence & 1) &&
		    atomic_compare_exchange_weak_explicit(&bucket->sequence, &sequence, sequence + 1,
		                                          memory_order_acquire, memory_order_relaxed))
			return;
		relax(&spins);
	}
}

static void unlock(struct bucket *bucket)
{
	atomic_fetch_add_explicit(&bucket->sequence, 1, memory_order_release);
}

static uint32_t read_begin(const struct bucket *bucket)
{
	unsigned spins = 0;
	uint32_t sequence;

	while ((sequence = atomic_load_explicit(&bucket->sequence, memory_order_acquire)) & 1)
		relax(&spins);
	return sequence;
}

static bool read_valid(const struct bucket *bucket, uint32_t sequence)
{
	return atomic_load_explicit(&bucket->sequence, memory_order_acquire) == sequence;
}

/* The entry of a key as a reader sees it, or 0; *valid tells whether that can be trusted. */
static uint32_t search(const struct gw_flows *flows, const struct bucket *bucket, uint32_t sequence,
                       const struct gw_flow_key *key, bool *valid)
{
	uint32_t index = atomic_load_explicit(&bucket->head, memory_order_acquire);

	while (index != 0 && !key_equals(entry_at(flows, index), key)) {
		index = atomic_load_explicit(&entry_at(flows, index)->next, memory_order_acquire);
		/* A chain that changes underfoot could lead in circles. */
		if (!read_valid(bucket, sequence)) {
			*valid = false;
			return 0;
		}
	}
	*valid = index != 0 || read_valid(bucket, sequence);
	return index;
}

/* The link that leads to an entry of a locked bucket's chain, by key or (key NULL) by index; NULL if it is not there. */
static _Atomic uint32_t *locate(const struct gw_flows *flows, struct bucket *bucket, const struct gw_flow_key *key,
                                uint32_t index)
{
	_Atomic uint32_t *link = &bucket->head;
	uint32_t at;

	while ((at = atomic_load_explicit(link, memory_order_relaxed)) != 0) {
		if (key ? key_equals(entry_at(flows, at), key) : at == index)
			return link;
		link = &entry_at(flows, at)->next;
	}
	return NULL;
}

static void count(struct gw_flows *flows, uint64_t key_word, uint64_t change)
{
	if (GW_KEY_KIND(key_word) != GW_KEY_FRAGMENT)
		atomic_fetch_add_explicit(&flows->slot[GW_KEY_SLOT(key_word)].flows[GW_KEY_FAMILY(key_word) == 6], change,
		                          memory_order_relaxed);
}

static void count_leave(struct gw_flows *flows, uint64_t key_word, enum leave why)
{
	struct slot_counts *counts = &flows->slot[GW_KEY_SLOT(key_word)];
	_Atomic uint64_t *total = why == EVICTED ? counts->evicted : counts->timed_out;

	count(flows, key_word, (uint64_t)-1);
	if (GW_KEY_KIND(key_word) != GW_KEY_FRAGMENT && (why == EVICTED || why == TIMED_OUT))
		atomic_fetch_add_explicit(&total[GW_KEY_FAMILY(key_word) == 6], 1, memory_order_relaxed);
}

/* Takes the entry that *link leads to out of its locked chain.  It is the caller's now, with its continuations. */
static void unlink_entry(struct gw_flows *flows, _Atomic uint32_t *link, enum leave why)
{
	struct entry *entry = entry_at(flows, atomic_load_explicit(link, memory_order_relaxed));

	atomic_store_explicit(link, atomic_load_explicit(&entry->next, memory_order_relaxed), memory_order_release);
	atomic_store_explicit(&entry->seen, 0, memory_order_relaxed);
	count_leave(flows, get(&entry->word[GW_KEY_WORDS - 1]), why);
}

/* ---- The pool -----------------------------------------------------------------------------------------------------*/

static uint32_t held_by(const struct gw_flows *flows, unsigned slot)
{
	return atomic_load_explicit(&flows->slot[slot].held, memory_order_relaxed);
}

static void hold(struct gw_flows *flows, unsigned slot)
{
	if (atomic_fetch_add_explicit(&flows->slot[slot].held, 1, memory_order_relaxed) == 0)
		atomic_fetch_add_explicit(&flows->holders, 1, memory_order_relaxed);
}

/* An entry is let go only after hold() for it has returned, so holders is never below what it should be. */
static void let_go(struct gw_flows *flows, unsigned slot)
{
	if (atomic_fetch_sub_explicit(&flows->slot[slot].held, 1, memory_order_relaxed) == 1)
		atomic_fetch_sub_explicit(&flows->holders, 1, memory_order_relaxed);
}

static void release(struct gw_flows *flows, uint32_t index, unsigned slot)
{
	uint64_t head = atomic_load_explicit(&flows->free, memory_order_relaxed), next;

	do {
		atomic_store_explicit(&entry_at(flows, index)->next, (uint32_t)head, memory_order_release);
		next = ((head >> 32) + 1) << 32 | index;
	} while (!atomic_compare_exchange_weak_explicit(&flows->free, &head, next, memory_order_release,
	                                                memory_order_relaxed));
	let_go(flows, slot);
}

/* Gives back an unlinked entry and its continuations. */
static void release_flow(struct gw_flows *flows, uint32_t index)
{
	const struct entry *entry = entry_at(flows, index);
	unsigned slot = GW_KEY_SLOT(get(&entry->word[GW_KEY_WORDS - 1]));
	uint64_t rest = get(&entry->word[WORD_REST]);
	uint32_t continuation = (uint32_t)rest;

	for (unsigned i = continuations(rest_header_len(rest)); i > 0; i--) {
		uint32_t next = atomic_load_explicit(&entry_at(flows, continuation)->next, memory_order_relaxed);

		release(flows, continuation, slot);
		continuation = next;
	}
	release(flows, index, slot);
}

/* Removes an entry unless it was used after `before`.  The key is read without the lock, so the entry may have moved on:
 * then it is not found in the chain, and stays. */
static bool remove_older(struct gw_flows *flows, uint32_t index, uint32_t before, enum leave why)
{
	struct entry *entry = entry_at(flows, index);
	struct gw_flow_key key;
	struct bucket *bucket;
	_Atomic uint32_t *link;
	uint32_t seen;

	for (unsigned i = 0; i < GW_KEY_WORDS; i++)
		key.word[i] = get(&entry->word[i]);
	gw_flow_hash(flows, &key);
	bucket = bucket_of(flows, key.hash);
	lock(bucket);
	link = locate(flows, bucket, NULL, index);
	seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
	if (link && (int32_t)(seen - before) <= 0)
		unlink_entry(flows, link, why);
	else
		link = NULL;
	unlock(bucket);
	if (link)
		release_flow(flows, index);
	return link != NULL;
}

/* What a search for a victim goes by, for a slot that wants an entry of the full table, and what it has found. */
struct hunt {
	unsigned slot;
	bool own_first; /* the slot has used up its share */
	uint32_t rich;  /* who holds as much as that may lose */
	uint32_t victim, seen;
	unsigned rank;
};

/* The lower, the sooner it goes. */
enum rank { OWN, RICH, POOR, NOBODY };

static struct hunt hunt_for(const struct gw_flows *flows, unsigned slot)
{
	uint32_t held = held_by(flows, slot);
	uint32_t holders = atomic_load_explicit(&flows->holders, memory_order_relaxed) + (held == 0);
	uint32_t share = flows->max / (holders ? holders : 1);
	bool own_first = held >= share;

	return (struct hunt){ .slot = slot, .own_first = own_first, .rich = own_first ? held : share + 1, .rank = NOBODY };
}

static unsigned rank(const struct gw_flows *flows, const struct hunt *hunt, unsigned slot)
{
	if (slot == hunt->slot)
		return hunt->own_first ? OWN : POOR;
	return held_by(flows, slot) >= hunt->rich ? RICH : POOR;
}

/* The pool was filled in the order of time, so neighbours are of one age: the samples are spread over all of it, by
 * multiples of the golden ratio. */
static uint32_t sample_index(const struct gw_flows *flows, uint32_t number)
{
	return 1 + (uint32_t)((uint64_t)(number * 0x9e3779b1u) * flows->max >> 32);
}

static void judge(const struct gw_flows *flows, struct hunt *hunt, uint32_t index)
{
	const struct entry *entry = entry_at(flows, index);
	uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
	unsigned rank_here;

	if (seen == 0)
		return;
	rank_here = rank(flows, hunt, GW_KEY_SLOT(get(&entry->word[GW_KEY_WORDS - 1])));
	if (rank_here < hunt->rank || (rank_here == hunt->rank && (int32_t)(seen - hunt->seen) < 0)) {
		hunt->victim = index;
		hunt->seen = seen;
		hunt->rank = rank_here;
	}
}

static bool evict(struct gw_flows *flows, unsigned slot)
{
	struct hunt hunt = hunt_for(flows, slot);

	for (unsigned drawn = 0; hunt.rank >= POOR && drawn < EVICT_LIMIT; drawn += EVICT_SAMPLE) {
		uint32_t hand = atomic_fetch_add_explicit(&flows->hand, EVICT_SAMPLE, memory_order_relaxed);

		for (uint32_t i = 0; i < EVICT_SAMPLE; i++)
			__builtin_prefetch(entry_at(flows, sample_index(flows, hand + i)));
		for (uint32_t i = 0; i < EVICT_SAMPLE; i++)
			judge(flows, &hunt, sample_index(flows, hand + i));
	}
	return hunt.victim != 0 && remove_older(flows, hunt.victim, hunt.seen, EVICTED);
}

static uint32_t take_free(struct gw_flows *flows)
{
	uint64_t head = atomic_load_explicit(&flows->free, memory_order_acquire), next;
	uint32_t fresh;

	while ((uint32_t)head != 0) {
		next = ((head >> 32) + 1) << 32 |
		       atomic_load_explicit(&entry_at(flows, (uint32_t)head)->next, memory_order_acquire);
		if (atomic_compare_exchange_weak_explicit(&flows->free, &head, next, memory_order_acquire,
		                                          memory_order_acquire))
			return (uint32_t)head;
	}
	fresh = atomic_load_explicit(&flows->fresh, memory_order_relaxed);
	while (fresh <= flows->max)
		if (atomic_compare_exchange_weak_explicit(&flows->fresh, &fresh, fresh + 1, memory_order_relaxed,
		                                          memory_order_relaxed))
			return fresh;
	return 0;
}

static uint32_t allocate(struct gw_flows *flows, unsigned slot)
{
	/* What one evicts another may take: try again, but not for ever. */
	for (unsigned tries = 0; tries < 8; tries++) {
		uint32_t index = take_free(flows);

		if (index) {
			hold(flows, slot);
			return index;
		}
		evict(flows, slot);
	}
	return 0;
}

/* An entry with the continuations that a header of header_len takes, chained to *continuation; 0 when there are none. */
static uint32_t allocate_flow(struct gw_flows *flows, unsigned slot, unsigned header_len, uint32_t *continuation)
{
	uint32_t index = allocate(flows, slot);

	*continuation = 0;
	for (unsigned i = continuations(header_len); index && i > 0; i--) {
		uint32_t next = allocate(flows, slot);

		if (!next) {
			while ((next = *continuation) != 0) {
				*continuation = atomic_load_explicit(&entry_at(flows, next)->next,
				                                     memory_order_relaxed);
				release(flows, next, slot);
			}
			release(flows, index, slot);
			return 0;
		}
		atomic_store_explicit(&entry_at(flows, next)->next, *continuation, memory_order_release);
		*continuation = next;
	}
	return index;
}

/* ---- What others call ---------------------------------------------------------------------------------------------*/

void gw_flows_prefetch_bucket(const struct gw_flows *flows, const struct gw_flow_key *key)
{
	__builtin_prefetch(bucket_of(flows, key->hash));
}

void gw_flows_prefetch_entry(const struct gw_flows *flows, const struct gw_flow_key *key)
{
	uint32_t head = atomic_load_explicit(&bucket_of(flows, key->hash)->head, memory_order_relaxed);
	const struct entry *entry = entry_at(flows, head);

	__builtin_prefetch(entry);
	__builtin_prefetch(&entry->word[WORD_HEADER]);
}

/* True when key already has this path, and the entry is marked as used. */
static bool already_known(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                          uint32_t now)
{
	const struct bucket *bucket = bucket_of(flows, key->hash);
	uint32_t sequence = read_begin(bucket);
	bool valid;
	uint32_t index = search(flows, bucket, sequence, key, &valid);

	if (!valid || index == 0 || !path_equals(flows, entry_at(flows, index), path) || !read_valid(bucket, sequence))
		return false;
	touch(entry_at(flows, index), now);
	return true;
}

unsigned gw_flows_learn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                        uint32_t now)
{
	struct bucket *bucket = bucket_of(flows, key->hash);
	uint32_t index, continuation, old = 0;
	struct entry *entry;
	_Atomic uint32_t *link;

	if (already_known(flows, key, path, now))
		return 0;
	/* Taken before the lock, since making room takes another bucket's; given back when it was not needed. */
	index = allocate_flow(flows, GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]), path->header_len, &continuation);
	if (!index)
		return GW_drop_flows_full;
	entry = entry_at(flows, index);
	for (unsigned i = 0; i < GW_KEY_WORDS; i++)
		put(&entry->word[i], key->word[i]);
	write_path(flows, entry, path, continuation);

	lock(bucket);
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
	unlock(bucket);
	if (old)
		release_flow(flows, old);
	return 0;
}

bool gw_flows_find(struct gw_flows *flows, const struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now)
{
	const struct bucket *bucket = bucket_of(flows, key->hash);

	for (;;) {
		uint32_t sequence = read_begin(bucket);
		bool valid;
		uint32_t index = search(flows, bucket, sequence, key, &valid);

		if (!valid)
			continue;
		if (index == 0)
			return false;
		valid = read_path(flows, entry_at(flows, index), path);
		if (valid && read_valid(bucket, sequence)) {
			touch(entry_at(flows, index), now);
			return true;
		}
	}
}

uint64_t gw_flows_expire(struct gw_flows *flows, uint32_t now, uint32_t idle_s)
{
	uint32_t end = atomic_load_explicit(&flows->fresh, memory_order_relaxed);
	uint64_t removed = 0;

	for (uint32_t index = 1; index < end; index++) {
		struct entry *entry = entry_at(flows, index);
		uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);
		uint32_t idle = idle_s;

		if (index % SWEEP_SLICE == 0)
			sched_yield();
		if (seen == 0)
			continue;
		if (idle > GW_FRAGMENT_IDLE_S && GW_KEY_KIND(get(&entry->word[GW_KEY_WORDS - 1])) == GW_KEY_FRAGMENT)
			idle = GW_FRAGMENT_IDLE_S;
		if ((int32_t)(now - seen) > (int32_t)idle)
			removed += remove_older(flows, index, now - idle - 1, TIMED_OUT);
	}
	return removed;
}

void gw_flows_forget(struct gw_flows *flows, unsigned slot)
{
	uint32_t end = atomic_load_explicit(&flows->fresh, memory_order_relaxed);

	for (uint32_t index = 1; index < end; index++) {
		struct entry *entry = entry_at(flows, index);
		uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);

		if (index % SWEEP_SLICE == 0)
			sched_yield();
		if (seen != 0 && GW_KEY_SLOT(get(&entry->word[GW_KEY_WORDS - 1])) == slot)
			remove_older(flows, index, seen, FORGOTTEN);
	}
	for (unsigned family = 0; family < 2; family++) {
		atomic_store_explicit(&flows->slot[slot].timed_out[family], 0, memory_order_relaxed);
		atomic_store_explicit(&flows->slot[slot].evicted[family], 0, memory_order_relaxed);
	}
}

uint64_t gw_flows_count(const struct gw_flows *flows, unsigned slot, unsigned family)
{
	return atomic_load_explicit(&flows->slot[slot].flows[family == 6], memory_order_relaxed);
}

uint64_t gw_flows_timed_out(const struct gw_flows *flows, unsigned slot, unsigned family)
{
	return atomic_load_explicit(&flows->slot[slot].timed_out[family == 6], memory_order_relaxed);
}

uint64_t gw_flows_evicted(const struct gw_flows *flows, unsigned slot, unsigned family)
{
	return atomic_load_explicit(&flows->slot[slot].evicted[family == 6], memory_order_relaxed);
}

uint64_t gw_flows_entries(const struct gw_flows *flows)
{
	uint64_t entries = 0;

	for (unsigned slot = 0; slot < flows->slots; slot++)
		entries += held_by(flows, slot);
	return entries;
}
