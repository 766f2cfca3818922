/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_entry.h - a key and its way back, as an entry of the flow table holds them.
 *
 * Word[0-4] is the key, [5] the addresses, [6] port, header length and first continuation, [7-14] header.  A header longer
 * than that goes on in continuations: entries from the same pool, all of whose words are header.
 *
 * All words are stored with release and loaded with acquire order, as flow_bucket.h asks for.  A reader may see an entry
 * that a writer has taken away: what it reads is then no use, but its links never lead out of the pool.  Every packet comes
 * through here, hence inline.
 */
#ifndef GW_FLOW_ENTRY_H
#define GW_FLOW_ENTRY_H

#include <stdbool.h>

#include "flow_key.h"
#include "flow_pool.h"

#define GW_ENTRY_ADDRESSES GW_KEY_WORDS
#define GW_ENTRY_REST (GW_KEY_WORDS + 1u)
#define GW_ENTRY_HEADER (GW_KEY_WORDS + 2u)
#define GW_ENTRY_HEADER_WORDS (GW_ENTRY_WORDS - GW_ENTRY_HEADER)

static inline void gw_entry_put(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static inline uint64_t gw_entry_get(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

/* Starts to load both of its cache lines. */
static inline void gw_entry_prefetch(const struct gw_flow_entry *entry)
{
	__builtin_prefetch(entry);
	__builtin_prefetch(&entry->word[GW_ENTRY_HEADER]);
}

static inline void gw_entry_write_key(struct gw_flow_entry *entry, const struct gw_flow_key *key)
{
	for (unsigned i = 0; i < GW_KEY_WORDS; i++)
		gw_entry_put(&entry->word[i], key->word[i]);
}

static inline void gw_entry_read_key(const struct gw_flow_entry *entry, struct gw_flow_key *key)
{
	for (unsigned i = 0; i < GW_KEY_WORDS; i++)
		key->word[i] = gw_entry_get(&entry->word[i]);
}

static inline bool gw_entry_key_equals(const struct gw_flow_entry *entry, const struct gw_flow_key *key)
{
	/* The last word first: it holds the ports, which differ most often. */
	for (unsigned i = GW_KEY_WORDS; i-- > 0;)
		if (gw_entry_get(&entry->word[i]) != key->word[i])
			return false;
	return true;
}

/* The word that GW_KEY_FAMILY, GW_KEY_KIND and GW_KEY_SLOT take apart. */
static inline uint64_t gw_entry_key_word(const struct gw_flow_entry *entry)
{
	return gw_entry_get(&entry->word[GW_KEY_WORDS - 1]);
}

static inline unsigned gw_header_words(unsigned header_len)
{
	return (header_len + 7) / 8;
}

/* The number of continuations that a header takes. */
static inline unsigned gw_header_continuations(unsigned header_len)
{
	unsigned words = gw_header_words(header_len);

	return words <= GW_ENTRY_HEADER_WORDS ? 0
	                                      : (words - GW_ENTRY_HEADER_WORDS + GW_ENTRY_WORDS - 1) / GW_ENTRY_WORDS;
}

static inline uint64_t gw_entry_pack_addresses(const struct gw_flow_path *path)
{
	return (uint64_t)path->origin.gwlb_address << 32 | path->origin.own_address;
}

static inline uint64_t gw_entry_pack_rest(const struct gw_flow_path *path, uint32_t continuation)
{
	return (uint64_t)path->origin.gwlb_port << 48 | (uint64_t)path->header_len << 32 | continuation;
}

static inline unsigned gw_entry_header_len(uint64_t rest)
{
	return (unsigned)(rest >> 32 & 0xffff);
}

static inline uint32_t gw_entry_continuation(uint64_t rest)
{
	return (uint32_t)rest;
}

/* Walks over the words of the header that an entry holds. */
struct gw_header_cursor {
	const struct gw_flow_pool *pool;
	struct gw_flow_entry *entry;
	unsigned at, end;
	uint32_t next;
};

static inline struct gw_header_cursor gw_header_cells(const struct gw_flow_pool *pool, struct gw_flow_entry *entry,
                                                      uint64_t rest)
{
	return (struct gw_header_cursor){ pool, entry, GW_ENTRY_HEADER, GW_ENTRY_WORDS, gw_entry_continuation(rest) };
}

/* The next word's cell, or NULL where a racing writer has taken the continuation away. */
static inline _Atomic uint64_t *gw_header_next(struct gw_header_cursor *cursor)
{
	if (cursor->at == cursor->end) {
		if (cursor->next == 0 || cursor->next > cursor->pool->max)
			return NULL;
		cursor->entry = gw_flow_entry_at(cursor->pool, cursor->next);
		cursor->next = atomic_load_explicit(&cursor->entry->next, memory_order_acquire);
		cursor->at = 0;
		cursor->end = GW_ENTRY_WORDS;
	}
	return &cursor->entry->word[cursor->at++];
}

/* continuation: the first one, of as many as the header takes. */
static inline void gw_entry_write_path(const struct gw_flow_pool *pool, struct gw_flow_entry *entry,
                                       const struct gw_flow_path *path, uint32_t continuation)
{
	uint64_t rest = gw_entry_pack_rest(path, continuation);
	struct gw_header_cursor cursor = gw_header_cells(pool, entry, rest);

	gw_entry_put(&entry->word[GW_ENTRY_ADDRESSES], gw_entry_pack_addresses(path));
	gw_entry_put(&entry->word[GW_ENTRY_REST], rest);
	for (unsigned i = 0; i < gw_header_words(path->header_len); i++)
		gw_entry_put(gw_header_next(&cursor), path->header[i]);
}

static inline bool gw_entry_path_equals(const struct gw_flow_pool *pool, struct gw_flow_entry *entry,
                                        const struct gw_flow_path *path)
{
	uint64_t rest = gw_entry_get(&entry->word[GW_ENTRY_REST]);
	struct gw_header_cursor cursor = gw_header_cells(pool, entry, rest);

	if (rest >> 32 != gw_entry_pack_rest(path, 0) >> 32 ||
	    gw_entry_get(&entry->word[GW_ENTRY_ADDRESSES]) != gw_entry_pack_addresses(path))
		return false;
	for (unsigned i = 0; i < gw_header_words(path->header_len); i++) {
		_Atomic uint64_t *cell = gw_header_next(&cursor);

		if (!cell || gw_entry_get(cell) != path->header[i])
			return false;
	}
	return true;
}

/* False if what it read cannot be whole. */
static inline bool gw_entry_read_path(const struct gw_flow_pool *pool, struct gw_flow_entry *entry,
                                      struct gw_flow_path *path)
{
	uint64_t addresses = gw_entry_get(&entry->word[GW_ENTRY_ADDRESSES]);
	uint64_t rest = gw_entry_get(&entry->word[GW_ENTRY_REST]);
	struct gw_header_cursor cursor = gw_header_cells(pool, entry, rest);

	path->origin.gwlb_address = (uint32_t)(addresses >> 32);
	path->origin.own_address = (uint32_t)addresses;
	path->origin.gwlb_port = (uint16_t)(rest >> 48);
	path->header_len = (uint16_t)gw_entry_header_len(rest);
	if (path->header_len > GW_GENEVE_MAX)
		return false;
	for (unsigned i = 0; i < gw_header_words(path->header_len); i++) {
		_Atomic uint64_t *cell = gw_header_next(&cursor);

		if (!cell)
			return false;
		path->header[i] = gw_entry_get(cell);
	}
	return true;
}

/* At most once a second.  An entry that was freed meanwhile is left alone, or lives a little longer under its new key. */
static inline void gw_entry_touch(struct gw_flow_entry *entry, uint32_t now)
{
	uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_relaxed);

	if (seen != now && seen != 0)
		atomic_compare_exchange_strong_explicit(&entry->seen, &seen, now, memory_order_relaxed,
		                                        memory_order_relaxed);
}

#endif
