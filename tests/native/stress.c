/* SPDX-License-Identifier: MIT-0 */
/*
 * stress.c - the flow table and the ring under as many threads as use them, for the sanitizers.
 *
 * Built and run by test_native.py, plain and under ThreadSanitizer, AddressSanitizer and UBSan.
 *
 * Flows: writers learn and relearn a small set of keys, each time under a header that all of its words can be checked
 * against; readers must never see a header that is not whole or not of their key; a sweeper expires, another forgets.  The
 * table is smaller than the set of keys, so that entries move between chains all the time.  Walkers must never see a key
 * twice in one walk, nor a record that is not whole.
 * Shares: writers flood two slots with new flows, fragments and long headers; readers must always find the flows of a third
 * slot, which is within its share, and every walk must find each of these once.
 * Ring: a producer writes records of all sizes whose bytes follow from their number; the consumer checks each.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/clock.h"
#include "../../native/flow.h"
#include "../../native/flow_dump.h"
#include "../../native/ring.h"

#define KEYS 600u
#define TABLE 256u
#define SLOTS 4u
#define QUIET 20u
#define RECORDS 200000u

static struct gw_flows *flows;
static _Atomic bool done;
static _Atomic unsigned found, walked;
static unsigned rounds;
static const unsigned protocols[] = { GW_PROTO_TCP, GW_PROTO_UDP, 1 };

static void fail(const char *what)
{
	fprintf(stderr, "stress: %s\n", what);
	abort();
}

static void make_key(struct gw_flow_key *key, unsigned n)
{
	unsigned kind = n % 7 == 0 ? GW_KEY_FRAGMENT : 0;

	memset(key, 0, sizeof(*key));
	key->word[0] = n;
	key->word[2] = ~(uint64_t)n;
	key->word[4] = GW_KEY_WORD(n, protocols[n % 3], n % 2 ? 4 : 6, kind, n % SLOTS);
	gw_flow_hash(flows, key);
}

/* An option of a Geneve header, in big-endian order. */
static uint8_t *put_option(uint8_t *at, unsigned class, unsigned type, uint64_t value, unsigned size)
{
	*at++ = (uint8_t)(class >> 8);
	*at++ = (uint8_t)class;
	*at++ = (uint8_t)type;
	*at++ = (uint8_t)(size / 4);
	for (unsigned i = size; i-- > 0;)
		*at++ = (uint8_t)(value >> 8 * i);
	return at;
}

/* What a load balancer could have sent; every option tells whose it is.  Some headers take continuations. */
static void make_path(struct gw_flow_path *path, unsigned n, unsigned version)
{
	unsigned words = 5 + version % 29;
	uint8_t *header = (uint8_t *)path->header, *at = header + GW_GENEVE_BASE;

	memset(path, 0, sizeof(*path));
	path->origin.gwlb_address = n;
	path->origin.own_address = ~n;
	path->origin.gwlb_port = (uint16_t)version;
	path->header_len = (uint16_t)(words * 8 > GW_GENEVE_MAX ? GW_GENEVE_MAX : words * 8);
	header[0] = (uint8_t)((path->header_len - GW_GENEVE_BASE) / 4);
	header[2] = 0x08;
	at = put_option(at, 0x0108, 1, n, 8);
	at = put_option(at, 0x0108, 2, (uint64_t)n << 32 | version, 8);
	at = put_option(at, 0x0108, 3, n ^ version, 4);
	while (at < header + path->header_len)
		at = put_option(at, 0xffff, 0, n ^ version, at + 8 <= header + path->header_len ? 4 : 0);
}

static void check_path(const struct gw_flow_path *path, unsigned n)
{
	struct gw_flow_path right;

	make_path(&right, n, path->origin.gwlb_port);
	if (path->origin.gwlb_address != n || path->origin.own_address != ~n)
		fail("a way back of another key");
	if (path->header_len != right.header_len ||
	    memcmp(path->header, right.header, (path->header_len + 7u) / 8 * 8) != 0)
		fail("a header in parts");
}

/* The number that a record's key was made from. */
static unsigned check_record(const struct gw_flow_record *record)
{
	uint64_t end[2][2];
	unsigned n;

	memcpy(end, record->address, sizeof(end));
	n = (unsigned)end[0][0];
	if (end[0][1] != 0 || end[1][0] != ~(uint64_t)n || end[1][1] != 0 || record->ports != n ||
	    (record->protocol != protocols[n % 3] && record->protocol != protocols[n / 3 % 3]))
		fail("a record whose key is in parts");
	if (record->gwlb_address != n || record->own_address != ~n || record->eni != n ||
	    record->attachment != ((uint64_t)n << 32 | record->gwlb_port) || record->cookie != (n ^ record->gwlb_port))
		fail("a record with the path of another key");
	return n;
}

/* Walks through the table once, and counts how often each key below `keys` is there: never twice. */
static unsigned walk(unsigned keys, unsigned room)
{
	const struct gw_flow_filter filter = { .fragments = 1 };
	struct gw_flow_record record[64];
	uint8_t times[KEYS] = { 0 };
	unsigned number = 0;

	for (uint32_t position = 0; position != GW_DUMP_END;) {
		unsigned records = gw_flow_dump(flows, &filter, gw_now_s(), &position, record, room);

		for (unsigned i = 0; i < records; i++) {
			unsigned n = check_record(&record[i]);

			if (n >= keys)
				continue;
			if (times[n]++)
				fail("a key twice in one walk");
			number++;
		}
	}
	return number;
}

static void *walk_flows(void *argument)
{
	(void)argument;
	while (!atomic_load(&done))
		atomic_fetch_add(&walked, walk(KEYS, 10));
	return NULL;
}

static void *write_flows(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;

	for (unsigned i = 0; i < rounds; i++) {
		unsigned n = (unsigned)rand_r(&seed) % KEYS;
		struct gw_flow_path path;
		struct gw_flow_key key;

		make_key(&key, n);
		make_path(&path, n, (unsigned)rand_r(&seed) & 0xffff);
		gw_flows_learn(flows, &key, &path, gw_now_s());
	}
	return NULL;
}

static void *read_flows(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;

	while (!atomic_load(&done)) {
		unsigned n = (unsigned)rand_r(&seed) % KEYS;
		struct gw_flow_path path;
		struct gw_flow_key key;

		make_key(&key, n);
		if (gw_flows_find(flows, &key, &path, gw_now_s())) {
			check_path(&path, n);
			atomic_fetch_add(&found, 1);
		}
	}
	return NULL;
}

static void *sweep(void *argument)
{
	(void)argument;
	for (unsigned i = 0; !atomic_load(&done); i++) {
		/* A clock some way ahead, so that now and then all is old. */
		gw_flows_expire(flows, gw_now_s() + (i % 16 == 0 ? 20 : i % 8 == 0 ? 7 : 0), 10, 5);
	}
	return NULL;
}

/* While nobody writes: each slot counts, class by class, just the flows that are there. */
static void check_counts(void)
{
	uint64_t there[SLOTS][GW_FLOW_CLASSES + 1] = { { 0 } };

	for (unsigned n = 0; n < KEYS; n++) {
		struct gw_flow_path path;
		struct gw_flow_key key;

		make_key(&key, n);
		there[n % SLOTS][gw_key_class(key.word[4])] += gw_flows_find(flows, &key, &path, gw_now_s());
	}
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		struct gw_flow_count count[GW_FLOW_CLASSES];

		gw_flows_count(flows, slot, count);
		for (unsigned i = 0; i < GW_FLOW_CLASSES; i++)
			if (count[i].size != there[slot][i])
				fail("a count is not that of the flows");
	}
}

static void stress_flows(void)
{
	void *(*const work[8])(void *) = { write_flows, write_flows, read_flows, read_flows,
		                           read_flows,  sweep,       walk_flows, walk_flows };
	pthread_t thread[8];

	flows = gw_flows_new(TABLE, SLOTS);
	if (!flows)
		fail("no memory");
	for (unsigned i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, work[i], (void *)(uintptr_t)(i + 1));
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	atomic_store(&done, true);
	for (unsigned i = 2; i < 8; i++)
		pthread_join(thread[i], NULL);
	if (found == 0 || walked == 0)
		fail("no reader or no walker ever found a flow");
	check_counts();
	for (unsigned slot = 0; slot < SLOTS; slot++)
		gw_flows_forget(flows, slot);
	if (gw_flows_entries(flows) != 0)
		fail("entries were lost");
	check_counts();
	gw_flows_free(flows);
}

/* A flow that no other call is for. */
static void make_share_key(struct gw_flow_key *key, unsigned n, unsigned slot)
{
	make_key(key, n);
	key->word[4] = GW_KEY_WORD(n, protocols[n / 3 % 3], 4, slot != 0 && n % 3 == 0 ? GW_KEY_FRAGMENT : 0, slot);
	gw_flow_hash(flows, key);
}

static void learn_share(unsigned n, unsigned slot, uint32_t now)
{
	struct gw_flow_path path;
	struct gw_flow_key key;

	make_share_key(&key, n, slot);
	make_path(&path, n, n & 0xffff);
	gw_flows_learn(flows, &key, &path, now);
}

static void *flood(void *argument)
{
	/* Continuations hold this where a slot was in what was an entry before: no table has so many slots. */
	unsigned from = 0xf0000000u + ((unsigned)(uintptr_t)argument << 24);

	for (unsigned i = 0; i < rounds; i++)
		learn_share(from + i, 1 + i % 2, 9);
	return NULL;
}

static void *find_quiet(void *argument)
{
	(void)argument;
	for (unsigned n = 0; !atomic_load(&done); n = (n + 1) % QUIET) {
		struct gw_flow_path path;
		struct gw_flow_key key;

		make_share_key(&key, n, 0);
		if (!gw_flows_find(flows, &key, &path, 1))
			fail("a flow within its slot's share was evicted");
		check_path(&path, n);
	}
	return NULL;
}

static struct gw_flow_count counts_of(unsigned slot)
{
	struct gw_flow_count count[GW_FLOW_CLASSES], sum = { 0, 0, 0 };

	gw_flows_count(flows, slot, count);
	for (unsigned i = 0; i < GW_FLOW_CLASSES; i++) {
		sum.size += count[i].size;
		sum.evicted += count[i].evicted;
	}
	return sum;
}

static void *walk_quiet(void *argument)
{
	(void)argument;
	while (!atomic_load(&done))
		if (walk(QUIET, 64) != QUIET)
			fail("a walk has missed a flow that was there all the time");
	return NULL;
}

static void stress_shares(void)
{
	pthread_t thread[6];

	flows = gw_flows_new(TABLE, 3);
	if (!flows)
		fail("no memory");
	atomic_store(&done, false);
	for (unsigned n = 0; n < QUIET; n++)
		learn_share(n, 0, 1);
	for (unsigned i = 0; i < 6; i++)
		pthread_create(&thread[i], NULL, i < 3 ? flood : i < 5 ? find_quiet : walk_quiet,
		               (void *)(uintptr_t)(i + 1));
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	atomic_store(&done, true);
	for (unsigned i = 3; i < 6; i++)
		pthread_join(thread[i], NULL);
	if (counts_of(0).size != QUIET || counts_of(0).evicted != 0)
		fail("flows within their slot's share were counted as evicted");
	if (counts_of(1).evicted == 0 || counts_of(2).evicted == 0)
		fail("a flood evicted nothing");
	for (unsigned slot = 0; slot < 3; slot++)
		gw_flows_forget(flows, slot);
	if (gw_flows_entries(flows) != 0)
		fail("entries were lost");
	gw_flows_free(flows);
}

static struct gw_ring *ring;

static size_t record_len(unsigned n)
{
	return n % 97 == 0 ? 60000 : 20 + n * 37 % 1500;
}

static void *consume(void *argument)
{
	(void)argument;
	for (unsigned n = 0; n < RECORDS;) {
		const struct gw_ring_record *record = gw_ring_peek(ring);

		if (!record) {
			sched_yield();
			continue;
		}
		if (record->packets != n || record->len != record_len(n))
			fail("a record out of order");
		for (uint32_t i = 0; i < record->len; i += 19)
			if (((const uint8_t *)(record + 1))[i] != (uint8_t)(n + i))
				fail("a record changed on its way");
		gw_ring_release(ring, record);
		n++;
	}
	return NULL;
}

static void stress_ring(void)
{
	pthread_t consumer;
	unsigned n = 0;

	ring = aligned_alloc(64, sizeof(*ring));
	memset(ring, 0, sizeof(*ring));
	ring->bytes = aligned_alloc(64, GW_RING_BYTES);
	pthread_create(&consumer, NULL, consume, NULL);
	while (n < RECORDS) {
		unsigned batch = n % 64 + 1;

		for (; batch > 0 && n < RECORDS; batch--) {
			struct gw_ring_record *record = gw_ring_reserve(ring, record_len(n));

			if (!record)
				break;
			record->packets = n;
			for (uint32_t i = 0; i < record_len(n); i += 19)
				((uint8_t *)(record + 1))[i] = (uint8_t)(n + i);
			gw_ring_commit(ring, record, record_len(n));
			n++;
		}
		gw_ring_publish(ring, 1);
		if (n % 1000 < 100)
			while (gw_ring_waiting(ring))
				sched_yield();
	}
	pthread_join(consumer, NULL);
	free(ring->bytes);
	free(ring);
}

int main(int argc, char **argv)
{
	rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 200000;
	stress_flows();
	stress_shares();
	stress_ring();
	return 0;
}
