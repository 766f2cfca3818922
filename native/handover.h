/* SPDX-License-Identifier: MIT-0 */
/*
 * handover.h - packets that have been checked are learned, grouped, merged and put into rings.
 *
 * A U thread owns all of it, and the producer's end of one ring in each endpoint.  It fills in arrivals (intake.c) and has them
 * handed over in passes.
 */
#ifndef GW_HANDOVER_H
#define GW_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "counters.h"
#include "endpoint.h"
#include "merge.h"
#include "origin.h"
#include "packet.h"
#include "promote.h"
#include "relief.h"
#include "shared.h"

#define GW_ARRIVALS 1024u
#define GW_ARRIVAL_GROUPS 2048u /* a power of two */
#define GW_NO_ARRIVAL UINT16_MAX

/* A packet that has been checked, and what was found out about it. */
struct gw_arrival {
	struct gw_endpoint *endpoint;
	const struct gw_origin *origin;
	const uint8_t *geneve; /* its header, with the packet behind it */
	struct gw_packet packet;
	uint16_t geneve_len;
	uint16_t next;  /* of its group */
	uint16_t tail;  /* of a leader: the last of its group; of one that follows: its leader */
	uint16_t count; /* of a leader: it and those that follow it */
	bool follows;
	bool done;                  /* dropped, or in the group of another */
	struct gw_packet_keys keys; /* of one that does not follow: last, as the others leave it alone */
};

struct gw_handover {
	struct gw_shared *shared;
	struct gw_counters *counters;
	struct gw_relief *relief;
	struct gw_promote *promote;
	struct gw_promotion *promotion; /* during a pass, while flows may take the kernel; or NULL */
	unsigned receiver;
	bool behind;               /* the receiver's word: there is more to receive */
	unsigned kept;             /* packets handed over since the thread last gave its core away */
	bool left;                 /* T threads have something to do with them */
	unsigned packets, records; /* handed over, and what they were merged to, since the receiver set them to 0 */
	unsigned arrivals;
	unsigned touched;
	struct gw_arrival arrival[GW_ARRIVALS];
	struct gw_endpoint *touched_endpoint[GW_ARRIVALS]; /* whose rings were filled, each once */
	struct gw_segment segment[GW_ARRIVALS];
	uint16_t group_head[GW_ARRIVAL_GROUPS];
};

/* Hands over the arrivals: none are left.  Their packets need not stay. */
void gw_handover_pass(struct gw_handover *handover);

/* Before the thread runs: a frame of so many packets, with so many bytes before merging, that was in a ring of another program is
 * put into one here, or counted as dropped. */
void gw_handover_put_back(struct gw_handover *handover, struct gw_endpoint *endpoint, uint32_t packets, uint64_t bytes,
                          const uint8_t *frame, size_t len);

#endif
