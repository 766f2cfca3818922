/* SPDX-License-Identifier: MIT-0 */
/* ingress.c - from the uplink to gwi, headers and all; way.h tells the rest. */
#include "way.h"

PROGRAM("ingress") int floor_in(struct packet *packet)
{
	uint32_t zero = 0;
	const struct way *way = map_lookup(way_map, &zero);
	uint8_t *data = reach(packet, ETHERNET + IPV4 + UDP);
	struct ipv4 *ip;
	uint32_t source;

	if (!way || !data)
		return TC_ACT_UNSPEC;
	ip = (struct ipv4 *)(data + ETHERNET);
	if (packet->protocol != BE16(ETHERTYPE_IPV4) || ip->version_ihl != 0x45 || ip->protocol != PROTOCOL_UDP ||
	    ((struct udp *)(ip + 1))->destination != BE16(GENEVE_PORT))
		return TC_ACT_UNSPEC;
	source = ip->source;
	ip->source = ip->destination;
	ip->destination = source;
	return (int)redirect(way->gwi, BPF_F_INGRESS);
}
