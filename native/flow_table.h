/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_table.h - the flow table as one mapping.
 *
 * Theory of operation
 *
 * One mapping holds a header, what each slot holds, an array of buckets and a pool of entries.  All links are indices into
 * the pool and all else goes by offsets, so the mapping has no pointers in it and means the same wherever it is mapped.  It
 * comes zeroed from the kernel; only pages that were used take memory.
 *
 * Whoever opens a memory file may find a table in it that another program has left.  It is used if all that is in it fits
 * together, and refused otherwise.
 */
#ifndef GW_FLOW_TABLE_H
#define GW_FLOW_TABLE_H

#include <stdint.h>

#include "flow_bucket.h"
#include "flow_evict.h"
#include "flow_memory.h"
#include "flow_pool.h"

struct gw_flows {
	struct gw_flow_plan plan;
	uint32_t mask; /* number of buckets - 1 */
	uint64_t secret[2];
	struct gw_flow_pool pool;
	struct gw_flow_shares shares;
};

/* As gw_flows_open() of flow.h. */
struct gw_flows *gw_flow_table_open(uint32_t max, uint32_t slots, int fd);
void gw_flow_table_close(struct gw_flows *flows);

static inline struct gw_flow_bucket *gw_flow_bucket_of(const struct gw_flows *flows, uint64_t hash)
{
	return (struct gw_flow_bucket *)((char *)flows + flows->plan.buckets_at) + (hash & flows->mask);
}

#endif
