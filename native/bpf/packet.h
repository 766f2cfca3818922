/* SPDX-License-Identifier: MIT-0 */
/*
 * packet.h - what both programs do with packets: find a flow, and keep its ways in order.
 *
 * Theory of operation
 *
 * An inner packet is read to its ports.  Its key is the one that native/packet.c makes.  A packet *fits* when it may take the
 * kernel as far as it is concerned: plain TCP or UDP, no options, no fragment, of the length that it should have.
 *
 * Each way of a flow is in the kernel or up, that is, with the threads.  What the programs do about it:
 *
 *   a packet fits, the way is in the kernel      it takes the kernel.
 *   it fits, the way is up                       once the fence has passed that was asked for after the last packet that went up, the
 *                                                way is in the kernel.  Until then the packet goes up, with a stamp, and asks for it.
 *   it does not fit                              it goes up, and with it the way.  No stamp: 0 says that the time is not known, so
 *                                                that the next packet that fits leaves one.
 *
 * A packet that goes up is always noted before it is passed on.  Several processors may do this to one flow at a time.  Then a
 * packet has overtaken another before it came here.
 */
#ifndef GW_BPF_PACKET_H
#define GW_BPF_PACKET_H

#include "helpers.h"

#define ETHERNET 14u
#define IPV4 20u
#define IPV6 40u
#define UDP 8u
#define PORTS 4u

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_IPV6 0x86ddu
#define PROTOCOL_TCP 6u
#define PROTOCOL_UDP 17u
#define HOP_BY_HOP 0u /* IPv6's extension headers (RFC 8200) */
#define ROUTING 43u
#define FRAGMENT_HEADER 44u
#define DESTINATION_OPTIONS 60u
#define EXTENSIONS 4u    /* of a packet, at most, for its flow to be found */
#define FRAGMENT 0x3fffu /* more to come, or an offset */
#define OFFSET 0x1fffu
#define GENEVE_PORT 6081u

/* As GW_KEY_WORD and GW_KEY_FLOW of native/. */
#define KEY_WORD(ports, protocol, family, slot)                                                                       \
	((uint64_t)(ports) | (uint64_t)(protocol) << 32 | (uint64_t)(family) << 40 | (uint64_t)(slot) << 48)

struct ipv4 {
	uint8_t version_ihl;
	uint8_t tos;
	uint16_t length;
	uint16_t id;
	uint16_t fragment;
	uint8_t ttl;
	uint8_t protocol;
	uint16_t checksum;
	uint32_t source;
	uint32_t destination;
};

struct ipv6 {
	uint32_t version;
	uint16_t length;
	uint8_t next;
	uint8_t hops;
	uint64_t source[2];
	uint64_t destination[2];
};

struct udp {
	uint16_t source;
	uint16_t destination;
	uint16_t length;
	uint16_t checksum;
};

/* Makes the first bytes of a packet readable in one piece.  NULL when there are fewer. */
INLINE uint8_t *reach(struct packet *packet, uint32_t bytes)
{
	uint8_t *data = (uint8_t *)(long)packet->data;

	if (LIKELY(data + bytes <= (uint8_t *)(long)packet->data_end))
		return data;
	if (packet->len < bytes || pull_data(packet, bytes))
		return NULL;
	data = (uint8_t *)(long)packet->data;
	return data + bytes <= (uint8_t *)(long)packet->data_end ? data : NULL;
}

/* Of an IPv4 header: what is missing to the right checksum, or 0 when it has that. */
INLINE uint16_t checksum_of(const struct ipv4 *ip)
{
	const uint32_t *word = (const uint32_t *)ip;
	uint64_t sum = (uint64_t)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

INLINE uint32_t low_word(uint32_t ports, int swap)
{
	return swap ? ports << 16 | ports >> 16 : ports;
}

/* Reads an inner IPv4 packet of len bytes at an offset.  Whether it has ports, and so a key; *fits as above. */
INLINE int read_ipv4(struct packet *packet, uint32_t offset, uint32_t len, uint32_t slot, struct gw_kernel_key *key,
                     int *fits)
{
	const uint8_t *data = reach(packet, offset + IPV4 + PORTS);
	const struct ipv4 *ip;
	uint32_t ports;
	int swap;

	if (!data)
		return 0;
	ip = (const struct ipv4 *)(data + offset);
	if ((ip->protocol != PROTOCOL_TCP && ip->protocol != PROTOCOL_UDP) || ip->fragment & BE16(OFFSET))
		return 0;
	*fits = ip->version_ihl == 0x45 && !(ip->fragment & BE16(FRAGMENT)) && BE16(ip->length) == len;
	ports = *(const uint32_t *)(ip + 1);
	if (ip->version_ihl != 0x45) {
		const uint32_t header = (ip->version_ihl & 15u) * 4;

		if (ip->version_ihl >> 4 != 4 || header < IPV4 ||
		    load_bytes(packet, offset + header, &ports, sizeof(ports)))
			return 0;
	}
	ports = __builtin_bswap32(ports);
	swap = ip->source == ip->destination ? ports >> 16 > (ports & 0xffff)
	                                     : __builtin_bswap32(ip->source) > __builtin_bswap32(ip->destination);
	key->word[0] = swap ? ip->destination : ip->source;
	key->word[1] = 0;
	key->word[2] = swap ? ip->source : ip->destination;
	key->word[3] = 0;
	key->word[4] = KEY_WORD(low_word(ports, swap), ip->protocol, 4, slot);
	return 1;
}

/* Finds what is behind extension headers, as far as plain packets of a flow are not to overtake it.  Whether that has ports. */
INLINE int skip_extensions(struct packet *packet, uint32_t *at, uint8_t *next)
{
	uint8_t head[4]; /* the next one; length, or nothing; of a fragment, its offset */

#pragma clang loop unroll(disable)
	for (unsigned i = 0; i < EXTENSIONS; i++) {
		if (*next == PROTOCOL_TCP || *next == PROTOCOL_UDP)
			return 1;
		if ((*next != HOP_BY_HOP && *next != ROUTING && *next != DESTINATION_OPTIONS &&
		     *next != FRAGMENT_HEADER) ||
		    load_bytes(packet, *at, head, sizeof(head)) ||
		    (*next == FRAGMENT_HEADER && (head[2] | (head[3] & 0xf8))))
			return 0;
		*at += *next == FRAGMENT_HEADER ? 8 : (head[1] + 1u) * 8;
		*next = head[0];
	}
	return *next == PROTOCOL_TCP || *next == PROTOCOL_UDP;
}

/* The same for IPv6. */
INLINE int read_ipv6(struct packet *packet, uint32_t offset, uint32_t len, uint32_t slot, struct gw_kernel_key *key,
                     int *fits)
{
	const uint8_t *data = reach(packet, offset + IPV6 + PORTS);
	const struct ipv6 *ip;
	uint32_t ports, at = offset + IPV6;
	uint8_t next;
	int swap;

	if (!data)
		return 0;
	ip = (const struct ipv6 *)(data + offset);
	if ((data[offset] & 0xf0) != 0x60)
		return 0;
	next = ip->next;
	*fits = (next == PROTOCOL_TCP || next == PROTOCOL_UDP) && BE16(ip->length) + IPV6 == len;
	ports = *(const uint32_t *)(ip + 1);
	if (next != PROTOCOL_TCP && next != PROTOCOL_UDP &&
	    (!skip_extensions(packet, &at, &next) || load_bytes(packet, at, &ports, sizeof(ports))))
		return 0;
	ports = __builtin_bswap32(ports);
	if (ip->source[0] != ip->destination[0])
		swap = __builtin_bswap64(ip->source[0]) > __builtin_bswap64(ip->destination[0]);
	else if (ip->source[1] != ip->destination[1])
		swap = __builtin_bswap64(ip->source[1]) > __builtin_bswap64(ip->destination[1]);
	else
		swap = ports >> 16 > (ports & 0xffff);
	key->word[0] = swap ? ip->destination[0] : ip->source[0];
	key->word[1] = swap ? ip->destination[1] : ip->source[1];
	key->word[2] = swap ? ip->source[0] : ip->destination[0];
	key->word[3] = swap ? ip->source[1] : ip->destination[1];
	key->word[4] = KEY_WORD(low_word(ports, swap), next, 6, slot);
	return 1;
}

/* The way is with the threads from now on, and nothing that goes up asks for the kernel. */
INLINE void leave(struct gw_kernel_way *way)
{
	if (way->kernel) {
		way->left_ns = ktime_ns();
		way->kernel = 0;
	}
	if (way->up_ns)
		way->up_ns = 0;
}

/* Notes a packet that fits and goes up.  `wanted` once more afterwards: thread K may have cleared it before it could see the
 * stamp. */
INLINE void stamp(struct gw_kernel_way *way, struct gw_kernel_endpoint *endpoint)
{
	SET(endpoint->wanted, 1);
	way->up_ns = ktime_ns();
	SET(endpoint->wanted, 1);
}

/* Whether a packet that fits may take the kernel.  done_ns: what went up before has come through. */
INLINE int enter(struct gw_kernel_way *way, struct gw_kernel_endpoint *endpoint, uint64_t done_ns)
{
	if (LIKELY(way->kernel))
		return 1;
	if (way->up_ns && way->up_ns < done_ns &&
	    (!way->left_ns || way->left_ns + 2 * GW_KERNEL_DETOUR_NS < done_ns)) {
		way->kernel = 1;
		return 1;
	}
	stamp(way, endpoint);
	return 0;
}

/* The same for a moment: a packet that fits goes up, and asks for the way to be let in again. */
INLINE void hold(struct gw_kernel_way *way, struct gw_kernel_endpoint *endpoint)
{
	if (way->kernel)
		way->kernel = 0;
	stamp(way, endpoint);
}

INLINE int is_on(const struct gw_kernel_flow *flow, const struct gw_kernel_endpoint *endpoint,
                 const struct gw_kernel_globals *shared)
{
	return flow->life == endpoint->life && endpoint->on && shared->on &&
	       (LIKELY(!shared->lease_ns) || ktime_ns() < shared->lease_ns);
}

INLINE void see(struct gw_kernel_flow *flow, const struct gw_kernel_globals *shared)
{
	if (flow->seen_s != shared->now_s)
		flow->seen_s = shared->now_s;
}

INLINE struct gw_kernel_tally *tally_of(uint32_t slot, uint32_t cpu, const struct gw_kernel_globals *shared)
{
	uint32_t index = slot * shared->cpus + cpu;

	return map_lookup(tallies, &index);
}

#endif
