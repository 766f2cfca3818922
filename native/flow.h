/* SPDX-License-Identifier: MIT-0 */
/*
 * flow.h - the flow table: from the key of an inner packet to the way its flow goes back to the load balancer.
 */
#ifndef GW_FLOW_H
#define GW_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "geneve.h"

/*
 * A key: words 0-1 and 2-3 the two addresses (IPv4 in the first four bytes, the rest 0), word 4 as GW_KEY_WORD packs it.
 * hash is set by gw_flow_hash().
 */
#define GW_KEY_WORDS 5

struct gw_flow_key {
	uint64_t word[GW_KEY_WORDS];
	uint64_t hash;
};

#define GW_KEY_FRAGMENT 1u   /* ports: the identification of the datagram */
#define GW_KEY_ICMP_ERROR 2u /* ports: a digest of the flow it is about */

#define GW_KEY_WORD(ports, protocol, family, kind, slot)                                                              \
	((uint64_t)(ports) | (uint64_t)(protocol) << 32 | (uint64_t)(family) << 40 | (uint64_t)(kind) << 44 |         \
	 (uint64_t)(slot) << 48)
#define GW_KEY_FAMILY(word) ((unsigned)((word) >> 40 & 15))
#define GW_KEY_KIND(word) ((unsigned)((word) >> 44 & 15))
#define GW_KEY_SLOT(word) ((unsigned)((word) >> 48))
#define GW_SLOTS_MAX 65536u

#define GW_HEADER_WORDS ((GW_GENEVE_MAX + 7) / 8)

/* The way back.  header holds header_len bytes as they came, padded with zeros to a whole word. */
struct gw_flow_path {
	uint32_t gwlb_address; /* network byte order */
	uint32_t own_address;
	uint16_t gwlb_port; /* host byte order */
	uint16_t header_len;
	uint64_t header[GW_HEADER_WORDS];
};

struct gw_flows;

/* Seconds on the clock of the flow table (CLOCK_MONOTONIC_COARSE); never 0. */
uint32_t gw_flows_now(void);

/* A table of at most max entries for keys whose slot is below slots.  NULL with errno. */
struct gw_flows *gw_flows_new(uint32_t max, uint32_t slots);
void gw_flows_free(struct gw_flows *flows);

/* Hashes a key under the table's secret; to be called before any of the calls below. */
void gw_flow_hash(const struct gw_flows *flows, struct gw_flow_key *key);

/* Starts to load what a call for this key will need: first the bucket, then, some packets later, its entry. */
void gw_flows_prefetch_bucket(const struct gw_flows *flows, const struct gw_flow_key *key);
void gw_flows_prefetch_entry(const struct gw_flows *flows, const struct gw_flow_key *key);

/* Makes path the way back of key, whatever it was.  When the table is full, a flow goes: one of the key's own slot if that
 * has used up its share, else one of a slot above its share.  Returns 0 or GW_drop_flows_full. */
unsigned gw_flows_learn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                        uint32_t now);

/* Looks a key up, copies its way back into *path and keeps it from expiring. */
bool gw_flows_find(struct gw_flows *flows, const struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now);

/* Forgets what was not used for more than idle_s seconds (fragments: at most GW_FRAGMENT_IDLE_S).  Returns how many. */
uint64_t gw_flows_expire(struct gw_flows *flows, uint32_t now, uint32_t idle_s);

/* How long Linux waits for a datagram's fragments (ipfrag_time, RFC 8200 section 4.5: 60 s at most). */
#define GW_FRAGMENT_IDLE_S 30u

/* Forgets all that belongs to a slot, which nobody may be learning for any more. */
void gw_flows_forget(struct gw_flows *flows, unsigned slot);

/* Of a slot and family (4 or 6), fragments not counted: flows now; timed out, and evicted from the full table, since the
 * slot was last forgotten. */
uint64_t gw_flows_count(const struct gw_flows *flows, unsigned slot, unsigned family);
uint64_t gw_flows_timed_out(const struct gw_flows *flows, unsigned slot, unsigned family);
uint64_t gw_flows_evicted(const struct gw_flows *flows, unsigned slot, unsigned family);

/* Entries in use: flows, fragments, and what long headers take beside. */
uint64_t gw_flows_entries(const struct gw_flows *flows);

#endif
