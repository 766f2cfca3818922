/* SPDX-License-Identifier: MIT-0 */
/*
 * endpoint.h - an endpoint, and the table of endpoints.
 *
 * Theory of operation
 *
 * Endpoints are found by ENI ID in a hash table of chains that only control threads change (one at a time, gwlbtun.h)
 * and U threads read without a lock.  An unpublished endpoint stays linked to its successor, so that a reader that stands
 * on it walks on; it may be freed once every receiver has let go of it (gate.h), which unpublishing waits for.
 *
 * An endpoint owns the rings and the state of its T threads.  A ring is filled by its U thread; what belongs to a T thread is
 * used by the thread on duty there (duty.h).
 */
#ifndef GW_ENDPOINT_H
#define GW_ENDPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "gwlbtun.h"
#include "ring.h"
#include "shared.h"
#include "tunnel.h"

#define GW_ENDPOINT_BUCKETS_SHIFT 10
#define GW_ENDPOINT_BUCKETS (1u << GW_ENDPOINT_BUCKETS_SHIFT)

struct gw_endpoints {
	struct gw_shared *shared;
	unsigned max;
	uint64_t *slots_used;          /* one bit for each slot */
	_Atomic unsigned count;        /* of endpoints, published or not */
	_Atomic unsigned publications; /* endpoints published so far */
	_Atomic uint64_t ring_bytes;   /* bytes that all rings together may hold */
	_Atomic(struct gw_endpoint *) bucket[GW_ENDPOINT_BUCKETS];
};

struct gw_endpoint {
	_Atomic(struct gw_endpoint *) next; /* in its chain */
	struct gw_endpoints *table;
	uint64_t eni;
	uint64_t made_ns;
	unsigned slot;
	_Atomic bool stop;
	_Atomic bool up;          /* opened: its packets go to Linux */
	_Atomic unsigned writers; /* T threads of gwi that run */
	bool published;
	_Atomic uint32_t kernel_life; /* its flows may take the kernel (kernel_slots.h); 0: they may not */
	struct gw_tunnel *tunnel[2];  /* by enum gw_side; shared->tunnel_threads of each */
	struct gw_ring *ring;         /* one for each receiver */
	uint8_t *ring_memory;
};

/* Makes a table of at most max endpoints in zeroed memory.  False with errno. */
bool gw_endpoints_begin(struct gw_endpoints *table, struct gw_shared *shared, unsigned max);
void gw_endpoints_end(struct gw_endpoints *table);

/* Control threads: what gw_endpoint_new() does. */
struct gw_endpoint *gw_endpoints_add(struct gw_endpoints *table, uint64_t eni);

/* What gw_endpoint_adopt() does. */
struct gw_endpoint *gw_endpoints_adopt(struct gw_endpoints *table, uint64_t eni, unsigned slot, uint64_t made_ns);

/* What gw_handler_forget_strays() does. */
uint64_t gw_endpoints_forget_strays(struct gw_endpoints *table);

/* U threads, inside their gates: returns the published endpoint of an ENI ID, or NULL. */
struct gw_endpoint *gw_endpoints_find(const struct gw_endpoints *table, uint64_t eni);

#endif
