/* SPDX-License-Identifier: MIT-0 */
/*
 * split.h - super-packets taken apart: what is read from TUN, as packets.
 */
#ifndef GW_SPLIT_H
#define GW_SPLIT_H

#include <stdint.h>

#include "packet.h"
#include "vnet.h"

/* The largest header of a segment: IPv6, 412 bytes of extension headers, and TCP with all options. */
#define GW_SPLIT_HEADER_MAX 512u

struct gw_split {
	const uint8_t *packet;
	uint32_t len;
	uint32_t count;      /* segments, at least 1 */
	uint16_t header_len; /* bytes of IP and transport header of each segment; 0: the packet is sent as it is */
	uint16_t l4_offset;
	uint16_t gso_size; /* bytes of payload in each segment but the last */
	uint8_t family;
	uint8_t protocol;
	uint16_t ip_sum; /* the folded sum of what all IPv4 headers share */
	uint16_t l4_sum; /* the folded sum of what all transport and pseudo-headers share */
};

/* Prepares the packet, parsed from data, that came behind vnet.  If it is a single segment, completes a checksum that Linux
 * left open, in data.  Returns the number of segments, or -1 if vnet and packet contradict each other.  A packet of 40,000
 * bytes may have as many segments, when its sender chose segments of one byte. */
int gw_split_begin(struct gw_split *split, const struct gw_vnet_header *vnet, const struct gw_packet *packet,
                   uint8_t *data);

/* Bytes of payload in segment i. */
static inline uint32_t gw_split_payload(const struct gw_split *split, unsigned i)
{
	uint32_t left = split->len - split->header_len - i * split->gso_size;

	return split->count > 1 && left > split->gso_size ? split->gso_size : left;
}

/* Writes segment i, header and payload, to out.  Segments may be asked for in any order, and more than once. */
void gw_split_write(const struct gw_split *split, unsigned i, uint8_t *out);

/* Like gw_split_segment(), but writes only the header, split->header_len bytes, and points payload to what follows it in the
 * packet. */
void gw_split_segment(const struct gw_split *split, unsigned i, uint8_t *header, const uint8_t **payload,
                      uint32_t *payload_len);

#endif
