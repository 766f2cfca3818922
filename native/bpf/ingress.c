/* SPDX-License-Identifier: MIT-0 */
/*
 * ingress.c - from an uplink to gwi: strips what the load balancer has put before the packets of known flows.
 *
 * Theory of operation
 *
 * Attached to the ingress of interfaces with Ethernet headers.  A packet is carried when all that stands before the inner packet
 * is what its flow has in the map, or is checked here as the kernel would have: then the header goes, and the packet appears
 * on gwi as if a thread had written it.  All else goes up, which means that the program leaves no trace in it: to the stack,
 * the sockets, and so the threads.
 *
 * A header that differs from the flow's kills its entry: replies must not leave under the old one.  The threads learn the new
 * one, and thread K replaces the entry.  What another sender sends does nothing here: it may be one that the threads refuse.
 * If they do not, they hold replies back and have K see to the entry (promote.h).
 *
 * What is carried waits in this processor's backlog for a moment.  What goes up of the same flow just after must not overtake
 * it, so it takes a detour through that backlog, to the uplink once more.  A mark in tc_index, which nothing else uses, tells
 * it when it comes by again.
 */
#include "packet.h"

#define AWS_ENI_OPTION 0x02010801u /* class 0x0108, type 1, two words, as they lie in memory */
#define DETOUR 0x6757u             /* in tc_index */

/* A packet for the load balancer's port, as far as it has been read. */
struct arrival {
	struct gw_kernel_endpoint *endpoint;
	uint64_t eni;
	uint32_t slot;
	uint32_t len; /* of the inner packet, as UDP says */
	int is_ipv6;  /* the inner packet, as Geneve says */
	int fits;
};

struct outer {
	struct ipv4 ip;
	struct udp udp;
	struct {
		uint32_t base; /* version and length of options; flags; protocol */
		uint32_t vni;
		uint32_t eni_option;
		uint32_t rest[GW_KERNEL_HEADER / 4 - 3];
	} geneve;
};

/* Whether it is UDP to the load balancer's port, in an IPv4 packet that is whole and has no options. */
INLINE int is_for_us(struct packet *packet)
{
	const uint8_t *data;
	const struct outer *outer;

	if (packet->protocol != BE16(ETHERTYPE_IPV4) || packet->pkt_type != PACKET_HOST || packet->vlan_present)
		return 0;
	data = reach(packet, ETHERNET + IPV4 + UDP);
	if (!data)
		return 0;
	outer = (const struct outer *)(data + ETHERNET);
	return *(const uint16_t *)(data + 12) == BE16(ETHERTYPE_IPV4) && outer->ip.version_ihl == 0x45 &&
	       outer->ip.protocol == PROTOCOL_UDP && !(outer->ip.fragment & BE16(FRAGMENT)) &&
	       outer->udp.destination == BE16(GENEVE_PORT);
}

/* Whether the packet has a right IPv4 header, and a Geneve header of the kind that can be in the map.  Flags, versions and
 * the other options are left to is_under_header_of(). */
INLINE int read_outer(struct packet *packet, struct arrival *arrival)
{
	const uint8_t *data = reach(packet, ETHERNET + GW_KERNEL_OUTER + IPV4 + PORTS);
	const struct outer *outer;
	uint32_t protocol;

	if (!data)
		return 0;
	outer = (const struct outer *)(data + ETHERNET);
	protocol = outer->geneve.base >> 16;
	if ((outer->geneve.base & 0xff) != 8 || outer->geneve.eni_option != AWS_ENI_OPTION ||
	    (protocol != BE16(ETHERTYPE_IPV4) && protocol != BE16(ETHERTYPE_IPV6)) || checksum_of(&outer->ip))
		return 0;
	arrival->eni = *(const uint64_t *)outer->geneve.rest;
	arrival->is_ipv6 = protocol == BE16(ETHERTYPE_IPV6);
	arrival->len = BE16(outer->udp.length) - UDP - GW_KERNEL_HEADER;
	arrival->fits = !outer->udp.checksum && packet->len == ETHERNET + BE16(outer->ip.length) &&
	                BE16(outer->ip.length) == GW_KERNEL_OUTER + arrival->len &&
	                arrival->len <= GW_KERNEL_INNER_MAX && !packet->gso_size;
	return 1;
}

INLINE struct gw_kernel_flow *find_flow(struct packet *packet, struct arrival *arrival)
{
	const uint32_t *slot = map_lookup(enis, &arrival->eni);
	struct gw_kernel_key key;
	int fits;

	if (!slot)
		return NULL;
	arrival->slot = *slot;
	arrival->endpoint = map_lookup(endpoints, &arrival->slot);
	if (!arrival->endpoint)
		return NULL;
	if (arrival->is_ipv6 ? !read_ipv6(packet, ETHERNET + GW_KERNEL_OUTER, arrival->len, *slot, &key, &fits)
	                     : !read_ipv4(packet, ETHERNET + GW_KERNEL_OUTER, arrival->len, *slot, &key, &fits))
		return NULL;
	arrival->fits &= fits;
	return map_lookup(flows, &key);
}

/* Whether the packet comes from where those of the flow do, and to where they do. */
INLINE int is_from_sender_of(const struct gw_kernel_flow *flow, struct packet *packet)
{
	const uint8_t *data = reach(packet, ETHERNET + GW_KERNEL_OUTER);
	const struct outer *outer;

	if (!data)
		return 0;
	outer = (const struct outer *)(data + ETHERNET);
	return outer->ip.source == flow->gwlb_address && outer->ip.destination == flow->own_address;
}

/* Whether all else before the inner packet is as the flow has it. */
INLINE int is_under_header_of(const struct gw_kernel_flow *flow, struct packet *packet)
{
	const uint8_t *data = reach(packet, ETHERNET + GW_KERNEL_OUTER);
	const uint64_t *ours = (const uint64_t *)flow->header, *theirs;
	const struct outer *outer;

	if (!data)
		return 0;
	outer = (const struct outer *)(data + ETHERNET);
	theirs = (const uint64_t *)&outer->geneve;
	return theirs[0] == ours[0] && theirs[1] == ours[1] && theirs[2] == ours[2] && theirs[3] == ours[3] &&
	       theirs[4] == ours[4] && outer->udp.source == flow->gwlb_port;
}

/* Whether the packet may take the kernel.  If not, all is noted for it to go up. */
INLINE int may_enter(struct gw_kernel_flow *flow, const struct arrival *arrival, int same_header,
                     const struct gw_kernel_globals *shared, struct gw_kernel_reasons *counts)
{
	struct gw_kernel_way *way = &flow->way[GW_KERNEL_WAY_IN];

	if (!same_header) {
		if (flow->life)
			counts->count[GW_KERNEL_CHANGES]++;
		flow->life = 0;
		leave(&flow->way[GW_KERNEL_WAY_OUT]);
	}
	if (!same_header || !arrival->fits || !is_on(flow, arrival->endpoint, shared)) {
		leave(way);
		return 0;
	}
	return enter(way, arrival->endpoint, shared->done_in_ns[flow->receiver % GW_KERNEL_RECEIVERS]);
}

/* What goes up of a flow in the map. */
INLINE int pass(struct packet *packet, const struct gw_kernel_flow *flow, struct gw_kernel_reasons *counts)
{
	const uint64_t left_ns = flow->way[GW_KERNEL_WAY_IN].left_ns;

	counts->count[GW_KERNEL_IN_UP]++;
	if (LIKELY(!left_ns) || ktime_ns() - left_ns > GW_KERNEL_DETOUR_NS)
		return TC_ACT_UNSPEC;
	counts->count[GW_KERNEL_DETOURS]++;
	SET(packet->tc_index, DETOUR);
	return (int)redirect(packet->ifindex, BPF_F_INGRESS);
}

/* 0, or -1 when the packet is as it was, or 1 when it is not. */
INLINE int strip(struct packet *packet, int is_ipv6)
{
	if (!is_ipv6)
		return adjust_room(packet, -(int)GW_KERNEL_OUTER, BPF_ADJ_ROOM_MAC, 0) ? -1 : 0;
	if (!adjust_room(packet, -(int)GW_KERNEL_OUTER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_DECAP_L3_IPV6))
		return 0;
	/* Before Linux 6.3: a packet becomes IPv6 by growing to hold its header, all of which goes again. */
	if (change_proto(packet, BE16(ETHERTYPE_IPV6), 0))
		return -1;
	return adjust_room(packet, -(int)(GW_KERNEL_OUTER + IPV6 - IPV4), BPF_ADJ_ROOM_MAC, 0) ? 1 : 0;
}

INLINE void count(struct gw_kernel_flow *flow, const struct arrival *arrival, uint32_t cpu,
                  const struct gw_kernel_globals *shared)
{
	struct gw_kernel_tally *tally = tally_of(arrival->slot, cpu, shared);

	see(flow, shared);
	if (tally) {
		tally->in_packets++;
		tally->in_bytes += arrival->len;
		tally->in_s = shared->now_s;
	}
}

PROGRAM("ingress") int gw_ingress(struct packet *packet)
{
	uint32_t cpu = processor(), zero = 0;
	struct gw_kernel_reasons *counts = map_lookup(reasons, &cpu);
	const struct gw_kernel_globals *shared = map_lookup(globals, &zero);
	struct gw_kernel_flow *flow;
	struct arrival arrival;
	int failed;

	if (!counts || !shared)
		return TC_ACT_UNSPEC;
	if (packet->tc_index == DETOUR) {
		SET(packet->tc_index, 0);
		return TC_ACT_UNSPEC;
	}
	counts->count[GW_KERNEL_IN_TOTAL]++;
	if (!is_for_us(packet)) {
		counts->count[GW_KERNEL_IN_OTHER]++;
		return TC_ACT_UNSPEC;
	}
	if (!read_outer(packet, &arrival)) {
		counts->count[GW_KERNEL_IN_MALFORMED]++;
		counts->count[GW_KERNEL_IN_UP]++;
		return TC_ACT_UNSPEC;
	}
	flow = find_flow(packet, &arrival);
	if (!flow || !is_from_sender_of(flow, packet)) {
		counts->count[GW_KERNEL_IN_UP]++;
		return TC_ACT_UNSPEC;
	}
	if (!may_enter(flow, &arrival, is_under_header_of(flow, packet), shared, counts))
		return pass(packet, flow, counts);
	failed = strip(packet, arrival.is_ipv6);
	if (failed < 0) {
		leave(&flow->way[GW_KERNEL_WAY_IN]);
		return pass(packet, flow, counts);
	}
	if (failed) {
		counts->count[GW_KERNEL_IN_LOST]++;
		return TC_ACT_SHOT;
	}
	count(flow, &arrival, cpu, shared);
	counts->count[GW_KERNEL_IN_CARRIED]++;
	/* As what a thread writes: no trace of what the uplink knew. */
	SET(packet->mark, 0);
	SET(packet->priority, 0);
	SET(packet->queue_mapping, 0);
	forget_hash(packet);
	return (int)redirect(arrival.endpoint->gwi, BPF_F_INGRESS);
}
