/* SPDX-License-Identifier: MIT-0 */
/*
 * trace.h - records of single packets for the log.
 *
 * Theory of operation: a bounded queue of fixed records with many producers (U and T threads) and one consumer (the
 * logger thread), allocated when tracing is first turned on.  Each cell carries a ticket that says whose turn it is, so
 * producers take cells with one compare-and-swap and never wait: a full queue loses the record, and counts it.
 */
#ifndef GW_TRACE_H
#define GW_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "gwlbtun.h"
#include "origin.h"

struct gw_trace_cell;

struct gw_trace {
	_Atomic unsigned level;
	_Atomic(struct gw_trace_cell *) cells;
	_Atomic uint64_t lost;
	_Alignas(64) _Atomic uint64_t tail; /* producers' */
	_Alignas(64) uint64_t head;         /* the consumer's */
};

static inline bool gw_tracing(const struct gw_trace *trace)
{
	return atomic_load_explicit(&trace->level, memory_order_relaxed) != GW_TRACE_OFF;
}

/* Queues a copy of *record, whose packet is in data (record->length bytes); data, captured, time and thread are set here. */
void gw_trace_write(struct gw_trace *trace, const struct gw_trace_record *record, const void *data);

/* The same for a packet from the load balancer: data holds len bytes of UDP payload.  eni: 0 if unknown.  reason: as
 * record->counter. */
void gw_trace_write_in(struct gw_trace *trace, const struct gw_origin *origin, const uint8_t *data, uint32_t len,
                       uint64_t eni, unsigned reason);

/* 0 or -errno. */
int gw_trace_enable(struct gw_trace *trace, unsigned level);
bool gw_trace_take(struct gw_trace *trace, struct gw_trace_record *record);
void gw_trace_end(struct gw_trace *trace);

#endif
