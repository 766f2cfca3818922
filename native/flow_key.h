/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_key.h - what a flow is known by, and its way back to the load balancer.
 */
#ifndef GW_FLOW_KEY_H
#define GW_FLOW_KEY_H

#include <stdint.h>

#include "geneve.h"

/*
 * A key: words 0-1 and 2-3 the two addresses (IPv4 in the first four bytes, the rest 0), word 4 as GW_KEY_WORD packs it.
 * hash is set by gw_flow_hash().
 */
#define GW_KEY_WORDS 5

struct gw_flow_key {
	uint64_t word[GW_KEY_WORDS];
	uint64_t hash;
};

#define GW_KEY_FRAGMENT 1u   /* ports: the identification of the datagram */
#define GW_KEY_ICMP_ERROR 2u /* ports: a digest of the flow it is about */

#define GW_KEY_WORD(ports, protocol, family, kind, slot)                                                              \
	((uint64_t)(ports) | (uint64_t)(protocol) << 32 | (uint64_t)(family) << 40 | (uint64_t)(kind) << 44 |         \
	 (uint64_t)(slot) << 48)
#define GW_KEY_FAMILY(word) ((unsigned)((word) >> 40 & 15))
#define GW_KEY_KIND(word) ((unsigned)((word) >> 44 & 15))
#define GW_KEY_SLOT(word) ((unsigned)((word) >> 48))
#define GW_SLOTS_MAX 65536u

#define GW_HEADER_WORDS ((GW_GENEVE_MAX + 7) / 8)

/* The way back.  header holds header_len bytes as they came, padded with zeros to a whole word. */
struct gw_flow_path {
	uint32_t gwlb_address; /* network byte order */
	uint32_t own_address;
	uint16_t gwlb_port; /* host byte order */
	uint16_t header_len;
	uint64_t header[GW_HEADER_WORDS];
};

#endif
