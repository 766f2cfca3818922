/* SPDX-License-Identifier: MIT-0 */
/*
 * handler.h - what the threads of the fast path share: the handler, its receivers and its endpoints.
 *
 * Theory of operation
 *
 * Endpoints are found by ENI ID in a hash table of chains that only control threads change (one at a time, gwlbtun.h)
 * and U threads read without a lock.  An unpublished endpoint stays linked to its successor, so that a reader who stands
 * on it walks on; it may be freed once every receiver has passed a batch boundary.  A receiver's `batch` is odd from
 * before it looks at the table until it lets go of what it found; unpublishing waits for each that is odd to change.
 *
 * A gwi T thread that has nothing to do says so in `sleeping`, looks at its rings once more, and then polls an eventfd;
 * a U thread that published a frame looks at `sleeping` and rings.  Both store before they look, in one total order
 * (seq_cst), so one of them sees the other.
 *
 * A U thread lends a sleeping T thread a hand, and writes its frames itself, as long as that is no loss: while its
 * socket does not fill batches, or when the T thread sleeps on its own core and could not run beside it.  Waking a
 * thread costs more than writing some frames (docs/ARCHITECTURE.md, "Why it is so").  Who drains a T thread's
 * rings, and so counts for it what goes out, holds its `draining`; a U thread that finds it held rings instead.
 */
#ifndef GW_HANDLER_H
#define GW_HANDLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "flow.h"
#include "gwlbtun.h"
#include "ring.h"
#include "trace.h"

struct gw_receiver;

/* A thread's counters are on cache lines of their own; only that thread writes, or who drains its rings for it. */
struct gw_counters {
	_Alignas(64) _Atomic uint64_t value[GW_COUNTERS];
};

static inline void gw_count(struct gw_counters *counters, enum gw_counter counter, uint64_t by)
{
	_Atomic uint64_t *value = &counters->value[counter];

	atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + by, memory_order_relaxed);
}

static inline void gw_set(struct gw_counters *counters, enum gw_counter counter, uint64_t value)
{
	atomic_store_explicit(&counters->value[counter], value, memory_order_relaxed);
}

static inline uint64_t gw_get(const struct gw_counters *counters, enum gw_counter counter)
{
	return atomic_load_explicit(&counters->value[counter], memory_order_relaxed);
}

/* One T thread's. */
struct gw_tunnel {
	struct gw_counters counters;
	_Atomic bool sleeping;
	_Atomic bool draining;
	_Atomic int cpu; /* on which it went to sleep */
	_Atomic bool sockets_open; /* transmit.c had some when it went to sleep */
	int eventfd;
	int fd; /* of its queue; set before it first sleeps */
};

struct gw_endpoint {
	_Atomic(struct gw_endpoint *) next; /* in its chain */
	struct gw_handler *handler;
	uint64_t eni;
	uint64_t made_ns;
	unsigned slot;
	_Atomic bool stop;
	_Atomic unsigned writers; /* T threads of gwi that run */
	bool published;
	struct gw_tunnel *tunnel[2]; /* by enum gw_side; handler->tunnel_threads of them */
	struct gw_ring *ring;        /* one per receiver */
	uint8_t *ring_memory;
};

#define GW_ENDPOINT_BUCKETS_SHIFT 10
#define GW_ENDPOINT_BUCKETS (1u << GW_ENDPOINT_BUCKETS_SHIFT)

struct gw_handler {
	unsigned receivers;
	unsigned tunnel_threads;
	unsigned max_endpoints;
	unsigned idle_s;
	unsigned offloads;
	int raw_fd;
	uint64_t multiplier; /* of the hash of ENI IDs: odd, secret */
	struct gw_flows *flows;
	struct gw_receiver **receiver;
	uint64_t *slots_used; /* a bit per slot */
	struct gw_trace trace;
	_Atomic bool stop;
	_Atomic int receive_fd;      /* any receiver's socket, to send from port 6081 itself; -1 */
	_Atomic int64_t sockets_left; /* how many transmit.c may open yet, over all threads */
	_Atomic unsigned endpoints;
	_Atomic(struct gw_endpoint *) bucket[GW_ENDPOINT_BUCKETS];
};

static inline uint64_t gw_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* U threads, inside a batch: the published endpoint of an ENI ID, or NULL. */
struct gw_endpoint *gw_endpoint_find(const struct gw_handler *handler, uint64_t eni);

/* U threads: sees to it that the frames just published in ring[receiver] of the endpoint are written.  behind: the
 * receiver has no time to lose. */
void gw_endpoint_wake(struct gw_endpoint *endpoint, unsigned receiver, bool behind);

/* tunnel.c: writes what a ring holds, at most `frames` of it, to the queue of the T thread it belongs to, whose `draining`
 * the caller holds.  Returns 0, or the errno for which the device is of no more use; *any tells if there was a frame. */
int gw_tunnel_write(struct gw_tunnel *tunnel, struct gw_ring *ring, unsigned frames, bool *any);

/* recvmmsg.c: memory of one receiver; NULL with errno. */
struct gw_receiver *gw_receiver_new(struct gw_handler *handler, unsigned index);
void gw_receiver_free(struct gw_receiver *receiver);
const struct gw_counters *gw_receiver_count(const struct gw_receiver *receiver);

/* recvmmsg.c: waits until the receiver has let go of what it found in the table of endpoints. */
void gw_receiver_quiesce(const struct gw_receiver *receiver);

#endif
