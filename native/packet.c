/* SPDX-License-Identifier: MIT-0 */
/*
 * packet.c - walk an inner packet to its payload, and name its flow.
 *
 * Theory of operation: pure functions over the caller's memory; any thread may call them.  gw_packet_parse() judges only
 * what gwlbtun must rely on, the version and the lengths; whatever else may be wrong in a packet is for Linux to judge.
 * What merging and splitting must know of the headers is found out along the way, while they are in the cache.
 * Where the walk ends early (extension headers cut short, fewer than four bytes of TCP) the packet is matched by
 * addresses and protocol.
 *
 * Keys (struct gw_flow_key) hold the address-port pairs in a canonical order, the lower first, so that both directions
 * of a flow have one key.  Datagrams' fragments and ICMP errors go back in the direction they came in, and their keys
 * keep it.
 */
#include "packet.h"

#include <string.h>

#include "ip.h"

#define PROTO_HOP_BY_HOP 0
#define PROTO_ICMP 1
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION_OPTIONS 60
#define PROTO_MOBILITY 135
#define PROTO_HIP 139
#define PROTO_SHIM6 140

/* More extension headers than any real packet has.  The length bounds the walk as well. */
#define MAX_EXTENSION_HEADERS 16

static void walk_ipv4(struct gw_packet *packet);
static void walk_ipv6(struct gw_packet *packet);
static bool is_extension(unsigned protocol);
static unsigned tcp_header(const uint8_t *tcp, uint32_t l4_len, bool *plain);
static unsigned udp_header(const uint8_t *udp, uint32_t l4_len, bool *plain);
static bool is_icmp(const struct gw_packet *packet);
static bool is_icmp_error(const struct gw_packet *packet, unsigned type);
static bool parse_quote(const struct gw_packet *error, struct gw_packet *quote);
static uint32_t digest(const struct gw_flow_key *key);
static bool transport_key(const struct gw_packet *packet, unsigned slot, struct gw_flow_key *key);
static bool is_echo(const struct gw_packet *packet, unsigned type);
static bool set_flow_key(struct gw_flow_key *key, const struct gw_packet *packet, unsigned slot, uint32_t source,
                         uint32_t destination);
static void set_key(struct gw_flow_key *key, const struct gw_packet *packet, unsigned slot, enum gw_key_kind kind,
                    bool swap, uint32_t ports);

unsigned gw_packet_parse(const uint8_t *data, size_t available, unsigned family, struct gw_packet *packet)
{
	size_t len;

	if (available < (family == 4 ? 20 : 40))
		return GW_drop_inner_truncated;
	if (data[0] >> 4 != family)
		return GW_drop_inner_mismatch;
	if (family == 4) {
		unsigned header = (data[0] & 15u) * 4;

		len = gw_load16(data + 2);
		if (header < 20 || len < header)
			return GW_drop_inner_mismatch;
	} else {
		len = 40 + gw_load16(data + 4);
	}
	if (len > available)
		return GW_drop_inner_truncated;
	packet->data = data;
	packet->len = (uint32_t)len;
	packet->family = (uint8_t)family;
	packet->fragment_id = 0;
	if (family == 4)
		walk_ipv4(packet);
	else
		walk_ipv6(packet);
	gw_packet_find_payload(packet);
	return 0;
}

static void walk_ipv4(struct gw_packet *packet)
{
	unsigned offset = gw_load16(packet->data + 6);

	packet->protocol = packet->data[9];
	packet->l4_offset = (uint16_t)((packet->data[0] & 15u) * 4);
	packet->later_fragment = (offset & 0x1fff) != 0;
	packet->fragment = (offset & 0x3fff) != 0;
	packet->fragment_id = gw_load16(packet->data + 4);
}

static void walk_ipv6(struct gw_packet *packet)
{
	uint32_t offset = 40;
	unsigned protocol = packet->data[6];

	packet->fragment = packet->later_fragment = false;
	for (unsigned i = 0; i < MAX_EXTENSION_HEADERS && is_extension(protocol); i++) {
		const uint8_t *header = packet->data + offset;
		uint32_t size;

		if (offset + 8 > packet->len)
			break;
		if (protocol == PROTO_FRAGMENT) {
			size = 8;
			packet->later_fragment = (gw_load16(header + 2) & 0xfff8) != 0;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			packet->fragment = (gw_load16(header + 2) & 0xfff9) != 0;
			packet->fragment_id = gw_load32(header + 4);
		} else if (protocol == PROTO_AH) {
			size = (header[1] + 2u) * 4;
		} else {
			size = (header[1] + 1u) * 8;
		}
		if (offset + size > packet->len)
			break;
		protocol = header[0];
		offset += size;
		if (packet->later_fragment)
			break;
	}
	packet->protocol = (uint8_t)protocol;
	packet->l4_offset = (uint16_t)offset;
}

static bool is_extension(unsigned protocol)
{
	switch (protocol) {
	case PROTO_HOP_BY_HOP:
	case PROTO_ROUTING:
	case PROTO_FRAGMENT:
	case PROTO_AH:
	case PROTO_DESTINATION_OPTIONS:
	case PROTO_MOBILITY:
	case PROTO_HIP:
	case PROTO_SHIM6:
		return true;
	default:
		return false;
	}
}

void gw_packet_find_payload(struct gw_packet *packet)
{
	const uint8_t *l4 = packet->data + packet->l4_offset;
	const uint32_t l4_len = packet->len - packet->l4_offset;
	unsigned header = 0;
	bool plain = false;

	if (packet->protocol == GW_PROTO_TCP)
		header = tcp_header(l4, l4_len, &plain);
	else if (packet->protocol == GW_PROTO_UDP)
		header = udp_header(l4, l4_len, &plain);
	packet->payload_offset = header ? (uint16_t)(packet->l4_offset + header) : 0;
	packet->mergeable = plain && header && header < l4_len &&
	                    (packet->family == 4 ? (gw_load16(packet->data + 6) & ~GW_IPV4_DF) == 0
	                                         : packet->l4_offset == GW_IPV6_HEADER);
}

/* Returns the length of the TCP header, or 0.  *plain: segmentation of a super-packet could have made this header. */
static unsigned tcp_header(const uint8_t *tcp, uint32_t l4_len, bool *plain)
{
	unsigned offset_and_flags;

	if (l4_len < GW_TCP_HEADER)
		return 0;
	offset_and_flags = gw_load16(tcp + 12);
	*plain = (offset_and_flags & 0x0fff & ~GW_TCP_PSH) == GW_TCP_ACK;
	return offset_and_flags >> 12 < GW_TCP_HEADER / 4 ? 0 : offset_and_flags >> 12 << 2;
}

static unsigned udp_header(const uint8_t *udp, uint32_t l4_len, bool *plain)
{
	if (l4_len < GW_UDP_HEADER)
		return 0;
	*plain = gw_load16(udp + 4) == l4_len && gw_load16(udp + 6) != 0;
	return GW_UDP_HEADER;
}

bool gw_packet_follows(const struct gw_packet *other, const uint8_t *data, size_t available, struct gw_packet *packet)
{
	const uint8_t *ports = other->data + other->l4_offset;
	size_t len;

	if (other->fragment || (other->protocol != GW_PROTO_TCP && other->protocol != GW_PROTO_UDP) ||
	    other->len < other->l4_offset + 4u || available < other->l4_offset + 4u || data[0] != other->data[0])
		return false;
	if (other->family == 4) {
		len = gw_load16(data + 2);
		if ((gw_load16(data + 6) & 0x3fff) != 0 || data[9] != other->protocol ||
		    memcmp(data + 12, other->data + 12, 8) != 0)
			return false;
	} else {
		len = 40 + gw_load16(data + 4);
		if (other->l4_offset != 40 || data[6] != other->protocol || memcmp(data + 8, other->data + 8, 32) != 0)
			return false;
	}
	if (len < other->l4_offset + 4u || len > available || memcmp(data + other->l4_offset, ports, 4) != 0)
		return false;
	*packet = (struct gw_packet){ .data = data,
		                      .len = (uint32_t)len,
		                      .l4_offset = other->l4_offset,
		                      .family = other->family,
		                      .protocol = other->protocol };
	gw_packet_find_payload(packet);
	return true;
}

void gw_packet_keys(const struct gw_packet *packet, unsigned slot, struct gw_packet_keys *keys)
{
	keys->has_fragment = packet->fragment;
	keys->has_quoted = keys->reversed = false;
	if (packet->fragment)
		set_key(&keys->fragment, packet, slot, GW_KEY_FRAGMENT, false, packet->fragment_id);
	if (packet->later_fragment) {
		keys->own = keys->fragment;
		return;
	}
	if (is_icmp(packet) && packet->len > packet->l4_offset &&
	    is_icmp_error(packet, packet->data[packet->l4_offset])) {
		struct gw_packet quote;

		keys->has_quoted = parse_quote(packet, &quote);
		if (keys->has_quoted && quote.later_fragment)
			set_key(&keys->quoted, &quote, slot, GW_KEY_FRAGMENT, false, quote.fragment_id);
		else if (keys->has_quoted)
			transport_key(&quote, slot, &keys->quoted);
		set_key(&keys->own, packet, slot, GW_KEY_ICMP_ERROR, false,
		        keys->has_quoted ? digest(&keys->quoted) : 0);
		return;
	}
	keys->reversed = transport_key(packet, slot, &keys->own);
}

static bool is_icmp(const struct gw_packet *packet)
{
	return packet->protocol == (packet->family == 4 ? PROTO_ICMP : PROTO_ICMPV6);
}

static bool is_icmp_error(const struct gw_packet *packet, unsigned type)
{
	/* RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem.  RFC 4443: below 128. */
	if (packet->protocol == PROTO_ICMP)
		return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	return type < 128;
}

/* An ICMP error quotes a packet that is usually cut short (RFC 792: 8 bytes beyond its IP header).  So only its headers must
 * be complete. */
static bool parse_quote(const struct gw_packet *error, struct gw_packet *quote)
{
	uint32_t start = error->l4_offset + 8u;

	if (start >= error->len)
		return false;
	quote->data = error->data + start;
	quote->len = error->len - start;
	quote->family = error->family;
	quote->fragment_id = 0;
	if (quote->data[0] >> 4 != error->family || quote->len < (error->family == 4 ? 20 : 40))
		return false;
	if (error->family == 4) {
		if ((quote->data[0] & 15u) < 5)
			return false;
		walk_ipv4(quote);
	} else {
		walk_ipv6(quote);
	}
	return true;
}

static uint32_t digest(const struct gw_flow_key *key)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < GW_KEY_WORDS; i++)
		sum = (sum ^ key->word[i]) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(sum >> 32);
}

/* The flow key of a packet that is neither a later fragment nor an ICMP error.  True if the key reverses the direction. */
static bool transport_key(const struct gw_packet *packet, unsigned slot, struct gw_flow_key *key)
{
	const uint8_t *l4 = packet->data + packet->l4_offset;
	size_t l4_len = packet->len > packet->l4_offset ? packet->len - packet->l4_offset : 0;
	uint32_t source = 0, destination = 0;

	if ((packet->protocol == GW_PROTO_TCP || packet->protocol == GW_PROTO_UDP) && l4_len >= 4) {
		source = gw_load16(l4);
		destination = gw_load16(l4 + 2);
	} else if (is_icmp(packet) && l4_len >= 6 && is_echo(packet, l4[0])) {
		source = destination = gw_load16(l4 + 4);
	}
	return set_flow_key(key, packet, slot, source, destination);
}

static bool is_echo(const struct gw_packet *packet, unsigned type)
{
	if (packet->protocol == PROTO_ICMP)
		return type == 8 || type == 0;
	return type == 128 || type == 129;
}

/* source and destination: ports, or what replaces them.  True if the key holds them the other way round. */
static bool set_flow_key(struct gw_flow_key *key, const struct gw_packet *packet, unsigned slot, uint32_t source,
                         uint32_t destination)
{
	unsigned size = packet->family == 4 ? 4 : 16;
	const uint8_t *address = packet->data + (packet->family == 4 ? 12 : 8);
	int order = memcmp(address, address + size, size);
	bool swap = order > 0 || (order == 0 && source > destination);

	set_key(key, packet, slot, GW_KEY_FLOW, swap, swap ? destination << 16 | source : source << 16 | destination);
	return swap;
}

static void set_key(struct gw_flow_key *key, const struct gw_packet *packet, unsigned slot, enum gw_key_kind kind,
                    bool swap, uint32_t ports)
{
	unsigned size = packet->family == 4 ? 4 : 16;
	const uint8_t *source = packet->data + (packet->family == 4 ? 12 : 8);
	const uint8_t *first = swap ? source + size : source;
	const uint8_t *second = swap ? source : source + size;
	/* Fragments of one IPv6 datagram may differ in what follows their fragment headers (RFC 8200 section 4.5). */
	unsigned protocol = kind == GW_KEY_FRAGMENT && packet->family == 6 ? PROTO_FRAGMENT : packet->protocol;

	memset(key->word, 0, sizeof(key->word));
	memcpy(&key->word[0], first, size);
	memcpy(&key->word[2], second, size);
	key->word[4] = GW_KEY_WORD(ports, protocol, packet->family, kind, slot);
}
