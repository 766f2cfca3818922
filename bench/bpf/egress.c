/* SPDX-License-Identifier: MIT-0 */
/* egress.c - from gwo to the uplink, with a link header; way.h tells the rest. */
#include "way.h"

PROGRAM("egress") int floor_out(struct packet *packet)
{
	uint32_t zero = 0;
	const struct way *way = map_lookup(way_map, &zero);
	uint16_t ethernet[ETHERNET / 2];

	if (!way)
		return TC_ACT_UNSPEC;
	for (unsigned i = 0; i < ETHERNET / 2; i++)
		ethernet[i] = way->ethernet[i];
	if (change_head(packet, ETHERNET, 0) || store_bytes(packet, 0, ethernet, ETHERNET, 0))
		return TC_ACT_SHOT;
	return (int)redirect(way->uplink, 0);
}
