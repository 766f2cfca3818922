/* SPDX-License-Identifier: MIT-0 */
/*
 * kernel_links.c - the pairs of own and load balancer addresses; kernel_links.h tells how.
 */
#include "kernel_links.h"

#include <string.h>

#include "bell.h"

static void fill_cells(struct gw_kernel_links *links);
static uint16_t *find_cell(struct gw_kernel_links *links, uint32_t gwlb_address, uint32_t own_address);
static int find_place(struct gw_kernel_links *links);

void gw_kernel_links_resume(struct gw_kernel_links *links, uint64_t now_ns)
{
	if (*links->count > GW_KERNEL_LINKS)
		*links->count = GW_KERNEL_LINKS;
	for (unsigned i = 0; i < *links->count; i++)
		links->used_ns[i] = now_ns;
	fill_cells(links);
}

static void fill_cells(struct gw_kernel_links *links)
{
	links->free = 0;
	memset(links->cell, 0, sizeof(links->cell));
	for (unsigned i = 0; i < *links->count; i++) {
		const struct gw_kernel_link *link = &links->link[i];

		if (link->own_address)
			*find_cell(links, link->gwlb_address, link->own_address) = (uint16_t)(i + 1);
		else
			links->free++;
	}
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

int gw_kernel_link(struct gw_kernel_links *links, const struct gw_origin *origin, uint64_t now_ns)
{
	uint16_t *cell = find_cell(links, origin->gwlb_address, origin->own_address);
	int index = *cell - 1;

	if (index < 0) {
		index = find_place(links);
		if (index < 0)
			return -1;
		*cell = (uint16_t)(index + 1);
		links->link[index].gwlb_address = origin->gwlb_address;
		__atomic_store_n(&links->link[index].own_address, origin->own_address, __ATOMIC_RELEASE);
		if ((uint64_t)index == *links->count)
			__atomic_store_n(links->count, *links->count + 1, __ATOMIC_RELEASE);
		if (links->bell >= 0)
			gw_bell_ring(links->bell);
	}
	links->used_ns[index] = now_ns;
	return index;
}

/* A place that is free, or -1. */
static int find_place(struct gw_kernel_links *links)
{
	if (links->free == 0)
		return *links->count < GW_KERNEL_LINKS ? (int)*links->count : -1;
	for (unsigned i = 0; i < *links->count; i++)
		if (!links->link[i].own_address) {
			links->free--;
			return (int)i;
		}
	return -1;
}

unsigned gw_kernel_links_free(struct gw_kernel_links *links, uint64_t since_ns)
{
	const unsigned before = links->free;

	for (unsigned i = 0; i < *links->count; i++) {
		struct gw_kernel_link *link = &links->link[i];

		if (!link->own_address || links->used_ns[i] >= since_ns)
			continue;
		__atomic_store_n(&link->valid, 0, __ATOMIC_RELEASE);
		link->gwlb_address = link->own_address = 0;
	}
	fill_cells(links);
	return links->free - before;
}
