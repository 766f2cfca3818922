/* SPDX-License-Identifier: MIT-0 */
/*
 * handover.c - packets that have been checked are learned, grouped, merged and put into rings.
 *
 * Theory of operation
 *
 * Arrivals are handed over GW_ARRIVALS at a time, in passes, so that what one packet needs from memory is on its way while
 * others are worked on: hash and ask for the bucket, ask for the entry, learn the flow, and then merge.  A packet that follows
 * the one before it (intake.c) is of the same flow: what was found out about the first holds for it.
 *
 * Merging groups the arrivals by flow, in order, through a small hash table (linear in their number), merges the runs of each
 * group into super-packets (merge.c) and writes these to the ring as records.  Fragments are not grouped, nor is anything
 * across them, for the parts of a datagram have different keys and shall stay in order.
 *
 * What was written to a ring is published at the end of the pass, or when it has come to PUBLISH_BYTES.  Then somebody has to
 * do the T thread's work: relief.h tells who.
 *
 * All of this is the U thread's own but the flow table, which all threads share, and the consumer's end of the rings.
 */
#include "handover.h"

#include <netinet/in.h>
#include <sched.h>
#include <string.h>

#include "clock.h"
#include "flow.h"
#include "ring.h"

/* Packets handed over before T threads of the same core are let in: some that are for them to write or to read; or any, for
 * Linux may have sent those threads something else. */
#define PACKETS_KEPT 128u
#define PACKETS_ALONE 2048u

/* What waits in a ring to be published before a pass is over: better read while it is in the cache. */
#define PUBLISH_BYTES (48u << 10)

/* What all rings of endpoints that are not up yet may hold, and what each ring may hold all the same: a sender that invents
 * ENI IDs must not get 4 MiB for each of them and each receiver. */
#define RINGS_NOT_UP_BYTES (256u << 20)
#define RING_LEAST (64u << 10)

static void learn_flows(struct gw_handover *handover);
static void learn(struct gw_handover *handover, struct gw_arrival *arrival, uint32_t now);
static void promote(struct gw_handover *handover, const struct gw_arrival *arrival, const struct gw_flow_path *path,
                    enum gw_flow_news news, uint32_t now);
static void set_path(const struct gw_arrival *arrival, struct gw_flow_path *path);
static void drop_unlearned(struct gw_handover *handover, struct gw_arrival *leader, unsigned reason);
static void trace(const struct gw_handover *handover, const struct gw_arrival *arrival, unsigned reason);
static void merge(struct gw_handover *handover);
static void inspect(struct gw_handover *handover, unsigned i);
static void merge_span(struct gw_handover *handover, unsigned from, unsigned to);
static void group(struct gw_handover *handover, unsigned from, unsigned to);
static bool same_group(const struct gw_arrival *a, const struct gw_arrival *b);
static void merge_group(struct gw_handover *handover, unsigned first);
static void write_record(struct gw_handover *handover, struct gw_endpoint *endpoint, struct gw_merge *run);
static bool may_wait(const struct gw_handover *handover, const struct gw_endpoint *endpoint, size_t len);
static void drop_run(struct gw_handover *handover, struct gw_ring *ring, const struct gw_merge *run);
static void touch(struct gw_handover *handover, struct gw_endpoint *endpoint);
static void publish_all(struct gw_handover *handover);
static void publish(struct gw_handover *handover, struct gw_endpoint *endpoint, uint64_t now);
static void give_way(struct gw_handover *handover);

void gw_handover_pass(struct gw_handover *handover)
{
	learn_flows(handover);
	merge(handover);
	publish_all(handover);
	handover->kept += handover->arrivals;
	handover->packets += handover->arrivals;
	handover->arrivals = 0;
	give_way(handover);
}

/* ---- Learned -----------------------------------------------------------------------------------------------------*/

static void learn_flows(struct gw_handover *handover)
{
	const struct gw_flows *flows = handover->shared->flows;
	uint32_t now = gw_now_s();

	handover->promotion = atomic_load(&handover->shared->promotion);
	for (unsigned i = 0; i < handover->arrivals; i++) {
		struct gw_packet_keys *keys = &handover->arrival[i].keys;

		if (handover->arrival[i].follows)
			continue;
		gw_flow_hash(flows, &keys->own);
		gw_flows_prefetch_bucket(flows, &keys->own);
		if (handover->promotion)
			__builtin_prefetch(gw_promote_set(handover->promote, keys->own.hash), 1);
		if (keys->has_fragment)
			gw_flow_hash(flows, &keys->fragment);
	}
	if (handover->shared->receive_only)
		return;
	for (unsigned i = 0; i < handover->arrivals; i++)
		if (!handover->arrival[i].follows)
			gw_flows_prefetch_entry(flows, &handover->arrival[i].keys.own);
	for (unsigned i = 0; i < handover->arrivals; i++)
		if (!handover->arrival[i].follows)
			learn(handover, &handover->arrival[i], now);
}

static void learn(struct gw_handover *handover, struct gw_arrival *arrival, uint32_t now)
{
	struct gw_flows *flows = handover->shared->flows;
	struct gw_flow_path path;
	unsigned reason;
	enum gw_flow_news news;

	set_path(arrival, &path);
	reason = gw_flows_relearn(flows, &arrival->keys.own, &path, now, &news);
	if (handover->promotion && !reason)
		promote(handover, arrival, &path, news, now);
	if (!reason && arrival->keys.has_fragment && !arrival->packet.later_fragment)
		reason = gw_flows_learn(flows, &arrival->keys.fragment, &path, now);
	if (reason)
		drop_unlearned(handover, arrival, reason);
}

/* Asks thread K for a flow that has shown that it lives; tells it of one whose path is another now. */
static void promote(struct gw_handover *handover, const struct gw_arrival *arrival, const struct gw_flow_path *path,
                    enum gw_flow_news news, uint32_t now)
{
	struct gw_promote_cell *cell;
	const struct gw_flow_key *key = &arrival->keys.own;
	const uint64_t word = key->word[GW_KEY_WORDS - 1];
	const uint32_t life = atomic_load_explicit(&arrival->endpoint->kernel_life, memory_order_relaxed);

	if (!life || GW_KEY_KIND(word) != GW_KEY_FLOW ||
	    (GW_KEY_PROTOCOL(word) != IPPROTO_TCP && GW_KEY_PROTOCOL(word) != IPPROTO_UDP))
		return;
	if (news == GW_FLOW_REPLACED || (news == GW_FLOW_NEW && gw_promote_has_asked(handover->promote, key->hash)))
		gw_promote_change(handover->promote, handover->promotion, key, life);
	if (path->header_len != GW_KERNEL_HEADER || arrival->packet.fragment ||
	    handover->receiver >= GW_KERNEL_RECEIVERS)
		return;
	cell = gw_promote_count(handover->promote, key->hash, life, arrival->count, news != GW_FLOW_KNOWN, now);
	if (cell) {
		if (!atomic_load_explicit(&handover->shared->polls, memory_order_relaxed))
			atomic_store_explicit(&handover->shared->polls, true, memory_order_relaxed);
		gw_promote_ask(handover->promote, handover->promotion, cell, key, path, life);
	}
}

static void set_path(const struct gw_arrival *arrival, struct gw_flow_path *path)
{
	path->origin = *arrival->origin;
	path->header_len = arrival->geneve_len;
	path->header[(arrival->geneve_len - 1) / 8] = 0;
	memcpy(path->header, arrival->geneve, arrival->geneve_len);
}

static void drop_unlearned(struct gw_handover *handover, struct gw_arrival *leader, unsigned reason)
{
	gw_count(handover->counters, reason, leader->count);
	atomic_fetch_add_explicit(&leader->endpoint->ring[handover->receiver].unlearned, leader->count,
	                          memory_order_relaxed);
	leader->done = true;
	if (!gw_tracing(&handover->shared->trace))
		return;
	for (unsigned i = 0; i < leader->count; i++)
		trace(handover, leader + i, reason);
}

static void trace(const struct gw_handover *handover, const struct gw_arrival *arrival, unsigned reason)
{
	gw_trace_write_in(&handover->shared->trace, arrival->origin, arrival->geneve,
	                  arrival->geneve_len + arrival->packet.len, arrival->endpoint->eni, reason);
}

/* ---- Grouped and merged ------------------------------------------------------------------------------------------*/

static void merge(struct gw_handover *handover)
{
	unsigned from = 0;

	for (unsigned i = 0; i < handover->arrivals; i++)
		inspect(handover, i);
	for (unsigned i = 0; i < handover->arrivals; i++)
		if (handover->arrival[i].packet.fragment) {
			merge_span(handover, from, i);
			merge_span(handover, i, i + 1);
			from = i + 1;
		}
	merge_span(handover, from, handover->arrivals);
}

static void inspect(struct gw_handover *handover, unsigned i)
{
	const struct gw_packet *packet = &handover->arrival[i].packet;
	unsigned offload = packet->protocol == IPPROTO_TCP ? GW_OFFLOAD_MERGE_TCP : GW_OFFLOAD_MERGE_UDP;

	handover->segment[i] = (struct gw_segment){
		.packet = packet, .mergeable = packet->mergeable && handover->shared->offloads & offload
	};
}

static void merge_span(struct gw_handover *handover, unsigned from, unsigned to)
{
	if (to - from > 1 && handover->shared->offloads & (GW_OFFLOAD_MERGE_TCP | GW_OFFLOAD_MERGE_UDP))
		group(handover, from, to);
	for (unsigned i = from; i < to; i++)
		if (!handover->arrival[i].follows && !handover->arrival[i].done)
			merge_group(handover, i);
}

/* Chains each run to the group of the runs of its flow before it, among the arrivals from `from` to `to`.  The leaders of
 * groups are left in order. */
static void group(struct gw_handover *handover, unsigned from, unsigned to)
{
	memset(handover->group_head, 0xff, sizeof(handover->group_head));
	for (unsigned i = from; i < to; i++) {
		struct gw_arrival *arrival = &handover->arrival[i], *leader;
		uint64_t at = arrival->keys.own.hash + arrival->keys.reversed;
		uint16_t first;

		if (arrival->follows || arrival->done)
			continue;
		/* Less than half full, so that probing is short; the hash is keyed. */
		while ((first = handover->group_head[at % GW_ARRIVAL_GROUPS]) != GW_NO_ARRIVAL &&
		       !same_group(&handover->arrival[first], arrival))
			at++;
		if (first == GW_NO_ARRIVAL) {
			handover->group_head[at % GW_ARRIVAL_GROUPS] = (uint16_t)i;
			continue;
		}
		leader = &handover->arrival[first];
		handover->arrival[leader->tail].next = (uint16_t)i;
		leader->tail = arrival->tail;
		arrival->done = true;
	}
}

/* What tells the groups apart: a flow in one direction, in one endpoint (the key holds its slot). */
static bool same_group(const struct gw_arrival *a, const struct gw_arrival *b)
{
	return a->keys.own.hash == b->keys.own.hash && a->keys.reversed == b->keys.reversed &&
	       memcmp(a->keys.own.word, b->keys.own.word, sizeof(a->keys.own.word)) == 0;
}

static void merge_group(struct gw_handover *handover, unsigned first)
{
	struct gw_endpoint *endpoint = handover->arrival[first].endpoint;
	unsigned next;

	for (unsigned i = first; i != GW_NO_ARRIVAL; i = next) {
		struct gw_merge run;
		unsigned joined;

		gw_merge_start(&run, &handover->segment[i]);
		for (next = handover->arrival[i].next; next != GW_NO_ARRIVAL; next = handover->arrival[next].next)
			if (!gw_merge_join(&run, &handover->segment[next]))
				break;
		joined = run.count;
		write_record(handover, endpoint, &run);
		if (run.count < joined) /* a wrong checksum ended it: go on from there */
			for (next = i; run.count > 0; run.count--)
				next = handover->arrival[next].next;
	}
}

/* ---- Put into rings ----------------------------------------------------------------------------------------------*/

/* Writes as many packets of a run as can be one record: run->count tells. */
static void write_record(struct gw_handover *handover, struct gw_endpoint *endpoint, struct gw_merge *run)
{
	struct gw_ring *ring = &endpoint->ring[handover->receiver];
	size_t len = sizeof(struct gw_vnet_header) + run->length;
	struct gw_ring_record *record = may_wait(handover, endpoint, len) ? gw_ring_reserve(ring, len) : NULL;
	struct gw_vnet_header vnet;
	uint8_t *out;

	if (!record) {
		drop_run(handover, ring, run);
		return;
	}
	out = (uint8_t *)(record + 1);
	gw_merge_write(run, &vnet, out + sizeof(vnet));
	memcpy(out, &vnet, sizeof(vnet));
	record->packets = run->count;
	record->bytes = 0;
	for (unsigned i = 0; i < run->count; i++)
		record->bytes += run->segment[i]->packet->len;
	gw_ring_commit(ring, record, sizeof(vnet) + run->length);
	handover->records++;
	touch(handover, endpoint);
	if (gw_ring_unpublished(ring) >= PUBLISH_BYTES)
		publish(handover, endpoint, gw_now_ns());
}

/* Rings share what memory they may take: all of them, and besides those of endpoints that are not up yet. */
static bool may_wait(const struct gw_handover *handover, const struct gw_endpoint *endpoint, size_t len)
{
	const struct gw_endpoints *table = endpoint->table;
	uint64_t bytes = atomic_load_explicit(&table->ring_bytes, memory_order_relaxed), rings, share;

	if (!atomic_load_explicit(&endpoint->up, memory_order_relaxed) && bytes > RINGS_NOT_UP_BYTES)
		bytes = RINGS_NOT_UP_BYTES;
	rings = (uint64_t)atomic_load_explicit(&table->count, memory_order_relaxed) * handover->shared->receivers;
	share = bytes / (rings ? rings : 1);
	if (share >= GW_RING_BYTES)
		return true;
	return gw_ring_filled(&endpoint->ring[handover->receiver]) + len <= (share > RING_LEAST ? share : RING_LEAST);
}

static void drop_run(struct gw_handover *handover, struct gw_ring *ring, const struct gw_merge *run)
{
	gw_count(handover->counters, GW_drop_ring_full, run->count);
	atomic_fetch_add_explicit(&ring->drops, run->count, memory_order_relaxed);
	if (!gw_tracing(&handover->shared->trace))
		return;
	for (unsigned i = 0; i < run->count; i++)
		trace(handover, &handover->arrival[run->segment[i] - handover->segment], GW_drop_ring_full);
}

static void touch(struct gw_handover *handover, struct gw_endpoint *endpoint)
{
	struct gw_ring *ring = &endpoint->ring[handover->receiver];

	/* What a ring says is checked against the list that it points into, so that it need not be reset. */
	if (ring->touched >= handover->touched || handover->touched_endpoint[ring->touched] != endpoint) {
		ring->touched = handover->touched++;
		handover->touched_endpoint[ring->touched] = endpoint;
	}
}

static void publish_all(struct gw_handover *handover)
{
	uint64_t now = gw_now_ns();

	for (unsigned i = 0; i < handover->touched; i++)
		publish(handover, handover->touched_endpoint[i], now);
	handover->touched = 0;
}

static void publish(struct gw_handover *handover, struct gw_endpoint *endpoint, uint64_t now)
{
	const unsigned thread = handover->receiver % handover->shared->tunnel_threads;

	gw_ring_publish(&endpoint->ring[handover->receiver], now);
	handover->left |= !gw_relief_hand_over(handover->relief, &endpoint->tunnel[GW_GWI][thread],
	                                       &endpoint->tunnel[GW_GWO][thread], handover->behind);
}

/* T threads do not interrupt others (gwlbtun/tunnel.py): those of this core need to be let in, to read what was written
 * before their queues are full.  A receiver that finds nothing to receive sleeps, and need not. */
static void give_way(struct gw_handover *handover)
{
	bool due = handover->behind || handover->kept >= PACKETS_KEPT;

	if (handover->kept < PACKETS_ALONE && !(handover->left && due))
		return;
	sched_yield();
	handover->kept = 0;
	handover->left = false;
}

/* ---- Put back ----------------------------------------------------------------------------------------------------*/

void gw_handover_put_back(struct gw_handover *handover, struct gw_endpoint *endpoint, uint32_t packets, uint64_t bytes,
                          const uint8_t *frame, size_t len)
{
	const unsigned thread = handover->receiver % handover->shared->tunnel_threads;
	struct gw_ring *ring = &endpoint->ring[handover->receiver];
	struct gw_ring_record *record = may_wait(handover, endpoint, len) ? gw_ring_reserve(ring, len) : NULL;

	if (!record) {
		gw_count(handover->counters, GW_drop_ring_full, packets);
		atomic_fetch_add_explicit(&ring->drops, packets, memory_order_relaxed);
		return;
	}
	memcpy(record + 1, frame, len);
	record->packets = packets;
	record->bytes = bytes;
	gw_ring_commit(ring, record, len);
	gw_ring_publish(ring, atomic_load(&ring->last_ns)); /* it is no newer than it was */
	gw_duty_call(&endpoint->tunnel[GW_GWI][thread].duty);
}
