/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_links.h - the pairs of own and load balancer addresses, each of which has a way out.
 *
 * Theory of operation: flows name their pair by its index in the array `links` (bpf/layout.h).  K puts a pair that is new at
 * the end, without a way out, and rings; Python finds that, and keeps it.  Pairs stay: there are few load balancer addresses.
 * A table of indices, open-addressed and less than half full, finds them again.
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
	uint64_t *count;                     /* of pairs, for all to see */
	uint16_t cell[GW_KERNEL_LINK_CELLS]; /* index + 1, or 0 */
};

/* Finds the pairs that are there already, `count` of them. */
void gw_kernel_links_resume(struct gw_kernel_links *links);

/* The index of the pair of addresses of an origin, or -1 when there are too many pairs. */
int gw_kernel_link(struct gw_kernel_links *links, const struct gw_origin *origin);

#endif
