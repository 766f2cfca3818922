/* SPDX-License-Identifier: MIT-0 */
/*
 * merge.h - super-packets made: many packets of a flow become one.
 *
 *     for each packet: segment[i] = (struct gw_segment){ &packet, packet.mergeable };
 *     then, for those of one flow, in order, as often as it takes:
 *     gw_merge_start(&m, the first of those left);
 *     for each following one, as long as it joins: gw_merge_join(&m, it);
 *     gw_merge_write(&m, ...), which needs room for m.length bytes, and says in m.count how many it has taken.
 */
#ifndef GW_MERGE_H
#define GW_MERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"
#include "vnet.h"

/* A UDP_SEGMENT send takes no more before Linux 6.9. */
#define GW_MERGE_MAX 64u
#define GW_SUPER_PACKET_MAX 65535u

/* The segment and the packet that it points to must stay until gw_merge_write() has returned. */
struct gw_segment {
	const struct gw_packet *packet;
	bool mergeable; /* the packet's; false for a protocol whose super-packets the device does not take */
	bool verified;  /* its checksums have been verified */
};

struct gw_merge {
	struct gw_segment *segment[GW_MERGE_MAX];
	unsigned count;
	uint32_t length; /* of the super-packet, bytes */
	bool ended;      /* no segment can follow */
};

void gw_merge_start(struct gw_merge *merge, struct gw_segment *segment);

/* Adds the segment to the run if splitting would restore it exactly, provided that its checksums are right. */
bool gw_merge_join(struct gw_merge *merge, struct gw_segment *segment);

/*
 * Writes the super-packet and what TUN must be told of it.  Checksums are verified as the packets are copied, so that one
 * without company costs nothing.  The first that is wrong ends the run before it (count and length then are less), and
 * clears its segment's mergeable.  A run of one is written as it came, behind a header of zeros: wrong stays wrong.
 */
void gw_merge_write(struct gw_merge *merge, struct gw_vnet_header *vnet, uint8_t *out);

#endif
