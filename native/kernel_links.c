/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_links.c - the pairs of own and load balancer addresses; kernel_links.h tells how.
 */
#include "kernel_links.h"

#include "bell.h"

static uint16_t *find_cell(struct gw_kernel_links *links, uint32_t gwlb_address, uint32_t own_address);
static int add(struct gw_kernel_links *links, const struct gw_origin *origin);

void gw_kernel_links_resume(struct gw_kernel_links *links)
{
	if (*links->count > GW_KERNEL_LINKS)
		*links->count = GW_KERNEL_LINKS;
	for (unsigned i = 0; i < *links->count; i++)
		*find_cell(links, links->link[i].gwlb_address, links->link[i].own_address) = (uint16_t)(i + 1);
}

/* The cell of a pair, or the one where it is to be. */
static uint16_t *find_cell(struct gw_kernel_links *links, uint32_t gwlb_address, uint32_t own_address)
{
	const uint64_t pair = (uint64_t)gwlb_address << 32 | own_address;
	uint32_t at = (uint32_t)(pair * links->multiplier >> 32) % GW_KERNEL_LINK_CELLS;

	for (; links->cell[at]; at = (at + 1) % GW_KERNEL_LINK_CELLS) {
		const struct gw_kernel_link *link = &links->link[links->cell[at] - 1];

		if (link->gwlb_address == gwlb_address && link->own_address == own_address)
			break;
	}
	return &links->cell[at];
}

int gw_kernel_link(struct gw_kernel_links *links, const struct gw_origin *origin)
{
	uint16_t *cell = find_cell(links, origin->gwlb_address, origin->own_address);

	if (*cell)
		return *cell - 1;
	if (*links->count == GW_KERNEL_LINKS)
		return -1;
	*cell = (uint16_t)(*links->count + 1);
	return add(links, origin);
}

static int add(struct gw_kernel_links *links, const struct gw_origin *origin)
{
	const uint64_t index = *links->count;

	links->link[index].gwlb_address = origin->gwlb_address;
	links->link[index].own_address = origin->own_address;
	__atomic_store_n(links->count, index + 1, __ATOMIC_RELEASE);
	if (links->bell >= 0)
		gw_bell_ring(links->bell);
	return (int)index;
}
