/* SPDX-License-Identifier: MIT-0 */
/*
 * split.c - from a super-packet to the packets that it stands for.
 *
 * Theory of operation: pure functions over the caller's memory; no state, no allocation, no system calls.  The thread on duty
 * for a T thread calls them, for a packet that it has read from TUN and parsed.
 *
 * Nothing here may change what is seen on the wire, so splitting does what the kernel's segmentation would do
 * (tcp_gso_segment(), __udp_gso_segment(), inet_gso_segment()), but for some IPv4 IDs (vnet.h).  What all segments have in
 * common is summed once; each adds its own fields and its payload, which is summed as it is copied.
 */
#include "split.h"

#include <arpa/inet.h>
#include <string.h>

#include "checksum.h"

static bool find_headers(struct gw_split *s, const struct gw_vnet_header *vnet, const struct gw_packet *packet);
static uint8_t segmented_protocol(const struct gw_vnet_header *vnet, unsigned family);
static bool headers_agree(const struct gw_packet *packet, const struct gw_vnet_header *vnet, uint8_t protocol);
static bool follow_csum_start(struct gw_packet *packet, const struct gw_vnet_header *vnet, uint8_t protocol);
static void sum_common(struct gw_split *s, bool needs_csum);
static uint64_t without(uint64_t sum, const uint8_t *p);
static const uint8_t *payload_at(const struct gw_split *split, unsigned i);
static void write_header(const struct gw_split *split, unsigned i, uint8_t *header, uint64_t payload_sum);
static uint64_t split_tcp(const struct gw_split *s, unsigned i, uint8_t *tcp);
static uint64_t split_udp(uint8_t *udp, uint32_t l4_len);

int gw_split_begin(struct gw_split *split, const struct gw_vnet_header *vnet, const struct gw_packet *packet,
                   uint8_t *data)
{
	const bool needs_csum = vnet->flags & GW_VNET_NEEDS_CSUM;

	*split = (struct gw_split){ .packet = data, .len = packet->len, .count = 1 };
	if (vnet->gso_type == GW_VNET_GSO_NONE)
		return !needs_csum || gw_checksum_complete(data, packet->len, vnet->csum_start, vnet->csum_offset)
		               ? 1
		               : -1;
	if (!find_headers(split, vnet, packet) || vnet->gso_size == 0 ||
	    (needs_csum && vnet->csum_offset != gw_checksum_offset(split->protocol)))
		return -1;
	split->gso_size = vnet->gso_size;
	split->count = (split->len - split->header_len + split->gso_size - 1u) / split->gso_size;
	sum_common(split, needs_csum);
	return (int)split->count;
}

static bool find_headers(struct gw_split *s, const struct gw_vnet_header *vnet, const struct gw_packet *packet)
{
	struct gw_packet behind;

	s->protocol = segmented_protocol(vnet, packet->family);
	if (s->protocol == 0)
		return false;
	if (!headers_agree(packet, vnet, s->protocol)) {
		behind = *packet;
		packet = &behind;
		if (!follow_csum_start(&behind, vnet, s->protocol))
			return false;
	}
	s->family = packet->family;
	s->l4_offset = packet->l4_offset;
	s->header_len = packet->payload_offset;
	return s->header_len > 0 && s->header_len < s->len && s->header_len <= GW_SPLIT_HEADER_MAX;
}

/* The transport protocol that vnet says is segmented, or 0. */
static uint8_t segmented_protocol(const struct gw_vnet_header *vnet, unsigned family)
{
	switch (vnet->gso_type & ~GW_VNET_GSO_ECN) {
	case GW_VNET_GSO_TCPV4:
		return family == 4 ? GW_PROTO_TCP : 0;
	case GW_VNET_GSO_TCPV6:
		return family == 6 ? GW_PROTO_TCP : 0;
	case GW_VNET_GSO_UDP_L4:
		return GW_PROTO_UDP;
	default:
		return 0;
	}
}

/* Whether the headers end where vnet says.  Without a checksum to complete, vnet does not say; then extension headers are
 * refused, since one of them might replace an address of the pseudo-header. */
static bool headers_agree(const struct gw_packet *packet, const struct gw_vnet_header *vnet, uint8_t protocol)
{
	if (packet->protocol != protocol)
		return false;
	if (vnet->flags & GW_VNET_NEEDS_CSUM)
		return packet->l4_offset == vnet->csum_start;
	return packet->family == 4 || packet->l4_offset == GW_IPV6_HEADER;
}

/* packet.c follows a bounded number of extension headers.  Beyond that, csum_start alone tells where they end. */
static bool follow_csum_start(struct gw_packet *packet, const struct gw_vnet_header *vnet, uint8_t protocol)
{
	if (!(vnet->flags & GW_VNET_NEEDS_CSUM) || packet->family != 6 || packet->data[6] == protocol ||
	    vnet->csum_start <= GW_IPV6_HEADER || vnet->csum_start > GW_SPLIT_HEADER_MAX ||
	    vnet->csum_start > packet->len)
		return false;
	packet->protocol = protocol;
	packet->l4_offset = vnet->csum_start;
	gw_packet_find_payload(packet);
	return true;
}

/* An incomplete checksum field holds the sum of the pseudo-header.  Its addresses may differ from the IP header's (RFC 8200,
 * 8.1: a routing header), so only the length is replaced. */
static void sum_common(struct gw_split *s, bool needs_csum)
{
	const uint8_t *l4 = s->packet + s->l4_offset, *checksum = l4 + gw_checksum_offset(s->protocol);
	uint16_t l4_len = htons((uint16_t)(s->len - s->l4_offset));
	uint64_t sum;

	if (needs_csum)
		sum = (uint64_t)gw_native16(checksum) + (uint16_t)~l4_len;
	else
		sum = gw_pseudo_sum(s->packet, s->protocol, 0);

	sum = without(gw_sum(l4, (size_t)(s->header_len - s->l4_offset), sum), checksum);
	if (s->protocol == GW_PROTO_TCP) {
		sum = without(without(sum, l4 + 4), l4 + 6);
		sum = without(sum, l4 + 12);
	} else {
		sum = without(sum, l4 + 4);
	}
	s->l4_sum = gw_fold(sum);
	if (s->family == 4) {
		sum = gw_sum(s->packet, s->l4_offset, 0);
		s->ip_sum = gw_fold(without(without(without(sum, s->packet + 2), s->packet + 4), s->packet + 10));
	}
}

/* Subtracts the 16 bits at p from the sum. */
static uint64_t without(uint64_t sum, const uint8_t *p)
{
	return gw_sum_add(sum, (uint16_t)~gw_native16(p));
}

void gw_split_write(const struct gw_split *split, unsigned i, uint8_t *out)
{
	uint32_t len = gw_split_payload(split, i);

	if (split->header_len == 0)
		memcpy(out, split->packet, len);
	else
		write_header(split, i, out, gw_sum_copy(out + split->header_len, payload_at(split, i), len, 0));
}

void gw_split_segment(const struct gw_split *split, unsigned i, uint8_t *header, const uint8_t **payload,
                      uint32_t *payload_len)
{
	*payload = payload_at(split, i);
	*payload_len = gw_split_payload(split, i);
	if (split->header_len > 0)
		write_header(split, i, header, gw_sum(*payload, *payload_len, 0));
}

static const uint8_t *payload_at(const struct gw_split *split, unsigned i)
{
	return split->packet + split->header_len + i * split->gso_size;
}

/* The header of segment i, given the sum of its payload. */
static void write_header(const struct gw_split *split, unsigned i, uint8_t *header, uint64_t payload_sum)
{
	uint32_t l4_len = split->header_len - split->l4_offset + gw_split_payload(split, i);
	uint8_t *l4 = header + split->l4_offset;
	uint16_t checksum;
	uint64_t sum;

	memcpy(header, split->packet, split->header_len);
	if (split->family == 4) {
		gw_store16(header + 2, split->l4_offset + l4_len);
		gw_store16(header + 4, gw_load16(header + 4) + i * gw_vnet_id_step(header));
		sum = (uint64_t)split->ip_sum + gw_native16(header + 2) + gw_native16(header + 4);
		gw_store_native16(header + 10, gw_checksum_of(sum));
	} else {
		gw_store16(header + 4, split->l4_offset - GW_IPV6_HEADER + l4_len);
	}
	sum = (uint64_t)split->l4_sum + htons((uint16_t)l4_len);
	sum += split->protocol == GW_PROTO_TCP ? split_tcp(split, i, l4) : split_udp(l4, l4_len);
	checksum = gw_checksum_of(gw_sum_add(sum, payload_sum));
	if (checksum == 0 && split->protocol == GW_PROTO_UDP)
		checksum = 0xffff;
	gw_store_native16(l4 + gw_checksum_offset(split->protocol), checksum);
}

static uint64_t split_tcp(const struct gw_split *s, unsigned i, uint8_t *tcp)
{
	unsigned flags = tcp[13];

	if (i > 0)
		flags &= ~GW_TCP_CWR;
	if (i < s->count - 1)
		flags &= ~(GW_TCP_FIN | GW_TCP_PSH);
	tcp[13] = (uint8_t)flags;
	gw_store32(tcp + 4, gw_load32(tcp + 4) + i * s->gso_size);
	return (uint64_t)gw_native16(tcp + 4) + gw_native16(tcp + 6) + gw_native16(tcp + 12);
}

static uint64_t split_udp(uint8_t *udp, uint32_t l4_len)
{
	gw_store16(udp + 4, l4_len);
	return gw_native16(udp + 4);
}
