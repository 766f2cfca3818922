/* SPDX-License-Identifier: MIT-0 */
/*
 * intake.h - a datagram is judged and its Geneve packets are checked: each arrives, waits for its endpoint, or is dropped.
 *
 * A U thread owns all of it but the announcements of its waiting room, which the control thread hears (admission.h).
 */
#ifndef GW_INTAKE_H
#define GW_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "admission.h"
#include "counters.h"
#include "endpoint.h"
#include "gate.h"
#include "handover.h"
#include "origin.h"
#include "shared.h"
#include "source.h"
#include "waiting.h"

/* One Geneve packet, or with UDP_GRO several of one outer flow, all of one size but the last. */
struct gw_datagram {
	struct gw_origin origin;
	uint32_t destination; /* as in the outer header */
	uint32_t interface;
	uint32_t len;
	uint32_t size;  /* of each packet but the last */
	bool truncated; /* the kernel cut it off at len */
};

struct gw_intake {
	struct gw_shared *shared;
	struct gw_endpoints *endpoints;
	struct gw_admission *admission;
	struct gw_counters *counters;
	struct gw_gate *gate;
	struct gw_handover *handover;
	struct gw_judge judge;
	unsigned
		publications; /* what the table of endpoints counted when the thread last looked through the waiting room */
	struct gw_waiting waiting;
};

/* ---- Inside the gate ---------------------------------------------------------------------------------------------*/

/* Begins a batch, which the newest table of sources judges. */
void gw_intake_begin_batch(struct gw_intake *intake);

/* Takes in a datagram whose bytes are in data.  Both must stay until the batch has been handed over. */
void gw_intake_datagram(struct gw_intake *intake, const struct gw_datagram *datagram, const uint8_t *data);

/* ---- Outside, while packets wait ---------------------------------------------------------------------------------*/

/* Hands over the packets whose endpoints have been published since, and drops those that have waited too long. */
void gw_intake_look_at_waiting(struct gw_intake *intake);

/* Before the thread runs: a Geneve packet that waited in another program waits here. */
void gw_intake_put_back(struct gw_intake *intake, uint64_t eni, const struct gw_origin *origin, const uint8_t *data,
                        uint32_t len);

/* Drops all packets that wait. */
void gw_intake_drop_waiting(struct gw_intake *intake);

#endif
