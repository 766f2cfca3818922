/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_links.h - the pairs of own and load balancer addresses, each of which has a way out.
 *
 * Theory of operation: flows name their pair by its index in the array `links` (bpf/layout.h).  K puts a pair that is new at
 * the end or in a place that is free, without a way out, and rings; Python finds that, and keeps the way out from then on.
 * There are few load balancer addresses, but a sender may invent some.  So when there is little room left, Python has K give up
 * the pairs that no flow in the map has had for a while: until then their places are Python's to write to, and K's after it.
 * A place is free when it has no address of our own.  A table of indices, open-addressed and less than half full, finds pairs.
 */
#ifndef GW_KERNEL_LINKS_H
#define GW_KERNEL_LINKS_H

#include <stdint.h>

#include "bpf/layout.h"
#include "origin.h"

#define GW_KERNEL_LINK_CELLS (4 * GW_KERNEL_LINKS)

struct gw_kernel_links {
	struct gw_kernel_link *link;
	uint64_t multiplier; /* odd, secret */
	int bell;
	uint64_t *count;                   /* of places that have been used so far, for all to see */
	unsigned free;                     /* of those */
	uint64_t used_ns[GW_KERNEL_LINKS]; /* when a flow that is in the map, or was about to be, had the pair last */
	uint16_t cell[GW_KERNEL_LINK_CELLS]; /* index + 1, or 0 */
};

/* Finds the pairs that are there already, in the first `count` places. */
void gw_kernel_links_resume(struct gw_kernel_links *links, uint64_t now_ns);

/* The index of the pair of addresses of an origin, or -1 when there are too many pairs. */
int gw_kernel_link(struct gw_kernel_links *links, const struct gw_origin *origin, uint64_t now_ns);

/* A flow in the map has that pair. */
static inline void gw_kernel_link_use(struct gw_kernel_links *links, unsigned index, uint64_t now_ns)
{
	if (index < GW_KERNEL_LINKS)
		links->used_ns[index] = now_ns;
}

/* Gives up the pairs that were not used since then.  Returns their number. */
unsigned gw_kernel_links_free(struct gw_kernel_links *links, uint64_t since_ns);

#endif
