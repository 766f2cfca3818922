/* SPDX-License-Identifier: MIT-0 */
/*
 * packet.h - inner packets: their bounds, their headers, and the keys by which they are matched to a flow.
 */
#ifndef GW_PACKET_H
#define GW_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flow.h"

/* What gwlbtun must know of a packet's headers.  It parses them once, and this goes along with the packet. */
struct gw_packet {
	const uint8_t *data;
	uint32_t len;            /* as IP says, which may be less than what came */
	uint32_t fragment_id;    /* host byte order */
	uint16_t l4_offset;      /* of the transport header, bytes */
	uint16_t payload_offset; /* behind the TCP or UDP header, perhaps beyond len; 0 for other protocols */
	uint8_t family;          /* 4 or 6 */
	uint8_t protocol;        /* after IPv6 extension headers */
	bool fragment;           /* part of a datagram */
	bool later_fragment;     /* a later part: no ports */
	bool mergeable;          /* by its headers it may be part of a super-packet (merge.h) */
};

/* A packet has at most three keys.  own: by which it is learned and looked up first.  fragment: of its datagram (only
 * if packet.fragment; for a later fragment it is also own).  quoted: of the flow that an ICMP error is about. */
struct gw_packet_keys {
	struct gw_flow_key own;
	struct gw_flow_key fragment;
	struct gw_flow_key quoted;
	bool has_fragment;
	bool has_quoted;
	bool reversed; /* own is the key of a flow, and the packet goes from its second address to its first */
};

/* Checks the bounds of the IP packet of the given family in data.  Returns 0 and fills *packet, or returns a drop_ counter. */
unsigned gw_packet_parse(const uint8_t *data, size_t available, unsigned family, struct gw_packet *packet);

/* Whether the data holds a whole packet of the same flow and direction as the parsed one, where neither is a fragment or of
 * a kind with further keys.  If so, fills *packet, and the keys of the parsed one hold for it.  False says nothing. */
bool gw_packet_follows(const struct gw_packet *other, const uint8_t *data, size_t available, struct gw_packet *packet);

/* Computes payload_offset and mergeable anew, from protocol and from l4_offset, which must be within the packet. */
void gw_packet_find_payload(struct gw_packet *packet);

/* The keys of a parsed packet, for the endpoint in slot. */
void gw_packet_keys(const struct gw_packet *packet, unsigned slot, struct gw_packet_keys *keys);

#endif
