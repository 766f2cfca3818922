/* SPDX-License-Identifier: MIT-0 */
/*
 * offload.h - super-packets: merge inner packets into one, split one again, and checksums.
 *
 * A super-packet is what a TUN device with IFF_VNET_HDR carries in one write or read: one set of headers, many
 * segments' payload, and a virtio_net_hdr before it that says how to cut it.
 *
 * Multi-byte fields of packets are in network byte order, everything else in the host's.  Packets may lie at any
 * alignment.
 */
#ifndef GW_OFFLOAD_H
#define GW_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- What TUN puts before a packet ---------------------------------------------------------------------------------
 *
 * struct virtio_net_hdr (virtio 1.2, 5.1.6; linux/virtio_net.h), in host byte order, as it is without TUNSETVNETLE.
 */

struct gw_vnet_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len; /* a hint: what TUN hands out may be more or less than the headers */
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset; /* from csum_start */
};

_Static_assert(sizeof(struct gw_vnet_header) == 10, "TUN reads and writes 10 bytes");

#define GW_VNET_NEEDS_CSUM 1
#define GW_VNET_GSO_NONE 0
#define GW_VNET_GSO_TCPV4 1
#define GW_VNET_GSO_TCPV6 4
#define GW_VNET_GSO_UDP_L4 5
#define GW_VNET_GSO_ECN 0x80

/* ---- Checksums (RFC 1071) -----------------------------------------------------------------------------------------*/

/* Adds len bytes to a ones-complement sum.  Of the pieces of one sum, all but the last must be even in length. */
uint64_t gw_sum(const void *data, size_t len, uint64_t sum);

/* gw_sum(), and copies what it sums to out, which must not overlap: little dearer than either. */
uint64_t gw_sum_copy(void *out, const void *data, size_t len, uint64_t sum);

/* The sum in 16 bits, not complemented, its bytes in the order in which they stand in a packet. */
uint16_t gw_fold(uint64_t sum);

/* The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) of an IP packet, of which the fixed header is read. */
uint64_t gw_pseudo_sum(const uint8_t *packet, uint8_t protocol, uint32_t l4_len);

/* ---- Merge: many packets into one super-packet --------------------------------------------------------------------
 *
 *     gw_segment_inspect(&segment[i], ...) for each packet; then, for those of one flow, in order, as often as it takes:
 *     gw_merge_start(&m, the first of those left);
 *     for each following one, as long as it joins: gw_merge_join(&m, it);
 *     gw_merge_write(&m, ...), which needs room for m.length bytes, and says in m.count how many it has taken.
 *
 * Segments, and the packets they point to, must stay until gw_merge_write() has returned.
 */

/* A UDP_SEGMENT send takes no more before Linux 6.9. */
#define GW_MERGE_MAX 64u
#define GW_SUPER_PACKET_MAX 65535u

struct gw_segment {
	const uint8_t *data;
	uint32_t len;
	uint16_t l4_offset;
	uint16_t payload_offset;
	uint8_t ip_version;
	uint8_t protocol;
	bool mergeable; /* the caller may clear it, as for a protocol that the device takes no super-packets of */
	bool verified;  /* its checksums are known to be right */
};

/* Judges by its headers alone whether the IP packet of len bytes may take part in merging.  Any bytes are safe. */
void gw_segment_inspect(struct gw_segment *segment, const uint8_t *packet, uint32_t len);

struct gw_merge {
	struct gw_segment *segment[GW_MERGE_MAX];
	unsigned count;
	uint32_t length;  /* of the super-packet, bytes */
	bool ended;       /* nothing can follow */
};

void gw_merge_start(struct gw_merge *merge, struct gw_segment *segment);

/* Adds the segment to the run, if splitting would restore it exactly, provided that its checksums are right. */
bool gw_merge_join(struct gw_merge *merge, struct gw_segment *segment);

/*
 * Writes the super-packet and what TUN must be told of it.  Checksums are verified as the packets are copied, so that one
 * without company costs nothing.  The first that is wrong ends the run before it (count and length then are less), and
 * clears its segment's mergeable.  A run of one is written as it came, behind a header of zeros: wrong stays wrong.
 */
void gw_merge_write(struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out);

/* ---- Split: what is read from TUN, as packets ---------------------------------------------------------------------*/

/* The largest header of a segment: IPv6, 412 bytes of extension headers, TCP with all options. */
#define GW_SPLIT_HEADER_MAX 512u

struct gw_split {
	const uint8_t *packet;
	uint32_t len;
	uint32_t count;       /* segments, at least 1 */
	uint16_t header_len;  /* bytes of IP and transport header of each segment; 0: the packet is sent as it is */
	uint16_t l4_offset;
	uint16_t gso_size;    /* bytes of payload in each segment but the last */
	uint8_t ip_version;
	uint8_t protocol;
	uint16_t ip_sum;      /* of what all segments' IPv4 headers have in common, folded */
	uint16_t l4_sum;      /* of what all segments' transport and pseudo-headers have in common, folded */
};

/*
 * Prepares the packet of len bytes that came behind vnet; a checksum that is left to us is completed in place if the
 * packet is but one segment.  Returns the number of segments (one of 40,000 bytes may have as many, if a sender chose
 * segments of one byte), or -1 if vnet and packet do not make sense together.
 */
int gw_split_begin(struct gw_split *split, const struct gw_vnet_header *vnet, uint8_t *packet, size_t len);

/* Bytes of payload in segment i. */
static inline uint32_t gw_split_payload(const struct gw_split *split, unsigned i)
{
	uint32_t left = split->len - split->header_len - i * split->gso_size;

	return split->count > 1 && left > split->gso_size ? split->gso_size : left;
}

/* Writes segment i, header and payload, to out.  Segments can be asked for in any order and more than once. */
void gw_split_write(const struct gw_split *split, unsigned i, uint8_t *out);

/* The same, but only its header, of split->header_len bytes; sets payload to what follows it, within the packet. */
void gw_split_segment(const struct gw_split *split, unsigned i, uint8_t *header, const uint8_t **payload,
                      uint32_t *payload_len);

#endif
