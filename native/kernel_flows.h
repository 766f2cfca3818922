/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_flows.h - the entries of the map: put in, kept in step with the flow table, and taken out.
 *
 * Theory of operation
 *
 * The flow table is the authority.  K puts a flow into the map when a U thread asks for it (promote.h) and the path asked for is
 * still the flow's.  An entry is of use as long as its endpoint has the life that it bears, and the flow table has its path for
 * its key.
 *
 * A path that is replaced meanwhile: a U thread that replaces one holds replies back first and tells K then.  Each of K's
 * looks at the table is followed, in the ring, by that message if the look was too early; so K comes by again, with
 * replies held back until it has, and lets the entry die.
 *
 * An entry dies by getting life 0.  It stays in the map for a while, with the time at which its ways left the kernel, since
 * packets that left it before may still be on their way (GW_KERNEL_DETOUR_NS).  Sweeps delete what is dead.
 *
 * A sweep walks through the map, some entries at a time.  What the kernel has carried lately it marks as used in the flow table,
 * so that idle times and evictions are right.
 *
 * All of this is used under K's lock (kernel_path.c).  K alone writes entries, apart from what programs stamp.
 */
#ifndef GW_KERNEL_FLOWS_H
#define GW_KERNEL_FLOWS_H

#include <stdbool.h>
#include <stdint.h>

#include "bpf/layout.h"
#include "flow.h"
#include "gwlbtun.h"
#include "kernel_links.h"
#include "kernel_slots.h"
#include "promote.h"

/* Entries that a sweep looks at in one go. */
#define GW_KERNEL_SLICE 1024u

struct gw_kernel_flows {
	int map;
	struct gw_flows *flows;
	struct gw_kernel_slots *slots;
	struct gw_kernel_links links;
	struct gw_kernel_counts *counts;
	/* The sweep: where it is, and when it and the last complete one began. */
	bool sweeping;
	uint32_t position, found, added;
	uint64_t began_ns, complete_ns;
	bool crowded; /* the map had no room for a flow since the last one was complete */
	struct gw_kernel_key key[GW_KERNEL_SLICE];
	struct gw_kernel_flow flow[GW_KERNEL_SLICE];
};

/* Takes a request of a U thread.  True: the map has an entry for it that it did not have. */
bool gw_kernel_flows_take(struct gw_kernel_flows *flows, unsigned receiver, const struct gw_promote_request *request,
                          uint64_t now_ns);

/* The map may have flows already, of another K: a sweep is under way, from the beginning. */
void gw_kernel_flows_resume(struct gw_kernel_flows *flows);

/* Looks at some entries, of a new sweep if none is under way.  False: the kernel does not show them. */
bool gw_kernel_flows_sweep(struct gw_kernel_flows *flows, uint64_t now_ns);

#endif
