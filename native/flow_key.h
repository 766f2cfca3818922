/* SPDX-License-Identifier: MIT-0 */
/*
 * flow_key.h - what a flow is known by, and its way back to the load balancer.
 */
#ifndef GW_FLOW_KEY_H
#define GW_FLOW_KEY_H

#include <stdint.h>

#include "geneve.h"
#include "ip.h"
#include "origin.h"

/*
 * A key: words 0-1 and 2-3 the two addresses (IPv4 in the first four bytes, the rest 0), word 4 as GW_KEY_WORD packs it,
 * with enum gw_key_kind for a kind.  hash is set by gw_flow_hash().
 */
#define GW_KEY_WORDS 5

struct gw_flow_key {
	uint64_t word[GW_KEY_WORDS];
	uint64_t hash;
};

#define GW_KEY_WORD(ports, protocol, family, kind, slot)                                                              \
	((uint64_t)(ports) | (uint64_t)(protocol) << 32 | (uint64_t)(family) << 40 | (uint64_t)(kind) << 44 |         \
	 (uint64_t)(slot) << 48)
#define GW_KEY_PROTOCOL(word) ((unsigned)((word) >> 32 & 255))
#define GW_KEY_FAMILY(word) ((unsigned)((word) >> 40 & 15))
#define GW_KEY_KIND(word) ((unsigned)((word) >> 44 & 15))
#define GW_KEY_SLOT(word) ((unsigned)((word) >> 48))
#define GW_SLOTS_MAX 65536u

/* What a key counts as, by its last word; GW_FLOW_CLASSES: not at all, for fragments are no flows. */
static inline enum gw_flow_class gw_key_class(uint64_t word)
{
	const enum gw_flow_class tcp = GW_KEY_FAMILY(word) == 6 ? GW_V6_TCP : GW_V4_TCP;

	if (GW_KEY_KIND(word) == GW_KEY_FRAGMENT)
		return GW_FLOW_CLASSES;
	switch (GW_KEY_PROTOCOL(word)) {
	case GW_PROTO_TCP:
		return tcp;
	case GW_PROTO_UDP:
		return tcp + GW_V4_UDP;
	default: /* ICMP errors among them, whatever they are about */
		return tcp + GW_V4_OTHER;
	}
}

#define GW_HEADER_WORDS ((GW_GENEVE_MAX + 7) / 8)

/* The way back.  header holds header_len bytes as they came, padded with zeros to a whole word. */
struct gw_flow_path {
	struct gw_origin origin;
	uint16_t header_len;
	uint64_t header[GW_HEADER_WORDS];
};

#endif
