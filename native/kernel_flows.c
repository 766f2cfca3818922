/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_flows.c - the entries of the map; kernel_flows.h tells how.
 *
 * The functions stand in the order of an entry's life: asked for, put in, changed, swept.
 */
#include "kernel_flows.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "kernel_map.h"

#define COUNT(counter) (void)__atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)

static bool add(struct gw_kernel_flows *flows, unsigned receiver, const struct gw_promote_request *request,
                uint64_t now_ns);
static bool renew(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                  uint64_t now_ns);
static bool same(const struct gw_kernel_flow *one, const struct gw_kernel_flow *other);
static bool note(struct gw_kernel_flows *flows, int status);
static void change(struct gw_kernel_flows *flows, const struct gw_promote_request *request, uint64_t now_ns);
static bool is_valid(struct gw_kernel_flows *flows, const struct gw_kernel_key *key,
                     const struct gw_kernel_flow *flow);
static void kill_entry(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                       uint64_t now_ns);
static void leave(struct gw_kernel_flow *flow, uint64_t now_ns);
static void sweep_entry(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                        uint64_t now_ns);
static bool detour_over(const struct gw_kernel_flow *flow, uint64_t now_ns);

bool gw_kernel_flows_take(struct gw_kernel_flows *flows, unsigned receiver, const struct gw_promote_request *request,
                          uint64_t now_ns)
{
	COUNT(flows->counts->requests);
	if (request->kind == GW_PROMOTE_FLOW)
		return add(flows, receiver, request, now_ns);
	change(flows, request, now_ns);
	return false;
}

/* ---- Put in ------------------------------------------------------------------------------------------------------*/

static bool add(struct gw_kernel_flows *flows, unsigned receiver, const struct gw_promote_request *request,
                uint64_t now_ns)
{
	struct gw_kernel_flow flow = { .gwlb_address = request->origin.gwlb_address,
		                       .own_address = request->origin.own_address,
		                       .gwlb_port = htons(request->origin.gwlb_port),
		                       .life = request->life,
		                       .receiver = receiver };
	struct gw_kernel_key key;
	int status, link;

	memcpy(key.word, request->word, sizeof(key.word));
	memcpy(flow.header, request->header, sizeof(flow.header));
	if (!is_valid(flows, &key, &flow)) {
		COUNT(flows->counts->stale);
		return false;
	}
	link = gw_kernel_link(&flows->links, &request->origin, now_ns);
	if (link < 0) {
		COUNT(flows->counts->full);
		return false;
	}
	flow.link = (uint16_t)link;
	status = gw_kernel_map_add(flows->map, &key, &flow);
	if (status == -EEXIST)
		return renew(flows, &key, &flow, now_ns);
	if (!note(flows, status))
		return false;
	COUNT(flows->counts->promoted);
	COUNT(flows->counts->entries);
	flows->added++;
	return true;
}

/* Puts an entry in the place of another one of the flow.  False if they are the same, or it cannot be. */
static bool renew(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                  uint64_t now_ns)
{
	struct gw_kernel_flow old;

	if (!note(flows, gw_kernel_map_get(flows->map, key, &old)) || same(&old, flow))
		return false;
	leave(flow, now_ns);
	if (!note(flows, gw_kernel_map_replace(flows->map, key, flow)))
		return false;
	COUNT(flows->counts->promoted);
	COUNT(flows->counts->replaced);
	return true;
}

static bool same(const struct gw_kernel_flow *one, const struct gw_kernel_flow *other)
{
	return one->life == other->life && one->receiver == other->receiver && one->link == other->link &&
	       one->gwlb_address == other->gwlb_address && one->own_address == other->own_address &&
	       one->gwlb_port == other->gwlb_port && memcmp(one->header, other->header, sizeof(one->header)) == 0;
}

/* Counts what went wrong with a call, if anything did. */
static bool note(struct gw_kernel_flows *flows, int status)
{
	if (status == -E2BIG || status == -ENOMEM)
		COUNT(flows->counts->full);
	if (status == -E2BIG)
		flows->crowded = true;
	else if (status)
		COUNT(flows->counts->refused);
	return status == 0;
}

/* ---- Changed -----------------------------------------------------------------------------------------------------*/

/* The path of a flow has been replaced: what the map has may be another one now. */
static void change(struct gw_kernel_flows *flows, const struct gw_promote_request *request, uint64_t now_ns)
{
	const unsigned number = GW_KEY_SLOT(request->word[GW_KEY_WORDS - 1]);
	struct gw_kernel_key key;
	struct gw_kernel_flow flow;
	int status;

	memcpy(key.word, request->word, sizeof(key.word));
	status = gw_kernel_map_get(flows->map, &key, &flow);
	if (status == 0 && flow.life && !is_valid(flows, &key, &flow))
		kill_entry(flows, &key, &flow, now_ns);
	else if (status && status != -ENOENT)
		(void)note(flows, status);
	__atomic_fetch_sub(&flows->slots->shown[number].changing, 1, __ATOMIC_SEQ_CST);
}

/* Whether an entry is right now.  If so, its flow was last used when the programs say so. */
static bool is_valid(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, const struct gw_kernel_flow *flow)
{
	struct gw_flow_path path = { .origin = { .gwlb_address = flow->gwlb_address,
		                                 .own_address = flow->own_address,
		                                 .gwlb_port = ntohs(flow->gwlb_port) },
		                     .header_len = GW_KERNEL_HEADER };
	struct gw_flow_key flow_key;

	if (!gw_kernel_slot_of(flows->slots, GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]), flow->life))
		return false;
	memcpy(flow_key.word, key->word, sizeof(flow_key.word));
	memcpy(path.header, flow->header, sizeof(flow->header));
	gw_flow_hash(flows->flows, &flow_key);
	return gw_flows_confirm(flows->flows, &flow_key, &path, flow->seen_s);
}

/* Lets an entry die. */
static void kill_entry(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                       uint64_t now_ns)
{
	struct gw_kernel_slot *slot = gw_kernel_slot_of(flows->slots, GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]),
	                                                flow->life);

	flow->life = 0;
	leave(flow, now_ns);
	COUNT(flows->counts->changed);
	if (note(flows, gw_kernel_map_replace(flows->map, key, flow)) ||
	    note(flows, gw_kernel_map_remove(flows->map, key)) || !slot)
		return;
	/* It must not live on, whatever it costs. */
	gw_kernel_slot_renew(flows->slots, slot);
	COUNT(flows->counts->resets);
}

/* The ways of an entry that K rewrites begin anew, from outside the kernel.  Where they were can have changed since K looked. */
static void leave(struct gw_kernel_flow *flow, uint64_t now_ns)
{
	for (unsigned i = 0; i < GW_KERNEL_WAYS; i++)
		flow->way[i] = (struct gw_kernel_way){ .left_ns = now_ns };
}

/* ---- Swept -------------------------------------------------------------------------------------------------------*/

void gw_kernel_flows_resume(struct gw_kernel_flows *flows)
{
	flows->sweeping = true;
	flows->position = flows->found = flows->added = 0;
}

bool gw_kernel_flows_sweep(struct gw_kernel_flows *flows, uint64_t now_ns)
{
	uint32_t number = GW_KERNEL_SLICE;
	int status;

	if (!flows->sweeping) {
		gw_kernel_flows_resume(flows);
		flows->began_ns = now_ns;
	}
	status = gw_kernel_map_walk(flows->map, &flows->position, flows->key, flows->flow, &number);
	for (uint32_t i = 0; i < number; i++)
		sweep_entry(flows, &flows->key[i], &flows->flow[i], now_ns);
	if (status == 0)
		return true;
	flows->sweeping = flows->crowded = false;
	/* Another error than that there is no more ends it, too: the next one may fare better. */
	if (status != -ENOENT)
		return note(flows, status);
	/* It may have passed by those that were added meanwhile, or not. */
	__atomic_store_n(&flows->counts->entries, flows->found + flows->added, __ATOMIC_RELAXED);
	flows->complete_ns = flows->began_ns;
	COUNT(flows->counts->sweeps);
	return true;
}

static void sweep_entry(struct gw_kernel_flows *flows, const struct gw_kernel_key *key, struct gw_kernel_flow *flow,
                        uint64_t now_ns)
{
	const unsigned number = GW_KEY_SLOT(key->word[GW_KEY_WORDS - 1]);

	flows->found++;
	if (is_valid(flows, key, flow)) {
		gw_kernel_link_use(&flows->links, flow->link, now_ns);
		return;
	}
	/* One whose endpoint is gone has no packets on their way; one of an earlier life of its endpoint may have. */
	if (flow->life && number < flows->slots->max && flows->slots->by_slot[number]) {
		kill_entry(flows, key, flow, now_ns);
	} else if (flow->life || detour_over(flow, now_ns)) {
		if (note(flows, gw_kernel_map_remove(flows->map, key))) {
			COUNT(flows->counts->swept);
			flows->found--;
		}
	}
}

static bool detour_over(const struct gw_kernel_flow *flow, uint64_t now_ns)
{
	return (int64_t)(now_ns - flow->way[GW_KERNEL_WAY_IN].left_ns) > (int64_t)GW_KERNEL_DETOUR_NS;
}
