/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_audit.h - whether the links of a flow table that another program has left lead where they may.
 *
 * Theory of operation: whoever follows a link trusts it, and a chain that led in a circle would hold a thread for ever.  So all
 * links are looked at once, before any thread follows one: each leads to an entry that was used, and to none do two lead, so
 * there are no circles.  Chains hold flows alone; the free stack and long headers hold other entries alone.  A flow's slot exists,
 * and its header is as long as one may be.  Locks are free.
 *
 * What the entries mean is not judged: a wrong key or header is one that its sender might have sent.
 *
 * Entries are read in the order in which they lie, once, and bits note the rest: a million flows take some tens of milliseconds.
 */
#ifndef GW_FLOW_AUDIT_H
#define GW_FLOW_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_bucket.h"
#include "flow_pool.h"

/* While no thread works on the table.  False with errno: EINVAL, or ENOMEM. */
bool gw_flow_audit(const struct gw_flow_pool *pool, const struct gw_flow_bucket *bucket, uint32_t buckets,
                   uint32_t slots);

#endif
