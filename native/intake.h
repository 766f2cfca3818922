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

/* One or, with UDP_GRO, many of one size but the last: Geneve packets of one outer flow. */
struct gw_datagram {
	struct gw_origin origin;
	uint32_t destination; /* as the outer header has it */
	uint32_t interface;
	uint32_t len;
	uint32_t size;  /* of each packet in it but the last */
	bool truncated; /* it was longer than len */
};

struct gw_intake {
	struct gw_shared *shared;
	struct gw_endpoints *endpoints;
	struct gw_admission *admission;
	struct gw_counters *counters;
	struct gw_gate *gate;
	struct gw_handover *handover;
	struct gw_judge judge;
	unsigned publications; /* of endpoints, when the waiting room was last looked through for their packets */
	struct gw_waiting waiting;
};

/* ---- Inside the gate ---------------------------------------------------------------------------------------------*/

/* Begins a batch: from now on it judges by the newest table of sources. */
void gw_intake_begin_batch(struct gw_intake *intake);

/* Takes in a datagram whose bytes are in data.  Both must stay until the handover has passed. */
void gw_intake_datagram(struct gw_intake *intake, const struct gw_datagram *datagram, const uint8_t *data);

/* ---- Outside, while packets wait ---------------------------------------------------------------------------------*/

/* Hands over those whose endpoint has been published since, and drops those that have waited too long. */
void gw_intake_look_at_waiting(struct gw_intake *intake);

/* Drops all that wait. */
void gw_intake_drop_waiting(struct gw_intake *intake);

#endif
