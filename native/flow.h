/* SPDX-License-Identifier: MIT-0 */
/*
 * flow.h - the flow table: from the key of an inner packet to the way its flow goes back to the load balancer.
 *
 * `now` is gw_now_s() of clock.h.
 */
#ifndef GW_FLOW_H
#define GW_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flow_key.h"

struct gw_flows;
struct gw_flow_bucket;
struct gw_flow_pool;

/* A table of at most max entries for keys whose slot is below slots.  NULL with errno. */
struct gw_flows *gw_flows_new(uint32_t max, uint32_t slots);

/* The same in a memory file, which is empty or holds such a table already (flow_memory.h).  fd -1: in memory. */
struct gw_flows *gw_flows_open(uint32_t max, uint32_t slots, int fd);
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

/* The same.  *news: what the table had for the key. */
enum gw_flow_news { GW_FLOW_KNOWN, GW_FLOW_NEW, GW_FLOW_REPLACED };
unsigned gw_flows_relearn(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                          uint32_t now, enum gw_flow_news *news);

/* Whether path is the way back of key now.  If so, it was last used at `seen`, if not later. */
bool gw_flows_confirm(struct gw_flows *flows, const struct gw_flow_key *key, const struct gw_flow_path *path,
                      uint32_t seen);

/* Looks a key up, copies its way back into *path and keeps it from expiring. */
bool gw_flows_find(struct gw_flows *flows, const struct gw_flow_key *key, struct gw_flow_path *path, uint32_t now);

/* Forgets what was not used for more than tcp_s seconds (TCP), or other_s (all else; fragments: GW_FRAGMENT_IDLE_S at most).
 * Returns how many. */
uint64_t gw_flows_expire(struct gw_flows *flows, uint32_t now, uint32_t tcp_s, uint32_t other_s);

/* How long Linux waits for a datagram's fragments (ipfrag_time, RFC 8200 section 4.5: 60 s at most). */
#define GW_FRAGMENT_IDLE_S 30u

/* Forgets all that belongs to a slot, which nobody may be learning for any more. */
void gw_flows_forget(struct gw_flows *flows, unsigned slot);

/* The same, in one go, for all slots but those whose bit is set (slot / 64, slot % 64).  Returns how many flows those had. */
uint64_t gw_flows_forget_others(struct gw_flows *flows, const uint64_t *kept);

/* Writes the counts of a slot since it was last forgotten, GW_FLOW_CLASSES of them. */
void gw_flows_count(const struct gw_flows *flows, unsigned slot, struct gw_flow_count *count);

/* Entries in use, of a slot and of all: flows, fragments, and what long headers take beside. */
uint32_t gw_flows_slot_entries(const struct gw_flows *flows, unsigned slot);
uint64_t gw_flows_entries(const struct gw_flows *flows);

/* Whether there is little room left. */
bool gw_flows_are_many(const struct gw_flows *flows);

/* Where all entries are linked: what flow_dump.c walks. */
struct gw_flow_chains {
	const struct gw_flow_bucket *bucket;
	uint32_t buckets;
	const struct gw_flow_pool *pool;
};
struct gw_flow_chains gw_flows_chains(const struct gw_flows *flows);

#endif
