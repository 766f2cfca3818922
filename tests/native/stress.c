/* SPDX-License-Identifier: MIT-0 */
/*
 * stress.c - the flow table and the ring under as many threads as use them, for the sanitizers.
 *
 * Built and run by test_native.py, plain and under ThreadSanitizer, AddressSanitizer and UBSan.
 *
 * Flows: writers learn and relearn a small set of keys, each time under a header that all of its words can be checked
 * against; readers must never see a header that is not whole or not of their key; a sweeper expires, another forgets.  The
 * table is smaller than the set of keys, so that entries move between chains all the time.
 * Shares: writers flood two slots with new flows, fragments and long headers; readers must always find the flows of a third
 * slot, which is within its share.
 * Ring: a producer writes records of all sizes whose bytes follow from their number; the consumer checks each.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/clock.h"
#include "../../native/flow.h"
#include "../../native/ring.h"

#define KEYS 600u
#define TABLE 256u
#define QUIET 20u
#define RECORDS 200000u

static struct gw_flows *flows;
static _Atomic bool done;
static _Atomic unsigned found;
static unsigned rounds;

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
	key->word[4] = GW_KEY_WORD(n, 17, n % 2 ? 4 : 6, kind, n % 4);
	gw_flow_hash(flows, key);
}

/* Some headers take continuations. */
static void make_path(struct gw_flow_path *path, unsigned n, unsigned version)
{
	unsigned words = 5 + version % 29;

	path->gwlb_address = n;
	path->own_address = ~n;
	path->gwlb_port = (uint16_t)version;
	path->header_len = (uint16_t)(words * 8 > GW_GENEVE_MAX ? GW_GENEVE_MAX : words * 8);
	for (unsigned i = 0; i < words; i++)
		path->header[i] = (uint64_t)n << 32 | version;
}

static void check_path(const struct gw_flow_path *path, unsigned n)
{
	unsigned words = (path->header_len + 7u) / 8;

	if (path->gwlb_address != n || path->own_address != ~n)
		fail("a way back of another key");
	for (unsigned i = 0; i < words; i++)
		if (path->header[i] != ((uint64_t)n << 32 | path->gwlb_port))
			fail("a header in parts");
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
		gw_flows_expire(flows, gw_now_s() + (i % 16 == 0 ? 20 : 0), 10);
	}
	return NULL;
}

static void stress_flows(void)
{
	pthread_t thread[6];

	flows = gw_flows_new(TABLE, 4);
	if (!flows)
		fail("no memory");
	for (unsigned i = 0; i < 6; i++)
		pthread_create(&thread[i], NULL, i < 2 ? write_flows : i < 5 ? read_flows : sweep,
		               (void *)(uintptr_t)(i + 1));
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	atomic_store(&done, true);
	for (unsigned i = 2; i < 6; i++)
		pthread_join(thread[i], NULL);
	if (found == 0)
		fail("no reader ever found a flow");
	for (unsigned slot = 0; slot < 4; slot++)
		gw_flows_forget(flows, slot);
	if (gw_flows_entries(flows) != 0)
		fail("entries were lost");
	gw_flows_free(flows);
}

/* A flow that no other call is for. */
static void make_share_key(struct gw_flow_key *key, unsigned n, unsigned slot)
{
	make_key(key, n);
	key->word[4] = GW_KEY_WORD(n, 17, 4, slot != 0 && n % 3 == 0 ? GW_KEY_FRAGMENT : 0, slot);
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

static void stress_shares(void)
{
	pthread_t thread[5];

	flows = gw_flows_new(TABLE, 3);
	if (!flows)
		fail("no memory");
	atomic_store(&done, false);
	for (unsigned n = 0; n < QUIET; n++)
		learn_share(n, 0, 1);
	for (unsigned i = 0; i < 5; i++)
		pthread_create(&thread[i], NULL, i < 3 ? flood : find_quiet, (void *)(uintptr_t)(i + 1));
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	atomic_store(&done, true);
	for (unsigned i = 3; i < 5; i++)
		pthread_join(thread[i], NULL);
	if (gw_flows_count(flows, 0, 4) != QUIET || gw_flows_evicted(flows, 0, 4) != 0)
		fail("flows within their slot's share were counted as evicted");
	if (gw_flows_evicted(flows, 1, 4) == 0 || gw_flows_evicted(flows, 2, 4) == 0)
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
