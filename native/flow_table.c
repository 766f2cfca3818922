/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_table.c - the flow table as one mapping; flow_table.h tells how.
 */
#include "flow_table.h"

#include <errno.h>
#include <stddef.h>
#include <sys/random.h>

#include "flow_audit.h"

static bool begin(struct gw_flows *flows, const struct gw_flow_plan *plan);
static bool is_whole(const struct gw_flows *flows, const struct gw_flow_plan *plan);

struct gw_flows *gw_flow_table_open(uint32_t max, uint32_t slots, int fd)
{
	struct gw_flow_plan plan;
	struct gw_flows *flows;
	bool fresh;

	if (!gw_flow_plan(&plan, sizeof(struct gw_flows), max, slots))
		return NULL;
	flows = gw_flow_map(plan.size, fd, &fresh);
	if (!flows)
		return NULL;
	if (fresh ? begin(flows, &plan) : is_whole(flows, &plan))
		return flows;
	gw_flow_unmap(flows, plan.size);
	return NULL;
}

static bool begin(struct gw_flows *flows, const struct gw_flow_plan *plan)
{
	if (getrandom(flows->secret, sizeof(flows->secret), 0) != sizeof(flows->secret))
		return false;
	flows->mask = (uint32_t)(plan->buckets - 1);
	flows->shares.slots = plan->slots;
	flows->shares.slots_at = plan->slots_at - offsetof(struct gw_flows, shares);
	gw_flow_pool_init(&flows->pool, plan->entries_at - offsetof(struct gw_flows, pool), plan->max);
	flows->plan = *plan;
	return true;
}

/* Whether a table that another program has left is what that program would have made, and can be used without harm. */
static bool is_whole(const struct gw_flows *flows, const struct gw_flow_plan *plan)
{
	if (gw_flow_plan_equals(&flows->plan, plan) && flows->mask == plan->buckets - 1 &&
	    flows->shares.slots == plan->slots &&
	    flows->shares.slots_at == plan->slots_at - offsetof(struct gw_flows, shares) &&
	    flows->pool.entries_at == plan->entries_at - offsetof(struct gw_flows, pool) &&
	    flows->pool.max == plan->max)
		return gw_flow_audit(&flows->pool, gw_flow_bucket_of(flows, 0), flows->mask + 1, plan->slots);
	errno = EINVAL;
	return false;
}

void gw_flow_table_close(struct gw_flows *flows)
{
	gw_flow_unmap(flows, flows->plan.size);
}
