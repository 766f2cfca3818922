/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_dump.c - the flow table as records, for people to see.
 *
 * Theory of operation
 *
 * A walk goes from chain to chain.  A key is in the same chain all its life, whatever entry holds it, and a chain is read as
 * gw_flows_find() reads it: without a lock, and again if a writer came by (flow_bucket.h).  So every chain is seen as it was
 * at one moment, and a key is in it once.  To go from entry to entry would be faster, but a flow whose header changes moves to
 * another entry: it would be seen twice, or never.
 *
 * The walker writes nothing but the caller's records.  Any thread may walk, any number at the same time.  It works in steps,
 * between which its caller may rest, and lets others have the core within them.
 *
 * The conditions that a key can fail come first, since they need but one of the two cache lines of an entry.
 */
#include "flow_dump.h"

#include <sched.h>
#include <string.h>

#include "flow_bucket.h"
#include "flow_entry.h"
#include "ip.h"

#define STEP_CHAINS 16384u
#define SLICE_CHAINS 1024u /* that a walker looks at before it lets others have the core */
#define AHEAD 8u           /* chains whose first entries are on their way while others are read */

/* A filter in the words of keys and paths. */
struct sieve {
	const struct gw_flow_filter *filter;
	uint64_t address[2], mask[2];
};

static void prefetch_chain(const struct gw_flow_chains *chains, uint32_t at);
static unsigned copy_chain(const struct gw_flow_chains *chains, uint32_t at, const struct sieve *sieve, uint32_t now,
                           struct gw_flow_record *record, unsigned room);
static bool copy_entry(const struct gw_flow_pool *pool, struct gw_flow_entry *entry, const struct sieve *sieve,
                       uint32_t now, struct gw_flow_record *record);
static bool key_passes(const struct gw_flow_key *key, const struct sieve *sieve);
static bool address_passes(const uint64_t *address, const struct sieve *sieve);
static bool port_passes(uint64_t key_word, unsigned port);
static void write_key(struct gw_flow_record *record, const struct gw_flow_key *key);
static bool write_path(struct gw_flow_record *record, const struct gw_flow_path *path);

unsigned gw_flow_dump(const struct gw_flows *flows, const struct gw_flow_filter *filter, uint32_t now,
                      uint32_t *position, struct gw_flow_record *record, unsigned room)
{
	const struct gw_flow_chains chains = gw_flows_chains(flows);
	struct sieve sieve = { .filter = filter };
	unsigned copied = 0;

	memcpy(sieve.address, filter->address, sizeof(sieve.address));
	memcpy(sieve.mask, filter->mask, sizeof(sieve.mask));
	for (unsigned seen = 0; seen < STEP_CHAINS && *position < chains.buckets; seen++) {
		unsigned found;

		if (seen % SLICE_CHAINS == 0)
			sched_yield();
		prefetch_chain(&chains, *position + AHEAD);
		found = copy_chain(&chains, *position, &sieve, now, record + copied, room - copied);
		if (found > room - copied) {
			if (copied > 0)
				return copied; /* this chain is the first of the next step */
			found = room; /* no chain grows so long but by a miracle: what does not fit is left out */
		}
		copied += found;
		++*position;
	}
	if (*position >= chains.buckets)
		*position = GW_DUMP_END;
	return copied;
}

static void prefetch_chain(const struct gw_flow_chains *chains, uint32_t at)
{
	uint32_t head;

	if (at >= chains->buckets)
		return;
	head = atomic_load_explicit(&chains->bucket[at].head, memory_order_relaxed);
	gw_entry_prefetch(gw_flow_entry_at(chains->pool, head));
}

/* Returns how many entries of a chain pass the sieve, or room + 1 if these are more than there is room for. */
static unsigned copy_chain(const struct gw_flow_chains *chains, uint32_t at, const struct sieve *sieve, uint32_t now,
                           struct gw_flow_record *record, unsigned room)
{
	const struct gw_flow_bucket *bucket = &chains->bucket[at];

	for (;;) {
		uint32_t sequence = gw_bucket_read_begin(bucket);
		uint32_t index = atomic_load_explicit(&bucket->head, memory_order_acquire);
		unsigned copied = 0;
		bool valid = true;

		while (index != 0 && valid && copied <= room) {
			struct gw_flow_entry *entry = gw_flow_entry_at(chains->pool, index);
			struct gw_flow_record found;

			if (copy_entry(chains->pool, entry, sieve, now, &found)) {
				if (copied < room)
					record[copied] = found;
				copied++;
			}
			index = atomic_load_explicit(&entry->next, memory_order_acquire);
			/* A chain that changes underfoot could lead in circles. */
			valid = gw_bucket_read_valid(bucket, sequence);
		}
		if (valid)
			return copied;
	}
}

/* Writes *record if the entry passes.  Neither means anything unless the chain proves to be unchanged. */
static bool copy_entry(const struct gw_flow_pool *pool, struct gw_flow_entry *entry, const struct sieve *sieve,
                       uint32_t now, struct gw_flow_record *record)
{
	uint32_t seen = atomic_load_explicit(&entry->seen, memory_order_acquire);
	struct gw_flow_path path;
	struct gw_flow_key key;

	gw_entry_read_key(entry, &key);
	if (!key_passes(&key, sieve) || !gw_entry_read_path(pool, entry, &path))
		return false;
	memset(record, 0, sizeof(*record));
	write_key(record, &key);
	/* A packet of this second may have come after `now` was read. */
	record->idle_s = (int32_t)(now - seen) > 0 ? now - seen : 0;
	return write_path(record, &path) && (!sieve->filter->by_eni || record->eni == sieve->filter->eni);
}

static bool key_passes(const struct gw_flow_key *key, const struct sieve *sieve)
{
	const struct gw_flow_filter *filter = sieve->filter;
	const uint64_t word = key->word[GW_KEY_WORDS - 1];

	return (filter->fragments || GW_KEY_KIND(word) != GW_KEY_FRAGMENT) &&
	       (!filter->family || GW_KEY_FAMILY(word) == filter->family) &&
	       (!filter->by_protocol || GW_KEY_PROTOCOL(word) == filter->protocol) &&
	       (!filter->by_port || port_passes(word, filter->port)) &&
	       (address_passes(&key->word[0], sieve) || address_passes(&key->word[2], sieve));
}

static bool address_passes(const uint64_t *address, const struct sieve *sieve)
{
	return (((address[0] ^ sieve->address[0]) & sieve->mask[0]) |
	        ((address[1] ^ sieve->address[1]) & sieve->mask[1])) == 0;
}

static bool port_passes(uint64_t key_word, unsigned port)
{
	const unsigned protocol = GW_KEY_PROTOCOL(key_word);

	return GW_KEY_KIND(key_word) == GW_KEY_FLOW && (protocol == GW_PROTO_TCP || protocol == GW_PROTO_UDP) &&
	       ((key_word & 0xffff) == port || (key_word >> 16 & 0xffff) == port);
}

static void write_key(struct gw_flow_record *record, const struct gw_flow_key *key)
{
	const uint64_t word = key->word[GW_KEY_WORDS - 1];

	memcpy(record->address, key->word, sizeof(record->address));
	record->ports = (uint32_t)word;
	record->family = (uint8_t)GW_KEY_FAMILY(word);
	record->protocol = (uint8_t)GW_KEY_PROTOCOL(word);
	record->kind = (uint8_t)GW_KEY_KIND(word);
}

/* False: this is no header that was ever learned. */
static bool write_path(struct gw_flow_record *record, const struct gw_flow_path *path)
{
	struct gw_geneve geneve;

	if (gw_geneve_parse((const uint8_t *)path->header, path->header_len, &geneve))
		return false;
	record->eni = geneve.eni;
	record->attachment = geneve.attachment;
	record->cookie = geneve.cookie;
	record->gwlb_address = path->origin.gwlb_address;
	record->own_address = path->origin.own_address;
	record->gwlb_port = path->origin.gwlb_port;
	return true;
}
