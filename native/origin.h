/* SPDX-License-Identifier: MIT-0 */
/*
 * origin.h - where a datagram came from and was addressed to, and so what its answers need: they leave from own_address and
 * gwlb_port, for port 6081 of gwlb_address.
 *
 * All Geneve packets in one datagram share it.
 */
#ifndef GW_ORIGIN_H
#define GW_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

struct gw_origin {
	uint32_t gwlb_address; /* network byte order */
	uint32_t own_address;
	uint16_t gwlb_port; /* host byte order */
};

static inline bool gw_same_origin(const struct gw_origin *a, const struct gw_origin *b)
{
	return a == b || (a->gwlb_port == b->gwlb_port && a->gwlb_address == b->gwlb_address &&
	                  a->own_address == b->own_address);
}

#endif
