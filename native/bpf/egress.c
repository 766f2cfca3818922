/* SPDX-License-Identifier: MIT-0 */
/*
 * egress.c - from gwi and gwo to the uplink: puts the load balancer's header back before the packets of known flows.
 *
 * Theory of operation
 *
 * Attached to the egress of both TUN devices of an endpoint, whose packets have no link header.  What Linux sends of a flow in the
 * map gets the outer headers that the threads' sockets would give it, and the Ethernet header that Python has found out for this
 * pair of addresses (links), and leaves by the interface of that link.  All else goes up, that is, into the queue of the TUN
 * device, where the threads read it.
 *
 * What was carried is in the uplink's queue, so what goes up after it does not overtake it.
 */
#include "packet.h"

/* Bytes of the link header before a packet.  TUN has none.  To be tried on a packet (BPF_PROG_TEST_RUN), the program is compiled
 * with an Ethernet header. */
#ifndef GW_LINK
#define GW_LINK 0u
#endif

#define TCP_CHECKSUM 16u /* where it is in the header */
#define UDP_CHECKSUM 6u
#define DONT_FRAGMENT 0x4000u
#define TTL 64u

/* What is put before an inner packet, laid out so that its words lie where words may. */
struct head {
	uint8_t room[6];
	uint16_t ethernet[ETHERNET / 2];
	struct ipv4 ip;
	struct udp udp;
	uint64_t geneve[GW_KERNEL_HEADER / 8];
};

INLINE void make_head(struct head *head, const struct gw_kernel_flow *flow, const struct gw_kernel_link *link,
                      uint32_t len)
{
	const uint16_t *ethernet = (const uint16_t *)link->ethernet;
	const uint64_t *geneve = (const uint64_t *)flow->header;

	for (unsigned i = 0; i < ETHERNET / 2; i++)
		head->ethernet[i] = ethernet[i];
	head->ip.version_ihl = 0x45;
	head->ip.tos = 0;
	head->ip.length = BE16(GW_KERNEL_OUTER + len);
	head->ip.id = 0;
	head->ip.fragment = BE16(DONT_FRAGMENT);
	head->ip.ttl = TTL;
	head->ip.protocol = PROTOCOL_UDP;
	head->ip.checksum = 0;
	head->ip.source = flow->own_address;
	head->ip.destination = flow->gwlb_address;
	head->ip.checksum = checksum_of(&head->ip);
	head->udp.source = flow->gwlb_port;
	head->udp.destination = BE16(GENEVE_PORT);
	head->udp.length = BE16(UDP + GW_KERNEL_HEADER + len);
	head->udp.checksum = 0;
	for (unsigned i = 0; i < GW_KERNEL_HEADER / 8; i++)
		head->geneve[i] = geneve[i];
}

/* A packet of an endpoint's interface, as far as it has been read. */
struct departure {
	struct gw_kernel_endpoint *endpoint;
	uint32_t changing; /* of the endpoint, before the flow was looked up */
	uint32_t slot;
	uint32_t side;
	uint32_t len;
	int fits;
};

/* As an index.  The verifier must see the bound where it is used, and so clang must not know it already. */
INLINE uint32_t side_of(const struct departure *departure)
{
	uint32_t side = departure->side;

	__asm__ volatile("" : "+r"(side));
	return side & 1;
}

/* Whether the checksum of a packet that fits has been left to the device: what a program here or in a container has sent.  Linux
 * does not tell, but it leaves the sum of the pseudo-header in the field.  Where a right checksum happens to look like that, the
 * packet takes the other path, which does no harm. */
INLINE int is_unfinished(struct packet *packet, const struct gw_kernel_key *key, uint32_t header, uint32_t len)
{
	const uint32_t protocol = key->word[4] >> 32 & 0xff;
	uint64_t sum = BE16(protocol) + BE16(len - header);
	uint16_t checksum;

	for (unsigned i = 0; i < 4; i++)
		sum += (key->word[i] & 0xffffffff) + (key->word[i] >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	if (load_bytes(packet, GW_LINK + header + (protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM), &checksum,
	               sizeof(checksum)))
		return 1;
	return checksum == sum || (checksum == 0 && sum == 0xffff);
}

/* K lets an entry die, or its endpoint's life end, and then takes back `changing`.  So what is read after that is as K left it.  All
 * else is found by what depends on this value, so that no processor reads it before. */
INLINE void look_for_changes(struct departure *departure)
{
	uint64_t nothing = departure->changing = *(volatile uint32_t *)&departure->endpoint->changing;

	__asm__ volatile("%0 &= 0" : "+r"(nothing));
	departure->slot += (uint32_t)nothing;
	departure->endpoint = (struct gw_kernel_endpoint *)((uint8_t *)departure->endpoint + nothing);
}

INLINE struct gw_kernel_flow *find_flow(struct packet *packet, struct departure *departure)
{
	uint32_t ifindex = packet->ifindex;
	const uint32_t *interface = map_lookup(interfaces, &ifindex);
	const uint32_t header = packet->protocol == BE16(ETHERTYPE_IPV4) ? IPV4 : IPV6;
	const uint32_t len = packet->len - GW_LINK;
	struct gw_kernel_key key;
	int known = 0;

	if (!interface)
		return NULL;
	departure->len = len;
	departure->slot = *interface >> 1;
	departure->side = *interface & 1;
	departure->endpoint = map_lookup(endpoints, &departure->slot);
	if (!departure->endpoint)
		return NULL;
	look_for_changes(departure);
	if (header == IPV4)
		known = read_ipv4(packet, GW_LINK, len, departure->slot, &key, &departure->fits);
	else if (packet->protocol == BE16(ETHERTYPE_IPV6))
		known = read_ipv6(packet, GW_LINK, len, departure->slot, &key, &departure->fits);
	if (!known)
		return NULL;
	if (departure->fits)
		departure->fits = !packet->gso_size && !is_unfinished(packet, &key, header, len);
	return map_lookup(flows, &key);
}

/* The link of the flow, if its packets of that length can leave by it. */
INLINE const struct gw_kernel_link *find_link(const struct gw_kernel_flow *flow, uint32_t len)
{
	uint32_t number = flow->link;
	const struct gw_kernel_link *link = map_lookup(links, &number);

	if (!link || !link->valid || link->gwlb_address != flow->gwlb_address ||
	    link->own_address != flow->own_address || len + GW_KERNEL_OUTER > link->mtu)
		return NULL;
	return link;
}

/* 0, or -1 when the packet is as it was, or 1 when it is not. */
INLINE int prepend(struct packet *packet, const struct gw_kernel_flow *flow, const struct gw_kernel_link *link,
                   const struct departure *departure)
{
	struct head head;

	make_head(&head, flow, link, departure->len);
	/* The memory of an entry may become another's under our eyes.  It must not be another endpoint's. */
	if ((head.geneve[1] >> 32 | head.geneve[2] << 32) != departure->endpoint->eni ||
	    adjust_room(packet, GW_KERNEL_OUTER, BPF_ADJ_ROOM_MAC,
	                BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
		return -1;
	return change_head(packet, ETHERNET, 0) ||
	       store_bytes(packet, GW_LINK, head.ethernet, ETHERNET + GW_KERNEL_OUTER, 0);
}

INLINE void count(struct gw_kernel_flow *flow, const struct departure *departure, uint32_t cpu,
                  const struct gw_kernel_globals *shared)
{
	struct gw_kernel_tally *tally = tally_of(departure->slot, cpu, shared);

	see(flow, shared);
	if (tally) {
		const uint32_t side = side_of(departure);

		tally->out_packets[side]++;
		tally->out_bytes[side] += departure->len;
		tally->out_s[side] = shared->now_s;
	}
}

PROGRAM("egress") int gw_egress(struct packet *packet)
{
	uint32_t cpu = processor(), zero = 0;
	struct gw_kernel_reasons *counts = map_lookup(reasons, &cpu);
	const struct gw_kernel_globals *shared = map_lookup(globals, &zero);
	const struct gw_kernel_link *link;
	struct departure departure;
	struct gw_kernel_flow *flow;
	struct gw_kernel_way *way;
	int failed;

	if (!counts || !shared)
		return TC_ACT_UNSPEC;
	counts->count[GW_KERNEL_OUT_TOTAL]++;
	flow = find_flow(packet, &departure);
	if (!flow) {
		counts->count[GW_KERNEL_OUT_NO_FLOW]++;
		goto up;
	}
	way = &flow->way[GW_KERNEL_WAY_OUT];
	if (!departure.fits || departure.endpoint->aside[side_of(&departure)] ||
	    !is_on(flow, departure.endpoint, shared))
		goto leave;
	link = find_link(flow, departure.len);
	if (!link) {
		counts->count[GW_KERNEL_OUT_NO_LINK]++;
		goto leave;
	}
	if (departure.changing) {
		hold(way, departure.endpoint);
		goto up;
	}
	if (!enter(way, departure.endpoint, shared->done_out_ns))
		goto up;
	failed = prepend(packet, flow, link, &departure);
	if (failed < 0)
		goto leave;
	if (failed) {
		counts->count[GW_KERNEL_OUT_LOST]++;
		return TC_ACT_SHOT;
	}
	count(flow, &departure, cpu, shared);
	counts->count[GW_KERNEL_OUT_CARRIED]++;
	/* As what a thread sends: the marks are the inner packet's. */
	SET(packet->mark, 0);
	SET(packet->priority, 0);
	return (int)redirect(link->ifindex, 0);

leave:
	leave(way);
up:
	counts->count[GW_KERNEL_OUT_UP]++;
	return TC_ACT_UNSPEC;
}
