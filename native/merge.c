/* SPDX-License-Identifier: MIT-0 */
/*
 * merge.c - from the packets of a flow to super-packets.
 *
 * Theory of operation: pure functions over the caller's memory; no state, no allocation, no system calls.  A U thread calls
 * them, for packets that it has parsed.
 *
 * Nothing here may change what is seen on the wire.  Merging is defined by what undoes it, the kernel's segmentation of a
 * super-packet (tcp_gso_segment(), __udp_gso_segment(), inet_gso_segment()): only what that would restore is taken.
 *
 *   - Segmentation repeats the first header, so that all that it does not vary must be equal: addresses, ports, TTL or
 *     hop limit, TOS or traffic class, flow label, DF, IP and TCP options, ACK number, window.
 *   - It cuts the payload in pieces of one size, of which the last may be shorter; TCP's sequence number grows with it.
 *   - It sets PSH on the last segment only.  Other flags than ACK mean that something happens: never merged (packet.c).
 *   - It adds one to the IPv4 ID from segment to segment (vnet.h tells the exception).
 *   - It computes the checksums anew, and would turn wrong ones into right ones: only packets with the very checksum
 *     that it would compute are merged.  (In ones-complement 0xffff and 0 are equal; TCP and IPv4 come out as 0, UDP as
 *     0xffff.  UDP without a checksum would get one.)
 */
#include "merge.h"

#include <string.h>

#include "checksum.h"

static bool same_headers(const struct gw_packet *a, const struct gw_packet *b);
static inline uint32_t difference(const uint8_t *a, const uint8_t *b, const uint8_t *mask, size_t len);
static bool sequence_follows(const struct gw_merge *merge, const struct gw_packet *packet);
static bool id_follows(const struct gw_merge *merge, const struct gw_packet *packet);
static void copy_run(struct gw_merge *merge, uint8_t *out);
static bool verify_and_copy(struct gw_segment *segment, uint8_t *out);
static bool copy_payload(const struct gw_packet *packet, uint8_t *out);
static void finish_headers(const struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out);
static uint32_t payload_of(const struct gw_packet *packet);
static bool has_psh(const struct gw_packet *packet);

void gw_merge_start(struct gw_merge *merge, struct gw_segment *segment)
{
	merge->segment[0] = segment;
	merge->count = 1;
	merge->length = segment->packet->len;
	merge->ended = !segment->mergeable || has_psh(segment->packet);
}

bool gw_merge_join(struct gw_merge *merge, struct gw_segment *segment)
{
	const struct gw_packet *first = merge->segment[0]->packet, *packet = segment->packet;

	if (merge->ended || !segment->mergeable || merge->count == GW_MERGE_MAX || !same_headers(first, packet) ||
	    payload_of(packet) > payload_of(first) || merge->length + payload_of(packet) > GW_SUPER_PACKET_MAX ||
	    !sequence_follows(merge, packet) || !id_follows(merge, packet))
		return false;
	merge->segment[merge->count++] = segment;
	merge->length += payload_of(packet);
	merge->ended = payload_of(packet) < payload_of(first) || has_psh(packet);
	return true;
}

/* The bits of the fixed headers that segmentation repeats: all but lengths, IPv4 ID, checksums, sequence number and PSH. */
static const uint8_t ipv4_repeated[GW_IPV4_HEADER] = { 0xff, 0xff, 0,    0,    0,    0,    0xff, 0xff, 0xff, 0xff,
	                                               0,    0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t ipv6_repeated[8] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff };
static const uint8_t tcp_repeated[GW_TCP_HEADER] = { 0xff, 0xff, 0xff, 0xff, 0,    0,    0,
	                                             0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff & ~GW_TCP_PSH,
	                                             0xff, 0xff, 0,    0,    0xff, 0xff };
static const uint8_t udp_repeated[4] = { 0xff, 0xff, 0xff, 0xff };

/* Equal in every field that segmentation repeats. */
static bool same_headers(const struct gw_packet *a, const struct gw_packet *b)
{
	const uint8_t *l4_a = a->data + a->l4_offset, *l4_b = b->data + b->l4_offset;
	uint32_t differs;

	if (a->family != b->family || a->l4_offset != b->l4_offset || a->payload_offset != b->payload_offset)
		return false;
	if (a->family == 4) {
		differs = difference(a->data, b->data, ipv4_repeated, GW_IPV4_HEADER);
		differs |= difference(a->data + GW_IPV4_HEADER, b->data + GW_IPV4_HEADER, NULL,
		                      a->l4_offset - GW_IPV4_HEADER);
	} else {
		differs = difference(a->data, b->data, ipv6_repeated, sizeof(ipv6_repeated));
		differs |= difference(a->data + 8, b->data + 8, NULL, GW_IPV6_HEADER - 8);
	}
	if (a->protocol == GW_PROTO_UDP)
		return !(differs | difference(l4_a, l4_b, udp_repeated, sizeof(udp_repeated)));
	differs |= difference(l4_a, l4_b, tcp_repeated, GW_TCP_HEADER);
	differs |= difference(l4_a + GW_TCP_HEADER, l4_b + GW_TCP_HEADER, NULL,
	                      (size_t)(a->payload_offset - a->l4_offset) - GW_TCP_HEADER);
	return !differs;
}

/* The differences in words of 4 bytes, under a mask; NULL: everywhere. */
static inline uint32_t difference(const uint8_t *a, const uint8_t *b, const uint8_t *mask, size_t len)
{
	uint32_t differs = 0;

	for (size_t i = 0; i < len; i += 4) {
		uint32_t x, y, m = UINT32_MAX;

		memcpy(&x, a + i, sizeof(x));
		memcpy(&y, b + i, sizeof(y));
		if (mask)
			memcpy(&m, mask + i, sizeof(m));
		differs |= (x ^ y) & m;
	}
	return differs;
}

static bool sequence_follows(const struct gw_merge *merge, const struct gw_packet *packet)
{
	const struct gw_packet *first = merge->segment[0]->packet;
	uint32_t carried = merge->length - first->payload_offset;

	return packet->protocol == GW_PROTO_UDP || gw_load32(packet->data + packet->l4_offset + 4) ==
	                                                   gw_load32(first->data + first->l4_offset + 4) + carried;
}

static bool id_follows(const struct gw_merge *merge, const struct gw_packet *packet)
{
	const uint8_t *first = merge->segment[0]->packet->data;

	return packet->family == 6 ||
	       gw_load16(packet->data + 4) == (uint16_t)(gw_load16(first + 4) + merge->count * gw_vnet_id_step(first));
}

void gw_merge_write(struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out)
{
	memset(vnet, 0, sizeof(*vnet));
	copy_run(merge, out);
	if (merge->count > 1)
		finish_headers(merge, vnet, out);
}

/* Copies the packets of the run.  Only the first keeps its headers. */
static void copy_run(struct gw_merge *merge, uint8_t *out)
{
	const struct gw_packet *first = merge->segment[0]->packet;
	const unsigned joined = merge->count;

	merge->count = 1;
	merge->length = first->len;
	if (joined == 1) {
		memcpy(out, first->data, first->len);
		return;
	}
	memcpy(out, first->data, first->payload_offset);
	if (!verify_and_copy(merge->segment[0], out + first->payload_offset))
		return;
	while (merge->count < joined && verify_and_copy(merge->segment[merge->count], out + merge->length))
		merge->length += payload_of(merge->segment[merge->count++]->packet);
}

static bool verify_and_copy(struct gw_segment *segment, uint8_t *out)
{
	const struct gw_packet *packet = segment->packet;

	if (segment->verified)
		memcpy(out, packet->data + packet->payload_offset, payload_of(packet));
	else
		segment->verified = segment->mergeable = copy_payload(packet, out);
	return segment->verified;
}

/* Copies the payload.  False if a checksum is wrong, or not as segmentation would write it. */
static bool copy_payload(const struct gw_packet *packet, uint8_t *out)
{
	const uint8_t *l4 = packet->data + packet->l4_offset, *payload = packet->data + packet->payload_offset;
	uint64_t sum = gw_sum(l4, (size_t)(packet->payload_offset - packet->l4_offset),
	                      gw_pseudo_sum(packet->data, packet->protocol, packet->len - packet->l4_offset));
	bool right = gw_fold(gw_sum_copy(out, payload, payload_of(packet), sum)) == 0xffff;

	if (packet->family == 4)
		right &= gw_load16(packet->data + 10) != 0xffff &&
		         gw_fold(gw_sum(packet->data, packet->l4_offset, 0)) == 0xffff;
	if (packet->protocol == GW_PROTO_TCP)
		right &= gw_load16(l4 + gw_checksum_offset(GW_PROTO_TCP)) != 0xffff;
	return right;
}

/* Makes the first packet's headers those of the super-packet, and describes it to TUN. */
static void finish_headers(const struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out)
{
	const struct gw_packet *first = merge->segment[0]->packet, *last = merge->segment[merge->count - 1]->packet;
	const uint32_t l4_len = merge->length - first->l4_offset;
	uint8_t *l4 = out + first->l4_offset;

	if (first->family == 4) {
		gw_store16(out + 2, merge->length);
		gw_store16(out + 10, 0);
		gw_store_native16(out + 10, gw_checksum_of(gw_sum(out, first->l4_offset, 0)));
	} else {
		gw_store16(out + 4, l4_len);
	}
	if (first->protocol == GW_PROTO_TCP) {
		l4[13] = last->data[last->l4_offset + 13];
		vnet->gso_type = first->family == 4 ? GW_VNET_GSO_TCPV4 : GW_VNET_GSO_TCPV6;
	} else {
		gw_store16(l4 + 4, l4_len);
		vnet->gso_type = GW_VNET_GSO_UDP_L4;
	}
	vnet->flags = GW_VNET_NEEDS_CSUM;
	vnet->hdr_len = first->payload_offset;
	vnet->gso_size = (uint16_t)payload_of(first);
	vnet->csum_start = first->l4_offset;
	vnet->csum_offset = (uint16_t)gw_checksum_offset(first->protocol);
	gw_store_native16(l4 + vnet->csum_offset, gw_fold(gw_pseudo_sum(out, first->protocol, l4_len)));
}

static uint32_t payload_of(const struct gw_packet *packet)
{
	return packet->len - packet->payload_offset;
}

static bool has_psh(const struct gw_packet *packet)
{
	return packet->protocol == GW_PROTO_TCP && packet->data[packet->l4_offset + 13] & GW_TCP_PSH;
}
