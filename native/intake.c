/* SPDX-License-Identifier: MIT-0 */
/*
 * intake.c - a datagram is judged and its Geneve packets are checked: each arrives, waits for its endpoint, or is dropped.
 *
 * Theory of operation
 *
 * A datagram is judged by where it came from (source.h).  Each packet in it is checked for itself and becomes an arrival,
 * which goes on to handover.c.  A packet of the same flow as the one before it, from the same sender with the very same Geneve
 * header, only follows: what was found out about the first holds for it.
 *
 * A packet of an ENI ID without an endpoint is announced to the control thread (admission.h) and put into the waiting room
 * (waiting.h); the thread goes on.  When an endpoint has been published, the packets of its ID come out again ahead of later
 * ones.
 *
 * All of this is the U thread's own.  It looks endpoints and sources up inside its gate (gate.h) only, and lets go of what it
 * found before it goes out.
 */
#include "intake.h"

#include <string.h>

#include "clock.h"
#include "geneve.h"
#include "packet.h"

/* How long a packet waits for its endpoint. */
#define WAIT_NS 5000000000u

static unsigned judge(struct gw_intake *intake, const struct gw_datagram *datagram);
static void drop_datagram(struct gw_intake *intake, const struct gw_datagram *datagram, const uint8_t *data,
                          unsigned reason);
static void take_packet(struct gw_intake *intake, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                        bool waited);
static bool follow(struct gw_handover *handover, const struct gw_origin *origin, const uint8_t *data, uint32_t len);
static bool shed(const struct gw_intake *intake, struct gw_endpoint *endpoint);
static void arrive(struct gw_handover *handover, const struct gw_origin *origin, const uint8_t *data,
                   const struct gw_geneve *geneve);
static void wait_for_endpoint(struct gw_intake *intake, uint64_t eni, const struct gw_origin *origin,
                              const uint8_t *data, uint32_t len);
static void drop_oldest(struct gw_intake *intake);
static void end_waiting(struct gw_intake *intake);

void gw_intake_begin_batch(struct gw_intake *intake)
{
	gw_judge_begin(&intake->judge, atomic_load(&intake->shared->sources));
}

void gw_intake_datagram(struct gw_intake *intake, const struct gw_datagram *datagram, const uint8_t *data)
{
	unsigned reason = judge(intake, datagram);
	uint32_t at = 0;

	if (!reason && datagram->truncated)
		reason = GW_drop_datagram_truncated;
	if (reason) {
		drop_datagram(intake, datagram, data, reason);
		return;
	}
	do {
		const uint32_t rest = datagram->len - at, len = rest < datagram->size ? rest : datagram->size;

		gw_count(intake->counters, GW_packets_in, 1);
		gw_count(intake->counters, GW_bytes_in, len);
		take_packet(intake, &datagram->origin, data + at, len, false);
		at += len;
	} while (at < datagram->len);
}

/* Returns 0, or the counter that tells why the datagram may not come from there. */
static unsigned judge(struct gw_intake *intake, const struct gw_datagram *datagram)
{
	const struct gw_source source = { .address = datagram->origin.gwlb_address,
		                          .destination = datagram->destination,
		                          .own_address = datagram->origin.own_address,
		                          .interface = datagram->interface };

	return gw_judge_source(&intake->judge, &source);
}

/* Drops a datagram and counts all packets in it. */
static void drop_datagram(struct gw_intake *intake, const struct gw_datagram *datagram, const uint8_t *data,
                          unsigned reason)
{
	uint32_t at = 0;

	do {
		const uint32_t rest = datagram->len - at, len = rest < datagram->size ? rest : datagram->size;

		gw_count(intake->counters, reason, 1);
		gw_count(intake->counters, GW_packets_in, 1);
		if (gw_tracing(&intake->shared->trace))
			gw_trace_write_in(&intake->shared->trace, &datagram->origin, data + at, len, 0, reason);
		at += len;
	} while (at < datagram->len);
	gw_count(intake->counters, GW_bytes_in, datagram->len);
}

/* ---- A packet ----------------------------------------------------------------------------------------------------*/

/* waited: the packet comes from the waiting room. */
static void take_packet(struct gw_intake *intake, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                        bool waited)
{
	struct gw_handover *handover = intake->handover;
	struct gw_arrival *arrival;
	struct gw_geneve geneve = { .eni = 0 };
	unsigned reason;

	if (handover->arrivals == GW_ARRIVALS)
		gw_handover_pass(handover);
	if (follow(handover, origin, data, len))
		return;
	arrival = &handover->arrival[handover->arrivals];
	reason = gw_geneve_parse(data, len, &geneve);
	if (!reason)
		reason = gw_packet_parse(data + geneve.header_len, len - geneve.header_len, geneve.family,
		                         &arrival->packet);
	if (!reason) {
		arrival->endpoint = gw_endpoints_find(intake->endpoints, geneve.eni);
		if (waited) {
			/* The endpoint may be gone again. */
			reason = arrival->endpoint ? 0 : GW_drop_endpoint_refused;
		} else if (!arrival->endpoint && !gw_admission_allows(intake->admission, geneve.eni)) {
			reason = GW_drop_endpoint_not_allowed;
		} else if (!arrival->endpoint || gw_waiting_has(&intake->waiting, geneve.eni)) {
			/* This holds even when an endpoint has just been published: the packet must not overtake those that
			 * wait. */
			wait_for_endpoint(intake, geneve.eni, origin, data, len);
			return;
		}
	}
	if (!reason && shed(intake, arrival->endpoint))
		reason = GW_drop_overload;
	if (gw_tracing(&intake->shared->trace))
		gw_trace_write_in(&intake->shared->trace, origin, data, len, geneve.eni, reason);
	if (reason)
		gw_count(intake->counters, reason, 1);
	else
		arrive(handover, origin, data, &geneve);
}

/* A packet joins the run of the one before it when they have the same origin and agree in all that was judged. */
static bool follow(struct gw_handover *handover, const struct gw_origin *origin, const uint8_t *data, uint32_t len)
{
	struct gw_arrival *arrival = &handover->arrival[handover->arrivals], *previous = arrival - 1, *leader;

	if (handover->arrivals == 0 || len < previous->geneve_len || !gw_same_origin(previous->origin, origin) ||
	    memcmp(data, previous->geneve, previous->geneve_len) != 0 ||
	    !gw_packet_follows(&previous->packet, data + previous->geneve_len, len - previous->geneve_len,
	                       &arrival->packet))
		return false;
	leader = previous->follows ? &handover->arrival[previous->tail] : previous;
	arrival->endpoint = leader->endpoint;
	arrival->origin = origin;
	arrival->geneve = data;
	arrival->geneve_len = leader->geneve_len;
	arrival->follows = true;
	arrival->next = GW_NO_ARRIVAL;
	arrival->tail = (uint16_t)(leader - handover->arrival);
	previous->next = (uint16_t)handover->arrivals;
	leader->tail = (uint16_t)handover->arrivals++;
	leader->count++;
	if (gw_tracing(&handover->shared->trace))
		gw_trace_write_in(&handover->shared->trace, origin, data, len, leader->endpoint->eni, 0);
	return true;
}

/* Counts a packet for an endpoint whose packets are shed. */
static bool shed(const struct gw_intake *intake, struct gw_endpoint *endpoint)
{
	struct gw_ring *ring = &endpoint->ring[intake->handover->receiver];

	if (!atomic_load_explicit(&ring->shed, memory_order_relaxed))
		return false;
	atomic_fetch_add_explicit(&ring->unlearned, 1, memory_order_relaxed);
	return true;
}

/* Begins a run with an arrival whose endpoint and bounds are known. */
static void arrive(struct gw_handover *handover, const struct gw_origin *origin, const uint8_t *data,
                   const struct gw_geneve *geneve)
{
	struct gw_arrival *arrival = &handover->arrival[handover->arrivals];

	arrival->origin = origin;
	arrival->geneve = data;
	arrival->geneve_len = geneve->header_len;
	arrival->follows = arrival->done = false;
	arrival->next = GW_NO_ARRIVAL;
	arrival->tail = (uint16_t)handover->arrivals++;
	arrival->count = 1;
	gw_packet_keys(&arrival->packet, arrival->endpoint->slot, &arrival->keys);
}

/* ---- Waiting for an endpoint -------------------------------------------------------------------------------------*/

static void wait_for_endpoint(struct gw_intake *intake, uint64_t eni, const struct gw_origin *origin,
                              const uint8_t *data, uint32_t len)
{
	while (!gw_waiting_has_room(&intake->waiting, eni, len))
		drop_oldest(intake);
	gw_waiting_add(&intake->waiting, eni, origin, data, len, gw_now_ns());
	gw_admission_announce(intake->admission, &intake->waiting, eni);
}

/* Drops the packet that has waited longest. */
static void drop_oldest(struct gw_intake *intake)
{
	const struct gw_waiting_packet *packet = gw_waiting_oldest(&intake->waiting);
	unsigned reason = gw_admission_refusal(intake->admission);

	/* All records behind it had been taken out already, so the room is empty now. */
	if (!packet)
		return;
	gw_count(intake->counters, reason, 1);
	if (gw_tracing(&intake->shared->trace))
		gw_trace_write_in(&intake->shared->trace, &packet->origin, packet->data, packet->len,
		                  gw_waiting_eni(&intake->waiting, packet), reason);
	gw_waiting_drop_oldest(&intake->waiting);
}

void gw_intake_look_at_waiting(struct gw_intake *intake)
{
	unsigned publications = atomic_load(&intake->endpoints->publications);
	uint64_t now = gw_now_ns();
	const struct gw_waiting_packet *packet;

	if (publications != intake->publications) {
		intake->publications = publications;
		gw_gate_go_in(intake->gate);
		end_waiting(intake);
		gw_gate_go_out(intake->gate);
	}
	while ((packet = gw_waiting_oldest(&intake->waiting)) != NULL && now - packet->came_ns > WAIT_NS)
		drop_oldest(intake);
}

/* Takes in the packets whose endpoints have been published since the last look. */
static void end_waiting(struct gw_intake *intake)
{
	struct gw_waiting *waiting = &intake->waiting;

	for (unsigned i = 0; i < GW_PARTIES; i++) {
		const struct gw_waiting_packet *packet;

		if (waiting->party[i].packets == 0 || !gw_endpoints_find(intake->endpoints, waiting->party[i].eni))
			continue;
		while ((packet = gw_waiting_take(waiting, i)) != NULL)
			take_packet(intake, &packet->origin, packet->data, packet->len, true);
	}
	gw_handover_pass(intake->handover);
}

void gw_intake_drop_waiting(struct gw_intake *intake)
{
	while (gw_waiting_oldest(&intake->waiting))
		drop_oldest(intake);
}

void gw_intake_put_back(struct gw_intake *intake, uint64_t eni, const struct gw_origin *origin, const uint8_t *data,
                        uint32_t len)
{
	if (gw_admission_allows(intake->admission, eni))
		wait_for_endpoint(intake, eni, origin, data, len);
	else /* other options than those by which it waited */
		gw_count(intake->counters, GW_drop_endpoint_not_allowed, 1);
}
