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
