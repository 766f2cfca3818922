/* SPDX-License-Identifier: MIT-0 */
/*
 * layouts.c - where the fields are of the structures that tests/offload.py has as well, for it to compare.
 *
 * Theory of operation: a constant table; anyone may read it.
 */
#include "layouts.h"

#include "../../native/merge.h"
#include "../../native/split.h"

#define WHOLE(type)                                                                                                   \
	{                                                                                                             \
#type, 0, sizeof(struct type)                                                                         \
	}
#define FIELD(type, field)                                                                                            \
	{                                                                                                             \
#type "." #field, offsetof(struct type, field), sizeof(((struct type *)NULL)->field)                  \
	}

static const struct extent extents[] = {
	WHOLE(gw_vnet_header),
	FIELD(gw_vnet_header, flags),
	FIELD(gw_vnet_header, gso_type),
	FIELD(gw_vnet_header, hdr_len),
	FIELD(gw_vnet_header, gso_size),
	FIELD(gw_vnet_header, csum_start),
	FIELD(gw_vnet_header, csum_offset),
	WHOLE(gw_packet),
	FIELD(gw_packet, data),
	FIELD(gw_packet, len),
	FIELD(gw_packet, fragment_id),
	FIELD(gw_packet, l4_offset),
	FIELD(gw_packet, payload_offset),
	FIELD(gw_packet, family),
	FIELD(gw_packet, protocol),
	FIELD(gw_packet, fragment),
	FIELD(gw_packet, later_fragment),
	FIELD(gw_packet, mergeable),
	WHOLE(gw_segment),
	FIELD(gw_segment, packet),
	FIELD(gw_segment, mergeable),
	FIELD(gw_segment, verified),
	WHOLE(gw_merge),
	FIELD(gw_merge, segment),
	FIELD(gw_merge, count),
	FIELD(gw_merge, length),
	FIELD(gw_merge, ended),
	WHOLE(gw_split),
	FIELD(gw_split, packet),
	FIELD(gw_split, len),
	FIELD(gw_split, count),
	FIELD(gw_split, header_len),
	FIELD(gw_split, l4_offset),
	FIELD(gw_split, gso_size),
	FIELD(gw_split, family),
	FIELD(gw_split, protocol),
	FIELD(gw_split, ip_sum),
	FIELD(gw_split, l4_sum),
};

const struct extent *layout(unsigned i)
{
	return i < sizeof(extents) / sizeof(extents[0]) ? &extents[i] : NULL;
}
